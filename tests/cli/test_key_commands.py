"""`keys` and `api`: making, listing and ending keys; serving where something else listens already."""

import json
import socket

import psycopg
import pytest
from command_line import CommandLine, only_line

from batch_pipeline.batches.api_keys import find_key
from batch_pipeline.batches.ledger import Ledger


def test_a_key_is_shown_once_and_works_until_it_is_revoked(cli: CommandLine, ledger: Ledger, organization: str) -> None:
    made = json.loads(cli("keys", "create", "--organization", organization, "--json").stdout)
    assert list(made) == ["id", "key", "organization"]
    assert made["organization"] == organization
    found = find_key(ledger.engine, made["key"])
    assert found is not None
    assert (found.id, found.organization_id) == (made["id"], organization)

    listed = cli("keys", "list", "--organization", organization, "--json")
    (entry,) = json.loads(listed.stdout)
    assert (entry["id"], entry["revoked_at"]) == (made["id"], None)
    assert made["key"] not in listed.stdout + cli("keys", "list").stdout
    with psycopg.connect(cli.environment["BATCH_DATABASE_URL"]) as connection:
        stored = str(connection.execute("SELECT * FROM api_keys WHERE id = %s", (made["id"],)).fetchone())
    assert made["key"].rsplit("_", 1)[1] not in stored

    revoked = json.loads(cli("keys", "revoke", made["id"], "--json").stdout)
    assert find_key(ledger.engine, made["key"]) is None
    assert json.loads(cli("keys", "revoke", made["id"], "--json").stdout) == revoked  # again changes nothing


def test_without_json_the_key_is_alone_on_stdout(cli: CommandLine, ledger: Ledger, organization: str) -> None:
    shown = cli("keys", "create", "--organization", organization)
    assert shown.returncode == 0
    assert find_key(ledger.engine, only_line(shown.stdout)) is not None
    assert organization in shown.stderr


@pytest.mark.parametrize("arguments", [("create", "--organization", "nobody"), ("revoke", "key_x"), ("revoke", "\x00")])
def test_an_unknown_key_or_organization_is_reported_in_one_line(cli: CommandLine, arguments: tuple[str, ...]) -> None:
    refused = cli("keys", *arguments, "--json")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "batch-pipeline" in only_line(refused.stderr)


def test_serving_on_a_port_in_use_is_refused(cli: CommandLine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        refused = cli("api", "--port", str(other.getsockname()[1]))
    assert refused.returncode == 2
    assert "--port" in only_line(refused.stderr)


def test_submit_without_a_running_system_uploads_nothing(cli: CommandLine) -> None:
    hidden = ("BATCH_", "AWS_", "DAGSTER_")
    bare = {name: value for name, value in cli.environment.items() if not name.startswith(hidden)}
    here = CommandLine(bare, cli.folder)
    refused = here(
        "submit", cli.file("people.csv", "name\nAda\n"), "--resource", "contact", "--action", "merge", "--data-dir", "d"
    )
    assert (refused.returncode, refused.stdout) == (3, "")
    assert "batch-pipeline up" in only_line(refused.stderr)
