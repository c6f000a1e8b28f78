"""Cancelling a batch: in the ledger at once, which stops its work at the next chunk, and in Dagster."""

from typing import Any

from dagster import DagsterInstance, DagsterRunStatus, RunsFilter

from batch_pipeline.batches.model import Batch
from batch_pipeline.batches.states import FINAL, BatchStatus
from batch_pipeline.errors import StateError
from batch_pipeline.orchestration import tags
from batch_pipeline.orchestration.attempts import cancelled_reason
from batch_pipeline.system import System


def cancel_batch(system: System, instance: DagsterInstance, batch_id: str, *, updated_by: str | None = None) -> Batch:
    """Ends the batch as `failed` with reason `cancelled`; what was written stays, and a retry does the rest.

    Returns once no chunk is under way. Its run, if one is at work, notices and ends itself as CANCELED; one that is
    still queued is cancelled here. A batch that had ended and awaits its re-run loses that, and stays as it ended.
    Raises NotFoundError, and StateError (`not_cancellable`) where the batch has ended, also where it does so just now.
    """
    batch = system.ledger.get(batch_id)
    was_live = batch.status not in FINAL
    if not was_live and batch.awaits_run is None:
        raise _ended_already(batch)
    who: dict[str, Any] = {} if updated_by is None else {"updated_by": updated_by}
    ended = system.ledger.end(batch_id, BatchStatus.failed, cancelled_reason, **who)
    if was_live and (ended.reason is None or ended.reason.code != "cancelled"):
        raise _ended_already(ended)
    waiting = RunsFilter(
        tags={tags.BATCH_ID: batch_id}, statuses=[DagsterRunStatus.QUEUED, DagsterRunStatus.NOT_STARTED]
    )
    for run in instance.get_runs(waiting):
        instance.report_run_canceled(run, message="The batch was cancelled.")
    return ended


def _ended_already(batch: Batch) -> StateError:
    return StateError("not_cancellable", f"Batch {batch.id} has ended already: it is {batch.status}.")
