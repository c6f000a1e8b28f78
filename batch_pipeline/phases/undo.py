"""What an undo has instead of other batches' items, planner, writer, counts and result file."""

from datetime import timedelta

from psycopg.rows import dict_row

from batch_pipeline.batches.locks import Turn
from batch_pipeline.batches.model import Batch, PhaseName
from batch_pipeline.batches.stats import Stats
from batch_pipeline.batches.undoable import expired_error
from batch_pipeline.database import Connection
from batch_pipeline.loading.bulk_copy import fetch_table
from batch_pipeline.loading.chunks import done_rows
from batch_pipeline.loading.undo_lines import stage_lines
from batch_pipeline.loading.undo_outcome import counts_query, lines_query
from batch_pipeline.loading.undo_planner import UndoPlanner
from batch_pipeline.loading.undo_statements import UndoStatements
from batch_pipeline.loading.undo_writer import UndoWriter
from batch_pipeline.payloads.artifacts import UNDO_RESULT_SCHEMA, ResultWriter
from batch_pipeline.phases.attempt import Attempt
from batch_pipeline.storage import keys

# A change is logged with the start of its transaction, and another program's may have begun long before it wrote.
MARGIN = timedelta(days=1)


def stage_undo(attempt: Attempt, connection: Connection) -> int:
    """Creates the staging tables, in the connection's transaction; returns the number of lines.

    Raises StateError (`changes_expired`) if the log may have lost a change since the undo was accepted.
    """
    undone, kept_days = str(attempt.batch.undo_of), attempt.system.settings.changes_days
    row = connection.execute(
        "SELECT min(done_at) < now() - make_interval(days => %s) FROM batch_chunks"
        " WHERE batch_id = %s AND created + updated + deleted > 0",
        (kept_days, undone),
    ).fetchone()
    if row is not None and row[0]:
        raise expired_error(undone, kept_days)
    return stage_lines(undo_statements(attempt, connection), undone_arrived_at=_undone(attempt).arrived_at)


def count_written(attempt: Attempt) -> int:
    """The number of records that the undone batch wrote: the undo has at most as many lines."""
    with attempt.borrow_untimed() as connection:
        row = connection.execute(
            "SELECT coalesce(sum(created + updated + deleted), 0) FROM batch_chunks WHERE batch_id = %s",
            (str(attempt.batch.undo_of),),
        ).fetchone()
    return 0 if row is None else int(row[0])


def undo_planner(attempt: Attempt, connection: Connection) -> UndoPlanner:
    """The planner, for the connection's transaction."""
    return UndoPlanner(undo_statements(attempt, connection))


def undo_writer(attempt: Attempt, connection: Connection, turn: Turn) -> UndoWriter:
    """The writer, for one connection."""
    parameters = undo_statements(attempt, connection).parameters
    return UndoWriter(connection, attempt.resource, attempt.staging, turn, parameters)


def undo_stats(attempt: Attempt) -> Stats:
    """The counts of records by outcome."""
    with attempt.borrow_untimed() as connection, connection.cursor(row_factory=dict_row) as cursor:
        query = counts_query(undo_statements(attempt, connection))
        return Stats(**(cursor.execute(query).fetchone() or {}))


def write_undo_result(attempt: Attempt) -> None:
    """Writes result.json: a line for each record and field, in the order of the undone batch's rows."""
    lines, step = attempt.batch.facts.items, attempt.system.settings.chunk_rows
    path = attempt.scratch / "result.json"
    with attempt.writing(PhaseName.cleanup, "result.json", total=lines) as advance:
        with (
            attempt.borrow_untimed() as connection,
            path.open("wb") as file,
            ResultWriter(file, UNDO_RESULT_SCHEMA) as writer,
        ):
            statements = undo_statements(attempt, connection)
            query = lines_query(statements)
            for first in range(1, lines + 1, step):
                last = min(first + step - 1, lines)
                parameters = {**statements.parameters, "first": first, "last": last}
                writer.write(fetch_table(connection, query, parameters, UNDO_RESULT_SCHEMA))
                advance(last)
        attempt.system.store.upload(path, keys.result_json(attempt.batch.id))


def undo_statements(attempt: Attempt, connection: Connection) -> UndoStatements:
    """The statements of the batch's undo on this connection."""
    undone = _undone(attempt)
    return UndoStatements(
        connection,
        attempt.resource,
        attempt.staging,
        {
            "organization": attempt.organization_id,
            "batch": attempt.batch.id,
            "undone": undone.id,
            "since": undone.created_at - MARGIN,
            "done": done_rows(connection, attempt.batch.id),
        },
    )


def _undone(attempt: Attempt) -> Batch:
    return attempt.system.ledger.get(str(attempt.batch.undo_of))
