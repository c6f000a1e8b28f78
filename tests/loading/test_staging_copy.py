"""COPY into staging and back keeps every text, and keeps NULL and empty text apart."""

import secrets
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from examples import examples
from hypothesis import example, given, settings
from hypothesis import strategies as st
from psycopg import sql

from batch_pipeline.database import Connection, connect
from batch_pipeline.loading.bulk_copy import copy_table, fetch_table
from batch_pipeline.loading.own_staging import FIXED_COLUMNS, OwnStaging
from batch_pipeline.records.contact import CONTACT

# PostgreSQL has no NUL in a text; the row rules let none through.
TEXTS = (
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=10)
    | st.text("\"'\\.,\n\r\t N", max_size=8)
    | st.sampled_from(["", "\\.", "\n\\.\n", "\\N", "NULL", '"', '""', "\\", "a\\", "🚚", "\ufeff", " "])
)
SCHEMA = pa.schema(
    [pa.field("row", pa.int64(), nullable=False), ("text", pa.string()), ("flag", pa.bool_()), ("other", pa.string())]
)
COPIED = settings(max_examples=examples(20, thorough=100))


@pytest.fixture(scope="module")
def connection(module_database_url: str) -> Iterator[Connection]:
    with connect(module_database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE copied (row bigint, text text, flag boolean, other text)")
        connection.execute("CREATE TABLE single (text text)")
        yield connection


def refill(connection: Connection, name: str, table: pa.Table) -> None:
    """Replaces all rows, in the one transaction that `copy_table` asks for."""
    with connection.transaction():
        connection.execute(sql.SQL("TRUNCATE {}").format(sql.Identifier(name)))
        copy_table(connection, sql.Identifier(name), table)


@COPIED
@given(st.lists(st.tuples(st.none() | TEXTS, st.none() | st.booleans(), st.none() | TEXTS), max_size=8))
@example([("\\.", None, "\\.")])
@example([("one\n\\.\ntwo", True, "")])
@example([("x" * 3_000_000, None, "y\n" * 700_000), ("", False, None)])
def test_any_texts_survive_the_round_trip(connection: Connection, values: list[tuple[Any, ...]]) -> None:
    rows = [(number, *value) for number, value in enumerate(values, start=1)]
    table = pa.table([list(column) for column in zip(*rows, strict=True)] or [[]] * 4, schema=SCHEMA)

    refill(connection, "copied", table)

    stored = connection.execute("SELECT row, text, flag, other FROM copied ORDER BY row").fetchall()
    assert stored == rows
    query = sql.SQL("SELECT row, text, flag, other FROM copied WHERE row >= %(first)s ORDER BY row").format()
    assert fetch_table(connection, query, {"first": 1}, SCHEMA).to_pylist() == table.to_pylist()


@COPIED
@given(st.lists(st.none() | TEXTS, max_size=6))
@example([None])
@example(["", None, ""])
@example(["\\."])
def test_a_single_column_keeps_every_row(connection: Connection, texts: list[str | None]) -> None:
    refill(connection, "single", pa.table({"text": pa.array(texts, pa.string())}))

    assert [text for (text,) in connection.execute("SELECT text FROM single")] == texts
    fetched = fetch_table(connection, sql.SQL("TABLE single").format(), {}, pa.schema([("text", pa.string())]))
    assert fetched["text"].to_pylist() == texts


def test_columns_are_found_by_name_and_the_others_get_their_defaults(connection: Connection) -> None:
    refill(connection, "copied", pa.table({"other": ["x"], "row": pa.array([5], pa.int64())}))

    assert connection.execute("TABLE copied").fetchall() == [(5, None, None, "x")]


def test_an_empty_result_has_the_schema(connection: Connection) -> None:
    fetched = fetch_table(connection, sql.SQL("SELECT 1, '', true, '' WHERE false").format(), {}, SCHEMA)

    assert fetched.schema == SCHEMA
    assert fetched.num_rows == 0


def test_staging_tables_hold_the_fixed_columns_and_the_staged_fields(connection: Connection) -> None:
    staging = OwnStaging(f"batch_{secrets.token_hex(11)}")
    assert not staging.exists(connection)

    staging.create(connection, CONTACT, ("id", "name", "is_primary", "metadata"))

    assert staging.exists(connection)
    columns = connection.execute(
        "SELECT column_name, data_type FROM information_schema.columns"
        " WHERE table_schema = 'staging' AND table_name = %s ORDER BY ordinal_position",
        (f"items_{staging.batch_id}",),
    ).fetchall()
    assert columns == [
        *FIXED_COLUMNS.items(),
        ("id", "text"),
        ("name", "text"),
        ("is_primary", "boolean"),
        ("metadata", "jsonb"),
    ]


def test_creating_staging_again_starts_empty_and_dropping_twice_is_fine(connection: Connection) -> None:
    staging = OwnStaging(f"batch_{secrets.token_hex(11)}")
    with connection.transaction():
        staging.create(connection, CONTACT, ("name",))
        copy_table(connection, staging.items, pa.table({"row": pa.array([1], pa.int64()), "name": ["Ann"]}))

    staging.create(connection, CONTACT, ("name", "email"))

    assert connection.execute(sql.SQL("SELECT count(*) FROM {}").format(staging.items)).fetchone() == (0,)
    staging.drop(connection)
    staging.drop(connection)
    assert not staging.exists(connection)


def test_each_batch_has_its_own_staging_tables(connection: Connection) -> None:
    one, other = (OwnStaging(f"batch_{secrets.token_hex(11)}") for _ in range(2))
    one.create(connection, CONTACT, ("name",))
    other.create(connection, CONTACT, ("name",))

    one.drop(connection)

    assert other.exists(connection)
