"""Resolves the batch of a run: the batch that awaits it, the batch of its parent run, or a new Launchpad batch."""

from collections.abc import Callable
from pathlib import PurePosixPath

from dagster import Failure, OpExecutionContext

from batch_pipeline.batches.accept import ArrivedPayload, NewBatch, accept
from batch_pipeline.batches.ids import new_batch_id
from batch_pipeline.batches.model import Batch, Starter
from batch_pipeline.batches.options import label_from_file_name
from batch_pipeline.batches.organizations import get_organization
from batch_pipeline.batches.states import BatchStatus
from batch_pipeline.errors import RefusedError, StateError
from batch_pipeline.intake import inbox
from batch_pipeline.orchestration import tags
from batch_pipeline.orchestration.config import ApplyConfig, BatchConfig
from batch_pipeline.orchestration.requested_runs import run_tags_of
from batch_pipeline.orchestration.resources import Workplace
from batch_pipeline.orchestration.run_attempt import follow_cancelling
from batch_pipeline.records.registry import check_action
from batch_pipeline.storage import keys
from batch_pipeline.system import System


def batch_of_run(context: OpExecutionContext, workplace: Workplace) -> Batch:
    """The batch that an earlier op resolved, in this run or in the run that it re-executes.

    It may be outdated: the ledger checks each change that the run's attempt makes. Raises Failure if the ledger knows
    no batch of either run.
    """
    batch = _known_batch(context, workplace.system) if workplace.attempt is None else workplace.attempt.batch
    if batch is None:
        message = "The ledger has no batch for this run or for the run that it re-executes: re-execute the whole run."
        raise Failure(message, metadata={"code": "unknown_run"}, allow_retries=False)
    return batch


def batch_to_write(context: OpExecutionContext, workplace: Workplace) -> Batch:
    """As `batch_of_run`, for an op that writes.

    Raises Failure if the batch is planned: a re-execution from the failure of a run that found the plan changed begins
    at this op, and nobody has applied the new plan.
    """
    batch = batch_of_run(context, workplace)
    if batch.status is BatchStatus.planned:
        message = f"Batch {batch.id} is planned, so nothing is written: look at its plan, then apply it."
        raise Failure(message, metadata={"code": "not_applied"}, allow_retries=False)
    return batch


def requested_or_new(context: OpExecutionContext, workplace: Workplace, create: Callable[[System], Batch]) -> Batch:
    """The batch of a run that was requested, or that re-executes one; else the one that `create` makes.

    A new run from the Launchpad creates its batch. Raises as `create` does, and StateError (`run_refused`) if the run
    is not a re-execution and its tag names a batch that awaits no run.
    """
    if (handover := workplace.handover) is not None and handover.batch.awaits_run is not None:
        return handover.batch  # the ledger checks that it still awaits the run
    system = workplace.system
    batch = _requested(context, system)
    if batch is None:
        batch = create(system)
        context.instance.add_run_tags(context.run_id, run_tags_of(batch))
    return batch


def resolve_apply(context: OpExecutionContext, config: ApplyConfig, system: System) -> Batch:
    """The batch that the run applies. Requests the apply unless an earlier op or the re-executed run did.

    Raises NotFoundError, and StateError (`not_planned`, `plan_expired`).
    """
    known = _known_batch(context, system)
    if known is not None and known.id != config.batch:
        raise StateError("run_refused", f"The run that this one re-executes applies batch {known.id}: name that one.")
    if known is not None and known.status is not BatchStatus.planned:
        return known
    batch = system.ledger.request_apply(
        config.batch, Starter.caller, if_changed=config.if_changed, updated_by="launchpad"
    )
    context.instance.add_run_tags(context.run_id, run_tags_of(batch))
    return batch


def create_from_file(config: BatchConfig, system: System) -> Batch:
    """Creates a batch for a file in the bucket. A file in the inbox is taken in as the sensor does.

    Raises RefusedError if the config is invalid, StateError (`taken_in`) for a file that has its batch.
    """
    organization = get_organization(system.engine, config.organization)
    resource = str(config.resource.value)
    action = check_action(resource, config.action)
    options = config.options()
    key = _checked_key(config.file)
    found = system.store.stat(key)
    if key.startswith(keys.INBOX + "/"):
        address = inbox.read_address(key, {organization.id})
        if (address.organization_id, address.resource, address.action) != (
            organization.id,
            resource,
            action,
        ):
            raise RefusedError(
                "wrong_folder",
                f"{key} is not in the inbox of {config.action.value} of {resource} for "
                f"{organization.id}: correct the config, or move the file.",
            )
        batch = inbox.take_in_one(system, found, {organization.id}, starter=Starter.caller, options_override=options)
        if batch is None or batch.awaits_run is not Starter.caller:
            raise StateError("taken_in", f"{key} has been taken in already: look for its batch.")
        return batch
    batch_id = new_batch_id()
    file_name = PurePosixPath(key).name
    target = keys.upload(batch_id, file_name, saved=options.save_upload)
    system.store.copy(key, target)
    new = NewBatch(
        id=batch_id,
        organization_id=organization.id,
        resource=resource,
        action=action,
        name=options.name or label_from_file_name(file_name),
        options=options,
        source_key=key,
        updated_by="launchpad",
    )
    return accept(system.engine, new, payload=ArrivedPayload(target, options.save_upload, Starter.caller)).batch


def _requested(context: OpExecutionContext, system: System) -> Batch | None:
    """The batch that the run was requested for, or that it re-executes; None for a new run from the Launchpad."""
    run = context.run
    tagged = run.tags.get(tags.BATCH_ID)
    if tagged is not None and run.parent_run_id is None:
        batch = system.ledger.get(tagged)
        if batch.awaits_run is not None:
            return batch
    known = _known_batch(context, system)
    if known is not None:
        return known
    if tagged is not None:
        batch = system.ledger.get(tagged)
        if batch.awaits_run is None:
            if tags.RUN_KEY in run.tags or tags.IN_PROCESS in run.tags:  # requested by us, cancelled since
                follow_cancelling(context, batch)
            raise StateError(
                "run_refused",
                f"Batch {tagged} awaits no run: re-execute one of its runs, or launch without the tag {tags.BATCH_ID}.",
            )
        return batch
    return None


def _known_batch(context: OpExecutionContext, system: System) -> Batch | None:
    """The batch that this run, or a run that it re-executes, is an attempt at."""
    run = context.run
    for run_id in (run.run_id, run.parent_run_id, run.root_run_id):
        batch = system.ledger.of_run(run_id) if run_id else None
        if batch is not None:
            return batch
    return None


def _checked_key(text: str) -> str:
    """The key, checked to be within the prefix. Raises RefusedError for URLs, absolute paths and `.` or `..`."""
    parts = text.split("/")
    if "://" in text or not text or any(part in ("", ".", "..") for part in parts):
        raise RefusedError(
            "invalid_file",
            f"file must be a key in the configured bucket, such as uploads/default/contact/merge/people.csv; "
            f"{text[:200]!r} is none.",
        )
    return text
