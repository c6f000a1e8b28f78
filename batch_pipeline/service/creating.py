"""Creating a batch: for an upload to come, or of items that came with the call, in the modes mixed and sync."""

import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from batch_pipeline.batches.accept import (
    CLAIM_SECONDS,
    Accepted,
    ArrivedPayload,
    IdempotencyKey,
    NewBatch,
    accept,
    find_accepted,
    is_turn_free,
    release_claim,
)
from batch_pipeline.batches.ids import new_batch_id
from batch_pipeline.batches.model import Batch, Mode, Starter, Via
from batch_pipeline.batches.options import BatchOptions
from batch_pipeline.batches.queries import count_awaiting
from batch_pipeline.batches.states import FINAL, BatchStatus, Reason
from batch_pipeline.errors import BusyError, TooLargeError, WrongValuesError
from batch_pipeline.orchestration.reconciling import LOST_WORKER
from batch_pipeline.orchestration.run_queue import QUEUED_PER_SLOT
from batch_pipeline.orchestration.workers import NoWorkerError, Worker, WorkerLostError
from batch_pipeline.service.context import Service
from batch_pipeline.service.payload import InlinePayload, inline_payload
from batch_pipeline.service.request import BatchRequest, read_members, read_request
from batch_pipeline.storage import keys

# A worker that has not stopped by itself so long after the batch's time is up is killed.
_OVERDUE_SECONDS = 30.0
# So long a call waits for a worker before it looks again for its turn, and for its batch made by another call.
_WORKER_SECONDS = 1.0


@dataclass(frozen=True)
class Caller:
    """Who calls: whose batches, by which key, and with which idempotency key, if any."""

    organization_id: str
    key_id: str
    idempotency: IdempotencyKey | None = None


async def find_earlier(service: Service, caller: Caller) -> Batch | None:
    """The batch of an earlier call with the same idempotency key and body, as it now is.

    Raises StateError (`idempotency_conflict`) where the body was another.
    """
    if caller.idempotency is None:
        return None
    return await service.in_thread(find_accepted, service.system.engine, caller.organization_id, caller.idempotency)


async def create_batch(service: Service, caller: Caller, body: memoryview) -> Batch:
    """Creates the batch that the JSON text asks for, and waits as its mode says; or finds that of an earlier call.

    Mode sync: the batch is final. Mode mixed, with items: it is validated, or has ended, or the wait was too long.

    Raises MalformedError, WrongValuesError, TooLargeError, BusyError (`resource_busy`), StateError
    (`idempotency_conflict`) and UnavailableError, each without having created anything.
    """
    members = read_members(body)
    request = read_request(members)
    with inline_payload(members.get("data", memoryview(b"null"))) as payload:
        if payload is None:
            return await _create_for_upload(service, caller, request)
        if request.mode is Mode.mixed:
            return await _create_mixed(service, caller, request, payload)
        return await _create_sync(service, caller, request, payload)


async def launch(service: Service, batch: Batch) -> None:
    """Asks Dagster for the run that the batch awaits; where it does not answer, the sensor asks once it is back.

    So does the sensor where the organization's next runs wait already: it gives every organization its turn.
    """
    most = QUEUED_PER_SLOT * service.system.settings.organization_runs
    waiting = await service.in_thread(count_awaiting, service.system.engine, batch.address.organization_id)
    if waiting > most or not await service.in_thread(service.launcher.launch, batch):
        await service.in_thread(release_claim, service.system.engine, batch.id)


async def _create_for_upload(service: Service, caller: Caller, request: BatchRequest) -> Batch:
    if request.mode is Mode.sync:
        raise WrongValuesError(["data: is required in mode sync"])
    expires_at = datetime.now(UTC) + timedelta(seconds=service.system.settings.upload_url_seconds)
    new = _new_batch(caller, request, request.options(), via=Via.file, upload_expires_at=expires_at)
    service.presigner.put_url(keys.requested(new.id), seconds=1)  # where it can't be signed, nothing is created
    return (await service.in_thread(accept, service.system.engine, new, idempotency=caller.idempotency)).batch


async def _create_mixed(service: Service, caller: Caller, request: BatchRequest, payload: InlinePayload) -> Batch:
    new = _new_batch(caller, request, request.options(), via=Via.api, file_name=payload.file_name)
    async with service.watch.changes(new.id) as changes:
        batch, is_new = await _accept(service, caller, new, payload, Starter.launcher)
        if not is_new:
            return batch
        await launch(service, batch)
        deadline = time.monotonic() + service.system.settings.mixed_wait_seconds
        while (
            batch := await service.in_thread(service.system.ledger.get, new.id)
        ).status == BatchStatus.requested and (left := deadline - time.monotonic()) > 0:
            await changes.next(at_most_seconds=left)
    return batch


async def _create_sync(service: Service, caller: Caller, request: BatchRequest, payload: InlinePayload) -> Batch:
    settings = service.system.settings
    options = _sync_options(request.options(), settings.sync_timeout_seconds)
    await service.in_thread(_check_sync_limits, service, payload)
    new = _new_batch(caller, request, options, via=Via.api, file_name=payload.file_name)
    organization_id, resource = caller.organization_id, request.resource
    deadline = time.monotonic() + settings.sync_turn_seconds
    async with service.watch.changes(f"{organization_id}/{resource}") as changes:
        while True:
            left = deadline - time.monotonic()
            if (earlier := await find_earlier(service, caller)) is not None:
                return earlier
            if await service.in_thread(is_turn_free, service.system.engine, organization_id, resource):
                with suppress(NoWorkerError, BusyError):
                    async with service.workers.worker(at_most_seconds=min(left, _WORKER_SECONDS)) as worker:
                        batch, is_new = await _accept(service, caller, new, payload, Starter.caller)
                        return await _run(service, worker, batch) if is_new else batch
            if left <= 0:
                raise BusyError(
                    "resource_busy",
                    f"Other batches were being processed for {settings.sync_turn_seconds:g} seconds: "
                    "try again, or use mode mixed, which waits in line.",
                )
            await changes.next(at_most_seconds=left)


async def _accept(
    service: Service, caller: Caller, new: NewBatch, payload: InlinePayload, starter: Starter
) -> Accepted:
    """Stores the payload and accepts the batch. Raises BusyError where a batch in mode sync would wait for its turn.

    Nothing stays in storage unless the batch is new.
    """
    saved = new.options.save_upload
    key = keys.upload(new.id, payload.file_name, saved=saved)
    is_new = False
    await service.in_thread(payload.store, service.system.store, key)
    try:
        accepted = await service.in_thread(
            accept,
            service.system.engine,
            new,
            payload=ArrivedPayload(key, saved, starter, CLAIM_SECONDS if starter is Starter.launcher else None),
            idempotency=caller.idempotency,
            only_if_turn_is_free=starter is Starter.caller,
        )
        is_new = accepted.is_new
    finally:
        if not is_new:
            await service.in_thread(service.system.store.delete, key)
    return accepted


async def _run(service: Service, worker: Worker, batch: Batch) -> Batch:
    """Runs the batch to its end in the worker."""
    ledger = service.system.ledger
    seconds = int(batch.options["timeout_seconds"])
    try:
        await worker.run(batch.id, at_most_seconds=seconds + _OVERDUE_SECONDS)
    except WorkerLostError:
        return await service.in_thread(ledger.end, batch.id, BatchStatus.failed, LOST_WORKER)
    ended = await service.in_thread(ledger.get, batch.id)
    if ended.status not in FINAL:
        reason = Reason("internal_error", "The batch's run ended without a word: see the log of the API.")
        ended = await service.in_thread(ledger.end, batch.id, BatchStatus.failed, reason)
    return ended


def _check_sync_limits(service: Service, payload: InlinePayload) -> None:
    settings = service.system.settings
    if payload.size > settings.sync_max_bytes:
        raise TooLargeError(
            f"Mode sync takes at most {settings.sync_max_bytes:,} bytes (BATCH_SYNC_MAX_BYTES), these are "
            f"{payload.size:,}: use mode mixed."
        )
    if payload.count_items(settings, at_most=settings.sync_max_items) > settings.sync_max_items:
        raise TooLargeError(
            f"Mode sync takes at most {settings.sync_max_items:,} items (BATCH_SYNC_MAX_ITEMS): use mode mixed."
        )


def _sync_options(options: BatchOptions, at_most_seconds: int) -> BatchOptions:
    if options.timeout_seconds is not None and options.timeout_seconds > at_most_seconds:
        raise WrongValuesError([f"timeout_seconds: must be at most {at_most_seconds} in mode sync"])
    return options.model_copy(update={"timeout_seconds": options.timeout_seconds or at_most_seconds})


def _new_batch(
    caller: Caller,
    request: BatchRequest,
    options: BatchOptions,
    *,
    via: Via,
    file_name: str | None = None,
    upload_expires_at: datetime | None = None,
) -> NewBatch:
    return NewBatch(
        id=new_batch_id(),
        organization_id=caller.organization_id,
        resource=request.resource,
        action=request.action,
        name=options.name or f"{request.resource} {request.action.value}",
        options=options,
        mode=request.mode,
        via=via,
        source_key=file_name,
        upload_expires_at=upload_expires_at,
        updated_by=caller.key_id,
    )
