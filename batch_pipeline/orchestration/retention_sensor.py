"""The sensor that keeps storage and Dagster's tables from growing for ever."""

from dagster import DefaultSensorStatus, SensorDefinition, SensorEvaluationContext, SkipReason, sensor

from batch_pipeline.orchestration.retention import prune
from batch_pipeline.system import open_system

RETENTION_SECONDS = 300
PRUNING_SECONDS = 30.0  # a tick has 60 s in Dagster; a file takes milliseconds, a batch of millions of rows thousands


def build_retention_sensor() -> SensorDefinition:
    """On by default. What it has done is in the ledger, not in a cursor."""

    @sensor(
        name="retention_sensor",
        minimum_interval_seconds=RETENTION_SECONDS,
        default_status=DefaultSensorStatus.RUNNING,
        description="Removes the files of batches that ended long ago (BATCH_RETENTION_DAYS), and Dagster's old runs "
        "and events (BATCH_RUN_RETENTION_DAYS).",
    )
    def retention_sensor(context: SensorEvaluationContext) -> SkipReason:
        with open_system() as system:
            pruned = prune(system, context.instance, seconds=PRUNING_SECONDS)
        if not pruned.batches and not pruned.runs and not pruned.orphans:
            return SkipReason("Nothing is old enough to go.")
        return SkipReason(
            f"{pruned.files.number} files ({pruned.files.bytes:,} bytes) of {pruned.batches} batches and "
            f"{pruned.orphans} folders of none removed; "
            f"{pruned.runs} runs deleted{'; the rest follows' if pruned.more else ''}."
        )

    return retention_sensor
