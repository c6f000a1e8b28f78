"""`history` and `changes` print what the change log has."""

import json

from command_line import MERGE, CommandLine, only_line


def test_history_and_changes_show_what_two_batches_did(cli: CommandLine, organization: str) -> None:
    at = ("--organization", organization)
    ids = []
    for notes in ("old", "new"):
        file = cli.file("people.csv", f"external_id,name,notes\na,Ada,{notes}\n")
        done = cli("run", file, *MERGE, *at, "--json")
        assert done.returncode == 0, done.stderr
        ids.append(json.loads(done.stdout)["id"])

    changes = json.loads(cli("changes", ids[1], *at, "--json").stdout)
    assert [(line["row"], line["change"]) for line in changes] == [(1, "updated")]
    assert changes[0]["changes"] == [{"field": "notes", "before": "old", "after": "new"}]
    record = changes[0]["id"]
    history = json.loads(cli("history", "contact", record, *at, "--json").stdout)
    assert [(line["batch"], line["change"]) for line in history] == [(ids[1], "updated"), (ids[0], "created")]

    shown = cli("history", "contact", record, *at)
    assert shown.returncode == 0
    for text in (ids[0], ids[1], "notes", "old", "new", "created", "updated"):
        assert text in shown.stdout
    first = cli("history", "contact", record, *at, "--limit", "1")
    assert ids[0] not in first.stdout
    assert "1 of 2; further ones: --page 2" in first.stdout
    assert record in cli("changes", ids[0], *at).stdout


def test_unknown_records_resources_and_batches_are_wrong_use(cli: CommandLine, organization: str) -> None:
    for command in (
        ("history", "contact", "nobody"),
        ("history", "person", "nobody"),
        ("changes", "batch_" + "1" * 22),
    ):
        refused = cli(*command, "--organization", organization)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert only_line(refused.stderr).startswith("error: ")
