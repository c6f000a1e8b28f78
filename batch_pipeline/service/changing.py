"""Finds, cancels, re-runs and undoes the batches of one organization."""

from batch_pipeline.batches.ids import is_batch_id
from batch_pipeline.batches.model import Batch, Starter
from batch_pipeline.batches.options import UndoOptions
from batch_pipeline.errors import NotFoundError
from batch_pipeline.intake.rejected_items import create_from_rejected
from batch_pipeline.intake.undoing import request_undo
from batch_pipeline.service.context import Service
from batch_pipeline.service.creating import Caller, launch


async def find_batch(service: Service, caller: Caller, batch_id: str) -> Batch:
    """The caller's batch. Raises NotFoundError, also for another organization's and for text that is not an id.

    Also for batches of inbox folders that name no known resource or action: only the operator sees those.
    """
    if not is_batch_id(batch_id):
        return require_shown(None)
    return require_shown(await service.in_thread(service.system.ledger.get, batch_id, caller.organization_id))


def require_shown(batch: Batch | None) -> Batch:
    """The batch. Raises NotFoundError as `find_batch`, for None too."""
    if batch is None or batch.resource is None or batch.action is None:
        raise NotFoundError("batch_not_found", "There is no batch of this id.")
    return batch


async def cancel(service: Service, caller: Caller, batch_id: str) -> Batch:
    """Cancels the batch. Raises NotFoundError, StateError (`not_cancellable`) and UnavailableError."""
    batch = await find_batch(service, caller, batch_id)
    return await service.in_thread(_cancel, service, batch.id, caller.key_id)


async def retry(service: Service, caller: Caller, batch_id: str) -> Batch:
    """Requests a re-run of a failed or timed-out batch. Changes nothing if the re-run is already requested.

    Raises NotFoundError and StateError (`not_rerunnable`, `nothing_to_rerun`).
    """
    batch = await find_batch(service, caller, batch_id)
    if batch.awaits_run is not None and batch.arrival != batch.first_arrival:  # a re-run, requested already
        return batch
    batch = await service.in_thread(
        service.system.ledger.request_rerun,
        batch.id,
        Starter.launcher,
        claim_seconds=service.claim_seconds,
        updated_by=caller.key_id,
    )
    await launch(service, batch)
    return await service.in_thread(service.system.ledger.get, batch.id)


async def retry_failed_rows(service: Service, caller: Caller, batch_id: str) -> Batch:
    """Makes a new batch of the items that the batch rejected. Raises as `create_from_rejected` does."""
    original = await find_batch(service, caller, batch_id)
    batch = await service.in_thread(
        create_from_rejected,
        service.system,
        original.id,
        starter=Starter.launcher,
        claim_seconds=service.claim_seconds,
        updated_by=caller.key_id,
    )
    await launch(service, batch)
    return await service.in_thread(service.system.ledger.get, batch.id)


async def undo(service: Service, caller: Caller, batch_id: str, options: UndoOptions) -> Batch:
    """Makes a new batch that takes the batch back. Raises NotFoundError, and StateError as `require_undoable` does."""
    undone = await find_batch(service, caller, batch_id)
    batch = await service.in_thread(
        request_undo,
        service.system,
        undone.id,
        starter=Starter.launcher,
        options=options,
        claim_seconds=service.claim_seconds,
        updated_by=caller.key_id,
    )
    await launch(service, batch)
    return await service.in_thread(service.system.ledger.get, batch.id)


def _cancel(service: Service, batch_id: str, key_id: str) -> Batch:
    # Imported here: a process of the API needs Dagster for nothing else, and it takes most of a second.
    from batch_pipeline.orchestration.instance import open_instance
    from batch_pipeline.orchestration.reconciling import cancel_batch

    with open_instance(in_process=True) as instance:
        return cancel_batch(service.system, instance, batch_id, updated_by=key_id)
