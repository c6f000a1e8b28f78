"""The look-up of records by references uses indexes for any number of records."""

from typing import Any

import pytest
from psycopg import sql

from batch_pipeline.database import connect
from batch_pipeline.loading.look_ups import look_ups
from batch_pipeline.records.links import Target
from batch_pipeline.records.memberships import CONTACTS_OF_GROUP, GROUPS_OF_CONTACT

RECORDS = 20_000
FILL = {
    CONTACTS_OF_GROUP: (
        "INSERT INTO contacts (organization_id, id, external_id, name, email)"
        " SELECT 'default', 'ctct_' || lpad(n::text, 22, 'A'), 'e' || n, 'Name ' || n, 'Ann' || n || '@Example.com'"
        " FROM generate_series(1, %s) AS n"
    ),
    GROUPS_OF_CONTACT: (
        "INSERT INTO groups (organization_id, id, external_id, name)"
        " SELECT 'default', 'grp_' || lpad(n::text, 22, 'A'), 'e' || n, 'Name ' || n FROM generate_series(1, %s) AS n"
    ),
}
TEXTS = {
    CONTACTS_OF_GROUP: [
        "ctct_" + "7".rjust(22, "A"),
        "e8",
        "aNN9@example.com",
        "Name 10::: ann10@EXAMPLE.com",
        "Ann11",
    ],
    GROUPS_OF_CONTACT: ["grp_" + "7".rjust(22, "A"), "e8", "Name 9", "Name 10", "Name"],
}


@pytest.mark.parametrize("target", FILL, ids=lambda target: target.table)
def test_references_are_found_by_indexes(database_url: str, target: Target) -> None:
    query = sql.SQL(" UNION ALL ").join(look_ups(0, target))
    with connect(database_url) as connection:
        connection.execute(FILL[target], (RECORDS,))
        connection.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(target.table)))
        connection.execute('CREATE TEMPORARY TABLE texts (place integer, text text COLLATE "C", is_id boolean)')
        with connection.cursor() as cursor:
            rows = [(0, text, text.startswith(target.id_prefix)) for text in TEXTS[target]]
            cursor.executemany("INSERT INTO texts VALUES (%s, %s, %s)", rows)
        connection.execute("ANALYZE texts")

        parameters = {"organization": "default"}
        found = connection.execute(query, parameters).fetchall()
        explained = connection.execute(sql.SQL("EXPLAIN (FORMAT JSON) {}").format(query), parameters).fetchone()

    ids = {text: record_id for _, text, record_id, matches in found if matches == 1}
    assert [ids.get(text, "none")[-2:] for text in TEXTS[target]] == ["A7", "A8", "A9", "10", "ne"]
    assert explained is not None
    scans = [node for node in _nodes(explained[0][0]["Plan"]) if node.get("Relation Name") == target.table]
    assert scans
    assert "Seq Scan" not in {node["Node Type"] for node in scans}


def _nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for inner in plan.get("Plans", []) for node in _nodes(inner))]
