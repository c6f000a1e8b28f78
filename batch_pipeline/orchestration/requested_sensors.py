"""Sensors of the HTTP API: they take in files sent to upload URLs, and keep what lists and calls need small."""

import time

from dagster import DefaultSensorStatus, SensorDefinition, SensorEvaluationContext, SkipReason, sensor

from batch_pipeline.batches.accepting import forget_old_keys
from batch_pipeline.batches.awaiting import has_upload_urls
from batch_pipeline.batches.listing import sum_up_all_counts
from batch_pipeline.database import create_engine
from batch_pipeline.orchestration.sensors import INTAKE_SECONDS
from batch_pipeline.settings import get_settings
from batch_pipeline.storage.requested import expire_requested, take_in_requested
from batch_pipeline.system import System, open_system

REQUESTED_SECONDS = 2
UPKEEP_SECONDS = 300
# Files that come later than this after their URL ran out are seen to with the upkeep.
LATE_SECONDS = 600


def build_requested_sensors() -> list[SensorDefinition]:
    """Both, on by default. What they have done is in the ledger, not in a cursor."""

    @sensor(
        name="requested_sensor",
        minimum_interval_seconds=REQUESTED_SECONDS,
        default_status=DefaultSensorStatus.RUNNING,
        description="Gives files sent to upload URLs (requested/…) to their batches, and expires those that got none.",
    )
    def requested_sensor(context: SensorEvaluationContext) -> SkipReason:
        if not _may_find_something():
            return SkipReason("There is no upload URL that a file could come to.")
        with open_system() as system:
            return _see_to_uploads(context, system)

    @sensor(
        name="upkeep_sensor",
        minimum_interval_seconds=UPKEEP_SECONDS,
        default_status=DefaultSensorStatus.RUNNING,
        description="Forgets idempotency keys after a day, sums up the counters of lists, sees to late uploads.",
    )
    def upkeep_sensor(context: SensorEvaluationContext) -> SkipReason:
        with open_system() as system:
            forgotten = forget_old_keys(system.engine)
            sum_up_all_counts(system.engine)
            _see_to_uploads(context, system)  # last: it may fail for reasons of its own, and then the tick does
        return SkipReason(f"{forgotten} idempotency keys forgotten.")

    return [requested_sensor, upkeep_sensor]


def _may_find_something() -> bool:
    """Asks the ledger alone: to look at storage takes a client of it, which costs a third of a second to make."""
    engine = create_engine(get_settings().require_database_url())
    try:
        return has_upload_urls(engine, until_seconds_ago=LATE_SECONDS)
    finally:
        engine.dispose()


def _see_to_uploads(context: SensorEvaluationContext, system: System) -> SkipReason:
    """Expires batches, then takes files in, also where nothing could be expired. Raises what either raised."""
    limit = system.settings.inbox_files_per_tick
    until = time.monotonic() + INTAKE_SECONDS
    try:
        expired = expire_requested(system, limit=limit, seconds=INTAKE_SECONDS / 2)
        for batch in expired:
            context.log.info(f"Batch {batch.id} expired: no file came.")
    finally:
        taken, removed = take_in_requested(system, limit=limit, seconds=until - time.monotonic())
        for each in removed:
            context.log.warning(each.why)
    if not taken and not expired:
        return SkipReason("No file has come to an upload URL.")
    return SkipReason(f"{len(taken)} files taken in, their runs follow; {len(expired)} batches expired.")
