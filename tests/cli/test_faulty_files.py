"""From a refused file to a corrected upload in two commands, and the errors of a batch by field and code."""

import json
import re
import shlex

from command_line import MERGE, CommandLine, only_line

from batch_pipeline.batches.ledger import Ledger

WRONG = "E-Mail;Full name;phone\nada@example.com;Ada;030 23125 001\nnowhere;Bob;\n"


def test_a_refused_file_completes_with_the_flags_that_the_refusal_names(cli: CommandLine, organization: str) -> None:
    run = ("run", cli.file("wrong.csv", WRONG), *MERGE, "--organization", organization, "--default-region", "DE")
    refused = cli(*run)
    assert refused.returncode == 1
    flags = re.search(r"(--map .+?)\. ?$", only_line(refused.stderr).partition(" Remove")[0])
    assert flags is not None, refused.stderr

    completed = cli(*run, *shlex.split(flags[1]), "--json")

    assert completed.returncode == 0, completed.stderr
    batch = json.loads(completed.stdout)
    assert (batch["status"], batch["stats"]["created"], batch["stats"]["rejected"]) == ("completed", 1, 1)
    assert batch["column_mapping"] == {"email": "E-Mail", "name": "Full name"}

    # The next file of this kind is refused with the offer, and needs one word.
    next_file = ("run", cli.file("next.csv", WRONG.replace("Ada", "Eve")), *run[2:])
    offered = only_line(cli(*next_file).stderr)
    assert f"{batch['id']} completed with a column_mapping for this header" in offered
    again = cli(*next_file, "--map", "remembered", "--json")
    assert (again.returncode, json.loads(again.stdout)["stats"]["updated"]) == (0, 1)


def test_remembered_stands_alone(cli: CommandLine, organization: str) -> None:
    run = ("run", cli.file("wrong.csv", WRONG), *MERGE, "--organization", organization)
    mixed = cli(*run, "--map", "remembered", "--map", "email=E-Mail")
    assert mixed.returncode == 2
    assert "--map remembered stands alone" in only_line(mixed.stderr)


def test_columns_are_ignored_and_named(cli: CommandLine, organization: str) -> None:
    upload = cli.file("people.csv", "name,Shoe size\nAda,38\n")
    ended = cli("run", upload, *MERGE, "--organization", organization, "--unknown-columns", "ignore")
    assert ended.returncode == 0
    assert (
        "unknown_columns_ignored: contact does not have these columns, so they were ignored: Shoe size" in ended.stdout
    )


def test_errors_and_show_print_the_errors_by_field_and_code(
    cli: CommandLine, ledger: Ledger, organization: str
) -> None:
    rows = "".join(f"Ada {n},nowhere {n},12\n" for n in range(6))
    mine = ("--organization", organization)
    ended = cli("run", cli.file("people.csv", f"name,email,phone\nBob,,\n{rows}"), *MERGE, *mine, "--json")
    batch_id = json.loads(ended.stdout)["id"]

    for form in ("csv", "json"):
        errors = cli("errors", batch_id, *mine, "--format", form)
        assert errors.returncode == 0
        for shown in ("Errors by field and code: 12", "invalid_format", "2, 3, 4, 5, 6, …", "name@example.com"):
            assert shown in errors.stderr
        assert "nowhere" not in errors.stderr
        rejected = errors.stdout.splitlines()[1:] if form == "csv" else json.loads(errors.stdout)
        assert len(rejected) == 6

    shown = cli("show", batch_id, *mine).stdout
    assert "Errors by field and code: 12" in shown
    assert f"batch-pipeline errors {batch_id}" in shown
    assert json.loads(cli("show", batch_id, *mine, "--json").stdout) == ledger.get(batch_id).to_json()


def test_blanks_of_a_header_stay_in_the_flag_that_is_to_be_copied(cli: CommandLine, organization: str) -> None:
    upload = cli.file("wrong.csv", "Full  name,colour\nAda,red\n")
    refused = cli("run", upload, *MERGE, "--organization", organization)
    assert "--map name='Full  name'" in only_line(refused.stderr)
