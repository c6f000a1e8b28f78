"""The one function that changes a batch's status. `accept` gives a new batch its first status, `requested`."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa

from batch_pipeline.batches.model import Batch, Phase
from batch_pipeline.batches.outbox import write_event
from batch_pipeline.batches.rows import batch_from_row, change
from batch_pipeline.batches.states import BatchStatus, Reason, check_transition
from batch_pipeline.batches.tables import transitions

_RECORD = sa.insert(transitions)
_RECORD_UNTOLD = sa.insert(transitions).values(alerted_at=sa.func.now())


def change_status(
    connection: sa.Connection,
    batch: Batch,
    after: BatchStatus,
    changes: Mapping[str, Any] = MappingProxyType({}),
    *,
    run_id: str | None = None,
    reason: Reason | None = None,
    phase: Phase | None = None,
) -> Batch:
    """Changes the batch's status, reason, phase and other columns, in the caller's transaction; returns the batch.

    The caller has locked the batch's row. `reason` replaces the batch's reason. If the batch has the status already,
    only `changes` and `phase` are stored. Records a transition with its run, and the event for the organization's
    webhooks, unless the batch runs again by itself.

    Raises StateError (`illegal_transition`) unless the state machine has the transition.
    """
    if batch.status is after:
        return batch_from_row(change(connection, batch.id, changes, phase))
    check_transition(batch.id, batch.status, after)
    why = None if reason is None else reason.to_row()
    runs_again = changes.get("next_attempt_at") is not None
    record_transition(connection, batch.id, batch.status, after, run_id=run_id, reason=why, is_alert=not runs_again)
    changed = batch_from_row(change(connection, batch.id, {"status": after.value, "reason": why, **changes}, phase))
    if not runs_again:
        write_event(connection, changed)
    return changed


def record_transition(
    connection: sa.Connection,
    batch_id: str,
    before: BatchStatus | None,
    after: BatchStatus,
    *,
    run_id: str | None = None,
    reason: dict[str, Any] | None = None,
    is_alert: bool = True,
) -> None:
    """Records a transition; `before` is None for a new batch. `is_alert`: if it is a failure, people are told."""
    connection.execute(
        _RECORD if is_alert else _RECORD_UNTOLD,
        {
            "batch_id": batch_id,
            "before": None if before is None else before.value,
            "after": after.value,
            "run_id": run_id,
            "reason": reason,
        },
    )


def alert_of_failure(connection: sa.Connection, batch_id: str) -> None:
    """Has people told of the batch's last transition, after all: it stays failed."""
    newest = sa.select(sa.func.max(transitions.c.number)).where(transitions.c.batch_id == batch_id).scalar_subquery()
    connection.execute(sa.update(transitions).where(transitions.c.number == newest).values(alerted_at=None))
