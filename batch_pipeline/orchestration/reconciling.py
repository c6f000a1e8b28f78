"""Reconciling ledger and Dagster: ends batches and runs whose work has ended without a record of it. And cancelling.

A live batch whose attempt holds no lock has lost its worker, whatever Dagster shows: a run holds the lock from its
first op until Dagster knows how it ended. Sensors call this while the daemon runs; so does every command that works in
its own process, when it starts.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from dagster import DagsterEvent, DagsterEventType, DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter

from batch_pipeline.batches.locks import is_owned
from batch_pipeline.batches.model import Batch, Reason, Starter
from batch_pipeline.batches.queries import (
    awaiting_among,
    awaiting_since,
    longest_awaiting,
    running_batches,
    runs_without_attempt,
)
from batch_pipeline.batches.states import FINAL, RERUNNABLE, BatchStatus
from batch_pipeline.database import connect
from batch_pipeline.errors import StateError
from batch_pipeline.loading.staging import Connection
from batch_pipeline.orchestration import tags
from batch_pipeline.orchestration.config import run_request_key
from batch_pipeline.orchestration.run_attempt import cancelled_reason
from batch_pipeline.orchestration.run_page import without_values
from batch_pipeline.system import System

AnyReason = Reason | Callable[[int], Reason]

# A process that made a batch begins its run at once; importing Dagster and connecting takes seconds.
START_SECONDS = 60.0
RUNS_AT_ONCE = 500  # that one query asks for
# Runs say by the clock of whoever ended them when that was, a little before others can see it.
OVERLAP = timedelta(minutes=5)
# How a run ends that never began its batch.
ENDED_BADLY = [DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED]
# What Dagster takes to be at work; runs that wait in its queue are its own business.
GOING_ON = [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]

LOST_WORKER = Reason(
    "worker_lost",
    "The process that ran the batch ended without a word (killed, or its machine is gone). "
    "What was written stays; a retry does the rest.",
)

RUN_DELETED = Reason("run_deleted", "The batch's run was deleted in Dagster while it was going on: retry the batch.")
RUN_FAILED = Reason(
    "run_failed",
    "Dagster gave the run up as failed while it was going on: see the run's log. What was written stays; a retry does "
    "the rest.",
)
CALLER_LOST = Reason("never_started", "The process that was to run the batch ended before it began: retry the batch.")
CANCELLED_BEFORE = Reason("cancelled", "The batch's run was cancelled before it began: retry the batch.")
FAILED_BEFORE = Reason(
    "never_started", "The batch's run ended before its first step began: see the run's log, then retry."
)
OVERDUE = Reason(
    "timed_out", "The batch took longer than its timeout_seconds and did not stop by itself; a retry does the rest."
)
# Work stops itself when its time is up; this is for work that can't, and comes after it.
OVERDUE_SECONDS = 60.0


def reconcile(system: System, instance: DagsterInstance, *, since: datetime | None = None) -> list[Batch]:
    """Ends every batch whose work has ended, and every run that its batch has outlived; returns the batches ended.

    `since`: when a pass that came to its end began; runs that had ended before it are looked at no more. Without it,
    those that ended since the batch that has awaited its run longest does so. A pass looks at what is at work and at
    runs that have ended, not at all that waits: of that there may be any number.
    """
    ended: list[Batch] = []
    with connect(system.database_url, autocommit=True) as connection:
        for batch in running_batches(system.engine):
            ended += _end_if_work_ended(system, instance, connection, batch)
        _end_outlived_runs(system, instance, connection)
    for batch in awaiting_since(system.engine, START_SECONDS, Starter.caller):
        ended += _end(system, batch, BatchStatus.failed, CALLER_LOST)
    for some in _in_parts(_ended_runs(system, instance, since), RUNS_AT_ONCE):
        ended += _end_launched_in_vain(system, instance, some)
    return ended


def reconcile_run(system: System, instance: DagsterInstance, run: DagsterRun) -> Sequence[Batch]:
    """Ends the batch of a run that has ended, as `reconcile` would; returns it where it was not ended yet."""
    batch = system.ledger.of_run(run.run_id)
    if batch is None:
        return _end_launched_in_vain(system, instance, [run.run_id])
    if batch.status in FINAL or batch.run_id != run.run_id or batch.awaits_run is not None:
        return []
    with connect(system.database_url, autocommit=True) as connection:
        return _end_if_work_ended(system, instance, connection, batch)


def _end_if_work_ended(
    system: System, instance: DagsterInstance, connection: Connection, batch: Batch
) -> Sequence[Batch]:
    """Ends a batch that an attempt is to be at work on, unless it is."""
    if not is_owned(connection, batch.id):
        return _end_abandoned(system, instance, batch)
    if (reason := _ended_in_dagster(instance, batch)) is not None:
        return _end(system, batch, BatchStatus.failed, reason)
    if _is_overdue(system, batch):
        return _end(system, batch, BatchStatus.timed_out, OVERDUE)
    return []


def _end(system: System, seen: Batch, status: BatchStatus, reason: AnyReason) -> Sequence[Batch]:
    """Ends the batch, or gives up the re-run that it awaits, unless it has gone on since it was seen.

    Its lock or its run was found gone after that: a worker that ends its batch, or lets it await another run, says so
    in the ledger before either goes.
    """
    now = system.ledger.end(seen.id, status, reason, if_still=seen)
    is_over = now.status in RERUNNABLE and now.awaits_run is None
    return [now] if is_over and (now.arrival, now.attempts) == (seen.arrival, seen.attempts) else []


def _ended_in_dagster(instance: DagsterInstance, batch: Batch) -> AnyReason | None:
    """Why Dagster no longer takes the run to be going on although its worker lives; None where it does.

    The worker was not told (the run was marked canceled without being terminated, say): once the batch has ended in
    the ledger it can write no more, and stops at its next look.
    """
    run = instance.get_run_by_id(batch.run_id) if batch.run_id else None
    if run is None:
        return RUN_DELETED
    if run.status is DagsterRunStatus.CANCELED:
        return cancelled_reason
    return RUN_FAILED if run.status is DagsterRunStatus.FAILURE else None


def _is_overdue(system: System, batch: Batch) -> bool:
    """Whether a batch at work has used up its time by far; while it waits for its turn, time does not count."""
    if batch.run_id is None or batch.status == BatchStatus.queued:
        return False
    started_at, waited_seconds = system.ledger.attempt_times(batch.run_id)
    allowed = batch.options.get("timeout_seconds") or system.settings.timeout_seconds
    return time.time() - started_at - waited_seconds > allowed + OVERDUE_SECONDS


def _end_abandoned(system: System, instance: DagsterInstance, batch: Batch) -> Sequence[Batch]:
    """Ends a batch without a worker, and its run where Dagster takes it to be going on."""
    run = instance.get_run_by_id(batch.run_id) if batch.run_id else None
    reason: AnyReason
    if run is None:
        reason = RUN_DELETED
    elif run.status in (DagsterRunStatus.CANCELED, DagsterRunStatus.CANCELING):
        reason = cancelled_reason
    else:
        reason = LOST_WORKER
    ended = _end(system, batch, BatchStatus.failed, reason)
    if ended and run is not None and not run.is_finished:
        message = ended[0].reason.message if ended[0].reason is not None else "The batch has ended."
        if run.status is DagsterRunStatus.CANCELING:
            instance.report_run_canceled(run, message=message)
        else:
            instance.report_run_failed(run, message=message)
    return ended


def _end_outlived_runs(system: System, instance: DagsterInstance, connection: Connection) -> None:
    """Ends runs that Dagster takes to be going on although their attempt is over and its process gone.

    A process killed between its last word to the ledger and its last word to Dagster leaves such a run.
    """
    for listed in instance.get_runs(RunsFilter(job_name=tags.JOB_NAME, statuses=GOING_ON)):
        batch = system.ledger.of_run(listed.run_id)
        if batch is None or is_owned(connection, batch.id):
            continue
        is_newest = batch.run_id == listed.run_id
        if is_newest and batch.status not in FINAL and batch.awaits_run is None:
            continue
        # A worker lets its lock go after it has told Dagster, so what is not over now never will be.
        run = instance.get_run_by_id(listed.run_id)
        if run is None or run.is_finished:
            continue
        message = "The run's process ended before it could say so."
        cancelled = batch.reason is not None and batch.reason.code == "cancelled"
        if is_newest and batch.status == BatchStatus.completed:
            succeeded = DagsterEvent(DagsterEventType.RUN_SUCCESS.value, run.job_name, message=message)
            instance.report_dagster_event(succeeded, run.run_id)
        elif cancelled or run.status is DagsterRunStatus.CANCELING:
            instance.report_run_canceled(run, message=message)
        else:
            if batch.reason is not None:
                message = without_values(batch.reason.code, batch.reason.message, batch.id)
            instance.report_run_failed(run, message=message)


def _ended_runs(system: System, instance: DagsterInstance, since: datetime | None) -> Sequence[str]:
    """Ids of runs that have ended badly since a moment, or that any batch can await."""
    since = since or longest_awaiting(system.engine, Starter.launcher)
    if since is None:
        return []
    after = since.astimezone(UTC) - OVERLAP  # Dagster drops the zone
    return instance.get_run_ids(RunsFilter(job_name=tags.JOB_NAME, statuses=ENDED_BADLY, updated_after=after))


def _end_launched_in_vain(system: System, instance: DagsterInstance, ended_runs: Sequence[str]) -> list[Batch]:
    """Ends the batches that await just a run among these, which have ended and of which most began their batch."""
    run_ids = runs_without_attempt(system.engine, ended_runs)
    if not run_ids:
        return []
    named = {run.tags.get(tags.BATCH_ID) for run in instance.get_runs(RunsFilter(run_ids=run_ids))} - {None}
    awaiting = awaiting_among(system.engine, [str(batch_id) for batch_id in named], Starter.launcher)
    if not awaiting:
        return []
    newest: dict[tuple[str, str | None], DagsterRun] = {}
    for run in instance.get_runs(RunsFilter(tags={tags.BATCH_ID: [batch.id for batch in awaiting]})):
        newest.setdefault((run.tags[tags.BATCH_ID], run.tags.get(tags.REQUEST)), run)
    ended: list[Batch] = []
    for batch in awaiting:
        found = newest.get((batch.id, run_request_key(batch)))
        if found is not None and found.is_finished:
            was_cancelled = found.status is DagsterRunStatus.CANCELED
            ended += _end(system, batch, BatchStatus.failed, CANCELLED_BEFORE if was_cancelled else FAILED_BEFORE)
    return ended


def _in_parts(run_ids: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(run_ids), size):
        yield run_ids[start : start + size]


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
