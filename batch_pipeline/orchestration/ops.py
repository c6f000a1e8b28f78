"""The jobs and their ops: one op per phase, and one that decides to apply a plan.

Each op opens the attempt, runs its phase and adds metadata.

An op imports its phase when it runs. The phases import pandera and pyarrow, which take a second; most of Dagster's
processes load the job and run no op.

Put ops and jobs here. Put the work of a phase into `phases`, and metadata of the run page into `run_page`.
"""

from collections.abc import Callable, Iterator

from dagster import (
    DagsterEventType,
    Failure,
    In,
    Nothing,
    OpExecutionContext,
    Out,
    Output,
    ResourceParam,
    in_process_executor,
    job,
    op,
)

from batch_pipeline.batches.locks import run_owner
from batch_pipeline.batches.model import Batch, PhaseName
from batch_pipeline.batches.states import BatchStatus
from batch_pipeline.errors import BatchError
from batch_pipeline.orchestration import run_page, tags
from batch_pipeline.orchestration.asset_events import completing_events, log_events, stats_metadata
from batch_pipeline.orchestration.config import SAMPLE_BATCH, SAMPLE_CONFIG, ApplyConfig, BatchConfig
from batch_pipeline.orchestration.error_page import summary_metadata
from batch_pipeline.orchestration.outcomes import tag_outcome, tag_outcome_at_end
from batch_pipeline.orchestration.plan_page import plan_metadata
from batch_pipeline.orchestration.resolve import (
    batch_of_run,
    batch_to_write,
    create_from_file,
    requested_or_new,
    resolve_apply,
)
from batch_pipeline.orchestration.resources import Workplace
from batch_pipeline.orchestration.run_attempt import running_attempt
from batch_pipeline.orchestration.run_logger import LOGGERS
from batch_pipeline.phases.attempt import Attempt
from batch_pipeline.system import System

Phase = Callable[[Attempt], None]


# Ops pass no values: the ledger knows the batch of a run and of the run that it re-executes.
_AFTER = {"start": In(Nothing)}


@op(description="Reads the payload in a stream and removes equal items.", out=Out(Nothing))
def parse(context: OpExecutionContext, config: BatchConfig, system: ResourceParam[Workplace]) -> None:
    """Finds or creates the batch and runs phase parsing."""
    begin(context, system, lambda opened: create_from_file(config, opened))


@op(name=tags.PARSE, out=Out(Nothing), config_schema=dict, description="As in a launched run.")
def parse_known(context: OpExecutionContext, system: ResourceParam[Workplace]) -> None:
    """As `parse`, for a run whose batch exists: its config is there to be shown and executed again."""
    begin(context, system, _create_none)


def _create_none(_: System) -> Batch:
    raise RuntimeError("a run in its caller's process has a batch")


@op(
    ins=_AFTER,
    out={
        "valid": Out(Nothing, is_required=False, description="The batch goes on."),
        "plan": Out(Nothing, is_required=False, description="The batch is planned: the run ends here."),
    },
    description="Applies the row rules, resolves which record each item means, and plans what happens to it.",
)
def validate(context: OpExecutionContext, system: ResourceParam[Workplace]) -> Iterator[Output[None]]:
    """Runs phase validation. Dagster skips the ops that write if the batch is planned."""
    from batch_pipeline.phases.validate import validate as validate_items

    batch = _attempt(context, system, batch_of_run(context, system), validate_items)
    if batch.status is BatchStatus.planned:
        tag_outcome(context.instance, context.run_id, batch)
    shown = {
        **run_page.batch_metadata(batch),
        **plan_metadata(system.system, batch),
        **run_page.failure_metadata(system.system, batch),
        **summary_metadata(batch),
        **run_page.phase_metadata(batch, PhaseName.validation),
    }
    yield Output(None, "plan" if batch.status is BatchStatus.planned else "valid", metadata=shown)


@op(out=Out(Nothing), description="Decides that the plan of a planned batch is to be written.")
def apply(context: OpExecutionContext, config: ApplyConfig, system: ResourceParam[Workplace]) -> None:
    """Requests the apply, unless the run that this one re-executes did, and begins the attempt."""
    try:
        system.ownership.take(run_owner(context.run_id))
        batch = resolve_apply(context, config, system.system)
    except BatchError as error:  # the batch stays as it is, only the run fails
        raise Failure(error.message, metadata={"code": error.code}, allow_retries=False) from None
    with running_attempt(context, system, batch) as (found, _):
        pass
    context.add_output_metadata(run_page.batch_metadata(found))


@op(ins=_AFTER, out=Out(Nothing), description="Waits for the batch's turn and writes the items, chunk by chunk.")
def process(context: OpExecutionContext, system: ResourceParam[Workplace]) -> None:
    """Runs phase processing."""
    from batch_pipeline.phases.process import process as process_items

    run_phase(context, system, batch_to_write(context, system), PhaseName.processing, process_items)


@op(
    ins=_AFTER,
    out=Out(Nothing),
    description="Deletes what an overwrite did not find, writes the artifacts and completes the batch.",
)
def cleanup(context: OpExecutionContext, system: ResourceParam[Workplace]) -> None:
    """Runs phase cleanup, which completes the batch, and logs the asset's events once per batch."""
    from batch_pipeline.phases.cleanup import cleanup as clean_up

    shown: run_page.Metadata = {}
    with running_attempt(context, system, batch_to_write(context, system)) as (found, attempt):
        if attempt is not None:
            shown = run_page.failure_metadata(system.system, found)
            clean_up(attempt)
    done = found if attempt is None else attempt.batch
    if attempt is not None or not _is_materialized(context, system.system, done):
        log_events(context, completing_events(system.system, done))
    tag_outcome_at_end(context, done)
    context.add_output_metadata(
        {
            **run_page.batch_metadata(done),
            **run_page.artifact_metadata(system.system, done),
            **run_page.phase_metadata(done, PhaseName.cleanup),
            **stats_metadata(done),
            **shown,
            **summary_metadata(done),
        }
    )


def _is_materialized(context: OpExecutionContext, system: System, batch: Batch) -> bool:
    """Whether an attempt logged the materialization. One may have died after it completed the batch."""
    kind = DagsterEventType.ASSET_MATERIALIZATION
    return any(
        context.instance.get_records_for_run(run_id, of_type=kind, limit=1).records
        for run_id in system.ledger.attempts_at(batch.id)
    )


def begin(context: OpExecutionContext, workplace: Workplace, create: Callable[[System], Batch]) -> None:
    """The first op of a run: finds the batch, or creates it for a new run from the Launchpad, and runs phase parsing.

    Raises Failure if there is no such batch: only the run can fail then.
    """
    from batch_pipeline.phases.parse import parse as parse_payload

    try:
        if workplace.handover is None:  # else the batch is known, and its lock is taken next
            workplace.ownership.take(run_owner(context.run_id))
        batch = requested_or_new(context, workplace, create)
    except BatchError as error:
        raise Failure(error.message, metadata={"code": error.code}, allow_retries=False) from None
    run_phase(context, workplace, batch, PhaseName.parsing, parse_payload)


def run_phase(context: OpExecutionContext, workplace: Workplace, batch: Batch, name: PhaseName, phase: Phase) -> None:
    """Runs the phase, and adds its metadata to the op's output."""
    context.add_output_metadata(_metadata(_attempt(context, workplace, batch, phase), name))


def _attempt(context: OpExecutionContext, workplace: Workplace, batch: Batch, phase: Phase) -> Batch:
    """Runs the phase unless the batch is completed. Returns the batch after it."""
    with running_attempt(context, workplace, batch) as (found, attempt):
        if attempt is not None:
            phase(attempt)
    return found if attempt is None else attempt.batch


def _metadata(batch: Batch, name: PhaseName) -> run_page.Metadata:
    return {**run_page.batch_metadata(batch), **run_page.phase_metadata(batch, name)}


@job(
    name=tags.JOB_NAME,
    executor_def=in_process_executor,
    logger_defs=LOGGERS,
    config=SAMPLE_CONFIG,
    description="One batch: a file of items becomes correct rows in PostgreSQL, or an errors file.",
)
def batch_job() -> None:
    """Runs parse, validate, process and cleanup in one process.

    Four trivial ops take 0.5 s in one process and 9.3 s with Dagster's default executor. Parallelism is within a phase
    and between runs. There is no RetryPolicy: it turns Terminate into a retry (dagster#15026), and invalid data fail
    again.
    """
    cleanup(process(validate(parse()).valid))


@job(name=tags.JOB_NAME, executor_def=in_process_executor, logger_defs=LOGGERS)
def known_batch_job() -> None:
    """As `batch_job`, in its caller's process. Dagster resolves a typed config three times a run, which takes 2 ms."""
    cleanup(process(validate(parse_known()).valid))


@job(
    name=tags.APPLY_JOB_NAME,
    executor_def=in_process_executor,
    logger_defs=LOGGERS,
    config={"ops": {tags.APPLY: {"config": {"batch": SAMPLE_BATCH}}}},
    description="Writes the plan of a planned batch, exactly as it was shown.",
)
def apply_job() -> None:
    """Runs apply, process and cleanup in one process. The batch has been parsed and validated by an earlier run."""
    cleanup(process(apply()))
