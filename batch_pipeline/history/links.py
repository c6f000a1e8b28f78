"""The logged changes of members and groups, as seen from one side."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import sql
from psycopg.rows import class_row

from batch_pipeline.database import Connection
from batch_pipeline.history.model import Change, ChangeKind, FieldChange
from batch_pipeline.records.links import Link
from batch_pipeline.records.references import MarkedMembers, References
from batch_pipeline.records.resource import Resource

_OF_RECORD = """\
SELECT number, at, batch_id, row, {own} AS own, {other} AS other, before::text AS before, after::text AS after
FROM {log}
WHERE organization_id = %s AND {own} = %s
ORDER BY number DESC"""

_OF_BATCH = """\
SELECT number, at, batch_id, row, {own} AS own, {other} AS other, before::text AS before, after::text AS after
FROM {log}
WHERE batch_id = %s AND at >= %s
ORDER BY number
OFFSET %s LIMIT %s"""

_COUNT_OF_BATCH = "SELECT count(*) FROM {log} WHERE batch_id = %s AND at >= %s"

_ABSENT, _PRIMARY = "a", "p"


@dataclass(frozen=True)
class _Row:
    """A row of the log, as seen from one side."""

    number: int
    at: datetime
    batch_id: str | None
    row: int | None
    own: str
    other: str
    before: str
    after: str


def link_changes_of_record(
    connection: Connection, resource: Resource, organization_id: str, record_id: str
) -> list[Change]:
    """The changes of the record's members or groups, newest first."""
    link = _link(resource)
    if link is None:
        return []
    with connection.cursor(row_factory=class_row(_Row)) as cursor:
        rows = cursor.execute(_compose(_OF_RECORD, link), (organization_id, record_id)).fetchall()
    return [change for row in rows if (change := _change(resource, row)).fields]


def count_link_changes(connection: Connection, resource: Resource, batch_id: str, since: datetime) -> int:
    """The number of links that the batch changed. It began no earlier than `since`."""
    link = _link(resource)
    if link is None:
        return 0
    row = connection.execute(_compose(_COUNT_OF_BATCH, link), (batch_id, since)).fetchone()
    return 0 if row is None else int(row[0])


def link_changes_of_batch(
    connection: Connection, resource: Resource, batch_id: str, since: datetime, *, offset: int, limit: int
) -> list[Change]:
    """The links that the batch changed, in order, each as a change of the record on the batch's side."""
    link = _link(resource)
    if link is None or limit <= 0:
        return []
    with connection.cursor(row_factory=class_row(_Row)) as cursor:
        rows = cursor.execute(_compose(_OF_BATCH, link), (batch_id, since, offset, limit)).fetchall()
    return [_change(resource, row) for row in rows]


def _link(resource: Resource) -> Link | None:
    """The resource's link. A resource has at most one: see `reference_fields.references_of`."""
    return next((field.link for field in resource.fields if isinstance(field, References)), None)


def _compose(template: str, link: Link) -> sql.Composed:
    return sql.SQL(template).format(
        log=sql.Identifier("public", link.changes_table), own=sql.Identifier(link.own), other=sql.Identifier(link.other)
    )


def _change(resource: Resource, row: _Row) -> Change:
    fields = tuple(_fields(resource, row.other, row.before, row.after))
    return Change(row.own, ChangeKind.updated, row.at, row.batch_id, row.row, fields, row.number)


def _fields(resource: Resource, other: str, before: str, after: str) -> Iterator[FieldChange]:
    for field in resource.fields:
        if isinstance(field, MarkedMembers):
            was, is_now = before == _PRIMARY, after == _PRIMARY
        elif isinstance(field, References):
            was, is_now = before != _ABSENT, after != _ABSENT
        else:
            continue
        if was != is_now:
            yield FieldChange(field.name, _ids(other, was), _ids(other, is_now))


def _ids(record_id: str, is_there: bool) -> list[Any]:
    return [record_id] if is_there else []
