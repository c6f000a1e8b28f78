"""Each natural key of each resource has an index that fits it."""

import pytest
from psycopg import sql

from batch_pipeline.database import Connection, connect
from batch_pipeline.loading.identity import Matching
from batch_pipeline.loading.own_staging import OwnStaging
from batch_pipeline.records.descriptions import all_resources
from batch_pipeline.records.resource import NaturalKey, Resource

NATURAL_KEYS = [(resource, place) for resource in all_resources() for place in range(len(resource.natural_keys))]


@pytest.mark.parametrize(
    ("resource", "place"), NATURAL_KEYS, ids=[f"{resource.name} {place}" for resource, place in NATURAL_KEYS]
)
def test_a_look_up_by_a_natural_key_uses_an_index_of_all_its_columns(
    module_database_url: str, resource: Resource, place: int
) -> None:
    key = resource.natural_keys[place]
    with connect(module_database_url) as connection:
        plan = _plan(connection, resource, place, key)
        connection.rollback()
    conditions = [line for line in plan if "Index Cond" in line]
    assert conditions
    # organization_id, and every column of the key, are looked up, not filtered afterwards.
    assert all(condition.count(" = ") == len(key.columns) + 1 for condition in conditions), plan


def _plan(connection: Connection, resource: Resource, place: int, key: NaturalKey) -> list[str]:
    staging = OwnStaging("batch_" + "1" * 22)
    staging.create(connection, resource, key.columns)
    columns = sql.SQL(", ").join(map(sql.Identifier, key.columns))
    connection.execute(
        sql.SQL(
            "INSERT INTO {} (organization_id, id, {}) SELECT 'default', n::text, {} FROM generate_series(1, 2000) AS n"
        ).format(
            sql.Identifier(resource.table), columns, sql.SQL(", ").join([sql.SQL("(n % 100)::text")] * len(key.columns))
        )
    )
    connection.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(resource.table)))
    connection.execute("SET LOCAL enable_seqscan = off")
    connection.execute("SET LOCAL enable_hashjoin = off")
    connection.execute("SET LOCAL enable_mergejoin = off")
    query = Matching(resource, staging, key.columns, clears=False).by_natural_key(place)
    rows = connection.execute(sql.SQL("EXPLAIN {}").format(query), {"organization": "default", "done": "{}"})
    return [str(row[0]) for row in rows]
