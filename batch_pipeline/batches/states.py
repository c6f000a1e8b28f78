"""The state machine of a batch: its statuses, the transitions between them, and the reasons of a failure."""

from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, Self

from batch_pipeline.errors import BatchError, RefusedError, StateError, UnknownColumnsError


class BatchStatus(StrEnum):
    """Status of a batch."""

    requested = "requested"  #: not validated yet, or waiting for its file
    planned = "planned"  #: validated with `plan_only`; waits to be applied
    queued = "queued"  #: validated; waits for its turn
    processing = "processing"  #: writes its items
    completed = "completed"  #: every valid item is written; others are rejected
    failed = "failed"  #: could not start or could not complete
    timed_out = "timed_out"  #: an attempt ran longer than its time-out
    expired = "expired"  #: its upload URL expired before a file arrived, or its plan before it was applied


LIVE = [BatchStatus.requested.value, BatchStatus.queued.value, BatchStatus.processing.value]
FINAL = frozenset({BatchStatus.completed, BatchStatus.failed, BatchStatus.timed_out, BatchStatus.expired})

# No run works on a batch with one of these statuses, and none will unless somebody asks for it.
AT_REST = FINAL | {BatchStatus.planned}

# A re-run changes `failed` or `timed_out` to `queued` if the batch is validated, else to `requested`.
RERUNNABLE = frozenset({BatchStatus.failed, BatchStatus.timed_out})

TRANSITIONS: dict[BatchStatus, frozenset[BatchStatus]] = {
    BatchStatus.requested: frozenset(
        {BatchStatus.planned, BatchStatus.queued, BatchStatus.failed, BatchStatus.timed_out, BatchStatus.expired}
    ),
    # Applied; its run re-executed, which makes the plan anew; cancelled; expired.
    BatchStatus.planned: frozenset(
        {BatchStatus.queued, BatchStatus.requested, BatchStatus.failed, BatchStatus.expired}
    ),
    BatchStatus.queued: frozenset({BatchStatus.processing, BatchStatus.failed, BatchStatus.timed_out}),
    # Back to `planned` if the plan to apply has changed.
    BatchStatus.processing: frozenset(
        {BatchStatus.completed, BatchStatus.failed, BatchStatus.timed_out, BatchStatus.planned}
    ),
    BatchStatus.completed: frozenset(),
    BatchStatus.failed: frozenset({BatchStatus.requested, BatchStatus.queued}),
    BatchStatus.timed_out: frozenset({BatchStatus.requested, BatchStatus.queued}),
    BatchStatus.expired: frozenset(),
}


def check_transition(batch_id: str, before: BatchStatus, after: BatchStatus) -> None:
    """Raises StateError (`illegal_transition`) unless the state machine has the transition."""
    if after not in TRANSITIONS[before]:
        raise StateError("illegal_transition", f"Batch {batch_id} is {before.value} and can't become {after.value}.")


@dataclass(frozen=True)
class Reason:
    """Why a batch failed, timed out or expired: a stable snake_case code, and a sentence that a user can act on.

    `is_refusal`: the payload was refused as a whole, so every retry fails until the sender corrects it.
    `suggested_mapping`: a `column_mapping` for a refused header; None if there is no suggestion.
    """

    code: str
    message: str
    is_refusal: bool = False
    suggested_mapping: dict[str, str] | None = None

    @classmethod
    def of(cls, error: BatchError) -> Self:
        """The reason of a batch that failed with this error."""
        suggested = error.suggested_mapping if isinstance(error, UnknownColumnsError) else None
        return cls(error.code, error.message, isinstance(error, RefusedError), suggested)

    def to_row(self) -> dict[str, Any]:
        """The reason as stored, without a mapping that there is not."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_row(cls, data: dict[str, Any]) -> Self:
        """The inverse of `to_row`."""
        known = {item.name for item in fields(cls)}
        return cls(**{name: value for name, value in data.items() if name in known})
