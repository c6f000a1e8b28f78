"""The four roles on a database of their own: each does its process's work, and `db roles` can be repeated."""

import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from batch_runs import Runner, contacts
from databases import other_database
from psycopg import errors, sql

from batch_pipeline import migrations
from batch_pipeline.batches.api_keys import create_key
from batch_pipeline.batches.callers import require_row_security
from batch_pipeline.batches.model import Starter
from batch_pipeline.batches.options import UndoOptions
from batch_pipeline.batches.organizations import create_organization
from batch_pipeline.cli.main import main
from batch_pipeline.dagster_home import dagster_database_url
from batch_pipeline.database import url_of_role
from batch_pipeline.intake.undoing import request_undo
from batch_pipeline.loading.change_partitions import drop_day, find_old_days, make_partitions_ahead
from batch_pipeline.migrations.roles import protect
from batch_pipeline.orchestration.execute import execute_batch
from batch_pipeline.orchestration.instance import open_instance, upgrade_dagster
from batch_pipeline.orchestration.reconciling import reconcile
from batch_pipeline.settings import get_settings
from batch_pipeline.system import open_system


@pytest.fixture
def empty_url(environment: dict[str, str]) -> Iterator[str]:
    """A new database without any table, as its administrator sees it."""
    server_url, name = environment["BATCH_DATABASE_URL"], f"test_{secrets.token_hex(6)}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield other_database(server_url, name)
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def _printed_sql(capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["db", "roles"])
    assert ended.value.code == 0
    return capsys.readouterr().out


def _lead_to(patch: pytest.MonkeyPatch, url: str, storage_url: str) -> None:
    patch.setenv("BATCH_DATABASE_URL", url)
    patch.setenv("BATCH_STORAGE_URL", storage_url)
    patch.setenv("DAGSTER_POSTGRES_URL", dagster_database_url(url))
    get_settings.cache_clear()


@pytest.mark.parametrize("from_single_role", [False, True])
def test_each_role_does_its_work_and_no_more(
    empty_url: str,
    storage_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    from_single_role: bool,
) -> None:
    statements = _printed_sql(capsys)
    assert "PASSWORD" not in statements.upper().replace("\\PASSWORD", "").replace("NO PASSWORD", "")
    if from_single_role:  # a database that its administrator used for everything so far
        _lead_to(monkeypatch, empty_url, storage_url)
        migrations.upgrade(empty_url)
        upgrade_dagster()
    for _ in range(2):
        with psycopg.connect(empty_url, autocommit=True) as connection:
            connection.execute(statements.encode())

    owner, loader, api, reader = (
        url_of_role(empty_url, role) for role in ("bp_owner", "bp_loader", "bp_api", "bp_reader")
    )
    _lead_to(monkeypatch, owner, storage_url)
    migrations.upgrade(owner)
    upgrade_dagster()
    with psycopg.connect(owner) as connection:
        protect(connection)

    _lead_to(monkeypatch, loader, storage_url)
    with open_system() as system, open_instance(in_process=True) as instance:
        organizations = [create_organization(system.engine, f"org-{number}").id for number in range(2)]
        for organization_id in organizations:
            create_key(system.engine, organization_id)
            runner = Runner(system, organization_id)
            first = runner.csv({"external_id": "a", "name": "Ada"}, {"external_id": "b", "name": "Bob"})
            second = runner.csv({"external_id": "a", "name": "Ada L."}, save_result=True)
            assert (first.stats.created, second.stats.updated) == (2, 1)
            undo = request_undo(system, second.id, starter=Starter.caller, options=UndoOptions(), updated_by="cli")
            assert execute_batch(system, instance, undo).stats.reversed == 1
            assert {record["name"] for record in contacts(system, organization_id)} == {"Ada", "Bob"}
        assert reconcile(system, instance) == []
        later = datetime.now(UTC) + timedelta(days=30)
        with psycopg.connect(loader) as connection:
            make_partitions_ahead(connection, later)
            days = find_old_days(connection, later.date() + timedelta(days=3))
            assert later.date() + timedelta(days=1) in days
            assert drop_day(connection, later.date() + timedelta(days=1))

    with psycopg.connect(api) as connection:
        require_row_security(connection)
        assert connection.execute("SELECT count(*) FROM contacts").fetchone() == (0,)
        with pytest.raises(errors.InsufficientPrivilege), connection.transaction():
            connection.execute("SELECT FROM dagster.runs")
    with psycopg.connect(reader) as connection:
        rows = connection.execute("SELECT DISTINCT organization_id FROM contacts ORDER BY 1").fetchall()
        assert [row[0] for row in rows] == organizations
        assert connection.execute("SELECT count(*) > 0 FROM contact_changes").fetchone() == (True,)
        for refused in ("SELECT FROM api_keys", "SELECT FROM idempotency_keys", "DELETE FROM contacts"):
            with pytest.raises(errors.InsufficientPrivilege), connection.transaction():
                connection.execute(refused.encode())
    with psycopg.connect(loader) as connection, pytest.raises(errors.InsufficientPrivilege):
        connection.execute("DROP TABLE contacts")
    get_settings.cache_clear()


def test_a_table_of_a_later_migration_is_protected_by_the_upgrade(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("CREATE TABLE later (organization_id text, value text)")
        connection.execute("CREATE TABLE later_of_batch (batch_id text)")
        connection.execute("CREATE TABLE other (value text)")
    migrations.upgrade(database_url)
    with psycopg.connect(url_of_role(database_url, "bp_api")) as connection:
        for table in ("later", "later_of_batch"):
            assert connection.execute("SELECT row_security_active(%s)", (table,)).fetchone() == (True,)
            connection.execute(sql.SQL("SELECT FROM {}").format(sql.Identifier(table)))
        with pytest.raises(errors.InsufficientPrivilege):
            connection.execute("SELECT FROM other")
