"""All sensors: they take in files, request runs, reconcile ledger and Dagster, and delete old files and runs.

Put into this module what a tick calls, how often and with which limits. The called functions belong elsewhere. Each
sensor can be stopped, started or reset at any time, because the ledger has its state. Only `reconcile_sensor` has a
cursor, which lets it skip runs of earlier ticks.
"""

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from dagster import (
    DagsterRunStatus,
    DefaultSensorStatus,
    RunRequest,
    RunStatusSensorContext,
    SensorDefinition,
    SensorEvaluationContext,
    SkipReason,
    run_status_sensor,
    sensor,
)

from batch_pipeline.batches.accept import forget_old_keys
from batch_pipeline.batches.counts import fold_counts
from batch_pipeline.batches.mappings import forget_old_mappings
from batch_pipeline.batches.model import Batch
from batch_pipeline.batches.queries import awaiting_launch, has_upload_urls
from batch_pipeline.batches.reruns import request_due_reruns
from batch_pipeline.intake.inbox import take_in
from batch_pipeline.intake.requested_uploads import expire_requested, take_in_requested
from batch_pipeline.orchestration import tags
from batch_pipeline.orchestration.checks import report_freshness
from batch_pipeline.orchestration.config import run_request_of
from batch_pipeline.orchestration.ops import apply_job, batch_job
from batch_pipeline.orchestration.reconciling import reconcile, reconcile_run
from batch_pipeline.orchestration.requested_runs import QUEUED_PER_SLOT
from batch_pipeline.orchestration.retention import prune
from batch_pipeline.orchestration.retry_rejected_job import retry_rejected_job
from batch_pipeline.orchestration.run_launcher import load_celery_launcher
from batch_pipeline.orchestration.run_page import show_refused
from batch_pipeline.orchestration.undo_job import undo_job
from batch_pipeline.system import System, shared_system

INBOX_SECONDS = 2
INTAKE_SECONDS = 20.0  # Dagster limits a tick to 60 s, and listing a large inbox takes part of it
# Dagster needs a query and a call for the run's plan for each request, after the tick. Requests that are not launched
# yet are repeated and count, so this also bounds Dagster's queue.
LAUNCHES_PER_TICK = 50
RERUNS_PER_TICK = 500  # each is a transaction of milliseconds
RECONCILE_SECONDS = 15  # ledger and Dagster differ for at most a minute
REQUESTED_SECONDS = 2
UPKEEP_SECONDS = 300
LATE_SECONDS = 600  # `upkeep_sensor` takes in files that arrive longer than this after their URL expired
RETENTION_SECONDS = 300
PRUNING_SECONDS = (
    30.0  # of a tick's 60 s; a file takes milliseconds, a batch of millions of rows has thousands of files
)


@sensor(
    name=tags.UPLOAD_SENSOR,
    jobs=[batch_job, undo_job],
    minimum_interval_seconds=INBOX_SECONDS,
    default_status=DefaultSensorStatus.RUNNING,
    description="Takes in files from the inbox (uploads/…), makes each a batch, requests automatic re-runs "
    "that are due, and launches the batches that wait.",
)
def upload_sensor(context: SensorEvaluationContext) -> Iterator[RunRequest | SkipReason]:
    """Takes in inbox files and requests a run for each waiting batch, even if intake fails."""
    with shared_system() as system:
        settings = system.settings
        taken: list[Batch] = []
        fault: Exception | None = None
        try:
            taken = take_in(system, limit=settings.inbox_files_per_tick, seconds=INTAKE_SECONDS)
        except Exception as error:  # waiting batches are launched regardless
            context.log.exception("Nothing was taken in from the inbox.")
            fault = error
        for batch in taken:
            if batch.reason is not None:
                show_refused(context.instance, batch)
                context.log.warning(f"Batch {batch.id} was refused: {batch.reason.code}")
        for batch in request_due_reruns(system.engine, RERUNS_PER_TICK):
            context.log.info(f"Batch {batch.id} runs again by itself: re-run {batch.reruns}")
        waiting = awaiting_launch(
            system.engine, LAUNCHES_PER_TICK, per_organization=QUEUED_PER_SLOT * settings.organization_runs
        )
    if fault is not None and not waiting:
        raise fault  # only without run requests: a tick that fails can't make any
    if taken:
        context.log.info(f"{len(taken)} files taken in; {len(waiting)} batches wait for their run")
    if not waiting:
        yield SkipReason("No new file in the inbox." if not taken else "No file could become a batch that runs.")
    for batch in waiting:
        yield run_request_of(batch)


@sensor(
    name="reconcile_sensor",
    minimum_interval_seconds=RECONCILE_SECONDS,
    default_status=DefaultSensorStatus.RUNNING,
    description="Fails batches whose worker is lost, and their runs, so that no batch stays stuck.",
)
def reconcile_sensor(context: SensorEvaluationContext) -> SkipReason:
    """Calls `reconcile`; the cursor is the start of the last complete pass. Sends tasks that Celery's broker lost."""
    began = datetime.now(UTC)
    since = None if context.cursor is None else datetime.fromisoformat(context.cursor)
    with shared_system() as system:
        ended = reconcile(system, context.instance, since=since)
        if system.settings.launcher == "celery":
            for run_id in load_celery_launcher().of(context.instance).resend_lost_tasks():
                context.log.warning(f"The broker had lost the task of run {run_id}: it was sent again.")
    context.update_cursor(began.isoformat())
    return _skip_reason(ended)


@run_status_sensor(
    run_status=DagsterRunStatus.FAILURE,
    name="failure_sensor",
    monitored_jobs=[batch_job, apply_job, undo_job, retry_rejected_job],
    minimum_interval_seconds=RECONCILE_SECONDS,
    default_status=DefaultSensorStatus.RUNNING,
    description="Ends the batch of a failed run if the run could not.",
)
def failure_sensor(context: RunStatusSensorContext) -> SkipReason:
    """Calls `reconcile_run` for a failed run."""
    return _reconcile_run(context)


@run_status_sensor(
    run_status=DagsterRunStatus.CANCELED,
    name="cancel_sensor",
    monitored_jobs=[batch_job, apply_job, undo_job, retry_rejected_job],
    minimum_interval_seconds=RECONCILE_SECONDS,
    default_status=DefaultSensorStatus.RUNNING,
    description="Ends the batch of a cancelled run if the run could not.",
)
def cancel_sensor(context: RunStatusSensorContext) -> SkipReason:
    """Calls `reconcile_run` for a cancelled run."""
    return _reconcile_run(context)


def _reconcile_run(context: RunStatusSensorContext) -> SkipReason:
    with shared_system() as system:
        return _skip_reason(reconcile_run(system, context.instance, context.dagster_run))


def _skip_reason(ended: Sequence[Batch]) -> SkipReason:
    if not ended:
        return SkipReason("Ledger and Dagster agree.")
    return SkipReason("; ".join(f"{batch.id}: {batch.reason.code}" for batch in ended if batch.reason))


@sensor(
    name="requested_sensor",
    minimum_interval_seconds=REQUESTED_SECONDS,
    default_status=DefaultSensorStatus.RUNNING,
    description="Attaches files sent to upload URLs (requested/…) to their batches, and expires those without a file.",
)
def requested_sensor(context: SensorEvaluationContext) -> SkipReason:
    """Takes in files sent to upload URLs, and expires batches whose upload URL has expired."""
    with shared_system() as system:
        if not has_upload_urls(system.engine, until_seconds_ago=LATE_SECONDS):
            return SkipReason("There is no upload URL in use.")
        return _process_uploads(context, system)


@sensor(
    name="upkeep_sensor",
    minimum_interval_seconds=UPKEEP_SECONDS,
    default_status=DefaultSensorStatus.RUNNING,
    description="Deletes idempotency keys after a day and unused column mappings (BATCH_MAPPING_DAYS), folds the "
    "counts for monitoring, takes in uploads that arrived late, and notices files that did not come in time "
    "(BATCH_FRESH_HOURS).",
)
def upkeep_sensor(context: SensorEvaluationContext) -> SkipReason:
    """Deletes expired keys and mappings, folds counts, evaluates the check `fresh`, and takes in late uploads."""
    with shared_system() as system:
        deleted = forget_old_keys(system.engine)
        mappings = forget_old_mappings(system.engine, days=system.settings.mapping_days)
        fold_counts(system.engine)
        for check in report_freshness(system, context.instance):
            context.log.info(f"{check.asset_key.to_user_string()}: {check.description}")
        _process_uploads(context, system)  # last, because it may fail and then the tick fails
    return SkipReason(f"{deleted} idempotency keys and {mappings} column mappings deleted.")


def _process_uploads(context: SensorEvaluationContext, system: System) -> SkipReason:
    """Expires batches, then takes files in, even if expiry fails. Raises the error of either."""
    limit = system.settings.inbox_files_per_tick
    until = time.monotonic() + INTAKE_SECONDS
    try:
        expired = expire_requested(system, limit=limit, seconds=INTAKE_SECONDS / 2)
        for batch in expired:
            context.log.info(f"Batch {batch.id} expired: no file arrived.")
    finally:
        taken, removed = take_in_requested(system, limit=limit, seconds=until - time.monotonic())
        for each in removed:
            context.log.warning(each.why)
    if not taken and not expired:
        return SkipReason("No file has arrived at an upload URL.")
    return SkipReason(f"{len(taken)} files taken in, their runs follow; {len(expired)} batches expired.")


@sensor(
    name="retention_sensor",
    minimum_interval_seconds=RETENTION_SECONDS,
    default_status=DefaultSensorStatus.RUNNING,
    description="Deletes the files of old batches (BATCH_RETENTION_DAYS), Dagster's old runs and events "
    "(BATCH_RUN_RETENTION_DAYS), and old days of the change log (BATCH_CHANGES_DAYS).",
)
def retention_sensor(context: SensorEvaluationContext) -> SkipReason:
    """Prunes for a bounded time. A backlog takes several ticks."""
    with shared_system() as system:
        pruned = prune(system, context.instance, seconds=PRUNING_SECONDS)
    if not (pruned.batches or pruned.runs or pruned.orphans or pruned.change_days):
        return SkipReason("Nothing is old enough to delete.")
    return SkipReason(
        f"{pruned.files.number} files ({pruned.files.bytes:,} bytes) of {pruned.batches} batches and "
        f"{pruned.orphans} orphaned folders deleted; "
        f"{pruned.runs} runs and {pruned.change_days} days of the change log deleted"
        f"{'; more next tick' if pruned.more else ''}."
    )


SENSORS: tuple[SensorDefinition, ...] = (
    upload_sensor,
    requested_sensor,
    reconcile_sensor,
    failure_sensor,
    cancel_sensor,
    upkeep_sensor,
    retention_sensor,
)
