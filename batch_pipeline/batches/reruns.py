"""How a batch runs again: what a re-run changes in the ledger, and which batches run again by themselves.

A batch that ended because its worker, the database or storage was lost runs again without being asked. Until then it is
`failed` with `next_attempt_at`; a batch without it stays failed. A manual re-run or a cancel before that time replaces
the automatic one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa

from batch_pipeline.batches.accept import seconds_from_now
from batch_pipeline.batches.model import Batch, Mode, PhaseName, PhaseStatus, Starter
from batch_pipeline.batches.rows import batch_from_row, change, restarted, take_place
from batch_pipeline.batches.states import RERUNNABLE, BatchStatus, Reason
from batch_pipeline.batches.tables import attempts, batches, chunks
from batch_pipeline.batches.transition import change_status
from batch_pipeline.database import translating_outages

WORKER_LOST = "worker_lost"
# Reasons that are neither the payload's fault nor anybody's wish. `never_started`: the worker was lost before its first
# step.
TRANSIENT_CODES = frozenset({WORKER_LOST, "never_started", "database_unavailable", "storage_unavailable"})
# A payload can kill its worker, for example by its need of memory. Then each further re-run costs another worker.
DEATHS_AT_ONE_PLACE = 3
PAUSE_GROWTH = 6
LONGEST_PAUSE_SECONDS = 300.0


@dataclass(frozen=True)
class Reruns:
    """How often and when a batch runs again by itself. The defaults: never.

    Attributes:
        limit: automatic re-runs of a batch, counted anew after a manual re-run.
        pause_seconds: pause before the first one; each further pause is six times as long, up to five minutes.
    """

    limit: int = 0
    pause_seconds: float = 10.0

    def pause_before(self, number: int) -> float:
        """Seconds before the re-run with this number; the first is 0."""
        longest = max(self.pause_seconds, LONGEST_PAUSE_SECONDS)
        return float(min(self.pause_seconds * PAUSE_GROWTH ** min(number, 10), longest))


def reopen(connection: sa.Connection, batch: Batch, changes: Mapping[str, Any]) -> Batch:
    """Stores columns of a batch that will run (again); its unfinished phases become pending.

    The batch becomes `queued` if it is validated and may write, else `requested`, unless it is queued or processing.
    """
    values = {"phases": [restarted(phase).to_row() for phase in batch.phases], "next_attempt_at": None, **changes}
    is_validated = batch.phase(PhaseName.validation).status is PhaseStatus.completed
    may_write = is_validated and not batch.awaits_decision
    status = BatchStatus.queued if may_write else BatchStatus.requested
    # A `requested` batch is validated if its attempt died just before it set `queued`.
    reopens = batch.status in RERUNNABLE or batch.status in (BatchStatus.requested, BatchStatus.planned)
    if batch.status is status or not reopens:
        return batch_from_row(change(connection, batch.id, values))
    values |= {"has_errors_file": False, "error_summary": None}
    return change_status(connection, batch, status, values, run_id=values.get("run_id"))


def requested_rerun(
    connection: sa.Connection, batch: Batch, starter: Starter, *, claim_seconds: float | None = None
) -> dict[str, Any]:
    """Column values for an ended batch that awaits another run, at a new place in the order of arrival."""
    return {
        "awaits_run": starter.value,
        "arrival": take_place(connection, batch),
        "launch_claimed_until": None if claim_seconds is None else seconds_from_now(claim_seconds),
        "reruns": 0,
    }


def planned_rerun(
    connection: sa.Connection, batch: Batch, reason: Reason, reruns: Reruns
) -> tuple[Reason, Mapping[str, Any]]:
    """The reason with which a live batch ends, and the column values that let it run again by itself, or none.

    The reason gets a sentence if the batch could run again by itself but has done so too often. No batch in mode sync
    runs again: its caller has the answer.
    """
    nothing: Mapping[str, Any] = MappingProxyType({})
    if reason.code not in TRANSIENT_CODES or batch.arrival is None or batch.mode is Mode.sync:
        return reason, nothing
    if reason.code == WORKER_LOST and (given_up := _note_death(connection, batch)) is not None:
        return replace(reason, message=f"{reason.message} {given_up}"), nothing
    if batch.reruns < reruns.limit:
        return reason, {"next_attempt_at": seconds_from_now(reruns.pause_before(batch.reruns))}
    if reruns.limit:
        return replace(reason, message=f"{reason.message} It ran again {reruns.limit:,} times by itself."), nothing
    return reason, nothing


def request_due_reruns(engine: sa.Engine, limit: int) -> list[Batch]:
    """Requests the automatic re-runs that are due, at most `limit`, in the order in which the payloads arrived.

    Each is one transaction. Returns the batches. A batch whose files retention has begun to delete stays failed.
    """
    requested: list[Batch] = []
    for _ in range(limit):
        with translating_outages(), engine.begin() as connection:
            row = connection.execute(
                sa.select(batches)
                .where(batches.c.next_attempt_at <= sa.func.clock_timestamp())
                .order_by(batches.c.first_arrival)
                .limit(1)
                .with_for_update(skip_locked=True)
            ).one_or_none()
            if row is None:
                return requested
            batch = batch_from_row(row)
            if batch.pruned_at is not None:
                change(connection, batch.id, {"next_attempt_at": None})
                continue
            values = requested_rerun(connection, batch, Starter.launcher) | {"reruns": batch.reruns + 1}
            requested.append(reopen(connection, batch, values))
    return requested


def _note_death(connection: sa.Connection, batch: Batch) -> str | None:
    """Records where the newest attempt lost its worker. Returns a sentence if workers died there too often."""
    phase = next((phase.name for phase in batch.phases if phase.status is PhaseStatus.running), None)
    if phase is None:
        return None
    chunk = connection.execute(
        sa.select(chunks.c.number, chunks.c.first_row, chunks.c.last_row)
        .where(chunks.c.batch_id == batch.id, chunks.c.phase == phase.value, chunks.c.done_at.is_(None))
        .order_by(chunks.c.number)
        .limit(1)
    ).one_or_none()
    place = phase.value if chunk is None else f"{phase.value}/{chunk.number}"
    connection.execute(sa.update(attempts).where(attempts.c.run_id == batch.run_id).values(lost_at=place))
    deaths = connection.execute(
        sa.select(sa.func.count()).where(attempts.c.batch_id == batch.id, attempts.c.lost_at == place)
    ).scalar_one()
    if deaths < DEATHS_AT_ONE_PLACE:
        return None
    where = (
        f"in phase {phase.value}"
        if chunk is None
        else f"at chunk {chunk.number + 1:,} of {phase.value} (rows {chunk.first_row:,} to {chunk.last_row:,})"
    )
    return f"{deaths:,} workers were lost {where}, so the batch does not run again by itself."
