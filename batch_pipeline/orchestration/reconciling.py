"""Reconciling ledger and Dagster: ends batches and runs whose work has ended without a record of it. And cancelling.

A live batch whose attempt holds no lock has lost its worker, whatever Dagster shows: a run holds the lock from its
first op until Dagster knows how it ended. Sensors call this while the daemon runs; so does every command that works in
its own process, when it starts.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from dagster import DagsterEvent, DagsterEventType, DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter

from batch_pipeline.batches.ledger import AnyReason
from batch_pipeline.batches.locks import is_owned, run_owner
from batch_pipeline.batches.model import Batch, Starter
from batch_pipeline.batches.queries import (
    awaiting_among,
    awaiting_since,
    longest_awaiting,
    running_batches,
    runs_without_attempt,
    without_payload,
)
from batch_pipeline.batches.states import FINAL, RERUNNABLE, BatchStatus, Reason
from batch_pipeline.database import connect
from batch_pipeline.errors import NotFoundError, StateError
from batch_pipeline.intake.requested_uploads import take_in_upload
from batch_pipeline.loading.staging import Connection
from batch_pipeline.orchestration import tags
from batch_pipeline.orchestration.config import run_request_key
from batch_pipeline.orchestration.run_attempt import cancelled_reason
from batch_pipeline.orchestration.run_page import without_values
from batch_pipeline.system import System

CALLER_START_SECONDS = 60.0  # for a command that made a batch to begin its run: it imports Dagster and connects first
# From Dagster's STARTED to a run's first op: about a second. With a tick every 15 s this stays within a minute.
FIRST_OP_SECONDS = 40.0
RUNS_AT_ONCE = 500  # that one query asks for
# Runs say by the clock of whoever ended them when that was, a little before others can see it.
OVERLAP = timedelta(minutes=5)
# How a run ends that never began its batch.
ENDED_BADLY = [DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED]
# What Dagster takes to be at work; runs that wait in its queue are its own business.
GOING_ON = [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]
# Runs whose process has begun. STARTING ones are ended by Dagster's run monitoring, after a time of its own.
STARTED = [DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]

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
WITHOUT_PAYLOAD = Reason(
    "never_started", "The process that made the batch ended before its payload was recorded: send the payload again."
)
CANCELLED_AWAITING_FILE = Reason("cancelled", "The batch was cancelled before its file came: create a new batch.")
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
    """Ends every batch whose work has ended, and every run whose process or batch has; returns the batches ended.

    `since`: start of the last complete pass; runs that ended before it are not looked at again. Without it, runs that
    ended since the oldest request for a run are. The cost of a pass depends on running batches and ended runs, not on
    the number of batches that wait.
    """
    ended: list[Batch] = []
    with connect(system.database_url, autocommit=True) as connection:
        for batch in running_batches(system.engine):
            ended += _end_if_work_ended(system, instance, connection, batch)
        _end_outlived_runs(system, instance, connection)
        ended += _end_stuck_runs(system, instance, connection)
    for batch in awaiting_since(system.engine, CALLER_START_SECONDS, Starter.caller):
        ended += _end(system, batch, BatchStatus.failed, CALLER_LOST)
    for batch in without_payload(system.engine, CALLER_START_SECONDS):
        # Its object may still lie in the inbox: it is taken in once no batch has its version.
        ended.append(system.ledger.end_if_unchanged(batch, BatchStatus.failed, WITHOUT_PAYLOAD, source_version=None))
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
    """Ends the batch, unless it began or requested another run since it was seen.

    Its lock or its run was found gone after that: a worker records the end of its batch, or a request for another run,
    before it releases either.
    """
    now = system.ledger.end_if_unchanged(seen, status, reason)
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
    allowed = batch.options.get("timeout_seconds") or system.settings.timeout_seconds
    return system.ledger.attempt_seconds(batch.run_id) > allowed + OVERDUE_SECONDS


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


def _end_stuck_runs(system: System, instance: DagsterInstance, connection: Connection) -> list[Batch]:
    """Ends runs that Dagster shows as started but whose process died before the first op, and their batches.

    Dagster's code server notices a dead process of its own; if the server died as well, nobody does.
    """
    ended: list[Batch] = []
    started = instance.get_run_records(RunsFilter(job_name=tags.JOB_NAME, statuses=STARTED))
    now = datetime.now(UTC)
    overdue = [
        record.dagster_run.run_id
        for record in started
        if (now - record.update_timestamp.astimezone(UTC)).total_seconds() > FIRST_OP_SECONDS
    ]
    for run_id in runs_without_attempt(system.engine, overdue):
        run = instance.get_run_by_id(run_id)
        if run is None or run.is_finished or is_owned(connection, run_owner(run_id)):
            continue
        batch = _batch_of_tags(system, run)
        if batch is not None and is_owned(connection, batch.id):
            continue  # another run works on it, for which this one waits
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

    Returns once no chunk is under way. Its run, if it works on the batch, ends itself as CANCELED; a queued one is
    cancelled here. A file that came to the batch's upload URL before is taken in first, so that a retry has it.
    Raises NotFoundError, and StateError (`not_cancellable`) where the batch has ended, even just now.
    """
    batch = system.ledger.get(batch_id)
    if batch.status in FINAL:
        raise _ended_already(batch)
    if batch.arrival is None:
        take_in_upload(system, batch_id)
        batch = system.ledger.get(batch_id)
    who: dict[str, Any] = {} if updated_by is None else {"updated_by": updated_by}
    reason = cancelled_reason if batch.arrival is not None else CANCELLED_AWAITING_FILE
    ended = system.ledger.end(batch_id, BatchStatus.failed, reason, **who)
    if ended.reason is None or ended.reason.code != "cancelled":
        raise _ended_already(ended)
    waiting = RunsFilter(
        tags={tags.BATCH_ID: batch_id}, statuses=[DagsterRunStatus.QUEUED, DagsterRunStatus.NOT_STARTED]
    )
    for run in instance.get_runs(waiting):
        instance.report_run_canceled(run, message="The batch was cancelled.")
    return ended


def _ended_already(batch: Batch) -> StateError:
    return StateError("not_cancellable", f"Batch {batch.id} has ended already: it is {batch.status}.")
