"""A worker that is interrupted at any point of a run leaves a cancelled batch."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from batch_runs import arrived, as_csv, new_organization
from dagster import DagsterEvent, DagsterInstance
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.execution.api import create_execution_plan
from dagster._grpc.types import ExecuteRunArgs
from dagster_shared.serdes import pack_value

from batch_pipeline.batches.model import Starter
from batch_pipeline.orchestration import celery_worker, tags
from batch_pipeline.orchestration.requested_runs import run_config_of, run_tags_of
from batch_pipeline.system import System

core_execute_run = celery_worker.core_execute_run


@pytest.mark.parametrize("step", ["parse", "validate", "process"])
def test_a_signal_between_two_ops_cancels_the_batch(
    system: System, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def signal_after_the_step(*args: Any, **kwargs: Any) -> Iterator[DagsterEvent]:
        for event in core_execute_run(*args, **kwargs):
            yield event
            if event.is_step_success and event.step_key == step:
                os.kill(os.getpid(), signal.SIGTERM)

    batch = arrived(system, new_organization(system), as_csv([{"name": "Ada"}]), starter=Starter.launcher)
    repository = ReconstructableRepository.for_module("batch_pipeline.definitions", "defs")
    job = repository.get_reconstructable_job(tags.JOB_NAME)
    config = run_config_of(batch)
    run = instance.create_run_for_job(
        job.get_definition(),
        execution_plan=create_execution_plan(job, run_config=config),
        run_config=config,
        tags=run_tags_of(batch),
        job_code_origin=job.get_python_origin(),
    )
    monkeypatch.setattr(celery_worker, "core_execute_run", signal_after_the_step)
    celery_worker.execute_job(pack_value(ExecuteRunArgs(job.get_python_origin(), run.run_id, instance.get_ref())))
    ended = system.ledger.get(batch.id)
    assert ended.reason is not None
    assert (ended.status, ended.run_id, ended.reason.code) == ("failed", run.run_id, "cancelled")
