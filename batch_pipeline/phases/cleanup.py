"""Cleanup: for overwrite, deletes the records not found in the batch; for the other actions there is nothing to do.

It is the last phase, so it also finishes the batch: artifacts, statistics, `completed`.
"""

from dataclasses import replace

from batch_pipeline.batches.model import PhaseName, PhaseStatus
from batch_pipeline.batches.states import BatchStatus
from batch_pipeline.phases.attempt import Attempt
from batch_pipeline.phases.finish import finish


def cleanup(attempt: Attempt) -> None:
    """Runs the phase, unless it is done, and completes the batch."""
    # A re-run that finds all items processed comes here from `queued`.
    attempt.system.ledger.transition(attempt.batch.id, attempt.run_id, BatchStatus.processing)
    attempt.refresh()
    if not attempt.is_done(PhaseName.cleanup):
        skipped = replace(
            attempt.batch.phase(PhaseName.cleanup),
            status=PhaseStatus.skipped,
            reason=f"{attempt.action.value} deletes no other records",
        )
        attempt.system.ledger.update_phase(attempt.batch.id, attempt.run_id, skipped)
        attempt.refresh()
    finish(attempt)
