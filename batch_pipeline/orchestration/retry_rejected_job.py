"""The job that runs the rejected items of a batch again: its config and its first op. The other ops are those of `ops`.

A later re-run of the batch that it makes is a run of `batch_job`, as of any batch with a payload.
"""

from dagster import Config, Failure, Nothing, OpExecutionContext, Out, ResourceParam, in_process_executor, job, op
from pydantic import Field

from batch_pipeline.batches.locks import run_owner
from batch_pipeline.batches.model import Batch, PhaseName, Starter
from batch_pipeline.errors import BatchError
from batch_pipeline.orchestration import tags
from batch_pipeline.orchestration.config import SAMPLE_BATCH, run_tags_of
from batch_pipeline.orchestration.ops import cleanup, process, run_phase, validate
from batch_pipeline.orchestration.resolve import requested_batch
from batch_pipeline.orchestration.resources import Workplace
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
    from batch_pipeline.phases.parse import parse

    try:
        system.ownership.take(run_owner(context.run_id))
        batch = resolve_retry(context, config, system.system)
    except BatchError as error:  # there is no batch that could fail, only the run
        raise Failure(error.message, metadata={"code": error.code}, allow_retries=False) from None
    run_phase(context, system, batch, PhaseName.parsing, parse)


def resolve_retry(context: OpExecutionContext, config: RetryRejectedConfig, system: System) -> Batch:
    """The batch of the run; creates it for a run from the Launchpad.

    Raises as `requested_batch` and `create_from_rejected` do.
    """
    from batch_pipeline.intake.rejected_items import create_from_rejected  # it imports pyarrow

    batch = requested_batch(context, system)
    if batch is None:
        batch = create_from_rejected(system, config.batch, starter=Starter.caller, updated_by="launchpad")
        context.instance.add_run_tags(context.run_id, run_tags_of(batch))
    return batch


@job(
    name=tags.RETRY_REJECTED_JOB_NAME,
    executor_def=in_process_executor,
    config={"ops": {tags.RETRY_REJECTED: {"config": {"batch": SAMPLE_BATCH}}}},
    description="Runs the items again that a batch rejected, as a batch of their own.",
)
def retry_rejected_job() -> None:
    """Runs retry_rejected, validate, process and cleanup in one process."""
    cleanup(process(validate(retry_rejected()).valid))
