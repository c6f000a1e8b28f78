"""The migrated database is what the package's own tables say of it."""

import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import sql

from batch_pipeline.batches.tables import metadata
from batch_pipeline.database import connect, create_engine
from batch_pipeline.records.descriptions import all_resources
from batch_pipeline.records.references import References
from batch_pipeline.records.resource import Resource

EVERY_RECORD = {
    "organization_id": "text",
    "created_at": "timestamp with time zone",
    "updated_at": "timestamp with time zone",
    "batch_id": "text",
}


LINKS = {field.link for resource in all_resources() for field in resource.fields if isinstance(field, References)}


@pytest.fixture(scope="module")
def inspector(module_database_url: str) -> Iterator[sa.Inspector]:
    engine = create_engine(module_database_url)
    yield sa.inspect(engine)
    engine.dispose()


@pytest.mark.parametrize("table", metadata.sorted_tables, ids=lambda table: table.name)
def test_each_table_in_the_database_matches_the_package(inspector: sa.Inspector, table: sa.Table) -> None:
    dialect = sa.make_url("postgresql+psycopg://").get_dialect()()

    def shape(name: str, kind: sa.types.TypeEngine[Any], nullable: bool) -> tuple[str, str, str | None, bool]:
        return name, kind.compile(dialect).split(" COLLATE")[0], getattr(kind, "collation", None), nullable

    stored = {shape(c["name"], c["type"], c["nullable"]) for c in inspector.get_columns(table.name)}
    assert {shape(c.name, c.type, bool(c.nullable)) for c in table.columns} == stored
    assert [c.name for c in table.primary_key.columns] == inspector.get_pk_constraint(table.name)["constrained_columns"]


@pytest.mark.parametrize("table", metadata.sorted_tables, ids=lambda table: table.name)
def test_a_column_has_a_default_where_the_package_relies_on_one(inspector: sa.Inspector, table: sa.Table) -> None:
    has_default = {
        c["name"]
        for c in inspector.get_columns(table.name)
        if c["default"] is not None or c.get("identity") is not None
    }

    assert {c.name for c in table.columns if c.server_default is not None or c.identity is not None} == has_default


def test_every_table_of_the_schema_is_known(inspector: sa.Inspector) -> None:
    records = {resource.table for resource in all_resources()} | {link.table for link in LINKS}
    logs = {resource.changes_table for resource in all_resources()} | {link.changes_table for link in LINKS}
    known = set(metadata.tables) | records | logs | {"batch_pipeline_schema"}

    found = set(inspector.get_table_names())
    assert {name for name in found if re.sub(r"_changes_(default|\d{8})$", "_changes", name) not in known} == set()
    assert known <= found
    assert inspector.get_sequence_names() != []
    assert all(name.startswith("shared_") for name in inspector.get_table_names("staging"))


# ---- records ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resource", all_resources(), ids=lambda resource: resource.name)
def test_a_records_table_has_its_fields_as_columns_with_their_defaults(
    module_database_url: str, resource: Resource
) -> None:
    with connect(module_database_url) as connection:
        columns = connection.execute(
            "SELECT attname, format_type(atttypid, atttypmod), attnotnull, pg_get_expr(adbin, adrelid)"
            " FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum"
            " WHERE attrelid = %s::regclass AND attnum > 0",
            (f"public.{resource.table}",),
        ).fetchall()
        defaults = {
            name: connection.execute(sql.SQL("SELECT ({})::text").format(sql.SQL(default))).fetchone()
            for name, _, _, default in columns
            if default is not None and name not in EVERY_RECORD
        }

    stored = [field for field in resource.fields if field.is_column]
    kinds = {"timestamptz": "timestamp with time zone"}
    assert {name: kind for name, kind, _, _ in columns} == {
        **{field.name: kinds.get(field.sql_type, field.sql_type) for field in stored},
        **EVERY_RECORD,
    }
    assert defaults == {field.name: (field.initial,) for field in stored if field.initial is not None}
    assert not [
        name
        for name, _, is_required, default in columns
        if is_required and default is None and name not in ("organization_id", "id")
    ]


@pytest.mark.parametrize("resource", all_resources(), ids=lambda resource: resource.name)
def test_records_are_keyed_by_organization_and_id_and_refer_to_nothing(
    inspector: sa.Inspector, resource: Resource
) -> None:
    assert inspector.get_pk_constraint(resource.table)["constrained_columns"] == ["organization_id", "id"]
    assert inspector.get_foreign_keys(resource.table) == []


@pytest.mark.parametrize("resource", all_resources(), ids=lambda resource: resource.name)
def test_other_tools_can_load_records_with_their_keys_alone(module_database_url: str, resource: Resource) -> None:
    with connect(module_database_url) as connection:
        row = connection.execute(
            sql.SQL(
                "INSERT INTO {} (organization_id, id) VALUES ('theirs', 'x') RETURNING created_at, updated_at, metadata"
            ).format(sql.Identifier(resource.table))
        ).fetchone()
        connection.rollback()

    assert row is not None
    assert None not in row


@pytest.mark.parametrize("resource", all_resources(), ids=lambda resource: resource.name)
def test_an_external_id_is_unique_per_organization(module_database_url: str, resource: Resource) -> None:
    insert = sql.SQL("INSERT INTO {} (organization_id, id, external_id) VALUES (%s, %s, %s)").format(
        sql.Identifier(resource.table)
    )
    with connect(module_database_url) as connection:
        connection.execute(insert, ("one", "a", "e"))
        connection.execute(insert, ("other", "a", "e"))
        connection.execute(insert, ("one", "b", None))
        connection.execute(insert, ("one", "c", None))
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute(insert, ("one", "d", "e"))
        connection.rollback()


# ---- the change log ---------------------------------------------------------------------------------------------

OF_EVERY_CHANGE = {
    "number": "bigint",
    "at": "timestamp with time zone",
    "organization_id": "text",
    "record_id": "text",
    "batch_id": "text",
    "row": "bigint",
    "op": '"char"',
    "changed": "bigint",
    "before_batch": "text",
    "undoes": "bigint",
}


@pytest.mark.parametrize("resource", all_resources(), ids=lambda resource: resource.name)
def test_a_change_log_has_the_columns_of_its_records(module_database_url: str, resource: Resource) -> None:
    with connect(module_database_url) as connection:
        log, records = (
            {
                name: (kind, collation)
                for name, kind, collation in connection.execute(
                    "SELECT attname, format_type(atttypid, atttypmod), attcollation FROM pg_attribute"
                    " WHERE attrelid = %s::regclass AND attnum > 0",
                    (f"public.{table}",),
                )
            }
            for table in (resource.changes_table, resource.table)
        )
    for name in ("organization_id", "id", "batch_id"):
        del records[name]

    assert {name: kind for name, (kind, _) in log.items() if name in OF_EVERY_CHANGE} == OF_EVERY_CHANGE
    assert {name: kind for name, kind in log.items() if name not in OF_EVERY_CHANGE} == records


def test_the_trigger_and_the_resources_number_their_fields_alike() -> None:
    migration = import_module("batch_pipeline.migrations.versions.0017_changes")

    numbered = {
        name: (table, {field: bit for bit, field in enumerate(fields)})
        for name, (table, fields) in migration.FIELDS.items()
    }
    assert numbered == {resource.name: (resource.table, resource.change_bits) for resource in all_resources()}
    columns = {field.name: field for resource in all_resources() for field in resource.fields}
    assert {name for name, field in columns.items() if field.merges_by_key} == migration.OBJECTS
    assert {name for name, field in columns.items() if not field.is_column} == migration.REFERENCES


# ---- organizations ----------------------------------------------------------------------------------------------


def test_the_default_organization_exists(module_database_url: str) -> None:
    with connect(module_database_url) as connection:
        assert connection.execute("SELECT id, region FROM organizations").fetchall() == [("default", "US")]


@pytest.mark.parametrize(
    ("name", "is_allowed"),
    [
        ("a", True),
        ("0-a_b", True),
        ("x" * 63, True),
        ("x" * 64, False),
        ("", False),
        ("-a", False),
        ("A", False),
        ("a/b", False),
        ("a\n", False),
        ("é", False),
    ],
)
def test_an_organizations_name_is_checked(module_database_url: str, name: str, is_allowed: bool) -> None:
    with connect(module_database_url) as connection:
        try:
            connection.execute("INSERT INTO organizations (id) VALUES (%s)", (name,))
        except psycopg.errors.CheckViolation:
            assert not is_allowed
        else:
            assert is_allowed
        connection.rollback()


# ---- migrating --------------------------------------------------------------------------------------------------
