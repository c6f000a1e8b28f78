"""Which batches can be undone: those that have ended and wrote something, while the log of their changes is kept."""

import sqlalchemy as sa

from batch_pipeline.batches.model import Batch
from batch_pipeline.batches.rows import batch_from_row, get_row
from batch_pipeline.batches.states import LIVE, BatchStatus
from batch_pipeline.batches.tables import batches, chunks
from batch_pipeline.errors import StateError

UNDOABLE = frozenset({BatchStatus.completed, BatchStatus.failed, BatchStatus.timed_out})


def expired_error(batch_id: str, kept_days: int) -> StateError:
    """The error for a batch whose changes are no longer kept."""
    return StateError(
        "changes_expired",
        f"Batch {batch_id} wrote its records more than {kept_days} days ago (BATCH_CHANGES_DAYS): its changes are "
        "no longer kept.",
    )


def require_undoable(connection: sa.Connection, batch_id: str, *, kept_days: int) -> Batch:
    """The batch, locked until commit. `kept_days`: days that the log of changes is kept.

    Raises NotFoundError, and StateError:

    - `not_undoable`: it has not ended, it wrote nothing, or it is being undone
    - `changes_expired`: its changes are no longer kept
    - `changes_off`: it ran without the log
    """
    batch = batch_from_row(get_row(connection, batch_id, lock=True))
    if batch.status not in UNDOABLE:
        raise StateError(
            "not_undoable",
            f"Batch {batch_id} is {batch.status}: only a completed, failed or timed_out batch can be undone.",
        )
    writes = chunks.c.created + chunks.c.updated + chunks.c.deleted > 0
    facts = connection.execute(
        sa.select(
            sa.func.count(),
            sa.func.bool_and(chunks.c.is_logged),
            sa.func.min(chunks.c.done_at) < sa.func.now() - sa.func.make_interval(0, 0, 0, kept_days),
        ).where(chunks.c.batch_id == batch_id, chunks.c.done_at.is_not(None), writes)
    ).one()
    written, is_logged, is_expired = facts
    if not written:
        raise StateError("not_undoable", f"Batch {batch_id} wrote nothing: there is nothing to undo.")
    if is_expired:
        raise expired_error(batch_id, kept_days)
    if not is_logged:
        raise StateError(
            "changes_off",
            f"Batch {batch_id} ran without the log of changes (BATCH_CHANGES=off, or an earlier release): what it "
            "changed is not known.",
        )
    undo = connection.execute(
        sa.select(batches.c.id).where(batches.c.undo_of == batch_id, batches.c.status.in_(LIVE)).limit(1)
    ).scalar_one_or_none()
    if undo is not None:
        raise StateError(
            "not_undoable", f"Batch {batch_id} is being undone by batch {undo}: wait for it, or cancel it."
        )
    return batch
