"""`list`, `show`, `errors`, `organizations`: what an operator sees of which batches."""

import json

import psycopg
from batch_runs import accepted
from command_line import MERGE, PEOPLE, CommandLine, only_line, without_progress

from batch_pipeline.batches.ledger import Ledger
from batch_pipeline.batches.model import Action, Batch
from batch_pipeline.batches.organizations import create_organization
from batch_pipeline.batches.states import BatchStatus, Reason


def new_batch(ledger: Ledger, organization: str | None, name: str = "people.csv") -> Batch:
    action = Action.merge if organization else None
    resource = "contact" if organization else None
    return accepted(ledger.engine, organization, resource=resource, action=action, name=name)


def test_list_shows_batches_newest_first_with_those_of_unknown_organizations(
    cli: CommandLine, ledger: Ledger, organization: str
) -> None:
    nobodys = new_batch(ledger, None)
    ledger.end(nobodys.id, BatchStatus.failed, Reason("unknown_folder", "The folder names nothing known."))
    mine = [new_batch(ledger, organization), new_batch(ledger, organization, "odd\x1b[2J\nname.csv")]
    other = new_batch(ledger, create_organization(ledger.engine, f"{organization}-other").id)

    printed = cli("list", "--organization", organization, "--json")
    ids = [batch["id"] for batch in json.loads(printed.stdout)]
    assert ids[:2] == [mine[1].id, mine[0].id]
    assert nobodys.id in ids
    assert other.id not in ids

    shown = cli("list", "--organization", organization, "--status", "requested", "--resource", "contact")
    assert (shown.returncode, without_progress(shown.stderr)) == (0, [])
    assert mine[0].id in shown.stdout
    assert nobodys.id not in shown.stdout
    assert "\x1b" not in shown.stdout
    assert "odd\\x1b[2J name.csv" in shown.stdout


def test_list_selects_by_action_time_and_organization_and_shows_age_and_duration(
    cli: CommandLine, ledger: Ledger, organization: str
) -> None:
    old, mine = new_batch(ledger, organization), new_batch(ledger, organization)
    other = new_batch(ledger, create_organization(ledger.engine, f"{organization}-other").id)
    with psycopg.connect(cli.environment["BATCH_DATABASE_URL"]) as connection:
        connection.execute("UPDATE batches SET created_at = now() - interval '3 hours' WHERE id = %s", (old.id,))

    def ids(*flags: str) -> list[str]:
        found = [batch["id"] for batch in json.loads(cli("list", *flags, "--json").stdout)]
        return [each for each in found if each in (old.id, mine.id, other.id)]

    mine_only = ("--organization", organization)
    assert ids(*mine_only) == [mine.id, old.id]
    assert ids(*mine_only, "--since", "2h") == [mine.id]
    assert ids(*mine_only, "--action", "merge", "--since", "4h") == [mine.id, old.id]
    assert ids(*mine_only, "--action", "delete") == []
    assert ids("--all-organizations", "--since", "2h", "--limit", "1000") == [other.id, mine.id]

    shown = cli("list", "--all-organizations", "--limit", "1000").stdout
    line = next(line for line in shown.splitlines() if old.id in line)
    for text in (organization, "contact", "merge", "requested", "3h", "0.00 s"):
        assert text in line


def test_show_has_run_attempts_and_seconds(cli: CommandLine, organization: str) -> None:
    mine = ("--organization", organization)
    ran = json.loads(cli("run", cli.file("people.csv", PEOPLE), *MERGE, *mine, "--json").stdout)
    shown = cli("show", ran["id"], *mine).stdout
    rows = {line.split()[0]: line.split()[1:] for line in shown.splitlines() if line.strip()}
    assert (rows["run"], rows["attempts"]) == ([ran["run_id"]], ["1"])
    assert float(rows["duration"][0]) > 0
    table = [line.split("│") for line in shown.splitlines()]
    seconds = {cells[1].strip(): cells[6].strip() for cells in table if len(cells) > 7 and "completed" in cells[2]}
    assert list(seconds) == ["parsing", "validation", "processing", "errors.csv, errors.json"]
    assert all(float(text) >= 0 for text in seconds.values())


def test_show_refuses_a_batch_of_another_organization(cli: CommandLine, ledger: Ledger, organization: str) -> None:
    batch = new_batch(ledger, organization)
    printed = cli("show", batch.id, "--organization", organization, "--json")
    assert json.loads(printed.stdout) == batch.to_json()

    shown = cli("show", batch.id, "--organization", organization)
    for text in (batch.id, "people.csv", "requested", "validation", "rejected"):
        assert text in shown.stdout

    elsewhere = cli("show", batch.id)
    assert (elsewhere.returncode, elsewhere.stdout) == (2, "")
    assert f"--organization {organization}" in only_line(elsewhere.stderr)


def test_a_missing_file_of_a_batch_is_reported(cli: CommandLine, ledger: Ledger, organization: str) -> None:
    batch = new_batch(ledger, organization)
    for command in ("errors", "result"):
        ended = cli(command, batch.id, "--organization", organization, "-o", "file")
        assert (ended.returncode, ended.stdout) == (2, "")
        assert "requested" in only_line(ended.stderr)
    assert list(cli.folder.iterdir()) == []


def test_organizations_are_created_and_listed(cli: CommandLine, organization: str) -> None:
    made = cli("organizations", "create", f"{organization}-de", "--region", "DE", "--json")
    assert json.loads(made.stdout) == {"id": f"{organization}-de", "region": "DE"}
    listed = json.loads(cli("organizations", "list", "--json").stdout)
    assert {"id": "default", "region": "US"} in listed
    assert {"id": f"{organization}-de", "region": "DE"} in listed


def test_a_database_without_tables_asks_for_the_upgrade(cli: CommandLine) -> None:
    # The same server's database of PostgreSQL's own, in which nothing of this system is.
    url = cli.environment["BATCH_DATABASE_URL"]
    path, _, query = url.partition("?")
    empty = f"{path.rpartition('/')[0]}/postgres{'?' if query else ''}{query}"
    ended = cli("list", BATCH_DATABASE_URL=empty)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "batch-pipeline db upgrade" in only_line(ended.stderr)
