"""Small batches share staging tables and never see each other's rows."""

import threading
from collections.abc import Iterator
from decimal import Decimal

import psycopg
import pyarrow as pa
import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from psycopg import sql
from staged_rows import staged_rows
from waiting import eventually

from batch_pipeline.batches.ids import new_batch_id
from batch_pipeline.database import Connection, connect, create_engine, set_in_session
from batch_pipeline.loading.own_staging import FIXED_COLUMNS, OwnStaging
from batch_pipeline.loading.shared_staging import SharedStaging, remove_shared_rows
from batch_pipeline.loading.staging import STAGED_BATCH, Staging
from batch_pipeline.migrations.staging_tables import add_field
from batch_pipeline.records.contact import CONTACT
from batch_pipeline.records.descriptions import all_resources
from batch_pipeline.records.resource import Resource

PATIENCE_SECONDS = 60.0
PLAN = ("row", "verdict", "record_id", "kind", "matches", "target")
ACCEPT_ALL = "SELECT row, 'a'::\"char\", NULL, kind, 0, row FROM {items} ORDER BY row"


@pytest.fixture
def connection(module_database_url: str) -> Iterator[Connection]:
    with connect(module_database_url, autocommit=True) as connection:
        yield connection


def new_staging(connection: Connection, names: tuple[str, ...], batch_id: str | None = None) -> SharedStaging:
    """A batch that creates contacts of these names, planned. It becomes the batch of the session."""
    staging = SharedStaging(batch_id or new_batch_id(), "contact")
    set_in_session(connection, {STAGED_BATCH: staging.batch_id})
    with connection.transaction():
        staging.create(connection, CONTACT, ("name",))
        rows = pa.array(range(1, len(names) + 1), pa.int64())
        staging.copy(connection, "items", pa.table({"row": rows, "name": list(names)}))
        staging.replace(connection, "plan", PLAN, sql.SQL(ACCEPT_ALL).format(items=staging.items), {})
    return staging


def planned(connection: Connection, staging: Staging) -> list[str]:
    query = sql.SQL("SELECT s.name FROM {} p JOIN {} s ON s.row = p.row ORDER BY p.row")
    return [name for (name,) in connection.execute(query.format(staging.plan, staging.items))]


def test_a_batch_sees_and_removes_its_own_rows_only(connection: Connection, module_database_url: str) -> None:
    one, other = new_staging(connection, ("Ann", "Bob")), new_staging(connection, ("Cid",))
    own = OwnStaging(new_batch_id())
    own.create(connection, CONTACT, ("name",))

    assert planned(connection, other) == ["Cid"]
    connection.execute(sql.SQL("UPDATE {} SET verdict = 'r'").format(other.plan))
    other.drop(connection)
    assert planned(connection, other) == []
    set_in_session(connection, {STAGED_BATCH: one.batch_id})
    assert planned(connection, one) == ["Ann", "Bob"]
    assert connection.execute(sql.SQL("SELECT DISTINCT verdict FROM {}").format(one.plan)).fetchall() == [("a",)]

    new_staging(connection, ("Dee",), one.batch_id)  # a later attempt
    assert planned(connection, one) == ["Dee"]
    remove_shared_rows(connection, one.batch_id)
    own.drop(connection)
    assert staged_rows(module_database_url) == {}


def test_a_session_without_a_batch_fails_and_sees_no_empty_tables(connection: Connection) -> None:
    staging = SharedStaging(new_batch_id(), "contact")
    query = sql.SQL("SELECT count(*) FROM {}").format(staging.plan)
    with pytest.raises(psycopg.errors.UndefinedObject, match=STAGED_BATCH):
        connection.execute(query)
    set_in_session(connection, {STAGED_BATCH: staging.batch_id})
    assert connection.execute(query).fetchone() == (0,)
    connection.execute("RESET ALL")  # as a connection goes back to its pool
    with pytest.raises(psycopg.errors.CheckViolation):
        connection.execute(query)
    with pytest.raises(psycopg.errors.CheckViolation):
        staging.copy(connection, "plan", pa.table({"row": pa.array([1], pa.int64())}))


@pytest.mark.parametrize("resource", all_resources(), ids=lambda resource: resource.name)
def test_the_shared_tables_have_every_field_of_each_resource(connection: Connection, resource: Resource) -> None:
    found = dict(
        connection.execute(
            "SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute"
            " WHERE attrelid = %s::regclass AND attnum > 0",
            (f"staging.items_{resource.name}",),
        ).fetchall()
    )
    kinds = FIXED_COLUMNS | {field.name: field.sql_type for field in resource.fields}
    needed = {name: kind.replace("timestamptz", "timestamp with time zone") for name, kind in kinds.items()}
    assert {name: found.get(name) for name in needed} == needed


def test_a_migration_adds_a_field_of_a_resource(database_url: str) -> None:
    engine = create_engine(database_url)
    with engine.begin() as migrating, Operations.context(MigrationContext.configure(migrating)):
        add_field("contact", "colour", "numeric(17,2)")
    engine.dispose()
    with connect(database_url, autocommit=True) as connection:
        staging = new_staging(connection, ("Ann",))
        connection.execute(sql.SQL("UPDATE {} SET colour = 1.5").format(staging.items))
        rows = connection.execute(sql.SQL("SELECT name, colour FROM {}").format(staging.items)).fetchall()
        assert rows == [("Ann", Decimal("1.50"))]


def test_rows_that_a_dying_predecessor_commits_late_are_removed(
    connection: Connection, module_database_url: str
) -> None:
    staging = new_staging(connection, ("Ann",))
    with connect(module_database_url) as dying:
        set_in_session(dying, {STAGED_BATCH: staging.batch_id})
        staging.create(dying, CONTACT, ("name",))
        staging.copy(dying, "items", pa.table({"row": pa.array([1, 2], pa.int64()), "name": ["old", "old"]}))
        successor = threading.Thread(target=new_staging, args=(connection, ("Bob",), staging.batch_id))
        successor.start()
        with connect(module_database_url, autocommit=True) as watching:
            waits = (
                "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database"
                " WHERE l.locktype = 'advisory' AND NOT l.granted AND d.datname = current_database()"
            )
            eventually(lambda: watching.execute(waits).fetchone() == (1,), pause=0.02)
        dying.commit()
        successor.join(PATIENCE_SECONDS)
        assert not successor.is_alive()

    assert planned(connection, staging) == ["Bob"]
    staging.drop(connection)


def test_the_rows_of_a_batch_are_found_by_the_index_among_those_of_many(connection: Connection) -> None:
    """Nobody analyses the tables for a batch."""
    for part, columns in (("plan", "verdict"), ("items_contact", "name")):
        connection.execute(
            sql.SQL(
                "INSERT INTO {} (batch_id, row, {}) SELECT 'batch_' || b, r, 'a'"
                " FROM generate_series(1, 300) AS b, generate_series(1, 100) AS r"
            ).format(sql.Identifier("staging", f"shared_{part}"), sql.Identifier(columns))
        )
    staging = new_staging(connection, ("Ann", "Bob"))
    query = sql.SQL("EXPLAIN SELECT s.name FROM {} p JOIN {} s ON s.row = p.row WHERE p.row BETWEEN 1 AND 2")

    plan = "\n".join(row[0] for row in connection.execute(query.format(staging.plan, staging.items)))

    assert plan.count("Index Cond") == 2, plan
    assert plan.count("Seq Scan") == 0, plan
    staging.drop(connection)
    for part in ("plan", "items_contact"):
        connection.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier("staging", f"shared_{part}")))
