"""`undo`, as a person uses it."""

import json
from typing import Any

import pytest
from command_line import MERGE, CommandLine


@pytest.fixture
def batch_id(cli: CommandLine, organization: str) -> str:
    """A batch that changed one of two contacts and created a third."""
    return str(
        [
            run(cli, organization, text)["id"]
            for text in ("external_id,name\na,Ann\nb,Bob\n", "external_id,name\na,Anna\nc,Cid\n")
        ][-1]
    )


def run(cli: CommandLine, organization: str, text: str, **options: str) -> dict[str, Any]:
    done = cli("run", cli.file("people.csv", text), *MERGE, "--organization", organization, "--json")
    assert done.returncode == 0, done.stderr
    batch: dict[str, Any] = json.loads(done.stdout)
    return batch


def test_undo_runs_and_prints_a_batch_of_its_own(cli: CommandLine, organization: str, batch_id: str) -> None:
    place = ("--organization", organization)

    done = cli("undo", batch_id, *place, "--json")

    assert done.returncode == 0, done.stderr
    undo = json.loads(done.stdout)
    assert (undo["action"], undo["undo_of"], undo["status"]) == ("undo", batch_id, "completed")
    assert {name: count for name, count in undo["stats"].items() if count} == {"deleted": 1, "reversed": 1}
    shown = cli("show", undo["id"], *place).stdout
    for word in ("undo contact", "reversed", "deleted", "restored", "kept", "conflict", "gone"):
        assert word in shown
    redo = cli("undo", undo["id"], *place, "--json")
    assert json.loads(redo.stdout)["stats"]["restored"] == 1


def test_an_undo_is_planned_and_applied(cli: CommandLine, organization: str, batch_id: str) -> None:
    place = ("--organization", organization)

    done = cli("undo", batch_id, *place, "--plan-only", "--json")

    assert done.returncode == 0, done.stderr
    planned = json.loads(done.stdout)
    assert (planned["status"], planned["plan"]["counts"]["update"]) == ("planned", 1)
    shown = cli("show", planned["id"], *place).stdout
    assert all(text in shown for text in ("Samples of changes", "Anna", f"batch-pipeline apply {planned['id']}"))
    applied = cli("apply", planned["id"], *place, "--json")
    assert json.loads(applied.stdout)["stats"]["reversed"] == 1


def test_what_can_not_be_undone_says_why(cli: CommandLine, organization: str, batch_id: str) -> None:
    place = ("--organization", organization)
    unchanged = run(cli, organization, "external_id,name\nb,Bob\n")["id"]
    refused = cli("undo", unchanged, *place)
    assert (refused.returncode, "wrote nothing" in refused.stderr) == (2, True)
    limited = cli("undo", batch_id, *place, "--delete-limit", "0")
    assert (limited.returncode, "delete_limit_exceeded" in limited.stderr) == (1, True)
    assert cli("undo", batch_id, *place, "--delete-limit", "few").returncode == 2


def test_no_file_can_be_an_undo(cli: CommandLine, organization: str) -> None:
    file = cli.file("people.csv", "external_id,name\na,Ann\n")
    refused, unknown = (
        cli("run", file, "--resource", "contact", "--action", action, "--organization", organization)
        for action in ("undo", "redo")
    )
    assert refused.returncode == unknown.returncode == 2
    assert refused.stderr.replace("undo", "redo") == unknown.stderr
