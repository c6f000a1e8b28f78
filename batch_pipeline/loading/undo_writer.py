"""Writes an undo in chunks: deletes, restores and changes records, and logs each change with the change that it undoes.

A record or link that somebody changed after the plan was made is kept as it is, and its line says so.
"""

from typing import Any

import psycopg
from psycopg import sql

from batch_pipeline.batches.locks import Turn
from batch_pipeline.batches.model import PhaseName
from batch_pipeline.database import Connection
from batch_pipeline.loading.change_log import log_deleted, log_updated
from batch_pipeline.loading.chunks import ChunkOutcome, ChunkWriter, Planned, refusal_text
from batch_pipeline.loading.staging import STEP_WRITE, Staging
from batch_pipeline.loading.statements import COMMA, indented
from batch_pipeline.loading.undo_links import UndoLinks
from batch_pipeline.loading.undo_planner import taken_keys
from batch_pipeline.loading.undo_statements import UndoStatements, stored_fields
from batch_pipeline.records.resource import Resource

_COUNT = """\
SELECT count(*) FILTER (WHERE verdict = 'd'), count(*) FILTER (WHERE verdict = 'i'),
       count(*) FILTER (WHERE verdict = 'r'), count(*)
FROM {plan} p
WHERE p.row BETWEEN %(first)s AND %(last)s"""

# Before links are looked at: whoever makes a link locks the record on each side.
_LOCK_DELETED = """\
SELECT FROM {records} r
JOIN {plan} p ON r.id = p.record_id
WHERE p.row BETWEEN %(first)s AND %(last)s AND p.verdict = 'd' AND r.organization_id = %(organization)s
ORDER BY r.id
FOR UPDATE OF r"""

# The verdict `?` is for lines whose record was written after the plan was made.
_DELETE = """\
WITH done AS (
    DELETE FROM {records} r USING {plan} p
    WHERE p.row BETWEEN %(first)s AND %(last)s
      AND p.verdict = 'd'
      AND r.organization_id = %(organization)s
      AND r.id = p.record_id
      AND r.xmin = p.seen
    RETURNING
        p.row,
        p.number AS undoes,
        {returned}
), {logged}
UPDATE {plan} p SET verdict = '?'
WHERE p.row BETWEEN %(first)s AND %(last)s
  AND p.verdict = 'd'
  AND NOT EXISTS (SELECT FROM done WHERE done.row = p.row)"""

_RESTORE = """\
WITH done AS (
    INSERT INTO {records} (
    organization_id, id, batch_id,
    {columns}
)
    SELECT %(organization)s, p.record_id, %(batch)s,
    {values}
    FROM {plan} p
    JOIN {items} s ON s.row = p.row
    WHERE p.row BETWEEN %(first)s AND %(last)s
      AND {items_in_range}
      AND p.verdict = 'i'
    ON CONFLICT DO NOTHING
    RETURNING id
), logged AS (
    INSERT INTO {log} (organization_id, record_id, batch_id, row, op, changed, undoes)
    SELECT %(organization)s, p.record_id, %(batch)s, p.row, 'i', 0, p.number
    FROM done
    JOIN {plan} p ON p.record_id = done.id AND p.row BETWEEN %(first)s AND %(last)s
)
UPDATE {plan} p SET verdict = 'c', by_record = (
    SELECT min(r.id) FROM {records} r
    WHERE r.organization_id = %(organization)s AND (r.id = p.record_id OR r.external_id = s.external_id)
)
FROM {items} s
WHERE p.row BETWEEN %(first)s AND %(last)s
  AND s.row = p.row
  AND p.verdict = 'i'
  AND NOT EXISTS (SELECT FROM done WHERE done.id = p.record_id)"""

_REVERSE = """\
WITH done AS (
    UPDATE {records} r
    SET {assignments}
    FROM {plan} p
    LEFT JOIN {items} s ON s.row = p.row AND {items_in_range}
    LEFT JOIN (
        {kept_units}
    ) AS k ON k.row = p.row
    WHERE p.row BETWEEN %(first)s AND %(last)s
      AND p.verdict = 'r'
      AND r.organization_id = %(organization)s
      AND r.id = p.record_id
      AND r.xmin = p.seen
    RETURNING
        p.row AS line,
        s.number AS undoes,
        {returned}
), {logged}
UPDATE {plan} p SET verdict = '?'
WHERE p.row BETWEEN %(first)s AND %(last)s
  AND p.verdict = 'r'
  AND NOT EXISTS (SELECT FROM done WHERE done.line = p.row)"""

_SETTLE = """\
UPDATE {plan} p SET verdict = CASE WHEN f.id IS NULL THEN 'g' ELSE 'k' END::"char", by_batch = f.batch_id
FROM (
    SELECT l.row, r.id, r.batch_id
    FROM {plan} l
    LEFT JOIN {records} r ON r.organization_id = %(organization)s AND r.id = l.record_id
    WHERE l.row BETWEEN %(first)s AND %(last)s AND l.verdict = '?'
) AS f
WHERE p.row = f.row"""

_REFUSE = """\
UPDATE {plan} p SET verdict = 'c', by_batch = NULL, by_record = NULL
WHERE p.row = %(first)s AND p.verdict IN ('r', 'd', 'i')"""

_NOTE_REFUSAL = """\
INSERT INTO {errors} (row, step, code, field, message)
VALUES (%(first)s, {step}, 'write_failed', %(field)s, %(message)s)"""


class UndoWriter(ChunkWriter):
    """Writes the lines of an undo. `plan` and its other tables are as `UndoPlanner` made them."""

    phase = PhaseName.processing

    def __init__(
        self, connection: Connection, resource: Resource, staging: Staging, turn: Turn, parameters: dict[str, Any]
    ) -> None:
        super().__init__(connection, staging, turn, logs=True)
        self._parameters |= parameters
        statements = UndoStatements(connection, resource, staging, self._parameters)
        self._links = None if statements.linked is None else UndoLinks(statements)
        compose = statements.compose
        self._count, self._lock_deleted, self._settle = map(compose, (_COUNT, _LOCK_DELETED, _SETTLE))
        self._delete, self._restore = delete_created(statements), restore_deleted(statements)
        self._reverse = reverse_changed(statements)
        self._taken_keys = taken_keys(statements)
        self._refuse = compose(_REFUSE)
        self._note_refusal = sql.SQL(_NOTE_REFUSAL).format(errors=staging.errors, step=sql.Literal(STEP_WRITE))

    def apply(self, first: int, last: int, planned: Planned | None) -> ChunkOutcome:
        """Deletes, restores, changes records, then links."""
        del planned  # an undo's lines have other verdicts
        parameters = self._range(first, last)
        deleted, restored, reversed_, _ = self._counts(parameters)
        if deleted:
            self._apply_deletions(parameters)
        if restored:
            for statement in self._taken_keys:
                self._connection.execute(statement, parameters)
            self._connection.execute(self._restore, parameters)
        if reversed_:
            self._connection.execute(self._reverse, parameters)
        if deleted or reversed_:
            self._connection.execute(self._settle, parameters)
        if self._links is not None:
            self._links.write(parameters)
        deleted, restored, reversed_, lines = self._counts(parameters)
        written = restored + reversed_
        return ChunkOutcome(deleted=deleted, updated=written, unchanged=lines - deleted - written)

    def _apply_deletions(self, parameters: dict[str, Any]) -> None:
        if self._links is not None:
            self._connection.execute(self._lock_deleted, parameters)
            self._links.keep_referenced(parameters)
        self._connection.execute(self._delete, parameters)
        if self._links is not None:
            self._links.remove_of_deleted(parameters)

    def reject(self, row: int, refusal: psycopg.Error) -> ChunkOutcome:
        """Makes a conflict of the line. The database's message may quote customers' data: it goes to the line only."""
        parameters = self._range(row, row)
        refused = self._connection.execute(self._refuse, parameters).rowcount
        self._connection.execute(
            self._note_refusal,
            {**parameters, "field": refusal.diag.column_name, "message": refusal_text(refusal)},
        )
        return ChunkOutcome(failed=refused, unchanged=1 - refused)

    def _counts(self, parameters: dict[str, Any]) -> tuple[int, int, int, int]:
        deleted, restored, reversed_, lines = self._connection.execute(self._count, parameters).fetchone() or (0,) * 4
        return int(deleted), int(restored), int(reversed_), int(lines)


def delete_created(statements: UndoStatements) -> sql.Composed:
    """The DELETE of records that the undone batch created, and its log."""
    returned, logged = log_deleted(statements.resource, row="row", undoes=True)
    return statements.compose(_DELETE, returned=indented(returned, 4), logged=logged)


def restore_deleted(statements: UndoStatements) -> sql.Composed:
    """The INSERT of records that the undone batch deleted, and its log."""
    names = [*(field.name for field in stored_fields(statements.resource)), "created_at"]
    return statements.compose(
        _RESTORE,
        columns=COMMA.join(map(sql.Identifier, names)),
        values=COMMA.join(sql.Identifier("s", name) for name in names),
    )


def reverse_changed(statements: UndoStatements) -> sql.Composed:
    """The UPDATE of records, and its log: fields get their values from before the undone change, except kept units."""
    values = statements.reversed_values()
    assignments = [sql.SQL("{} = {}").format(sql.Identifier(name), value) for name, value in values.items()]
    returned, logged = log_updated(statements.resource, values, undoes=True)
    return statements.compose(
        _REVERSE,
        assignments=COMMA.join([*assignments, sql.SQL("updated_at = now()"), sql.SQL("batch_id = %(batch)s")]),
        kept_units=indented(statements.kept_units(sql.SQL("row BETWEEN %(first)s AND %(last)s")), 8),
        returned=indented(returned, 4),
        logged=logged,
    )
