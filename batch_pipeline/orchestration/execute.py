"""Runs a batch's job in this process, for the command line and synchronous calls."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from uuid import uuid4

from dagster import DagsterEvent, DagsterExecutionInterruptedError, DagsterInstance, JobDefinition
from dagster._core.definitions.job_base import InMemoryJob  # the public way makes a new job for each run
from dagster._core.execution.api import create_execution_plan
from dagster._core.execution.execute_in_process import core_execute_in_process

from batch_pipeline.batches.model import Batch
from batch_pipeline.batches.states import AT_REST, BatchStatus, Reason
from batch_pipeline.dropped_interrupts import repeating_dropped
from batch_pipeline.orchestration import tags
from batch_pipeline.orchestration.ops import known_batch_job
from batch_pipeline.orchestration.requested_runs import run_config_of, run_tags_of
from batch_pipeline.orchestration.resources import HANDOVER, Handover, opened_system
from batch_pipeline.orchestration.run_attempt import cancelled_reason
from batch_pipeline.orchestration.undo_job import job_of
from batch_pipeline.storage.local_copy import LocalCopy
from batch_pipeline.system import System

PARENT_RUN_TAG = "dagster/parent_run_id"
ROOT_RUN_TAG = "dagster/root_run_id"


def execute_batch(
    system: System,
    instance: DagsterInstance,
    batch: Batch,
    *,
    upload: bytes | LocalCopy | None = None,
    log_level: str = "ERROR",
) -> Batch:
    """Runs a batch that awaits its caller as a Dagster run in this process; returns the ended batch.

    `upload`: the batch's payload as stored, or a local copy of it, if this process has it: the run does not fetch it.

    A re-run is linked to its parent in Dagster's UI. A failure is not raised; it is the batch's `reason`. An interrupt
    (SIGINT, or SIGTERM if its handler raises KeyboardInterrupt) is not raised either; the reason is `cancelled`.

    Raises UnavailableError if the database goes away, because the batch's state is then unknown. Other errors of
    Dagster itself end the batch and are raised.
    """
    return execute_until_interrupted(system, instance, batch, upload=upload, log_level=log_level)[0]


def execute_until_interrupted(
    system: System,
    instance: DagsterInstance,
    batch: Batch,
    *,
    upload: bytes | LocalCopy | None = None,
    log_level: str = "ERROR",
) -> tuple[Batch, bool]:
    """As `execute_batch`; also returns whether this process was interrupted and should run no more batches.

    The ledger can't show it: a batch that another process cancelled has the same reason.
    """
    from batch_pipeline.orchestration.run_events import gathering_events  # imports alembic, which few need

    run_tags = run_tags_of(batch) | {tags.IN_PROCESS: "true"}
    if batch.run_id is not None:
        parent = instance.get_run_by_id(batch.run_id)
        if parent is not None:
            run_tags |= {PARENT_RUN_TAG: parent.run_id, ROOT_RUN_TAG: parent.root_run_id or parent.run_id}
    config = {**run_config_of(batch), **quiet(log_level)}
    run_id = str(uuid4())
    handover = Handover(batch, upload)
    handed = HANDOVER.set(handover)
    try:
        with repeating_dropped(DagsterExecutionInterruptedError), gathering_events(instance, run_id):
            result = core_execute_in_process(
                job=InMemoryJob(_job_in_process(job_of(batch), system)),
                run_config=config,
                instance=instance,
                run_tags=run_tags,
                output_capturing_enabled=False,
                raise_on_error=False,
                run_id=run_id,
            )
        interrupted = any(map(is_interruption, result.all_events))
    except (KeyboardInterrupt, DagsterExecutionInterruptedError):
        interrupted = True  # before the first op, or after the last
    except Exception:
        _end_if_live(system, batch, interrupted=False)
        raise
    finally:
        HANDOVER.reset(handed)
    attempt = None if handover.workplace is None else handover.workplace.attempt
    if attempt is not None and attempt.batch.status is BatchStatus.completed:
        return attempt.batch, interrupted
    return _end_if_live(system, batch, interrupted=interrupted), interrupted


def prepare_job(system: System, run_config: Mapping[str, Any]) -> None:
    """Makes the job of a batch, with all that Dagster describes of it once, so that the first run need not."""
    job = _job_in_process(known_batch_job, system)
    create_execution_plan(InMemoryJob(job), run_config)
    job.get_job_snapshot_id()


@lru_cache(maxsize=4)
def _job_in_process(job: JobDefinition, system: System) -> JobDefinition:
    """The job as `execute_in_process` executes it, on the open system.

    That makes a new one for each run. Dagster then describes its ops and their config anew, which takes it as long as a
    small batch takes to be planned.
    """
    return job.as_ephemeral_job(resource_defs={"system": opened_system(system)}, input_values={})


def quiet(log_level: str) -> dict[str, Any]:
    """The run config that limits what a run prints."""
    return {"loggers": {"console": {"config": {"log_level": log_level}}}}


def _end_if_live(system: System, executed: Batch, *, interrupted: bool) -> Batch:
    """Ends a batch that no op ended, because its run ended before, between or after the ops. Returns the batch.

    `executed`: the batch before its run.
    """
    batch = system.ledger.get(executed.id)
    if batch.status in AT_REST and batch.awaits_run is None:
        return batch
    if batch.arrival != executed.arrival:  # another run has been requested since this one ended
        return batch
    if interrupted:
        return system.ledger.end(batch.id, BatchStatus.failed, cancelled_reason)
    reason = Reason("internal_error", "The batch's run ended outside its ops: see the run's log.")
    return system.ledger.end(batch.id, BatchStatus.failed, reason)


def is_interruption(event: DagsterEvent) -> bool:
    """Whether the event is the failure of a run that a signal interrupted."""
    error = event.job_failure_data.error if event.is_job_failure else None
    return error is not None and error.cls_name in (
        DagsterExecutionInterruptedError.__name__,
        KeyboardInterrupt.__name__,
    )
