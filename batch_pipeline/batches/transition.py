"""The functions that change a batch's status. `accept` gives a new batch its first status, `requested`."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa

from batch_pipeline.batches.model import Batch, Phase
from batch_pipeline.batches.outbox import EVENT_OF, write_event
from batch_pipeline.batches.rows import batch_from_row, change, changing
from batch_pipeline.batches.states import AT_REST, TRANSITIONS, BatchStatus, Reason, check_transition
from batch_pipeline.batches.tables import batches, transitions, webhooks
from batch_pipeline.database import Connection, fetch_row

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
    phases: Sequence[Phase] = (),
) -> Batch:
    """Changes the batch's status, reason, phases and other columns, in the caller's transaction; returns the batch.

    The caller has locked the batch's row. `reason` replaces the batch's reason. If the batch has the status already,
    only `changes` and `phases` are stored. Records a transition with its run, and the event for the organization's
    webhooks, unless the batch runs again by itself.

    Raises StateError (`illegal_transition`) unless the state machine has the transition.
    """
    if batch.status is after:
        return batch_from_row(change(connection, batch.id, changes, phases))
    check_transition(batch.id, batch.status, after)
    why = None if reason is None else reason.to_row()
    runs_again = changes.get("next_attempt_at") is not None
    record_transition(connection, batch.id, batch.status, after, run_id=run_id, reason=why, is_alert=not runs_again)
    changed = batch_from_row(change(connection, batch.id, {"status": after.value, "reason": why, **changes}, phases))
    if not runs_again:
        write_event(connection, changed)
    return changed


def move_at_once(
    connection: Connection,
    batch_id: str,
    run_id: str,
    after: BatchStatus,
    changes: Mapping[str, Any],
    *,
    phases: Sequence[Phase] = (),
    durably: bool = True,
) -> Batch | None:
    """As `change_status`, for the newest attempt at a live batch, in one statement: a batch has few others in its run.

    None, and nothing is changed, unless the batch has the one live status from which it can become `after`, the run is
    its newest attempt, no webhook subscribes to the change, and there is no column mapping to remember.
    """
    sources = [status for status, targets in TRANSITIONS.items() if after in targets and status not in AT_REST]
    if len(sources) != 1:
        return None
    values = {"status": after.value, "reason": None, **changes}
    statement, parameters = changing(batch_id, values, phases, is_live=True, durably=durably)
    event = EVENT_OF.get(after)
    parameters |= {"run": run_id, "before": sources[0].value, "event": None if event is None else event.value}
    row = fetch_row(connection, _move(statement), parameters)
    return None if row is None else batch_from_row(row)


@lru_cache(maxsize=64)
def _move(change: sa.sql.dml.ReturningUpdate[Any]) -> sa.Select[Any]:
    """The statement that makes a run's change of its live batch, which stands `before`, and records the transition."""
    before = sa.bindparam("before", type_=sa.Text)
    subscribed = sa.exists().where(
        webhooks.c.organization_id == batches.c.organization_id,
        webhooks.c.disabled_at.is_(None),
        sa.bindparam("event", type_=sa.Text) == sa.any_(webhooks.c.events),
    )
    has_mapping = sa.func.coalesce(batches.c.options["column_mapping"].astext, "{}") != "{}"
    changed = change.where(batches.c.status == before, ~subscribed, ~has_mapping).cte("changed")
    columns = sa.select(changed.c.id, before, changed.c.status, changed.c.run_id)
    recorded = sa.insert(transitions).from_select(["batch_id", "before", "after", "run_id"], columns).cte("recorded")
    return sa.select(changed).add_cte(recorded)


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
