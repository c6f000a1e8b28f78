"""The code location with an empty job of four ops, and a sensor that requests its runs as the upload sensor does."""

import os
from collections.abc import Iterator
from pathlib import Path

from dagster import (
    DefaultSensorStatus,
    Definitions,
    In,
    Nothing,
    Out,
    RunRequest,
    SensorEvaluationContext,
    SkipReason,
    in_process_executor,
    job,
    op,
    sensor,
)

from batch_pipeline.orchestration.definitions import build_defs
from batch_pipeline.orchestration.sensors import INBOX_SECONDS, LAUNCHES_PER_TICK


@op(out=Out(Nothing))
def first() -> None:
    """Does nothing."""


@op(ins={"start": In(Nothing)}, out=Out(Nothing))
def after() -> None:
    """Does nothing."""


@job(executor_def=in_process_executor)
def empty_job() -> None:
    """Four ops."""
    after.alias("fourth")(after.alias("third")(after.alias("second")(first())))


@sensor(job=empty_job, minimum_interval_seconds=INBOX_SECONDS, default_status=DefaultSensorStatus.RUNNING)
def empty_sensor(context: SensorEvaluationContext) -> Iterator[RunRequest | SkipReason]:
    """Requests the runs, so many a tick, once the benchmark has begun."""
    done, wanted = int(context.cursor or 0), int(os.environ["EMPTY_RUNS"])
    if done >= wanted or not (Path(os.environ["DAGSTER_HOME"]) / "empty_job.start").exists():
        yield SkipReason("Nothing to request.")
        return
    upto = min(done + LAUNCHES_PER_TICK, wanted)
    for number in range(done, upto):
        yield RunRequest(run_key=str(number))
    context.update_cursor(str(upto))


defs = Definitions.merge(build_defs(), Definitions(jobs=[empty_job], sensors=[empty_sensor]))
