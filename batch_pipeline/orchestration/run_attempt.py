"""How an op works on a batch: as an attempt in the ledger, holding the batch's lock, every ending accounted for."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from dagster import DagsterExecutionInterruptedError, DagsterRunStatus, OpExecutionContext
from sqlalchemy.exc import DBAPIError

from batch_pipeline.batches.model import Batch
from batch_pipeline.batches.options import BatchOptions
from batch_pipeline.batches.organizations import get_organization
from batch_pipeline.batches.states import BatchStatus, Reason
from batch_pipeline.errors import (
    BatchError,
    DiskFullError,
    SupersededError,
    UnavailableError,
    YieldedSlotError,
    is_disk_full,
)
from batch_pipeline.orchestration import tags
from batch_pipeline.orchestration.resources import Workplace
from batch_pipeline.orchestration.run_page import CANCELLED, ProgressEvents, failure_of, unexpected_failure
from batch_pipeline.orchestration.scratch import scratch_folder
from batch_pipeline.phases.attempt import Attempt, TimedOutError
from batch_pipeline.phases.leftovers import drop_leftovers
from batch_pipeline.records.registry import get_resource
from batch_pipeline.system import System

TRANSACTION_TIMEOUT = "25P04"  # SQLSTATE: see `Attempt.borrow`
# For the run before, which has said that the batch awaits another (it gave way), or has ended, to let the lock go.
HANDOVER_SECONDS = 15.0


@contextmanager
def running_attempt(
    context: OpExecutionContext, workplace: Workplace, batch_id: str
) -> Iterator[tuple[Batch, Attempt | None]]:
    """The run's attempt at the batch, for one op; None where the batch is completed, so nothing is left to do.

    Whatever ends the work badly ends the batch in the ledger, with a reason, before the op fails.
    """
    system = workplace.system
    attempt: Attempt | None = None
    try:
        batch = _begin(context, workplace, batch_id)
        if batch.status == BatchStatus.completed:
            context.log.info(f"Batch {batch_id} is completed: nothing to do.")
            drop_leftovers(system, batch)
            yield batch, None
            return
        with scratch_folder() as scratch:
            attempt = _attempt(context, system, batch, scratch)
            yield batch, attempt
    except DagsterExecutionInterruptedError:
        _end(context, system, batch_id, BatchStatus.failed, cancelled_reason)
        raise
    except YieldedSlotError as error:
        system.ledger.yield_slot(batch_id, context.run_id)
        raise failure_of(error, system, batch_id) from None
    except SupersededError as error:
        batch = system.ledger.get(batch_id)
        if batch.run_id == context.run_id:
            follow_cancelling(context, batch)
        raise failure_of(error, system, batch_id) from None
    except Exception as error:
        status, reason = _ending(error, attempt)
        _end(context, system, batch_id, status, reason)
        if _is_unexpected(error):
            raise unexpected_failure(error, batch_id) from None
        raise failure_of(BatchError(reason.code, reason.message), system, batch_id) from None


def _ending(error: Exception, attempt: Attempt | None) -> tuple[BatchStatus, Reason]:
    """How the error ends the batch. Reasons hold no words of a database or library: they may quote values."""
    if isinstance(error, TimedOutError):
        return BatchStatus.timed_out, Reason.of(error)
    if isinstance(error, BatchError):
        return BatchStatus.failed, Reason.of(error)
    if isinstance(error, psycopg.Error | DBAPIError):
        return _ending_by_database(error, attempt)
    if is_disk_full(error):
        return BatchStatus.failed, Reason.of(DiskFullError())
    kind = type(error).__name__
    message = f"An unexpected error ({kind}) ended the batch: its run's log says more."
    return BatchStatus.failed, Reason("internal_error", message)


def _ending_by_database(error: psycopg.Error | DBAPIError, attempt: Attempt | None) -> tuple[BatchStatus, Reason]:
    cause = error.orig if isinstance(error, DBAPIError) else error
    state = getattr(cause, "sqlstate", None)
    if state == TRANSACTION_TIMEOUT and attempt is not None:
        return BatchStatus.timed_out, Reason.of(attempt.out_of_time())
    if state is None or state.startswith(("08", "57P")):
        message = "The database went away while the batch ran: retry the batch."
        return BatchStatus.failed, Reason("database_unavailable", message)
    message = f"The database refused a statement ({_statement_error(cause, state)})."
    return BatchStatus.failed, Reason("internal_error", message)


def _is_unexpected(error: Exception) -> bool:
    return not (isinstance(error, BatchError | psycopg.Error | DBAPIError) or is_disk_full(error))


def _begin(context: OpExecutionContext, workplace: Workplace, batch_id: str) -> Batch:
    """The batch, owned by this run, which is its newest attempt."""
    ledger = workplace.system.ledger
    batch = ledger.get(batch_id)
    workplace.ownership.take(batch_id, wait_seconds=0.0 if batch.awaits_run is None else HANDOVER_SECONDS)
    if batch.run_id == context.run_id:  # an op before has begun the attempt
        return batch
    return ledger.begin_attempt(batch_id, context.run_id)


def _attempt(context: OpExecutionContext, system: System, batch: Batch, scratch: Path) -> Attempt:
    return Attempt(
        system=system,
        batch=batch,
        run_id=context.run_id,
        resource=get_resource(batch.address.resource),
        options=BatchOptions.model_validate(batch.options),
        region=get_organization(system.engine, batch.address.organization_id).region,
        scratch=scratch,
        report=ProgressEvents(context).report,
        used_seconds=system.ledger.attempt_seconds(context.run_id),
        has_slot=tags.IN_PROCESS not in context.run.tags,
    )


def _statement_error(error: object, state: str) -> str:
    """The SQLSTATE, and the database's words where they are about the statement (class 42), not about values."""
    words = error.diag.message_primary if isinstance(error, psycopg.Error) and state.startswith("42") else None
    return f"SQLSTATE {state}: {words}" if words else f"SQLSTATE {state}"


def cancelled_reason(done: int) -> Reason:
    """The reason of a batch whose run was cancelled: how many items had been processed."""
    return Reason(CANCELLED, f"The run was cancelled after {done:,} items had been processed; a retry does the rest.")


def follow_cancelling(context: OpExecutionContext, batch: Batch) -> None:
    """Makes Dagster end the run as CANCELED, not FAILURE, where its batch was cancelled in the ledger.

    What fails in a run that is being cancelled does not make it a failed one.
    """
    if batch.reason is None or batch.reason.code != CANCELLED:
        return
    run = context.instance.get_run_by_id(context.run_id)
    if run is not None and not run.is_finished and run.status is not DagsterRunStatus.CANCELING:
        context.instance.report_run_canceling(run, message=batch.reason.message)


def _end(
    context: OpExecutionContext,
    system: System,
    batch_id: str,
    status: BatchStatus,
    reason: Reason | Callable[[int], Reason],
) -> None:
    try:
        system.ledger.end_attempt(batch_id, context.run_id, status, reason)
    except UnavailableError as error:
        # The op fails all the same; once the database is back, reconciling ends the batch.
        context.log.warning(f"The ledger could not be told that the batch ended: {error.message}")
