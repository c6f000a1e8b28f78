"""`prune` shows what it would delete, and deletes it."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import psycopg
import pytest
from batch_runs import accepted
from command_line import MERGE, CommandLine, newest, only_line

from batch_pipeline.batches.ledger import Ledger
from batch_pipeline.batches.states import BatchStatus, Reason
from batch_pipeline.dagster_home import dagster_database_url
from batch_pipeline.storage import keys
from batch_pipeline.storage.store import Store


def test_prune_shows_and_removes_only_old_files_and_runs(
    cli: CommandLine, deployment: dict[str, str], ledger: Ledger, store: Store, organization: str
) -> None:
    ids = []
    for age in ("40 days", "20 days"):
        batch = accepted(ledger.engine, organization)
        store.write(keys.upload(batch.id, "people.csv", saved=True), b"name\n")
        ledger.end(batch.id, BatchStatus.failed, Reason("missing_columns", "No."), has_upload_file=True)
        with psycopg.connect(deployment["BATCH_DATABASE_URL"]) as connection:
            connection.execute("UPDATE batches SET updated_at = now() - %s::interval WHERE id = %s", (age, batch.id))
        ids.append(batch.id)
    expected = {
        **{"batches": 1, "orphans": 0, "files": 1, "bytes": 5, "runs": 0, "change_days": 0, "webhook_events": 0},
        "more": False,
    }

    shown = cli("prune", "--dry-run", "--json")
    assert json.loads(shown.stdout) == {"dry_run": True, **expected}
    told = cli("prune", "--dry-run")
    assert only_line(told.stdout).startswith(
        "Would go: 1 files (5 bytes) of 1 batches that ended more than 30 days ago"
    )
    assert [ledger.get(batch_id).has_upload_file for batch_id in ids] == [True, True]

    done = cli("prune", "--json")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"dry_run": False, **expected})
    assert [ledger.get(batch_id).has_upload_file for batch_id in ids] == [False, True]
    assert [bool(store.list(f"{keys.batch_folder(batch_id)}/")) for batch_id in ids] == [False, True]
    refused = cli("retry", ids[0], "--organization", organization)
    assert refused.returncode == 2


def test_prune_reports_a_wrong_setting(cli: CommandLine) -> None:
    refused = cli.process("prune", BATCH_RETENTION_DAYS="0")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "BATCH_RETENTION_DAYS" in only_line(refused.stderr)


def test_prune_deletes_the_output_of_a_run(
    cli: CommandLine, deployment: dict[str, str], ledger: Ledger, organization: str
) -> None:
    cli("run", cli.file("people.csv", "name\nAda\n"), *MERGE, "--organization", organization)
    batch = newest(ledger, organization)
    assert batch is not None
    assert batch.run_id is not None
    printed = Path(deployment["DAGSTER_HOME"], "storage", batch.run_id, "compute_logs", "parse.out")
    printed.parent.mkdir(parents=True)
    printed.write_text("as a launched run leaves it")
    with psycopg.connect(deployment["BATCH_DATABASE_URL"]) as connection:
        connection.execute(
            "UPDATE dagster.runs SET create_timestamp = now() - interval '31 days' WHERE run_id = %s", (batch.run_id,)
        )

    assert json.loads(cli("prune", "--dry-run", "--json").stdout)["runs"] == 1
    assert printed.exists()
    assert json.loads(cli("prune", "--json").stdout)["runs"] == 1
    assert not printed.parent.parent.exists()


@pytest.mark.parametrize("arguments", [(), ("--dry-run",)])
def test_prune_ends_no_batch(
    cli: CommandLine, deployment: dict[str, str], ledger: Ledger, organization: str, arguments: tuple[str, ...]
) -> None:
    batch = accepted(ledger.engine, organization, key="none")
    ledger.begin_attempt(batch.id, f"{batch.id}-was-run-by-none")
    with psycopg.connect(deployment["BATCH_DATABASE_URL"]) as connection:
        connection.execute("UPDATE batches SET updated_at = now() - interval '1 hour' WHERE id = %s", (batch.id,))
    before = ledger.get(batch.id)

    assert cli("prune", *arguments).returncode == 0
    assert ledger.get(batch.id) == before


def test_prune_migrates_no_configured_database(
    cli: CommandLine,
    new_database: Callable[[], AbstractContextManager[str]],
    new_dagster_database: Callable[[], AbstractContextManager[str]],
) -> None:
    def refused_without_a_trace(*arguments: str) -> str:
        before = _tables(connection)
        environment = {"BATCH_DATABASE_URL": url, "DAGSTER_POSTGRES_URL": dagster_database_url(url)}
        ended = cli.process("prune", *arguments, **environment)
        assert (ended.returncode, ended.stdout) == (2, "")
        assert _tables(connection) == before
        assert "batch-pipeline db upgrade" in only_line(ended.stderr)
        return ended.stderr

    with new_database() as url, psycopg.connect(url, autocommit=True) as connection:
        assert "DAGSTER_POSTGRES_URL" in refused_without_a_trace("--dry-run")  # our tables are there, Dagster's not
        connection.execute("CREATE SCHEMA dagster")
        assert "DAGSTER_POSTGRES_URL" in refused_without_a_trace()
        connection.execute("ALTER TABLE batches DROP COLUMN is_pruned CASCADE")  # as an older version had it
        assert "BATCH_DATABASE_URL" in refused_without_a_trace("--dry-run")
    with new_dagster_database() as url, psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE dagster.alembic_version SET version_num = 'an_older_one'")
        assert "DAGSTER_POSTGRES_URL" in refused_without_a_trace("--dry-run")


def _tables(connection: psycopg.Connection) -> list[tuple[str, ...]]:
    return connection.execute(
        "SELECT table_schema, table_name, column_name FROM information_schema.columns "
        "WHERE table_schema IN ('public', 'dagster') ORDER BY 1, 2, 3"
    ).fetchall()


def test_prune_keeps_the_embedded_servers_up_to_date(cli: CommandLine, session_folder: Path) -> None:
    none = {"BATCH_DATABASE_URL": "", "BATCH_STORAGE_URL": "", "DAGSTER_POSTGRES_URL": "", "DAGSTER_HOME": ""}
    environment = {name: value for name, value in cli.environment.items() if name not in none}
    embedded = CommandLine(environment, cli.folder)
    ended = embedded.process("prune", "--json", "--data-dir", str(session_folder / "prune"))
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["more"] is False
