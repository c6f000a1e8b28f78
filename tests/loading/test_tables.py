"""The tables that the migrations make are those that the resources describe."""

import pytest
from psycopg import sql

from batch_pipeline.database import connect
from batch_pipeline.loading.identity import BY_NATURAL_KEY, Matching
from batch_pipeline.loading.staging import Connection, Staging
from batch_pipeline.records.registry import RESOURCES
from batch_pipeline.records.resource import NaturalKey, Resource

EVERY = pytest.mark.parametrize("resource", list(RESOURCES.values()), ids=list(RESOURCES))
FIXED = {"organization_id", "created_at", "updated_at", "batch_id"}
SHORT = {"timestamp with time zone": "timestamptz"}


@EVERY
def test_columns_have_the_types_and_defaults_of_the_fields(module_database_url: str, resource: Resource) -> None:
    with connect(module_database_url) as connection:
        columns = {
            name: (SHORT.get(kind, kind), default)
            for name, kind, default in connection.execute(
                "SELECT attname, format_type(atttypid, atttypmod), pg_get_expr(adbin, adrelid) FROM pg_attribute"
                " LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum"
                " WHERE attrelid = %s::regclass AND attnum > 0",
                (f"public.{resource.table}",),
            )
        }
        stored = [field for field in resource.fields if field.name in columns]
        assert set(columns) == {field.name for field in stored} | FIXED
        for field in stored:
            kind, default = columns[field.name]
            assert kind == field.sql_type
            if field.initial is None:
                assert default is None
            else:
                value = connection.execute(sql.SQL("SELECT ({})::text").format(sql.SQL(default))).fetchone()
                assert value == (field.initial,)


NATURAL_KEYS = [(resource, place) for resource in RESOURCES.values() for place in range(len(resource.natural_keys))]


@pytest.mark.parametrize(
    ("resource", "place"), NATURAL_KEYS, ids=[f"{resource.name} {place}" for resource, place in NATURAL_KEYS]
)
def test_a_look_up_by_a_natural_key_goes_by_an_index_of_all_its_columns(
    module_database_url: str, resource: Resource, place: int
) -> None:
    key = resource.natural_keys[place]
    with connect(module_database_url) as connection:
        plan = _plan(connection, resource, place, key)
    conditions = [line for line in plan if "Index Cond" in line]
    assert conditions
    # organization_id, and every column of the key, are looked up, not filtered afterwards.
    assert all(condition.count(" = ") == len(key.columns) + 1 for condition in conditions)


def _plan(connection: Connection, resource: Resource, place: int, key: NaturalKey) -> list[str]:
    staging = Staging("batch_" + "1" * 22)
    staging.create(connection, resource, key.columns)
    connection.execute("SET LOCAL enable_seqscan = off")
    connection.execute("SET LOCAL enable_hashjoin = off")
    connection.execute("SET LOCAL enable_mergejoin = off")
    query = Matching(resource, staging, key.columns)._by_natural_key(BY_NATURAL_KEY + place, key)
    rows = connection.execute(sql.SQL("EXPLAIN {}").format(query), {"organization": "default", "done": "{}"})
    return [str(row[0]) for row in rows]
