"""Starts runs as the upload sensor and the Launchpad do, for tests."""

from collections.abc import Iterator
from typing import Any, cast

from dagster import (
    DagsterInstance,
    ExecuteInProcessResult,
    JobDefinition,
    RunRequest,
    SkipReason,
    build_sensor_context,
)

from batch_pipeline.batches.model import Batch
from batch_pipeline.definitions import defs
from batch_pipeline.orchestration import tags
from batch_pipeline.system import System

INBOX = "uploads/default/contact/merge"


def batch_job() -> JobDefinition:
    return defs.resolve_job_def(tags.JOB_NAME)


def tick(instance: DagsterInstance) -> list[RunRequest]:
    """Ticks the upload sensor; returns the runs that it requests."""
    sensor = defs.get_sensor_def("upload_sensor")
    with build_sensor_context(instance=instance) as context:
        answers = list(cast("Iterator[RunRequest | SkipReason]", sensor(context)))
    assert all(isinstance(answer, RunRequest | SkipReason) for answer in answers)
    return [answer for answer in answers if isinstance(answer, RunRequest)]


def all_batches(system: System) -> list[Batch]:
    return system.ledger.find(newest_first=False)


def launch(instance: DagsterInstance, request: RunRequest) -> ExecuteInProcessResult:
    return batch_job().execute_in_process(
        run_config=request.run_config, tags=dict(request.tags), instance=instance, raise_on_error=False
    )


def launchpad(instance: DagsterInstance, *, run_tags: dict[str, str] | None = None, **config: Any) -> Any:
    full = {"organization": "default", "resource": "contact", "action": "merge", **config}
    return batch_job().execute_in_process(
        run_config={"ops": {tags.PARSE: {"config": full}}}, tags=run_tags, instance=instance, raise_on_error=False
    )


def failure_code(result: ExecuteInProcessResult) -> str:
    event = result.failure_data_for_node(tags.PARSE)
    assert event is not None
    assert event.user_failure_data is not None
    return str(event.user_failure_data.metadata["code"].value)
