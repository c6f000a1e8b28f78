"""Sensors: they take in uploads, start what was accepted, and keep ledger and Dagster agreed.

Each can be switched off and on, or reset, at any time: what they have done is in the ledger. Only `reconcile_sensor`
has a cursor, which spares it the runs that it has looked at.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from dagster import (
    DagsterRunStatus,
    DefaultSensorStatus,
    JobDefinition,
    RunRequest,
    RunStatusSensorContext,
    SensorDefinition,
    SensorEvaluationContext,
    SkipReason,
    run_status_sensor,
    sensor,
)

from batch_pipeline.batches.awaiting import awaiting_launch
from batch_pipeline.batches.model import Batch
from batch_pipeline.orchestration.config import request_of, run_config_of, run_tags_of
from batch_pipeline.orchestration.reconcile import reconcile, reconcile_run
from batch_pipeline.storage.inbox import take_in
from batch_pipeline.system import open_system

UPLOAD_SENSOR = "upload_sensor"
INBOX_SECONDS = 2
INTAKE_SECONDS = 20.0  # a tick has 60 s in Dagster, of which listing a large inbox takes some
# Each costs Dagster a query and a call for the run's plan, after the tick. Those that it has been asked for already and
# has not begun are among them, so this bounds what waits in its queue.
LAUNCHES_PER_TICK = 50
QUEUED_PER_SLOT = 2  # that an organization's next runs are there before the next tick
RECONCILE_SECONDS = 15  # ledger and Dagster disagree for a minute at most


def run_request_of(batch: Batch) -> RunRequest:
    """The run that a batch awaits. Asking again before it has begun changes nothing: Dagster takes a key but once."""
    return RunRequest(
        run_key=f"{batch.id}/{request_of(batch)}",
        run_config=run_config_of(batch),
        tags=run_tags_of(batch),
    )


def build_sensors(batch_job: JobDefinition) -> list[SensorDefinition]:
    """All sensors, on by default."""

    @sensor(
        name=UPLOAD_SENSOR,
        job=batch_job,
        minimum_interval_seconds=INBOX_SECONDS,
        default_status=DefaultSensorStatus.RUNNING,
        description="Takes files out of the inbox (uploads/…), makes each a batch, and starts the batches that wait.",
    )
    def upload_sensor(context: SensorEvaluationContext) -> Iterator[RunRequest | SkipReason]:
        with open_system() as system:
            settings = system.settings
            taken: list[Batch] = []
            fault: Exception | None = None
            try:
                taken = take_in(system, limit=settings.inbox_files_per_tick, seconds=INTAKE_SECONDS)
            except Exception as error:  # what waits is launched all the same
                context.log.exception("Nothing was taken in from the inbox.")
                fault = error
            for batch in taken:
                if batch.reason is not None:
                    context.log.warning(f"{batch.source_key}: batch {batch.id} failed: {batch.reason.message}")
            waiting = awaiting_launch(
                system.engine, LAUNCHES_PER_TICK, per_organization=QUEUED_PER_SLOT * settings.organization_runs
            )
        if fault is not None and not waiting:
            raise fault  # a tick that fails can ask for no run
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
        description="Fails batches whose worker is gone, and their runs, so that nothing stays stuck.",
    )
    def reconcile_sensor(context: SensorEvaluationContext) -> SkipReason:
        began = datetime.now(UTC)
        since = None if context.cursor is None else datetime.fromisoformat(context.cursor)
        with open_system() as system:
            ended = reconcile(system, context.instance, since=since)
        context.update_cursor(began.isoformat())
        return _told(ended)

    @run_status_sensor(
        run_status=DagsterRunStatus.FAILURE,
        name="failure_sensor",
        monitored_jobs=[batch_job],
        minimum_interval_seconds=RECONCILE_SECONDS,
        default_status=DefaultSensorStatus.RUNNING,
        description="When a run has failed, makes sure that its batch says so too.",
    )
    def failure_sensor(context: RunStatusSensorContext) -> SkipReason:
        return _reconcile_run(context)

    @run_status_sensor(
        run_status=DagsterRunStatus.CANCELED,
        name="cancel_sensor",
        monitored_jobs=[batch_job],
        minimum_interval_seconds=RECONCILE_SECONDS,
        default_status=DefaultSensorStatus.RUNNING,
        description="When a run has been cancelled, makes sure that its batch says so too.",
    )
    def cancel_sensor(context: RunStatusSensorContext) -> SkipReason:
        return _reconcile_run(context)

    return [upload_sensor, reconcile_sensor, failure_sensor, cancel_sensor]


def _reconcile_run(context: RunStatusSensorContext) -> SkipReason:
    with open_system() as system:
        return _told(reconcile_run(system, context.instance, context.dagster_run))


def _told(ended: Sequence[Batch]) -> SkipReason:
    if not ended:
        return SkipReason("Ledger and Dagster agree.")
    return SkipReason("; ".join(f"{batch.id}: {batch.reason.code}" for batch in ended if batch.reason))
