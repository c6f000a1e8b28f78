"""Sensors of the HTTP API: they take in files sent to upload URLs, and keep what lists and calls need small."""

from dagster import DefaultSensorStatus, SensorDefinition, SensorEvaluationContext, SkipReason, sensor

from batch_pipeline.batches.accepting import forget_old_keys
from batch_pipeline.batches.listing import sum_up_all_counts
from batch_pipeline.orchestration.sensors import INTAKE_SECONDS
from batch_pipeline.storage.requested import expire_requested, take_in_requested
from batch_pipeline.system import open_system

REQUESTED_SECONDS = 2
UPKEEP_SECONDS = 300


def build_requested_sensors() -> list[SensorDefinition]:
    """Both, on by default. What they have done is in the ledger, not in a cursor."""

    @sensor(
        name="requested_sensor",
        minimum_interval_seconds=REQUESTED_SECONDS,
        default_status=DefaultSensorStatus.RUNNING,
        description="Gives files sent to upload URLs (requested/…) to their batches, and expires those that got none.",
    )
    def requested_sensor(context: SensorEvaluationContext) -> SkipReason:
        with open_system() as system:
            taken, removed = take_in_requested(
                system, limit=system.settings.inbox_files_per_tick, seconds=INTAKE_SECONDS
            )
            expired = expire_requested(system)
        for each in removed:
            context.log.warning(each.why)
        for batch in expired:
            context.log.info(f"Batch {batch.id} expired: no file came.")
        if not taken and not expired:
            return SkipReason("No file has come to an upload URL.")
        return SkipReason(f"{len(taken)} files taken in, their runs follow; {len(expired)} batches expired.")

    @sensor(
        name="upkeep_sensor",
        minimum_interval_seconds=UPKEEP_SECONDS,
        default_status=DefaultSensorStatus.RUNNING,
        description="Forgets idempotency keys after their day, and sums up the counters of lists.",
    )
    def upkeep_sensor() -> SkipReason:
        with open_system() as system:
            forgotten = forget_old_keys(system.engine)
            sum_up_all_counts(system.engine)
        return SkipReason(f"{forgotten} idempotency keys forgotten.")

    return [requested_sensor, upkeep_sensor]
