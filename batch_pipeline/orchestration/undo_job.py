"""The job that undoes a batch: its config, its first op, and which job a batch's runs are of.

The other ops are those of `ops`.
"""

from dagster import (
    Config,
    JobDefinition,
    Nothing,
    OpExecutionContext,
    Out,
    ResourceParam,
    in_process_executor,
    job,
    op,
)
from pydantic import Field

from batch_pipeline.batches.model import Action, Batch, Starter
from batch_pipeline.batches.options import UndoOptions, parse_undo_options
from batch_pipeline.intake.undoing import request_undo
from batch_pipeline.orchestration import tags
from batch_pipeline.orchestration.config import SAMPLE_BATCH
from batch_pipeline.orchestration.ops import begin, cleanup, known_batch_job, process, validate
from batch_pipeline.orchestration.resources import Workplace
from batch_pipeline.orchestration.run_logger import LOGGERS


def _description(name: str) -> str:
    return UndoOptions.model_fields[name].description or ""


class UndoConfig(Config):
    """A batch to undo."""

    batch: str = Field(description="The id of the batch to take back: batch_…")
    delete_limit: str | None = Field(None, description=_description("delete_limit"))
    plan_only: bool = Field(False, description=_description("plan_only"))
    timeout_seconds: int | None = Field(None, description=_description("timeout_seconds"))

    def options(self) -> UndoOptions:
        """The options, their values checked. Raises RefusedError (`invalid_options`)."""
        return parse_undo_options({name: getattr(self, name) for name in UndoOptions.model_fields})


@op(name=tags.UNDO, out=Out(Nothing), description="Makes the batch that takes another batch back.")
def undo(context: OpExecutionContext, config: UndoConfig, system: ResourceParam[Workplace]) -> None:
    """Finds or creates the batch; skips phase parsing."""
    begin(
        context,
        system,
        lambda opened: request_undo(
            opened, config.batch, starter=Starter.caller, options=config.options(), updated_by="launchpad"
        ),
    )


@job(
    name=tags.UNDO_JOB_NAME,
    executor_def=in_process_executor,
    logger_defs=LOGGERS,
    config={"ops": {tags.UNDO: {"config": {"batch": SAMPLE_BATCH}}}},
    description="Takes back what a batch wrote, field by field, except what was changed since.",
)
def undo_job() -> None:
    """Runs undo, validate, process and cleanup in one process."""
    cleanup(process(validate(undo()).valid))


def job_of(batch: Batch) -> JobDefinition:
    """The job that runs the batch from its first phase, in its caller's process."""
    return undo_job if batch.action is Action.undo else known_batch_job
