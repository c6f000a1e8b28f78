"""Runs an op's work as an attempt in the ledger: holds the batch's lock and records every way in which work ends."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
from dagster import DagsterExecutionInterruptedError, DagsterRunStatus, OpExecutionContext
from sqlalchemy.exc import DBAPIError

from batch_pipeline.batches.model import Action, Batch, PhaseName
from batch_pipeline.batches.options import BatchOptions
from batch_pipeline.batches.states import FINAL, BatchStatus, Reason
from batch_pipeline.errors import (
    BatchError,
    DiskFullError,
    PlanChangedError,
    SupersededError,
    TimedOutError,
    UnavailableError,
    YieldedSlotError,
    is_disk_full,
)
from batch_pipeline.logs import bound
from batch_pipeline.orchestration import tags
from batch_pipeline.orchestration.asset_events import ending_events, log_events
from batch_pipeline.orchestration.helpers import call_helpers
from batch_pipeline.orchestration.outcomes import tag_outcome
from batch_pipeline.orchestration.resources import Workplace
from batch_pipeline.orchestration.run_page import CANCELLED, ProgressEvents, failure_of, unexpected_failure
from batch_pipeline.orchestration.scratch import emptied
from batch_pipeline.phases.attempt import Attempt
from batch_pipeline.phases.kept_chunks import KeptChunks
from batch_pipeline.phases.leftovers import drop_leftovers
from batch_pipeline.records.descriptions import get_resource
from batch_pipeline.system import System

TRANSACTION_TIMEOUT = "25P04"  # SQLSTATE: see `Attempt.borrow`
# Time for the previous run to release the lock after it yielded its slot or ended the batch.
HANDOVER_SECONDS = 15.0


@contextmanager
def running_attempt(
    context: OpExecutionContext, workplace: Workplace, found: Batch
) -> Iterator[tuple[Batch, Attempt | None]]:
    """Yields the found batch and the run's attempt at it, for one op. The attempt is None if the batch is completed.

    If the work fails, ends the batch in the ledger with a reason, then fails the op.
    """
    named = bound(batch=found.id, organization=found.organization_id, run=context.run_id)
    system, batch_id = workplace.system, found.id
    attempt: Attempt | None = None
    with named:
        try:
            batch, is_new = _begin(context, workplace, found)
            if batch.status == BatchStatus.completed:
                context.log.info(f"Batch {batch_id} is completed: nothing to do.")
                drop_leftovers(system, batch)
                yield batch, None
                return
            with emptied(workplace.scratch) as scratch:
                if workplace.attempt is None:
                    used_seconds = 0.0 if is_new else system.ledger.attempt_seconds(context.run_id)
                    attempt = _attempt(context, workplace, batch, scratch, used_seconds)
                else:
                    attempt = replace(workplace.attempt, scratch=scratch, report=ProgressEvents(context).report)
                workplace.attempt = attempt
                yield batch, attempt
        except DagsterExecutionInterruptedError:
            _end(context, system, batch_id, BatchStatus.failed, cancelled_reason)
            raise
        except PlanChangedError as error:  # the batch is planned again
            tag_outcome(context.instance, context.run_id, system.ledger.get(batch_id))
            raise failure_of(error, system, batch_id) from None
        except YieldedSlotError as error:
            system.ledger.yield_slot(batch_id, context.run_id)
            raise failure_of(error, system, batch_id) from None
        except SupersededError as error:
            batch = system.ledger.get(batch_id)
            if batch.run_id == context.run_id:
                follow_cancelling(context, batch)
                tag_outcome(context.instance, context.run_id, batch)
            elif attempt is None:  # cancelled before the run began
                follow_cancelling(context, batch)
            raise failure_of(error, system, batch_id) from None
        except Exception as error:
            status, reason = _status_and_reason(error, attempt)
            _end(context, system, batch_id, status, reason)
            if _is_unexpected(error):
                raise unexpected_failure(error, batch_id) from None
            raise failure_of(BatchError(reason.code, reason.message), system, batch_id) from None


def _status_and_reason(error: Exception, attempt: Attempt | None) -> tuple[BatchStatus, Reason]:
    """The batch's final status and reason. A reason holds no text of a database or library: it may quote values."""
    if isinstance(error, TimedOutError):
        return BatchStatus.timed_out, Reason.of(error)
    if isinstance(error, BatchError):
        return BatchStatus.failed, Reason.of(error)
    if isinstance(error, psycopg.Error | DBAPIError):
        return _status_and_reason_of_database(error, attempt)
    if is_disk_full(error):
        return BatchStatus.failed, Reason.of(DiskFullError())
    kind = type(error).__name__
    message = f"An unexpected error ({kind}) ended the batch: see its run's log."
    return BatchStatus.failed, Reason("internal_error", message)


def _status_and_reason_of_database(
    error: psycopg.Error | DBAPIError, attempt: Attempt | None
) -> tuple[BatchStatus, Reason]:
    cause = error.orig if isinstance(error, DBAPIError) else error
    state = getattr(cause, "sqlstate", None)
    # In a COPY and in a pipeline, psycopg finds the connection closed and does not read why the server closed it.
    if attempt is not None and (state == TRANSACTION_TIMEOUT or (state is None and attempt.remaining_seconds <= 0)):
        return BatchStatus.timed_out, Reason.of(attempt.out_of_time())
    if state is None or state.startswith(("08", "57P")):
        message = "The database went away while the batch ran: retry the batch."
        return BatchStatus.failed, Reason("database_unavailable", message)
    message = f"The database refused a statement ({_statement_error(cause, state)})."
    return BatchStatus.failed, Reason("internal_error", message)


def _is_unexpected(error: Exception) -> bool:
    return not (isinstance(error, BatchError | psycopg.Error | DBAPIError) or is_disk_full(error))


def _begin(context: OpExecutionContext, workplace: Workplace, batch: Batch) -> tuple[Batch, bool]:
    """Acquires the batch's lock and begins the attempt, unless an earlier op did.

    Returns the batch, and whether the attempt began here.
    """
    workplace.ownership.take(batch.id, wait_seconds=0.0 if batch.awaits_run is None else HANDOVER_SECONDS)
    if batch.run_id == context.run_id:  # an earlier op began the attempt
        return batch, False
    phases = [] if batch.action is Action.undo else [batch.phase(PhaseName.parsing).begun()]  # an undo has no payload
    found = workplace.system.ledger.begin_attempt(
        batch.id, context.run_id, *phases, awaited=batch.awaits_run is not None
    )
    if tags.OUTCOME in context.run.tags:  # a re-executed run has the tags of its parent
        tag_outcome(context.instance, context.run_id, found)
    return found, True


def _attempt(
    context: OpExecutionContext, workplace: Workplace, batch: Batch, scratch: Path, used_seconds: float
) -> Attempt:
    system, handover = workplace.system, workplace.handover
    return Attempt(
        system=system,
        batch=batch,
        run_id=context.run_id,
        resource=get_resource(batch.address.resource),
        options=BatchOptions.model_validate(batch.options),
        scratch=scratch,
        report=ProgressEvents(context).report,
        used_seconds=used_seconds,
        has_slot=tags.IN_PROCESS not in context.run.tags,
        call_helpers=call_helpers(system.settings),
        kept=KeptChunks(workplace.scratch / "kept"),
        upload=None if handover is None else handover.upload,
        background=workplace.background,
    )


def _statement_error(error: object, state: str) -> str:
    """The SQLSTATE; for errors in the statement (class 42), which quote no values, also the database's message."""
    message = error.diag.message_primary if isinstance(error, psycopg.Error) and state.startswith("42") else None
    return f"SQLSTATE {state}: {message}" if message else f"SQLSTATE {state}"


def cancelled_reason(done: int) -> Reason:
    """The reason of a batch whose run was cancelled after `done` items were processed."""
    return Reason(
        CANCELLED,
        f"The run was cancelled after {done:,} items had been processed. Retry the batch to process the rest.",
    )


def follow_cancelling(context: OpExecutionContext, batch: Batch) -> None:
    """Makes Dagster end the run as CANCELED instead of FAILURE if the ledger has cancelled its batch.

    A run that is CANCELING becomes CANCELED, even if an op fails.
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
    """Ends the batch in the ledger, and shows that in the list of runs and on the resource's page."""
    from batch_pipeline.orchestration.run_events import store_waiting_events  # imports alembic, which few need

    try:
        batch = system.ledger.end_attempt(batch_id, context.run_id, status, reason)
    except UnavailableError as error:
        # The op fails regardless. Reconciling ends the batch once the database is back.
        context.log.warning(f"The end of the batch could not be recorded in the ledger: {error.message}")
        return
    if batch.run_id != context.run_id or batch.status not in FINAL:
        return
    tag_outcome(context.instance, context.run_id, batch)
    log_events(context, ending_events(system, batch))
    store_waiting_events(context.instance, context.run_id)
