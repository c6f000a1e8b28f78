"""The state machine of a batch: its statuses, the transitions between them, and reasons for a bad end."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from batch_pipeline.errors import BatchError, RefusedError, StateError


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
    """Why a batch ended badly: a stable snake_case code, and a sentence that a user can act on.

    `is_refusal`: the payload as a whole is refused, so that the batch fails again until its sender corrects it.
    """

    code: str
    message: str
    is_refusal: bool = False

    @classmethod
    def of(cls, error: BatchError) -> Self:
        """The reason of a batch that ended with this error."""
        return cls(error.code, error.message, isinstance(error, RefusedError))

    def to_json(self) -> dict[str, str]:
        """The reason as the batch object shows it."""
        return {"code": self.code, "message": self.message}
