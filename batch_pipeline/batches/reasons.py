"""Reasons why batches fail that say nothing of their payload: it could succeed as it is."""

from batch_pipeline.batches.model import Batch
from batch_pipeline.batches.states import BatchStatus

# All others are a refusal of the payload as a whole, for its sender to correct.
NOT_THE_PAYLOADS = frozenset(
    {
        "cancelled",
        "database_unavailable",
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


def is_refused(batch: Batch) -> bool:
    """Whether the batch failed because its payload is refused as a whole."""
    return batch.status == BatchStatus.failed and batch.reason is not None and batch.reason.code not in NOT_THE_PAYLOADS
