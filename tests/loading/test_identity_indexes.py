"""The look-up of records by their keys uses indexes for any number of records."""

import secrets
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from batch_pipeline.database import Connection, connect
from batch_pipeline.loading.identity import BY_EXTERNAL_ID, BY_ID, BY_NATURAL_KEY, Matching
from batch_pipeline.loading.own_staging import OwnStaging
from batch_pipeline.records.contact import CONTACT

RECORDS = 20_000
FIELDS = ("id", "external_id", "name", "email", "phone")
BY_EMAIL, BY_NAME_AND_PHONE = BY_NATURAL_KEY, BY_NATURAL_KEY + 1


@pytest.fixture(scope="module")
def connection(module_database_url: str) -> Iterator[Connection]:
    """A database with many contacts: half have an email, half only name and phone; all have an external id."""
    with connect(module_database_url) as connection:
        connection.execute(
            """
            INSERT INTO contacts (organization_id, id, external_id, name, email, phone)
            SELECT 'default', 'ctct_' || lpad(n::text, 22, 'A'), 'e' || n, 'Name ' || n,
                   CASE WHEN n %% 2 = 0 THEN 'Ann' || n || '@Example.com' END, '+1415' || lpad(n::text, 7, '0')
            FROM generate_series(1, %s) AS n
            """,
            (RECORDS,),
        )
        connection.execute("ANALYZE contacts")
        yield connection


def staged(connection: Connection, kind: int, column: str, value: sql.SQL) -> OwnStaging:
    """Ten items that mean the records 100, 200, … by one key."""
    staging = OwnStaging(f"batch_{secrets.token_hex(11)}")
    staging.create(connection, CONTACT, FIELDS)
    connection.execute(
        sql.SQL(
            "INSERT INTO {items} (row, kind, cleared, invalid, {column}) SELECT g, {kind}, 0, 0, {value}"
            " FROM generate_series(1, 10) AS g, LATERAL (SELECT g * 100 AS n)"
        ).format(items=staging.items, column=sql.Identifier(column), kind=sql.Literal(kind), value=value)
    )
    if kind == BY_NAME_AND_PHONE:
        connection.execute(
            sql.SQL("UPDATE {} SET phone = '+1415' || lpad((row * 100 + 1)::text, 7, '0')").format(staging.items)
        )
    connection.execute(sql.SQL("ANALYZE {}").format(staging.items))
    return staging


CASES = pytest.mark.parametrize(
    ("key", "offset", "index"),
    [
        ((BY_ID, "id", sql.SQL("'ctct_' || lpad(n::text, 22, 'A')")), 0, "contacts_pkey"),
        ((BY_EXTERNAL_ID, "external_id", sql.SQL("'e' || n")), 0, "contacts_external_id"),
        ((BY_EMAIL, "email", sql.SQL("'aNN' || n || '@example.com'")), 0, "contacts_email"),
        ((BY_NAME_AND_PHONE, "name", sql.SQL("'Name ' || n + 1")), 1, "contacts_name_phone"),
    ],
    ids=["id", "external_id", "email", "name and phone"],
)


@CASES
def test_a_look_up_uses_its_index(
    connection: Connection, key: tuple[int, str, sql.SQL], offset: int, index: str
) -> None:
    del offset
    staging = staged(connection, *key)

    plan = explained(connection, Matching(CONTACT, staging, FIELDS, clears=False).query())

    scans = [
        node
        for node in nodes(plan)
        if node.get("Relation Name") == "contacts" or "contacts" in str(node.get("Index Name"))
    ]
    assert index in {node.get("Index Name") for node in scans}
    assert "Seq Scan" not in {node["Node Type"] for node in scans}


@CASES
def test_a_look_up_finds_the_identified_record(
    connection: Connection, key: tuple[int, str, sql.SQL], offset: int, index: str
) -> None:
    del index
    staging = staged(connection, *key)
    query = Matching(CONTACT, staging, FIELDS, clears=False).query()

    with connection.cursor(row_factory=psycopg.rows.dict_row) as cursor:
        found = cursor.execute(query, {"organization": "default", "done": "{}"}).fetchall()

    meant = {row: "ctct_" + str(row * 100 + offset).rjust(22, "A") for row in range(1, 11)}
    assert {item["row"]: item["record_id"] for item in found} == meant
    assert [item["matches"] for item in found] == [1] * 10


def explained(connection: Connection, query: sql.Composed) -> dict[str, Any]:
    row = connection.execute(
        sql.SQL("EXPLAIN (FORMAT JSON) {}").format(query), {"organization": "default", "done": "{}"}
    ).fetchone()
    assert row is not None
    plan: dict[str, Any] = row[0][0]["Plan"]
    return plan


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", []):
        yield from nodes(inner)
