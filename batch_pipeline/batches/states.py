"""The state machine of a batch: its statuses and the transitions between them, and nothing else."""

from enum import StrEnum

from batch_pipeline.errors import StateError


class BatchStatus(StrEnum):
    """Where a batch stands."""

    requested = "requested"
    queued = "queued"
    processing = "processing"
    completed = "completed"
    failed = "failed"
    timed_out = "timed_out"
    expired = "expired"


LIVE = [BatchStatus.requested.value, BatchStatus.queued.value, BatchStatus.processing.value]
FINAL = frozenset({BatchStatus.completed, BatchStatus.failed, BatchStatus.timed_out, BatchStatus.expired})

# A re-run leaves `failed` or `timed_out` for the place that its finished phases have earned: `requested` where it has
# to be validated still, `queued` where it has been.
RERUNNABLE = frozenset({BatchStatus.failed, BatchStatus.timed_out})

TRANSITIONS: dict[BatchStatus, frozenset[BatchStatus]] = {
    BatchStatus.requested: frozenset(
        {BatchStatus.queued, BatchStatus.failed, BatchStatus.timed_out, BatchStatus.expired}
    ),
    BatchStatus.queued: frozenset({BatchStatus.processing, BatchStatus.failed, BatchStatus.timed_out}),
    BatchStatus.processing: frozenset({BatchStatus.completed, BatchStatus.failed, BatchStatus.timed_out}),
    BatchStatus.completed: frozenset(),
    BatchStatus.failed: frozenset({BatchStatus.requested, BatchStatus.queued}),
    BatchStatus.timed_out: frozenset({BatchStatus.requested, BatchStatus.queued}),
    BatchStatus.expired: frozenset(),
}


def check_transition(batch_id: str, before: BatchStatus, after: BatchStatus) -> None:
    """Raises StateError (`illegal_transition`) unless a batch may go from the one status to the other."""
    if after not in TRANSITIONS[before]:
        raise StateError("illegal_transition", f"Batch {batch_id} is {before.value} and can't become {after.value}.")
