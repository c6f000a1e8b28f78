"""The history of a record and the changes of a batch, in pages.

Both need the log, so PostgreSQL 18, and reach back as far as it is kept (`BATCH_CHANGES_DAYS`). Changes that batches
made without the log are missing.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Any

import sqlalchemy as sa
from psycopg import sql

from batch_pipeline.batches.model import Batch
from batch_pipeline.database import Connection, borrowed, translating_outages
from batch_pipeline.errors import NotFoundError, StateError
from batch_pipeline.history.creation import Creation, created_ids, find_creation
from batch_pipeline.history.links import count_link_changes, link_changes_of_batch, link_changes_of_record
from batch_pipeline.history.logged import Record, read_logged, shown
from batch_pipeline.history.model import Change, ChangeKind, FieldChange
from batch_pipeline.loading.log_support import require_log
from batch_pipeline.records.descriptions import get_resource
from batch_pipeline.records.registry import RESOURCES
from batch_pipeline.records.resource import Resource

_COUNT = "SELECT count(*) FROM {log} WHERE batch_id = %s AND at >= %s"

_OF_BATCH = "SELECT number, record_id FROM {log} WHERE batch_id = %s AND at >= %s ORDER BY number OFFSET %s LIMIT %s"

_CHUNKS = """\
SELECT coalesce(sum(created) FILTER (WHERE created_rows IS NOT NULL), 0)::bigint,
       coalesce(bool_and(is_logged), true),
       min(done_at)
FROM batch_chunks WHERE batch_id = %s AND done_at IS NOT NULL"""

_CREATED_ROWS = """\
SELECT generate_series(lower(rows), upper(rows) - 1) AS row, done_at
FROM batch_chunks, unnest(created_rows) AS rows
WHERE batch_id = %s AND done_at IS NOT NULL
ORDER BY row
OFFSET %s LIMIT %s"""


@dataclass(frozen=True)
class Entry:
    """One line of a record's history: the change of one field, or of the whole record.

    Attributes:
        by: who caused the batch; None: outside of batches.
    """

    change: Change
    field: FieldChange
    by: str | None

    def to_json(self) -> dict[str, Any]:
        """As the API shows it."""
        return {
            "batch": self.change.batch_id,
            "row": self.change.row,
            "at": self.change.epoch_seconds,
            "by": self.by,
            "change": self.change.kind.value,
            **self.field.to_json(),
        }


@dataclass(frozen=True)
class HistoryPage:
    """Lines of a record's history, newest first, and the number of lines on all pages."""

    entries: Sequence[Entry]
    total_count: int
    has_more: bool


@dataclass(frozen=True)
class ChangesPage:
    """Changes of a batch, and their number on all pages."""

    changes: Sequence[Change]
    total_count: int
    has_more: bool

    def to_json(self) -> list[dict[str, Any]]:
        """As the API shows them."""
        return [
            {
                "id": change.record_id,
                "row": change.row,
                "at": change.epoch_seconds,
                "change": change.kind.value,
                "changes": [field.to_json() for field in change.fields],
            }
            for change in self.changes
        ]


def record_history(
    engine: sa.Engine,
    organization_id: str,
    resource_name: str,
    record_id: str,
    *,
    changes_days: int,
    page: int,
    limit: int,
) -> HistoryPage:
    """Page number `page` (from 1) of a record's history, newest first. A deleted record has one as well.

    Raises NotFoundError, also for an unknown resource, and StateError (`needs_postgresql_18`).
    """
    if resource_name not in RESOURCES:
        raise NotFoundError("resource_not_found", f"There is no such resource: known are {', '.join(RESOURCES)}.")
    resource = get_resource(resource_name)
    with translating_outages(), _snapshot(engine) as connection:
        require_log(connection)
        usable = "\x00" not in record_id
        logged = read_logged(connection, resource, organization_id, [record_id] if usable else [])
        if record_id not in logged:
            raise NotFoundError("record_not_found", f"There is no {resource_name} of this id, and no change of one.")
        history = logged[record_id]
        links = link_changes_of_record(connection, resource, organization_id, record_id)
        changes = sorted([*history.changes, *links], key=lambda change: change.at, reverse=True)
        creation = find_creation(connection, resource, organization_id, record_id)
        if creation is not None:
            changes.append(_creation_change(creation, resource, history.first, _kept_from(changes_days)))
        entries = [(change, field) for change in changes for field in change.fields]
        start = (page - 1) * limit
        shown_entries = entries[start : start + limit]
        by = _updated_by(connection, {change.batch_id for change, _ in shown_entries})
    return HistoryPage(
        [Entry(change, field, by.get(change.batch_id)) for change, field in shown_entries],
        len(entries),
        has_more=start + limit < len(entries),
    )


def batch_changes(engine: sa.Engine, batch: Batch, *, changes_days: int, page: int, limit: int) -> ChangesPage:
    """Page number `page` (from 1) of what the batch changed: logged changes, then created records, then links.

    The batch must have a resource. Raises StateError: `needs_postgresql_18`, `changes_off` or `changes_expired`.
    """
    resource, since = get_resource(batch.address.resource), batch.created_at
    with translating_outages(), _snapshot(engine) as connection:
        require_log(connection)
        created = _count_created(connection, batch.id, _kept_from(changes_days))
        log = sql.Identifier("public", resource.changes_table)
        row = connection.execute(sql.SQL(_COUNT).format(log=log), (batch.id, since)).fetchone()
        logged = 0 if row is None else int(row[0])
        links = count_link_changes(connection, resource, batch.id, since)
        part = _Part((page - 1) * limit, page * limit)
        changes = _logged_changes(connection, resource, batch, *part.within(0, logged))
        changes += _created_changes(connection, resource, batch, *part.within(logged, created))
        offset, count = part.within(logged + created, links)
        changes += link_changes_of_batch(connection, resource, batch.id, since, offset=offset, limit=count)
    total = logged + created + links
    return ChangesPage(changes, total, has_more=part.end < total)


@dataclass(frozen=True)
class _Part:
    """A range of places in several lists, one after the other; without its end."""

    start: int
    end: int

    def within(self, begin: int, length: int) -> tuple[int, int]:
        """The part of the list at place `begin`, as offset and number."""
        first, last = max(self.start, begin), min(self.end, begin + length)
        return max(first - begin, 0), max(last - first, 0)


@contextmanager
def _snapshot(engine: sa.Engine) -> Iterator[Connection]:
    """A connection whose statements see one state of the database."""
    isolation = {"default_transaction_isolation": "repeatable read", "default_transaction_read_only": "on"}
    with borrowed(engine, **isolation) as connection:
        yield connection


def _kept_from(changes_days: int) -> datetime:
    """From when on the log is kept."""
    day = (datetime.now(UTC) - timedelta(days=changes_days)).date()
    return datetime.combine(day, time(), tzinfo=UTC)


def _creation_change(creation: Creation, resource: Resource, first: Record | None, since: datetime) -> Change:
    """The creation of the record with this oldest known state; the log is kept from `since` on."""
    at = creation.arrived_at if first is None else datetime.fromisoformat(first["created_at"])
    field = FieldChange(None, None, shown(resource, first) if at >= since else None)
    return Change(creation.record_id, ChangeKind.created, at, creation.batch_id, creation.row, (field,))


def _count_created(connection: Connection, batch_id: str, kept_from: datetime) -> int:
    """The number of records that the batch created. Raises StateError if its changes are not in the log."""
    row = connection.execute(_CHUNKS, (batch_id,)).fetchone()
    created, is_logged, began_at = row if row is not None else (0, True, None)
    if not is_logged:
        raise StateError(
            "changes_off", f"Batch {batch_id} ran without the log of changes (BATCH_CHANGES=off, or an older release)."
        )
    if began_at is not None and began_at < kept_from:
        raise StateError(
            "changes_expired",
            f"The changes of batch {batch_id} are older than the log, which is kept since {kept_from:%Y-%m-%d} "
            "(BATCH_CHANGES_DAYS).",
        )
    return int(created)


def _logged_changes(connection: Connection, resource: Resource, batch: Batch, offset: int, count: int) -> list[Change]:
    log = sql.Identifier("public", resource.changes_table)
    places = connection.execute(
        sql.SQL(_OF_BATCH).format(log=log), (batch.id, batch.created_at, offset, count)
    ).fetchall()
    histories = read_logged(
        connection,
        resource,
        batch.address.organization_id,
        {place[1] for place in places},
        since=batch.created_at,  # the log of an open day is read from here on
    )
    changes = {change.number: change for history in histories.values() for change in history.changes}
    return [changes[number] for number, _ in places]


def _created_changes(connection: Connection, resource: Resource, batch: Batch, offset: int, count: int) -> list[Change]:
    """The creations, without values: the records may have changed since."""
    if not count or batch.arrived_at is None:
        return []
    rows = connection.execute(_CREATED_ROWS, (batch.id, offset, count)).fetchall()
    numbers = [int(row) for row, _ in rows]
    ids = created_ids(resource, batch.id, batch.arrived_at, numbers)
    return [
        Change(record_id, ChangeKind.created, at, batch.id, number, ())
        for record_id, number, (_, at) in zip(ids, numbers, rows, strict=True)
    ]


def _updated_by(connection: Connection, batch_ids: set[str | None]) -> dict[str | None, str]:
    """Who caused each batch."""
    return dict(
        connection.execute("SELECT id, updated_by FROM batches WHERE id = ANY(%s)", (list(batch_ids),)).fetchall()
    )
