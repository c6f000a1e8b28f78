"""Reads the change log, and takes a record's state back by it."""

from typing import Any

import psycopg
from batch_runs import Row
from psycopg import sql
from psycopg.rows import dict_row

from batch_pipeline.records.resource import Resource
from batch_pipeline.system import System

NOT_STATE = ("created_at", "updated_at", "organization_id", "batch_id")


def logged(system: System, organization_id: str, table: str) -> list[Row]:
    """The organization's rows of a table of changes, in order."""
    with psycopg.connect(system.database_url, row_factory=dict_row) as connection:
        query = sql.SQL("SELECT * FROM {} WHERE organization_id = %s ORDER BY number").format(sql.Identifier(table))
        rows = connection.execute(query, (organization_id,)).fetchall()
    for row in rows:
        row.update({name: value.decode() for name, value in row.items() if isinstance(value, bytes)})
    return rows


def changed_fields(resource: Resource, row: Row) -> Row:
    """The before-values of the fields in the row's mask."""
    return {name: row.get(name) for name, bit in resource.change_bits.items() if row["changed"] >> bit & 1}


def restored(resource: Resource, records: dict[str, Row], row: Row) -> None:
    """Changes the records to what they were before the change."""
    record_id = row["record_id"]
    if row["op"] == "d":
        assert record_id not in records
        names = [field.name for field in resource.fields if field.is_column and field.name != "id"]
        records[record_id] = {"id": record_id, **{name: row[name] for name in names}}
        return
    assert row["op"] == "u"
    record = dict(records[record_id])
    for name, before in changed_fields(resource, row).items():
        if resource.field(name).merges_by_key:
            after: dict[str, Any] = {**record[name], **before}
            record[name] = {key: value for key, value in after.items() if value is not None}
        else:
            record[name] = before
    records[record_id] = record


def state(rows: list[Row]) -> dict[str, Row]:
    """The records by id, without times and batches."""
    return {row["id"]: {name: value for name, value in row.items() if name not in NOT_STATE} for row in rows}
