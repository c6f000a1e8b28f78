"""The calls on batches: each checks headers and parameters, calls `service`, and puts the result into the envelope."""

import re
from collections import Counter
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path, Query, Request
from fastapi.responses import Response
from fastapi.security import APIKeyHeader

from batch_pipeline.api import document
from batch_pipeline.api.bodies import Body, read_body, read_optional_body, require_json
from batch_pipeline.api.envelope import UnauthorizedError, answer
from batch_pipeline.api.limits import RateLimits
from batch_pipeline.api.models import (
    BATCH_ID_PATTERN,
    ApplyRequest,
    BatchOut,
    DescribedBatchOut,
    Envelope,
    IncludeQuery,
    ListQuery,
    RequestedBatchOut,
    RetryRequest,
    UndoRequest,
)
from batch_pipeline.batches.accept import IdempotencyKey
from batch_pipeline.batches.api_keys import act_for_key, find_key, find_key_and_batch
from batch_pipeline.batches.ids import is_batch_id
from batch_pipeline.batches.listing import Filters, list_page
from batch_pipeline.batches.model import Batch, Mode
from batch_pipeline.batches.states import BatchStatus
from batch_pipeline.errors import TooLargeError, WrongValuesError
from batch_pipeline.logs import bind
from batch_pipeline.service import applying, changing, creating
from batch_pipeline.service.context import Service
from batch_pipeline.service.creating import Caller
from batch_pipeline.service.urls import download_urls, upload_url

router = APIRouter(prefix="/v1/batches", tags=["batches"])

KEY_HEADERS = (
    APIKeyHeader(name="X-API-Key", scheme_name="key", auto_error=False),
    APIKeyHeader(name="PX-API-KEY", scheme_name="key in PX-API-KEY", auto_error=False),
)
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")

BatchId = Annotated[
    str, Path(json_schema_extra={"pattern": BATCH_ID_PATTERN}, examples=["batch_2Nq8XW6vCkT1aBcDeFgHiJ"])
]


async def get_service(request: Request) -> Service:
    """The service of this process."""
    service: Service = request.app.state.service
    return service


Served = Annotated[Service, Depends(get_service)]


async def authenticate(
    request: Request,
    service: Served,
    key: Annotated[str | None, Depends(KEY_HEADERS[0])],
    other_key: Annotated[str | None, Depends(KEY_HEADERS[1])],
) -> Caller:
    """The caller of the key; log records of the call name its organization and batch. Raises UnauthorizedError."""
    found = await find_caller(service, _sent_key(key, other_key))
    if found is None:
        raise _unknown_key()
    _bind(found.organization_id, str(request.path_params.get("batch_id", "")))
    return found


async def find_caller(service: Service, key: str) -> Caller | None:
    """The caller of the key, for which the database shows rows from now on; None if it is unknown or revoked."""
    act_for_key(key)  # here: what a thread sets in its context ends with the thread
    found = await service.in_thread(find_key, service.system.engine, key)
    return None if found is None else Caller(found.organization_id, found.id)


async def read_batch(
    request: Request,
    service: Served,
    key: Annotated[str | None, Depends(KEY_HEADERS[0])],
    other_key: Annotated[str | None, Depends(KEY_HEADERS[1])],
    batch_id: BatchId,
) -> Batch | None:
    """As `authenticate` and `limit_rate`, with the caller's batch of this id: one transaction, in one thread."""
    sent = _sent_key(key, other_key)
    act_for_key(sent)
    found = await service.in_thread(find_key_and_batch, service.system.engine, sent, batch_id)
    if found is None:
        raise _unknown_key()
    caller, batch = found
    _bind(caller.organization_id, batch_id)
    limits: RateLimits = request.app.state.limits
    limits.take(caller.organization_id)
    return batch


def _sent_key(key: str | None, other_key: str | None) -> str:
    sent = key or other_key
    if not sent:
        raise UnauthorizedError("Send a key in the header X-API-Key.")
    return sent


def _bind(organization_id: str, batch_id: str) -> None:
    """Names them in the log records of the call; never just any text of the caller's."""
    bind(organization=organization_id, batch=batch_id if is_batch_id(batch_id) else None)


def _unknown_key() -> UnauthorizedError:
    return UnauthorizedError("The key in the header X-API-Key is unknown or revoked.")


Authenticated = Annotated[Caller, Depends(authenticate)]


async def limit_rate(request: Request, caller: Authenticated) -> Caller:
    """The caller; counts the call. Raises RateLimitedError."""
    limits: RateLimits = request.app.state.limits
    limits.take(caller.organization_id)
    return caller


Limited = Annotated[Caller, Depends(limit_rate)]


async def refuse_repeated(request: Request) -> None:
    """Raises WrongValuesError where a query parameter is given more than once: which one counts would be a guess."""
    counted = Counter(name for name, _ in request.query_params.multi_items())
    repeated = sorted(name for name, number in counted.items() if number > 1)
    if repeated:
        raise WrongValuesError([f"{name}: is given more than once" for name in repeated])


@router.post(
    "",
    summary="Create a batch",
    status_code=202,
    response_model=None,
    responses={
        200: {"model": Envelope[BatchOut], "description": "Mode sync: the final batch, whatever its status"},
        201: {"model": Envelope[RequestedBatchOut], "description": "The batch awaits its file at `_upload_url`"},
        202: {"model": Envelope[BatchOut], "description": "Mode mixed: validated, or not yet after 30 s"},
        **document.errors(400, 401, 409, 413, 415, 422, 429, 503, refused_payload=True),
    },
    openapi_extra=document.create_body(),
)
async def create(
    request: Request,
    service: Served,
    caller: Authenticated,
    idempotency_key: Annotated[
        str | None,
        Header(
            description="The same key and body within 24 hours answers the same batch",
            json_schema_extra={"minLength": 1, "maxLength": 255, "pattern": r"^[\x21-\x7e]+$"},
        ),
    ] = None,
) -> Response:
    """With the items in `data`, or for a file that you send to the URL in the answer."""
    limits: RateLimits = request.app.state.limits
    if idempotency_key is None:
        limits.take(caller.organization_id)
    body, caller = await _read_body_and_key(request, service, caller, idempotency_key)
    batch = await creating.find_earlier(service, caller)
    if batch is None:
        if idempotency_key is not None:
            limits.take(caller.organization_id)
            if not _IDEMPOTENCY_KEY.fullmatch(idempotency_key):
                raise WrongValuesError(["Idempotency-Key: must be 1 to 255 visible ASCII characters"])
        require_json(request)
        batch = await creating.create_batch(service, caller, body.view)
    return _created(request, service, batch)


async def _read_body_and_key(
    request: Request, service: Service, caller: Caller, idempotency_key: str | None
) -> tuple[Body, Caller]:
    """The body, and the caller with the idempotency key and the body's hash.

    A body over the limit differs from every accepted body, so a known key with such a body is a conflict.
    """
    limit = service.system.settings.max_inline_bytes
    usable = idempotency_key is not None and idempotency_key.isascii() and "\x00" not in idempotency_key
    try:
        body = await read_body(request, service, limit_bytes=limit, limit_name="BATCH_MAX_INLINE_BYTES")
    except TooLargeError:
        if usable:
            await creating.find_earlier(service, _with_key(caller, str(idempotency_key), b""))
        raise
    return body, _with_key(caller, str(idempotency_key), body.sha256) if usable else caller


def _with_key(caller: Caller, key: str, body_hash: bytes) -> Caller:
    return Caller(caller.organization_id, caller.key_id, IdempotencyKey(key, body_hash))


def _created(request: Request, service: Service, batch: Batch) -> Response:
    data = batch.to_json()
    if batch.is_refused:
        return _refused(request, batch, "The payload is refused")
    if batch.upload_expires_at is not None:
        data |= upload_url(service, batch)
        return answer(request, HTTPStatus.CREATED, "Batch created: it awaits its file.", data=data)
    if batch.mode is Mode.sync:
        return answer(request, HTTPStatus.OK, f"Batch {batch.status}.", data=data)
    return answer(request, HTTPStatus.ACCEPTED, "Batch accepted.", data=data)


@router.get(
    "",
    summary="List batches",
    response_model=Envelope[list[BatchOut]],
    responses=document.errors(401, 422, 429, 503),
    dependencies=[Depends(refuse_repeated)],
)
async def list_batches(
    request: Request, service: Served, caller: Limited, query: Annotated[ListQuery, Query()]
) -> Response:
    """By creation, oldest first unless `order=desc`."""
    filters = Filters(query.resource, query.action, query.mode, query.via, query.status)
    page = await service.in_thread(
        list_page,
        service.system.engine,
        caller.organization_id,
        filters,
        page=query.page,
        limit=query.limit,
        newest_first=query.order == "desc",
    )
    pagination = {
        "page": query.page,
        "limit": query.limit,
        "has_more": page.has_more,
        "total_count": page.total_count,
    }
    message = "Batches retrieved successfully."
    return answer(request, HTTPStatus.OK, message, data=page.batches, pagination=pagination)


@router.get(
    "/{batch_id}",
    summary="Retrieve a batch",
    response_model=Envelope[DescribedBatchOut],
    responses=document.errors(401, 404, 422, 429, 503),
    dependencies=[Depends(refuse_repeated)],
)
async def retrieve(
    request: Request,
    service: Served,
    found: Annotated[Batch | None, Depends(read_batch)],
    query: Annotated[IncludeQuery, Query()],
) -> Response:
    """Live while it runs; with the requested URLs of its files."""
    batch = changing.require_shown(found)
    wanted = [name.removeprefix("include_") for name, is_wanted in query.model_dump().items() if is_wanted]
    urls = await service.in_thread(download_urls, service, batch, wanted) if wanted else {}
    return answer(request, HTTPStatus.OK, "Batch retrieved successfully.", data={**batch.to_json(), **urls})


@router.post(
    "/{batch_id}/cancel",
    summary="Cancel a batch",
    response_model=Envelope[BatchOut],
    responses=document.errors(401, 404, 409, 429, 503),
)
async def cancel(request: Request, service: Served, caller: Limited, batch_id: BatchId) -> Response:
    """Processing stops at the next chunk. Written records stay. A retry processes the rest."""
    batch = await changing.cancel(service, caller, batch_id)
    return answer(request, HTTPStatus.OK, "Batch cancelled.", data=batch.to_json())


@router.post(
    "/{batch_id}/retry",
    summary="Run a batch again",
    status_code=202,
    response_model=Envelope[BatchOut],
    responses=document.errors(400, 401, 404, 409, 413, 415, 422, 429, 503),
    openapi_extra=document.retry_body(),
)
async def retry(request: Request, service: Served, caller: Limited, batch_id: BatchId) -> Response:
    """Resumes a failed or timed-out batch where it stopped; `failed_rows` creates a batch of its rejected items."""
    asked = await read_optional_body(request, service, RetryRequest)
    do = changing.retry_failed_rows if asked.failed_rows else changing.retry
    batch = await do(service, caller, batch_id)
    message = "A batch of the rejected items was created." if asked.failed_rows else "The batch will run again."
    return answer(request, HTTPStatus.ACCEPTED, message, data=batch.to_json())


@router.post(
    "/{batch_id}/apply",
    summary="Apply a plan",
    status_code=202,
    response_model=None,
    responses={
        202: {"model": Envelope[BatchOut], "description": "The plan is being written, or not yet after 30 s"},
        **document.errors(400, 401, 404, 413, 415, 422, 429, 503, refused_payload=True),
        409: document.plan_changed(),
    },
    openapi_extra=document.apply_body(),
)
async def apply(request: Request, service: Served, caller: Limited, batch_id: BatchId) -> Response:
    """Writes a planned batch exactly as its plan says. If the plan has changed since, nothing is written."""
    asked = await read_optional_body(request, service, ApplyRequest)
    batch = await applying.apply(service, caller, batch_id, if_changed=asked.if_changed, digest=asked.digest)
    data = batch.to_json()
    if batch.status is BatchStatus.planned:
        message = "The plan has changed since it was shown, so nothing was written: look at the new one in `data`."
        return answer(request, HTTPStatus.CONFLICT, message, data=data, errors=[message], code="plan_changed")
    if batch.is_refused:
        return _refused(request, batch, "The plan was not written")
    if batch.status in (BatchStatus.processing, BatchStatus.completed):
        return answer(request, HTTPStatus.ACCEPTED, "The plan is applied.", data=data)
    message = "The plan will be applied." if batch.status is BatchStatus.queued else f"Batch {batch.status}."
    return answer(request, HTTPStatus.ACCEPTED, message, data=data)


def _refused(request: Request, batch: Batch, what: str) -> Response:
    """The answer with a batch that a rule for whole batches refused."""
    assert batch.reason is not None  # noqa: S101 - refused
    message = f"{what}: {batch.reason.message}"
    status = HTTPStatus.UNPROCESSABLE_ENTITY
    return answer(request, status, message, data=batch.to_json(), errors=[batch.reason.message], code=batch.reason.code)


@router.post(
    "/{batch_id}/undo",
    summary="Undo a batch",
    status_code=202,
    response_model=Envelope[BatchOut],
    responses=document.errors(400, 401, 404, 409, 413, 415, 422, 429, 503),
    openapi_extra=document.undo_body(),
)
async def undo(request: Request, service: Served, caller: Limited, batch_id: BatchId) -> Response:
    """Makes a batch that takes back what this one wrote, field by field. Whatever was changed since stays."""
    options = await read_optional_body(request, service, UndoRequest)
    batch = await changing.undo(service, caller, batch_id, options)
    return answer(request, HTTPStatus.ACCEPTED, "A batch that undoes it was created.", data=batch.to_json())
