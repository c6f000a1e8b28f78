"""The state machine of a batch: its statuses, the transitions between them, and reasons for a bad end."""

from dataclasses import dataclass
from enum import StrEnum

from batch_pipeline.errors import StateError


class BatchStatus(StrEnum):
    """Where a batch stands."""

    requested = "requested"  #: not validated yet; a batch made for an upload waits here for its file
    queued = "queued"  #: valid, waits for its turn
    processing = "processing"  #: is being written
    completed = "completed"  #: everything is written; single items may have been rejected
    failed = "failed"  #: could not start, or could not be completed
    timed_out = "timed_out"  #: an attempt ran longer than it may
    expired = "expired"  #: its upload URL ran out before a file came


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


@dataclass(frozen=True)
class Reason:
    """Why a batch ended badly: a stable snake_case code, and a sentence that a user can act on."""

    code: str
    message: str


# Codes that say nothing about the payload: it may succeed as it is. Each other code refuses the payload as a whole.
NOT_ABOUT_THE_PAYLOAD = frozenset(
    {
        "cancelled",
        "database_unavailable",
        "disk_full",
        "storage_unavailable",
        "internal_error",
        "never_started",
        "object_not_found",
        "run_deleted",
        "run_failed",
        "superseded",
        "worker_lost",
    }
)
