"""`run` and `retry`: output, exit codes, and what an interrupt leaves."""

import json
import signal

import psutil
import pytest
import sqlalchemy as sa
from command_line import (
    MERGE,
    PEOPLE,
    CommandLine,
    batch_that_never_starts,
    finished,
    newest,
    only_line,
    processed,
    status_of,
    wait_for,
    without_progress,
)

from batch_pipeline.batches.ledger import Ledger
from batch_pipeline.batches.options import BatchOptions
from batch_pipeline.batches.states import BatchStatus, Reason
from batch_pipeline.cli.interrupts import stopping_in_order
from batch_pipeline.database import create_engine
from batch_pipeline.storage.store import Store

CONFIGURATION = ("BATCH_", "AWS_", "DAGSTER_")
CHUNK_ROWS = 100
PEOPLE_OF_TWO_CHUNKS = 200


def two_chunks(cli: CommandLine) -> str:
    """The name of a file of new people, which is written as two chunks."""
    people = "".join(f"Person {number},p{number}@example.com\n" for number in range(PEOPLE_OF_TWO_CHUNKS))
    return cli.file("many.csv", f"name,email\n{people}")


def test_run_prints_the_batch_and_its_first_rejected_items(cli: CommandLine, organization: str) -> None:
    ended = cli("run", cli.file("people.csv", PEOPLE), *MERGE, "--organization", organization)

    assert ended.returncode == 0
    assert without_progress(ended.stderr) == []
    for shown in ("people.csv", "completed", "parsing", "invalid_format", 'email "nowhere"', "batch-pipeline errors "):
        assert shown in ended.stdout


def test_each_option_has_a_flag_of_its_name(cli: CommandLine, ledger: Ledger, store: Store, organization: str) -> None:
    upload = cli.file("kunden.csv", "Full name;E-Mail;phone\nAda;ada@example.com;030 23125 001\n;b@example.com;\n")
    flags = ["--map", "name=Full name", "--map", "email=E-Mail", "--property", "notes=from = the shop"]
    flags += ["--default-region", "DE", "--save-result", "--no-save-upload", "--duplicate-handling", "use_first"]
    flags += ["--blank-cells", "clear", "--name", "Customers", "--timeout-seconds", "600", "--delete-limit", "10%"]
    flags += ["--reject-limit", "50%"]

    ended = cli("run", upload, *MERGE, "--organization", organization, "--json", *flags)

    assert ended.returncode == 0, ended.stderr
    batch = ledger.get(json.loads(ended.stdout)["id"])
    assert BatchOptions.model_validate(batch.options) == BatchOptions.model_validate(
        {
            "name": "Customers",
            "column_mapping": {"name": "Full name", "email": "E-Mail"},
            "properties": {"notes": "from = the shop"},
            "default_region": "DE",
            "save_result": True,
            "save_upload": False,
            "duplicate_handling": "use_first",
            "blank_cells": "clear",
            "timeout_seconds": 600,
            "delete_limit": "10%",
            "reject_limit": "50%",
        }
    )
    assert (batch.stats.created, batch.stats.rejected, batch.updated_by) == (1, 1, "cli")

    mine = ("--organization", organization)
    result = cli("result", batch.id, *mine)
    assert [item["outcome"] for item in json.loads(result.stdout)] == ["created", "rejected"]
    as_csv = cli("errors", batch.id, *mine)
    assert as_csv.stdout.splitlines()[0].startswith('"Full name","E-Mail","phone",_row')
    to_file = cli("errors", batch.id, *mine, "--format", "json", "-o", "errors.json")
    assert (to_file.returncode, to_file.stdout) == (0, "")
    assert json.loads((cli.folder / "errors.json").read_text())[0]["row"] == 2
    assert sorted(path.name for path in cli.folder.iterdir()) == ["errors.json", "kunden.csv"]


def test_a_refused_file_ends_with_its_batch_and_one_line_and_may_be_retried(
    cli: CommandLine, ledger: Ledger, organization: str
) -> None:
    mine = ("--organization", organization, "--json")
    ended = cli("run", cli.file("odd.csv", "name,colour\nAda,blue\n"), *MERGE, *mine)

    batch = json.loads(ended.stdout)
    assert ended.returncode == 1
    assert (batch["status"], batch["reason"]["code"]) == ("failed", "unknown_columns")
    assert batch["reason"]["message"] in only_line(ended.stderr)

    again = cli("retry", batch["id"], *mine)
    assert again.returncode == 1
    assert (json.loads(again.stdout)["id"], json.loads(again.stdout)["attempts"]) == (batch["id"], 2)
    assert "unknown_columns" in only_line(again.stderr)


def test_ctrl_c_cancels_the_batch_which_a_retry_completes(cli: CommandLine, ledger: Ledger, organization: str) -> None:
    first = batch_that_never_starts(ledger, organization)
    mine = ("--organization", organization, "--json")
    with cli.start("run", cli.file("people.csv", PEOPLE), *MERGE, *mine) as process:
        wait_for(lambda: status_of(ledger, organization) == "queued", process)
        process.send_signal(signal.SIGINT)
        ended = finished(process)

    batch = json.loads(ended.stdout)
    assert ended.returncode == 1
    assert (batch["status"], batch["reason"]["code"]) == ("failed", "cancelled")
    assert "cancelled" in only_line(ended.stderr)
    assert "Interrupted: stopping" in ended.stderr
    ledger.end(first, BatchStatus.failed, Reason("cancelled", "Only there to be waited for."))

    again = cli("retry", batch["id"], *mine)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["stats"] == {**batch["stats"], "created": 1, "rejected": 1}


def test_a_batch_whose_process_was_killed_is_failed_by_the_next_command_and_can_be_retried(
    cli: CommandLine, ledger: Ledger, organization: str
) -> None:
    mine = ("--organization", organization, "--json")
    # The last person is stored already. While that record is locked, the second chunk can't be written.
    cli("run", cli.file("one.csv", f"name,email\nAda,p{PEOPLE_OF_TWO_CHUNKS - 1}@example.com\n"), *MERGE, *mine)
    with ledger.engine.begin() as holding_up:
        last = sa.text("SELECT FROM contacts WHERE organization_id = :organization FOR UPDATE")
        holding_up.execute(last, {"organization": organization})
        with cli.start("run", two_chunks(cli), *MERGE, *mine, BATCH_CHUNK_ROWS=str(CHUNK_ROWS)) as process:
            wait_for(lambda: processed(ledger, organization) == CHUNK_ROWS, process)
            process.kill()
            assert finished(process).stdout == ""
    killed = newest(ledger, organization)
    assert killed is not None
    assert killed.status == "processing"

    again = cli("retry", killed.id, *mine)
    assert again.returncode == 0, again.stderr
    stats = json.loads(again.stdout)["stats"]
    assert (stats["created"], stats["updated"], stats["unchanged"]) == (PEOPLE_OF_TWO_CHUNKS - 1, 1, 0)
    assert [reached for _, reached, _, _ in ledger.history(killed.id)][-5:] == [
        "processing",
        "failed",
        "queued",
        "processing",
        "completed",
    ]


def is_being_written(ledger: Ledger) -> bool:
    batch = newest(ledger, "default")
    return batch is not None and batch.status is BatchStatus.processing


def test_sigterm_leaves_a_cancelled_batch_and_no_embedded_server(cli: CommandLine) -> None:
    bare = {name: value for name, value in cli.environment.items() if not name.startswith(CONFIGURATION)}
    here = CommandLine(bare, cli.folder)
    data_dir = here.folder / "data"
    command = ("run", two_chunks(here), *MERGE, "--json", "--data-dir", "data")
    with here.start_program(*command, BATCH_CHUNK_ROWS=str(CHUNK_ROWS)) as process:
        wait_for((data_dir / "s3" / "batch" / "batches").exists, process)  # uploaded, so the tables are there too
        embedded = Ledger(create_engine(json.loads((data_dir / "servers.json").read_text())["database_url"]))
        with embedded.engine.begin() as connection:
            connection.execute(sa.text("LOCK TABLE contacts IN SHARE MODE"))  # no chunk is written until it ends
            wait_for(lambda: is_being_written(embedded), process)
            process.send_signal(signal.SIGTERM)
        embedded.engine.dispose()
        ended = finished(process)

    batch = json.loads(ended.stdout)
    assert ended.returncode == 1
    assert (batch["status"], batch["reason"]["code"]) == ("failed", "cancelled")
    assert "cancelled" in ended.stderr  # on a busy machine the last line says that the servers are being stopped
    commands = [" ".join(each.info["cmdline"] or ()) for each in psutil.process_iter(["cmdline"])]
    assert [command for command in commands if str(data_dir) in command] == []


def test_sighup_is_taken_as_ctrl_c() -> None:
    before = signal.getsignal(signal.SIGHUP)
    with stopping_in_order(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is before
