"""The job that runs the rejected items of a batch again: its config and its first op. The other ops are those of `ops`.

A later re-run of the batch that it makes is a run of `batch_job`, as of any batch with a payload.
"""

from dagster import Config, Nothing, OpExecutionContext, Out, ResourceParam, in_process_executor, job, op
from pydantic import Field

from batch_pipeline.batches.model import Batch, Starter
from batch_pipeline.orchestration import tags
from batch_pipeline.orchestration.config import SAMPLE_BATCH
from batch_pipeline.orchestration.ops import begin, cleanup, process, validate
from batch_pipeline.orchestration.resources import Workplace
from batch_pipeline.orchestration.run_logger import LOGGERS
from batch_pipeline.system import System


class RetryRejectedConfig(Config):
    """A batch that rejected items."""

    batch: str = Field(description="The id of the batch that rejected items: batch_…")


@op(
    name=tags.RETRY_REJECTED,
    out=Out(Nothing),
    description="Makes a batch of another batch's rejected items, and reads them.",
)
def retry_rejected(context: OpExecutionContext, config: RetryRejectedConfig, system: ResourceParam[Workplace]) -> None:
    """Finds or creates the batch and runs phase parsing."""
    begin(context, system, lambda opened: _create(opened, config.batch))


def _create(system: System, batch_id: str) -> Batch:
    from batch_pipeline.intake.rejected_items import create_from_rejected  # it imports pyarrow

    return create_from_rejected(system, batch_id, starter=Starter.caller, updated_by="launchpad")


@job(
    name=tags.RETRY_REJECTED_JOB_NAME,
    executor_def=in_process_executor,
    logger_defs=LOGGERS,
    config={"ops": {tags.RETRY_REJECTED: {"config": {"batch": SAMPLE_BATCH}}}},
    description="Runs the items again that a batch rejected, as a batch of their own.",
)
def retry_rejected_job() -> None:
    """Runs retry_rejected, validate, process and cleanup in one process."""
    cleanup(process(validate(retry_rejected()).valid))
