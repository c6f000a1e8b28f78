"""The logged changes of records: before-values from the log, after-values from the next later change.

The log has only what a change replaced. Read from the present backwards, each row gives the state before it, and the
state after it is known already.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from psycopg import sql
from psycopg.rows import class_row

from batch_pipeline.database import Connection
from batch_pipeline.history.model import Change, ChangeKind, FieldChange
from batch_pipeline.loading.statements import records_table
from batch_pipeline.records.resource import Resource

Record = dict[str, Any]

_ALWAYS = datetime.min.replace(tzinfo=UTC)

_KINDS = {"u": ChangeKind.updated, "d": ChangeKind.deleted, "i": ChangeKind.restored}

_RECORDS = """\
SELECT r.id, to_jsonb(r) FROM {records} r WHERE r.organization_id = %s AND r.id = ANY(%s)"""

_CHANGES = """\
SELECT c.record_id, c.number, c.at, c.batch_id, c.row, c.op::text AS op, c.changed, to_jsonb(c) AS values FROM {log} c
WHERE c.organization_id = %s AND c.record_id = ANY(%s) AND c.at >= %s
ORDER BY c.number DESC"""


@dataclass(frozen=True)
class _Row:
    """A row of the log; `values` has all its columns."""

    record_id: str
    number: int
    at: datetime
    batch_id: str | None
    row: int | None
    op: str
    changed: int
    values: Record


@dataclass(frozen=True)
class LoggedHistory:
    """What the log has of one record.

    Attributes:
        changes: newest first.
        first: the record's columns as they were before the oldest change; None if nothing is known.
    """

    changes: list[Change]
    first: Record | None


def read_logged(
    connection: Connection,
    resource: Resource,
    organization_id: str,
    record_ids: Iterable[str],
    *,
    since: datetime = _ALWAYS,
) -> dict[str, LoggedHistory]:
    """The history, since a time, of each record that exists or has logged changes since then."""
    ids = list(record_ids)
    rows: defaultdict[str, list[_Row]] = defaultdict(list)
    log = sql.Identifier("public", resource.changes_table)
    with connection.cursor(row_factory=class_row(_Row)) as cursor:
        for row in cursor.execute(sql.SQL(_CHANGES).format(log=log), (organization_id, ids, since)):
            rows[row.record_id].append(row)
    records = sql.SQL(_RECORDS).format(records=records_table(resource))
    present: dict[str, Record] = dict(connection.execute(records, (organization_id, ids)).fetchall())
    found = {}
    for record_id in {*rows, *present}:
        reader = _Backwards(resource, present.get(record_id))
        changes = [reader.change(row) for row in rows[record_id]]
        found[record_id] = LoggedHistory(changes, reader.state)
    return found


class _Backwards:
    """One record's state, from the present back to the past. None: the record does not exist, or is not known."""

    def __init__(self, resource: Resource, now: Record | None) -> None:
        self._resource = resource
        self.state = now

    def change(self, row: _Row) -> Change:
        """The change that a row of the log stores; goes back to the state before it."""
        values = {**row.values, "id": row.record_id}
        if row.op == "u":
            fields = tuple(self._undo_update(row.changed, values))
        elif row.op == "d":
            fields = (FieldChange(None, shown(self._resource, values), None),)
            self.state = values
        else:
            fields = (FieldChange(None, None, shown(self._resource, self.state)),)
            self.state = None
        return Change(row.record_id, _KINDS[row.op], row.at, row.batch_id, row.row, fields, row.number)

    def _undo_update(self, changed: int, values: Record) -> Iterator[FieldChange]:
        state = dict(self.state or {})
        for name, bit in self._resource.change_bits.items():
            if changed >> bit & 1 == 0:
                continue
            if self._resource.field(name).merges_by_key:
                keys = dict(state.get(name) or {})
                for key, before in (values[name] or {}).items():
                    yield FieldChange(f"{name}.{key}", before, keys.get(key))
                    keys[key] = before
                state[name] = {key: value for key, value in keys.items() if value is not None}
            else:
                yield FieldChange(name, values[name], state.get(name))
                state[name] = values[name]
        if self.state is not None:
            self.state = state


def shown(resource: Resource, record: Record | None) -> Record | None:
    """The record's fields, without those that it does not have."""
    if record is None:
        return None
    names = (field.name for field in resource.fields if field.is_column)
    return {name: record[name] for name in names if record[name] is not None}
