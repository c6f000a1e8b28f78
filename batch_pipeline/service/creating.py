"""Creates batches: for an upload, or of items in the call, in the modes mixed and sync."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from batch_pipeline.batches.accept import (
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
from batch_pipeline.batches.model import Action, Batch, Mode, Starter, Via
from batch_pipeline.batches.options import BatchOptions
from batch_pipeline.batches.queries import count_awaiting
from batch_pipeline.batches.states import AT_REST, BatchStatus, Reason
from batch_pipeline.errors import BusyError, TooLargeError, WrongValuesError
from batch_pipeline.orchestration.requested_runs import QUEUED_PER_SLOT
from batch_pipeline.orchestration.workers import LOST_WORKER, NoWorkerError, Worker, WorkerLostError
from batch_pipeline.service.context import Service
from batch_pipeline.service.payload import EVENT_LOOP_BYTES, InlinePayload, inline_payload
from batch_pipeline.service.request import BatchRequest, read_members, read_request
from batch_pipeline.storage import keys
from batch_pipeline.system import System

# Between a batch's time-out and the end of a worker that has not stopped it.
_OVERDUE_SECONDS = 30.0
# A call waits this long for a worker, then checks its turn and its idempotency key again.
_WORKER_SECONDS = 1.0


@dataclass(frozen=True)
class Caller:
    """The organization and API key of a call, and its idempotency key, if any."""

    organization_id: str
    key_id: str
    idempotency: IdempotencyKey | None = None


async def find_earlier(service: Service, caller: Caller) -> Batch | None:
    """The batch of an earlier call with the same idempotency key and body, as it is now.

    Raises StateError (`idempotency_conflict`) for another body.
    """
    if caller.idempotency is None:
        return None
    return await service.in_thread(find_accepted, service.system.engine, caller.organization_id, caller.idempotency)


async def create_batch(service: Service, caller: Caller, body: memoryview) -> Batch:
    """Creates the batch that the JSON text describes, or finds that of an earlier call, and waits as its mode requires.

    Mode sync: the batch is final. Mode mixed, with items: it is validated, or has ended, or the time to wait is over.

    If the caller is cancelled, the batch is accepted and will run, or it is not accepted and leaves no payload.

    Raises MalformedError, WrongValuesError, TooLargeError, BusyError (`resource_busy`), StateError
    (`idempotency_conflict`) and UnavailableError, each without having created anything.
    """
    request, payload = _read(body) if len(body) <= EVENT_LOOP_BYTES else await service.in_thread(_read, body)
    if payload is None:
        return await _create_for_upload(service, caller, request)
    if request.mode is Mode.mixed:
        return await _create_mixed(service, caller, request, payload)
    return await _create_sync(service, caller, request, payload)


def _read(body: memoryview) -> tuple[BatchRequest, InlinePayload | None]:
    members = read_members(body)
    return read_request(members), inline_payload(members.get("data", memoryview(b"null")))


async def launch(service: Service, batch: Batch) -> None:
    """Launches the run that the batch awaits, if the call has claimed the launch (`Service.claim_seconds`).

    The sensor launches it instead where Dagster does not answer, and where the organization has enough runs in the
    queue: the sensor gives each organization its turn.
    """
    if batch.launch_claimed_until is not None:
        await service.in_thread(_launch, service, batch)


def _launch(service: Service, batch: Batch) -> None:
    engine = service.system.engine
    most = QUEUED_PER_SLOT * service.system.settings.organization_runs
    waiting = count_awaiting(engine, batch.address.organization_id)
    if waiting > most or not service.launcher.launch(batch):
        release_claim(engine, batch.id)


async def _create_for_upload(service: Service, caller: Caller, request: BatchRequest) -> Batch:
    if request.mode is Mode.sync:
        raise WrongValuesError(["data: is required in mode sync"])
    expires_at = datetime.now(UTC) + timedelta(seconds=service.system.settings.upload_url_seconds)
    new = _new_batch(caller, request, request.options(), via=Via.file, upload_expires_at=expires_at)

    def accept_for_upload() -> Batch:
        service.presigner.require_credentials()  # without them, nothing is created
        return accept(service.system.engine, new, idempotency=caller.idempotency).batch

    return await service.in_thread(accept_for_upload)


async def _create_mixed(service: Service, caller: Caller, request: BatchRequest, payload: InlinePayload) -> Batch:
    new = _new_batch(caller, request, request.options(), via=Via.api, file_name=payload.file_name)
    async with service.listener.changes(new.id) as changes:
        batch, is_new = await service.finish(_accept(service, caller, new, payload, Starter.launcher))
        if not is_new:
            return batch
        await launch(service, batch)
        deadline = time.monotonic() + service.system.settings.mixed_wait_seconds
        while batch.status == BatchStatus.requested and (left := deadline - time.monotonic()) > 0:
            await changes.next(at_most_seconds=left)
            batch = await service.in_thread(service.system.ledger.get, new.id)
    return batch


async def _create_sync(service: Service, caller: Caller, request: BatchRequest, payload: InlinePayload) -> Batch:
    settings = service.system.settings
    options = _sync_options(request.options(), settings.sync_timeout_seconds)
    await service.in_thread(_check_sync_limits, service, payload)
    new = _new_batch(caller, request, options, via=Via.api, file_name=payload.file_name)
    organization_id, resource = caller.organization_id, request.resource
    deadline = time.monotonic() + settings.sync_turn_seconds
    async with service.listener.changes(f"{organization_id}/{resource}") as changes:
        while True:
            left = deadline - time.monotonic()
            if (earlier := await find_earlier(service, caller)) is not None:
                return earlier
            if await service.in_thread(is_turn_free, service.system.engine, organization_id, resource):
                seconds = min(left, _WORKER_SECONDS)
                batch = await service.finish(_accept_and_run(service, caller, new, payload, worker_seconds=seconds))
                if batch is not None:
                    return batch
            if left <= 0:
                raise BusyError(
                    "resource_busy",
                    f"Other batches were being processed for {settings.sync_turn_seconds:g} seconds: "
                    "try again, or use mode mixed, which waits in line.",
                )
            await changes.next(at_most_seconds=left)


async def _accept_and_run(
    service: Service, caller: Caller, new: NewBatch, payload: InlinePayload, *, worker_seconds: float
) -> Batch | None:
    """The batch, final unless it is that of an earlier call; None if no worker is free, or it is not its turn."""
    try:
        async with service.workers.worker(at_most_seconds=worker_seconds) as worker:
            batch, is_new = await _accept(service, caller, new, payload, Starter.caller)
            return await _run(service, worker, batch, payload) if is_new else batch
    except (NoWorkerError, BusyError):
        return None


async def _accept(
    service: Service, caller: Caller, new: NewBatch, payload: InlinePayload, starter: Starter
) -> Accepted:
    """Stores the payload and accepts the batch. Raises BusyError where a batch in mode sync would wait for its turn.

    Deletes the payload again unless the batch is new.
    """
    arrived = ArrivedPayload(
        key=keys.upload(new.id, payload.file_name, saved=new.options.save_upload),
        saved=new.options.save_upload,
        starter=starter,
        claim_seconds=service.claim_seconds if starter is Starter.launcher else None,
    )
    async with service.storing:
        return await service.in_thread(_store_and_accept, service.system, new, payload, arrived, caller.idempotency)


def _store_and_accept(
    system: System, new: NewBatch, payload: InlinePayload, arrived: ArrivedPayload, idempotency: IdempotencyKey | None
) -> Accepted:
    is_new = False
    payload.store(system.store, arrived.key)
    try:
        accepted = accept(
            system.engine,
            new,
            payload=arrived,
            idempotency=idempotency,
            only_if_turn_is_free=arrived.starter is Starter.caller,
        )
        is_new = accepted.is_new
    finally:
        if not is_new:
            system.store.delete(arrived.key)
    return accepted


async def _run(service: Service, worker: Worker, batch: Batch, payload: InlinePayload) -> Batch:
    """Runs the batch to its end in the worker, or ends it where the worker is lost."""
    ledger = service.system.ledger
    seconds = int(batch.options["timeout_seconds"])
    try:
        await worker.run(batch, at_most_seconds=seconds + _OVERDUE_SECONDS, upload=bytes(payload.view))
    except WorkerLostError:
        if service.workers.closed:
            return batch  # reconciling ends it: the database may hold the lost process's locks for a while
        return await service.in_thread(ledger.end, batch.id, BatchStatus.failed, LOST_WORKER)
    ended = await service.in_thread(ledger.get, batch.id)
    if ended.status not in AT_REST:
        reason = Reason(
            "internal_error",
            "The batch's run ended without recording a result: see the log of the API, then retry the batch.",
        )
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
        action=Action(request.action.value),
        name=options.name or f"{request.resource} {request.action.value}",
        options=options,
        mode=request.mode,
        via=via,
        source_key=file_name,
        upload_expires_at=upload_expires_at,
        updated_by=caller.key_id,
    )
