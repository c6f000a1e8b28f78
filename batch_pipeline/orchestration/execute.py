"""Runs a batch's job in this process: for the command line and synchronous calls."""

from dagster import DagsterInstance

from batch_pipeline.batches.model import Batch
from batch_pipeline.definitions import defs
from batch_pipeline.orchestration import tags
from batch_pipeline.orchestration.config import run_config_of, run_tags_of
from batch_pipeline.system import System

PARENT_RUN_TAG = "dagster/parent_run_id"
ROOT_RUN_TAG = "dagster/root_run_id"


def execute_batch(system: System, instance: DagsterInstance, batch: Batch, *, log_level: str = "ERROR") -> Batch:
    """Runs the batch that awaits its caller, as a Dagster run in this process, and returns it as it ended.

    A re-run appears in Dagster's UI beside its parent. What fails is in the batch's `reason`, not raised.
    """
    run_tags = run_tags_of(batch)
    if batch.run_id is not None:
        parent = instance.get_run_by_id(batch.run_id)
        if parent is not None:
            run_tags |= {PARENT_RUN_TAG: parent.run_id, ROOT_RUN_TAG: parent.root_run_id or parent.run_id}
    config = {**run_config_of(batch), "loggers": {"console": {"config": {"log_level": log_level}}}}
    defs.resolve_job_def(tags.JOB_NAME).execute_in_process(
        run_config=config, instance=instance, tags=run_tags, raise_on_error=False
    )
    return system.ledger.get(batch.id)
