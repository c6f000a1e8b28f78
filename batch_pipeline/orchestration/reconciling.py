"""Reconciles ledger and Dagster: ends batches and runs whose process died before it recorded their end. Also cancels.

A run holds its batch's lock from its first op until Dagster has recorded its end. So if a live batch has an attempt and
its lock is free, its worker is lost, whatever Dagster shows. Sensors reconcile while the daemon runs. Each command that
runs batches in its own process reconciles when it starts.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any

from dagster import DagsterEvent, DagsterEventType, DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter

from batch_pipeline.batches.ledger import AnyReason
from batch_pipeline.batches.locks import is_owned, run_owner, run_task
from batch_pipeline.batches.model import Batch, Starter
from batch_pipeline.batches.queries import (
    awaiting_among,
    awaiting_since,
    expired_plans,
    longest_awaiting,
    running_batches,
    runs_without_attempt,
    without_payload,
)
from batch_pipeline.batches.states import AT_REST, FINAL, RERUNNABLE, BatchStatus, Reason
from batch_pipeline.database import Connection, connect
from batch_pipeline.errors import NotFoundError, StateError
from batch_pipeline.intake.requested_uploads import take_in_upload
from batch_pipeline.orchestration import tags
from batch_pipeline.orchestration.outcomes import tag_outcome
from batch_pipeline.orchestration.requested_runs import run_request_key
from batch_pipeline.orchestration.run_attempt import cancelled_reason
from batch_pipeline.orchestration.run_launcher import load_celery_launcher
from batch_pipeline.orchestration.run_page import without_values
from batch_pipeline.orchestration.workers import LOST_WORKER
from batch_pipeline.phases.leftovers import drop_staged_rows
from batch_pipeline.system import System

CALLER_START_SECONDS = 60.0  # from a batch's creation by a command to its run; includes importing Dagster
# From Dagster's STARTED to a run's first op; usually one second. With a tick every 15 s, the sum is below a minute.
FIRST_OP_SECONDS = 40.0
RUNS_AT_ONCE = 500  # per query
# A run's end time comes from the clock of the machine that ended it, and becomes visible a little later.
OVERLAP = timedelta(minutes=5)
# Final statuses of runs that never began their batch.
ENDED_BADLY = [DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED]
# Runs that Dagster believes to be running. Queued runs are left to Dagster.
UNFINISHED = [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]
# Runs whose process has started.
STARTED = [DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]
# From Dagster's STARTING to its STARTED by the default launcher, which forks a process. Runs for Celery's workers may
# wait for as long as the workers are busy.
START_SECONDS = 120.0

RUN_DELETED = Reason("run_deleted", "The batch's run was deleted in Dagster while it was running: retry the batch.")
RUN_FAILED = Reason(
    "run_failed",
    "Dagster marked the run as failed while it was running: see the run's log. Written records stay. Retry the batch "
    "to process the rest.",
)
CALLER_LOST = Reason(
    "never_started", "The process that should run the batch ended before the run began: retry the batch."
)
WITHOUT_PAYLOAD = Reason(
    "never_started", "The process that made the batch ended before its payload was recorded: send the payload again."
)
CANCELLED_AWAITING_FILE = Reason("cancelled", "The batch was cancelled before its file arrived: create a new batch.")
CANCELLED_BEFORE = Reason("cancelled", "The batch's run was cancelled before it began: retry the batch.")
FAILED_BEFORE = Reason(
    "never_started", "The batch's run ended before its first step began: see the run's log, then retry."
)
OVERDUE = Reason(
    "timed_out", "The batch took longer than its timeout_seconds and did not stop by itself. Retry it for the rest."
)
PLAN_EXPIRED = Reason(
    "plan_expired", "Nobody applied the plan before it expired, so nothing was written: upload the file again."
)
OVERDUE_SECONDS = 60.0  # after the time-out: an attempt normally stops itself; this ends one that is stuck


def reconcile(system: System, instance: DagsterInstance, *, since: datetime | None = None) -> list[Batch]:
    """Ends every batch whose work has ended and every run whose process or batch has ended. Returns the ended batches.

    `since`: start of the last complete pass; runs that ended before it are skipped. Without it, considers runs that
    ended since the oldest pending request for a run. The cost of a pass grows with the running batches and ended runs,
    not with the waiting batches.
    """
    ended: list[Batch] = []
    with connect(system.database_url, autocommit=True) as connection:
        for batch in running_batches(system.engine):
            ended += _end_if_work_ended(system, instance, connection, batch)
        _end_leftover_runs(system, instance, connection)
        ended += _end_stuck_runs(system, instance, connection)
    for batch in awaiting_since(system.engine, CALLER_START_SECONDS, Starter.caller):
        ended += _end(system, batch, BatchStatus.failed, CALLER_LOST)
    for batch in without_payload(system.engine, CALLER_START_SECONDS):
        # Clears the version: an object that is still in the inbox is taken in again once no batch has its version.
        ended.append(system.ledger.end_if_unchanged(batch, BatchStatus.failed, WITHOUT_PAYLOAD, source_version=None))
    ended += _expire_plans(system)
    for run_ids in _split(_ended_runs(system, instance, since), RUNS_AT_ONCE):
        ended += _end_batches_of_ended_runs(system, instance, run_ids)
    return ended


def _expire_plans(system: System) -> list[Batch]:
    """Expires planned batches that nobody applied in time, and drops their staged rows."""
    ended = [system.ledger.expire_plan(batch.id, PLAN_EXPIRED) for batch in expired_plans(system.engine)]
    expired = [batch for batch in ended if batch.status is BatchStatus.expired]
    for batch in expired:
        drop_staged_rows(system, batch.id)
    return expired


def reconcile_run(system: System, instance: DagsterInstance, run: DagsterRun) -> Sequence[Batch]:
    """Ends the batch of a run that has ended, as `reconcile` does. Returns the batch if it was still live."""
    batch = system.ledger.of_run(run.run_id)
    if batch is None:
        return _end_batches_of_ended_runs(system, instance, [run.run_id])
    if batch.status in AT_REST or batch.run_id != run.run_id or batch.awaits_run is not None:
        return []
    with connect(system.database_url, autocommit=True) as connection:
        return _end_if_work_ended(system, instance, connection, batch)


def _end_if_work_ended(
    system: System, instance: DagsterInstance, connection: Connection, batch: Batch
) -> Sequence[Batch]:
    """Ends a running batch if no worker holds its lock, its run has ended in Dagster, or it is overdue."""
    ended = _end_running(system, instance, connection, batch)
    if ended and batch.run_id is not None and instance.has_run(batch.run_id):
        tag_outcome(instance, batch.run_id, ended[0])
    return ended


def _end_running(system: System, instance: DagsterInstance, connection: Connection, batch: Batch) -> Sequence[Batch]:
    if not is_owned(connection, batch.id):
        return _end_abandoned(system, instance, batch)
    if (reason := _ended_in_dagster(instance, batch)) is not None:
        return _end(system, batch, BatchStatus.failed, reason)
    if _is_overdue(system, batch):
        return _end(system, batch, BatchStatus.timed_out, OVERDUE)
    return []


def _end(system: System, seen: Batch, status: BatchStatus, reason: AnyReason) -> Sequence[Batch]:
    """Ends the batch unless it began or requested another run after `seen`. Returns it if it has ended.

    The caller reads the batch before it checks the lock and the run. A worker records the end of its batch, or the
    request for another run, before it releases the lock and before its run ends. So if the batch is unchanged, the
    worker did not end it.
    """
    now = system.ledger.end_if_unchanged(seen, status, reason)
    is_over = now.status in RERUNNABLE and now.awaits_run is None
    return [now] if is_over and (now.arrival, now.attempts) == (seen.arrival, seen.attempts) else []


def _ended_in_dagster(instance: DagsterInstance, batch: Batch) -> AnyReason | None:
    """Why the run has ended in Dagster, or shall end, although its worker lives; None if it goes on.

    Dagster did not stop the worker, for example because the run was marked as canceled without being terminated, or
    terminated before it had its batch. Once the ledger has ended the batch, the worker can't write, and it stops at its
    next check.
    """
    run = instance.get_run_by_id(batch.run_id) if batch.run_id else None
    if run is None:
        return RUN_DELETED
    if run.status in (DagsterRunStatus.CANCELED, DagsterRunStatus.CANCELING):
        return cancelled_reason
    return RUN_FAILED if run.status is DagsterRunStatus.FAILURE else None


def _is_overdue(system: System, batch: Batch) -> bool:
    """Whether a batch runs longer than its time-out plus `OVERDUE_SECONDS`. Waiting for the turn does not count."""
    if batch.run_id is None or batch.status == BatchStatus.queued:
        return False
    allowed = batch.options.get("timeout_seconds") or system.settings.timeout_seconds
    return system.ledger.attempt_seconds(batch.run_id) > allowed + OVERDUE_SECONDS


def _end_abandoned(system: System, instance: DagsterInstance, batch: Batch) -> Sequence[Batch]:
    """Ends a batch without a worker, and its run if Dagster shows it as running."""
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
        if ended[0].next_attempt_at is not None:
            message += " The batch runs again by itself."
        if run.status is DagsterRunStatus.CANCELING:
            instance.report_run_canceled(run, message=message)
        else:
            instance.report_run_failed(run, message=message)
    return ended


def _end_leftover_runs(system: System, instance: DagsterInstance, connection: Connection) -> None:
    """Ends runs that Dagster shows as running although their attempt has ended and their process is gone.

    A process that is killed after its last write to the ledger and before its last event in Dagster leaves such a run.
    """
    unfinished = (instance.get_runs(RunsFilter(job_name=name, statuses=UNFINISHED)) for name in tags.JOB_NAMES)
    for listed in chain.from_iterable(unfinished):
        batch = system.ledger.of_run(listed.run_id)
        if batch is None or is_owned(connection, batch.id):
            continue
        is_newest = batch.run_id == listed.run_id
        if is_newest and batch.status not in AT_REST and batch.awaits_run is None:
            continue
        # A worker reports the end to Dagster before it releases its lock, so a run that has not ended now never will.
        run = instance.get_run_by_id(listed.run_id)
        if run is None or run.is_finished:
            continue
        message = "The run's process ended before it reported the end of the run."
        cancelled = batch.reason is not None and batch.reason.code == "cancelled"
        if is_newest and _has_succeeded(batch):
            tag_outcome(instance, run.run_id, batch)  # a run tags itself with its end
            succeeded = DagsterEvent(DagsterEventType.RUN_SUCCESS.value, run.job_name, message=message)
            instance.report_dagster_event(succeeded, run.run_id)
        elif cancelled or run.status is DagsterRunStatus.CANCELING:
            instance.report_run_canceled(run, message=message)
        else:
            if batch.reason is not None:
                message = without_values(batch.reason.code, batch.reason.message, batch.id)
            instance.report_run_failed(run, message=message)


def _has_succeeded(batch: Batch) -> bool:
    """Whether the newest attempt did what it should: completed the batch, or showed its plan."""
    if batch.status is BatchStatus.planned:
        return batch.plan is not None and "difference" not in batch.plan  # else it was to apply the plan
    return batch.status is BatchStatus.completed


def _end_stuck_runs(system: System, instance: DagsterInstance, connection: Connection) -> list[Batch]:
    """Ends runs that Dagster shows as launched and whose process died before the first op, and their batches.

    Dagster's code server notices a dead run process. If the code server died as well, only this ends the run.
    """
    ended: list[Batch] = []
    seconds = dict.fromkeys(STARTED, FIRST_OP_SECONDS)
    if system.settings.launcher == "default":
        seconds[DagsterRunStatus.STARTING] = START_SECONDS
    launched = chain.from_iterable(
        instance.get_run_records(RunsFilter(job_name=name, statuses=list(seconds))) for name in tags.JOB_NAMES
    )
    now = datetime.now(UTC)
    overdue = [
        record.dagster_run.run_id
        for record in launched
        if (now - record.update_timestamp.astimezone(UTC)).total_seconds() > seconds[record.dagster_run.status]
    ]
    for run_id in runs_without_attempt(system.engine, overdue):
        run = instance.get_run_by_id(run_id)
        if run is None or run.is_finished or any(is_owned(connection, name(run_id)) for name in (run_owner, run_task)):
            continue
        batch = _batch_of_tags(system, run)
        if batch is not None and is_owned(connection, batch.id):
            continue  # another run works on the batch, and this run waits for it
        if batch is not None and batch.awaits_run is not None and run.tags.get(tags.REQUEST) == run_request_key(batch):
            was_cancelled = run.status is DagsterRunStatus.CANCELING
            ended += _end(system, batch, BatchStatus.failed, CANCELLED_BEFORE if was_cancelled else FAILED_BEFORE)
        message = "The run's process ended before the first step began."
        if run.status is DagsterRunStatus.CANCELING:
            instance.report_run_canceled(run, message=message)
        else:
            instance.report_run_failed(run, message=message)
    return ended


def _batch_of_tags(system: System, run: DagsterRun) -> Batch | None:
    try:
        return system.ledger.get(run.tags.get(tags.BATCH_ID, ""))
    except NotFoundError:
        return None


def _ended_runs(system: System, instance: DagsterInstance, since: datetime | None) -> Sequence[str]:
    """Ids of runs that failed or were cancelled since `since`, by default since the oldest pending request."""
    since = since or longest_awaiting(system.engine, Starter.launcher)
    if since is None:
        return []
    after = since.astimezone(UTC) - OVERLAP  # Dagster drops the zone
    return [
        run_id
        for name in tags.JOB_NAMES
        for run_id in instance.get_run_ids(RunsFilter(job_name=name, statuses=ENDED_BADLY, updated_after=after))
    ]


def _end_batches_of_ended_runs(system: System, instance: DagsterInstance, ended_runs: Sequence[str]) -> list[Batch]:
    """Ends the batches whose requested run is among these ended runs and never began the batch."""
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


def _split(run_ids: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(run_ids), size):
        yield run_ids[start : start + size]


def cancel_batch(system: System, instance: DagsterInstance, batch_id: str, *, updated_by: str | None = None) -> Batch:
    """Ends the batch as `failed` with reason `cancelled`. Written records stay, and a retry writes the rest.

    Returns when no chunk is running. A run that works on the batch ends itself as CANCELED; a queued run is cancelled
    here. A failed batch that would run again by itself stays failed. A file that has arrived at the batch's upload URL
    is taken in first, so that a retry can use it.
    Raises NotFoundError, and StateError (`not_cancellable`) if the batch has ended, even during this call.
    """
    changes: dict[str, Any] = {} if updated_by is None else {"updated_by": updated_by}
    batch = system.ledger.get(batch_id)
    if batch.next_attempt_at is not None:
        batch = system.ledger.cancel_rerun(batch_id, cancelled_reason, **changes)
        if batch.status in FINAL and batch.reason is not None and batch.reason.code == "cancelled":
            return batch
    if batch.status in FINAL:
        raise _not_cancellable_error(batch)
    if batch.arrival is None:
        take_in_upload(system, batch_id)
        batch = system.ledger.get(batch_id)
    reason = cancelled_reason if batch.arrival is not None else CANCELLED_AWAITING_FILE
    ended = system.ledger.end(batch_id, BatchStatus.failed, reason, **changes)
    if ended.reason is None or ended.reason.code != "cancelled":
        raise _not_cancellable_error(ended)
    statuses = [DagsterRunStatus.QUEUED, DagsterRunStatus.NOT_STARTED]
    if system.settings.launcher == "celery":
        statuses.append(DagsterRunStatus.STARTING)
    for run in instance.get_runs(RunsFilter(tags={tags.BATCH_ID: batch_id}, statuses=statuses)):
        if run.status is DagsterRunStatus.STARTING:  # it may wait for a worker for long
            load_celery_launcher().of(instance).terminate(run.run_id)
        else:
            instance.report_run_canceled(run, message="The batch was cancelled.")
    return ended


def _not_cancellable_error(batch: Batch) -> StateError:
    return StateError("not_cancellable", f"Batch {batch.id} has ended already: it is {batch.status}.")
