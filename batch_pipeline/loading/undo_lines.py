"""The lines of an undo: one for each record whose fields or links the undone batch changed, or that it made or deleted.

They are numbered in the order of the undone batch's rows and never change, so every attempt has the same chunks.
"""

from collections.abc import Iterator
from datetime import datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from psycopg import sql

from batch_pipeline.batches.model import PhaseName
from batch_pipeline.database import Connection
from batch_pipeline.loading.bulk_copy import copy_table
from batch_pipeline.loading.record_ids import record_ids
from batch_pipeline.loading.statements import COMMA, NOTHING
from batch_pipeline.loading.undo_links import LINK_COLUMNS
from batch_pipeline.loading.undo_statements import UndoStatements, stored_fields

BLOCK_ROWS = 500_000  # ids that are computed at once

# Of `Staging.plan`, for an undo.
PLAN_COLUMNS = ("row", "verdict", "record_id", "op", "number", "seen", "by_batch", "by_record")

_CREATED_RANGES = """\
SELECT lower(r)::bigint, upper(r)::bigint
FROM batch_chunks c, unnest(c.created_rows) AS r
WHERE c.batch_id = %(undone)s AND c.phase = {phase} AND c.done_at IS NOT NULL
ORDER BY 1"""

# The record's own change decides how the line is undone: c created, u updated, d deleted, i restored by an undo, and
# l if only its links changed.
_LINES = """\
SELECT row_number() OVER (ORDER BY min(w.row) NULLS LAST, w.record_id) AS row, '?'::"char" AS verdict, w.record_id,
       coalesce(min(w.op) FILTER (WHERE w.op <> 'l'), 'l')::"char" AS op, max(w.number) AS number,
       NULL::xid AS seen, NULL::text COLLATE "C" AS by_batch, NULL::text COLLATE "C" AS by_record
FROM (
    SELECT record_id, row, op::text, number FROM {log}
    WHERE batch_id = %(undone)s AND organization_id = %(organization)s AND at >= %(since)s
    UNION ALL
    SELECT record_id, row, 'c', NULL FROM created{link_lines}
) AS w
GROUP BY w.record_id
ORDER BY row"""

_LINK_LINES = """
    UNION ALL
    SELECT {own}, row, 'l', NULL FROM {link_log}
    WHERE batch_id = %(undone)s AND organization_id = %(organization)s AND at >= %(since)s"""

_BEFORE = """\
SELECT p.row, c.number, c.at, c.changed,
    {columns}
FROM {plan} p
JOIN {log} c ON c.record_id = p.record_id AND c.number = p.number
WHERE c.batch_id = %(undone)s AND c.organization_id = %(organization)s AND c.at >= %(since)s
ORDER BY p.row"""

_LINKS = """\
SELECT DISTINCT ON (p.row, c.{other})
       p.row, c.{other} AS other, c.number, c.before, c.after, '?'::"char" AS verdict,
       NULL::text COLLATE "C" AS by_batch
FROM {plan} p
JOIN {link_log} c ON c.{own} = p.record_id
WHERE c.batch_id = %(undone)s AND c.organization_id = %(organization)s AND c.at >= %(since)s
ORDER BY p.row, c.{other}, c.number DESC"""


def stage_lines(statements: UndoStatements, *, undone_arrived_at: datetime | None) -> int:
    """Creates the staging tables of an undo, without verdicts; returns the number of lines.

    `undone_arrived_at`: when the undone batch's payload arrived; ids of created records depend on it.
    """
    statements.staging.create_for_undo(statements.connection)
    _stage_created(statements, undone_arrived_at)
    link_lines = statements.compose(_LINK_LINES) if statements.linked is not None else NOTHING
    lines = statements.replace("plan", PLAN_COLUMNS, statements.compose(_LINES, link_lines=link_lines))
    names = [*(field.name for field in stored_fields(statements.resource)), "created_at", "updated_at"]
    columns = COMMA.join(sql.Identifier("c", name) for name in names)
    statements.replace(
        "items", ("row", "number", "at", "changed", *names), statements.compose(_BEFORE, columns=columns)
    )
    if statements.linked is not None:
        statements.replace("links", LINK_COLUMNS, statements.compose(_LINKS))
    return lines


def _stage_created(statements: UndoStatements, undone_arrived_at: datetime | None) -> None:
    """Makes the temporary table `created`: the undone batch's rows that created records, and the records' ids."""
    connection, undone = statements.connection, str(statements.parameters["undone"])
    connection.execute('CREATE TEMPORARY TABLE created (row bigint, record_id text COLLATE "C") ON COMMIT DROP')
    for rows in _created_rows(connection, undone):
        assert undone_arrived_at is not None  # noqa: S101 - a batch that wrote has arrived
        ids = record_ids(statements.resource.id_prefix, batch_id=undone, arrived_at=undone_arrived_at, rows=rows)
        table = pa.table({"row": pa.array(rows), "record_id": ids})
        copy_table(connection, sql.Identifier("pg_temp", "created"), table, is_new=False)
    connection.execute("ANALYZE created")


def _created_rows(connection: Connection, undone: str) -> Iterator[npt.NDArray[np.int64]]:
    ranges = connection.execute(
        sql.SQL(_CREATED_RANGES).format(phase=sql.Literal(PhaseName.processing.value)), {"undone": undone}
    ).fetchall()
    held: list[npt.NDArray[np.int64]] = []
    size = 0
    for first, end in ranges:
        for start in range(first, end, BLOCK_ROWS):
            held.append(np.arange(start, min(start + BLOCK_ROWS, end), dtype=np.int64))
            size += len(held[-1])
            if size >= BLOCK_ROWS:
                yield np.concatenate(held)
                held, size = [], 0
    if held:
        yield np.concatenate(held)
