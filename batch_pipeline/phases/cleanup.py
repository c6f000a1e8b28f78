"""Cleanup: an overwrite deletes the records that the batch does not contain; other actions skip the phase.

As the last phase it also completes the batch: artifacts, statistics, status `completed`.
"""

import logging

from batch_pipeline.batches.locks import Turn, claim_version, newer_writers
from batch_pipeline.batches.model import Action, Phase, PhaseName
from batch_pipeline.batches.states import BatchStatus
from batch_pipeline.batches.stats import Stats
from batch_pipeline.database import Connection, borrowed_for_statements
from batch_pipeline.errors import UnavailableError
from batch_pipeline.loading.chunks import (
    chunk_ranges,
    chunks_done,
    count_chunks,
    count_left_out,
    done_outcome,
    store_chunks,
)
from batch_pipeline.loading.deleting import CleanupWriter
from batch_pipeline.phases.artifacts import write_errors, write_result
from batch_pipeline.phases.attempt import Attempt
from batch_pipeline.phases.copies import finish_small_copies
from batch_pipeline.phases.items import restore_items
from batch_pipeline.phases.leftovers import drop_leftovers
from batch_pipeline.phases.undo import undo_stats, write_undo_result
from batch_pipeline.phases.writing import turn_of, write_chunks

logger = logging.getLogger(__name__)


def cleanup(attempt: Attempt) -> None:
    """Runs the phase, unless it is done, and completes the batch."""
    skipped: Phase | None = None
    if not attempt.is_done(PhaseName.cleanup):
        reason = _nothing_to_do(attempt)
        if reason is None:
            with turn_of(attempt) as turn:
                _delete_others(attempt, turn)
        else:
            skipped = attempt.skipped(PhaseName.cleanup, reason)
    if attempt.batch.status != BatchStatus.processing:
        attempt.move_to(BatchStatus.processing)  # a re-run whose phases are all done is still `queued`
    _finish(attempt, skipped)


def _nothing_to_do(attempt: Attempt) -> str | None:
    """Why cleanup deletes nothing; None if it may delete records."""
    if attempt.action is not Action.overwrite:
        return f"{attempt.action.value} deletes no other records"
    unidentified = attempt.batch.facts.unidentified
    if unidentified:
        return (
            f"unidentified_items: {unidentified:,} rejected items have no readable key, so it is unknown "
            "which records they identify, and no record was deleted. Correct them and upload the whole file again"
        )
    return None


def _delete_others(attempt: Attempt, turn: Turn) -> None:
    """Deletes the records that the plan lists, except those that a later-arrived batch has written since."""
    to_delete = attempt.batch.facts.to_delete
    with attempt.borrow_untimed() as connection:
        if count_chunks(connection, attempt.batch.id, PhaseName.cleanup) == 0:
            chunks = chunk_ranges(to_delete, attempt.system.settings.chunk_rows)
            store_chunks(connection, attempt.batch.id, PhaseName.cleanup, chunks)
        claim_version(connection, turn)
        connection.commit()
    write_chunks(attempt, turn, PhaseName.cleanup, cleanup_writer, total=to_delete)


def cleanup_writer(attempt: Attempt, connection: Connection, turn: Turn) -> CleanupWriter:
    """The writer of cleanup over a connection in autocommit mode."""
    newer = newer_writers(connection, attempt.batch)
    logs = attempt.logs_changes(connection)
    return CleanupWriter(connection, attempt.resource, attempt.staging, turn, newer=newer, logs=logs)


def _finish(attempt: Attempt, skipped: Phase | None) -> None:
    """Writes the artifacts, counts the outcomes, completes the batch and drops its work data.

    `skipped`: phase cleanup, if it has nothing to do and the ledger does not know yet.
    """
    stats = _final_stats(attempt)
    summary = write_errors(attempt, PhaseName.cleanup) if stats.rejected else None
    if attempt.action is Action.undo:
        write_undo_result(attempt)
    elif attempt.options.save_result:
        restore_items(attempt)
        write_result(attempt)
    finish_small_copies(attempt)
    attempt.move_to(
        BatchStatus.completed,
        *([] if skipped is None else [skipped]),
        stats=stats.to_json(),
        has_errors_file=stats.rejected > 0,
        error_summary=summary,
        has_result_file=attempt.options.save_result,
    )
    try:
        drop_leftovers(attempt.system, attempt.batch)
    except UnavailableError as error:
        # The batch is completed regardless. A re-execution of its run, or retention, drops the rest.
        logger.warning("The work data of batch %s could not be dropped: %s", attempt.batch.id, error.message)


def _final_stats(attempt: Attempt) -> Stats:
    """Counts every item of the upload once, by its outcome; records of an undo."""
    if attempt.action is Action.undo:
        return undo_stats(attempt)
    facts, done, overwritten = attempt.batch.facts, attempt.processed, 0
    if done is None or attempt.action is Action.overwrite:
        with borrowed_for_statements(attempt.system.engine) as connection:
            done = chunks_done(connection, attempt.batch.id, PhaseName.processing)
            overwritten = done_outcome(connection, attempt.batch.id, PhaseName.cleanup).deleted
    if done.left_out is None:
        with attempt.borrow_untimed() as connection:
            rejected, duplicates = count_left_out(connection, attempt.staging)
    else:
        rejected, duplicates = done.left_out
    return Stats(
        created=done.outcome.created,
        updated=done.outcome.updated,
        unchanged=done.outcome.unchanged,
        deleted=done.outcome.deleted,
        overwritten=overwritten,
        rejected=facts.unreadable + rejected,
        duplicates=facts.equal + duplicates,
    )
