"""The calls on webhooks: each organization's own."""

from http import HTTPStatus
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from batch_pipeline.api import document
from batch_pipeline.api.bodies import read_optional_body, read_required_body
from batch_pipeline.api.envelope import answer
from batch_pipeline.api.models import Envelope
from batch_pipeline.api.paging import PageQuery, paginate
from batch_pipeline.api.routes import Limited, Served, refuse_repeated
from batch_pipeline.batches.deliveries import DELIVERY_ID_PATTERN, DeliveryStatus, list_deliveries, redeliver
from batch_pipeline.batches.outbox import EventType
from batch_pipeline.batches.webhooks import (
    MOST_URL_CHARACTERS,
    URL_PATTERN,
    WEBHOOK_ID_PATTERN,
    Webhook,
    create_webhook,
    delete_webhook,
    get_webhook,
    list_webhooks,
    rotate_secret,
)
from batch_pipeline.notifications.dispatching import send_test
from batch_pipeline.notifications.sending import Sender

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])

WebhookId = Annotated[
    str, Path(json_schema_extra={"pattern": WEBHOOK_ID_PATTERN}, examples=["whk_2Nq8XW6vCkT1aBcDeFgHiJ"])
]
_Moment = Annotated[int, Field(description="Epoch seconds", examples=[1767225600])]


class CreateWebhook(BaseModel):
    """The request to create a webhook."""

    model_config = ConfigDict(extra="forbid")

    url: str = Field(
        description="Where events are sent, by https to a public address",
        json_schema_extra={"pattern": URL_PATTERN, "maxLength": MOST_URL_CHARACTERS},
        examples=["https://example.com/hooks/batches"],
    )
    events: list[EventType] = Field(list(EventType), min_length=1, description="The types to send; default: all")


class RedeliverRequest(BaseModel):
    """The request to repeat deliveries."""

    model_config = ConfigDict(extra="forbid", strict=True)

    deliveries: list[Annotated[str, Field(pattern=DELIVERY_ID_PATTERN)]] = Field(
        default=[], max_length=100, description="Ids of deliveries; default: all failed ones"
    )


class WebhookOut(BaseModel):
    """A webhook."""

    object: Literal["webhook"]
    id: str = Field(pattern=WEBHOOK_ID_PATTERN)
    organization_id: str
    url: str
    events: list[EventType]
    created_at: _Moment
    disabled_at: _Moment | None = Field(description="When its receiver answered 410; it gets no more events")


class SecretWebhookOut(WebhookOut):
    """A webhook with its new secret, which is not shown again."""

    secret: str = Field(pattern="^whsec_[A-Za-z0-9+/=]+$")


class DeliveryOut(BaseModel):
    """The delivery of an event to a webhook."""

    object: Literal["webhook_delivery"]
    id: str = Field(pattern=DELIVERY_ID_PATTERN)
    webhook_id: str
    event_id: str = Field(description="The header `webhook-id`; the same in all attempts and repetitions")
    type: str = Field(examples=["batch.completed"])
    batch_id: str | None
    status: DeliveryStatus
    attempts: int
    answer: int | None = Field(description="The HTTP status of the last attempt's answer; null if there was none")
    error: str | None = Field(description="Why the last attempt failed")
    created_at: _Moment
    attempted_at: _Moment | None
    next_attempt_at: _Moment | None = Field(description="Null unless pending")


class RedeliveredOut(BaseModel):
    """How many deliveries are repeated."""

    deliveries: int


class DeliveriesQuery(PageQuery):
    """Filter and page of a list of deliveries."""

    status: DeliveryStatus | None = None


async def find_webhook(service: Served, caller: Limited, webhook_id: WebhookId) -> Webhook:
    """The caller's webhook. Raises NotFoundError, also for another organization's."""
    return await service.in_thread(get_webhook, service.system.engine, webhook_id, caller.organization_id)


Found = Annotated[Webhook, Depends(find_webhook)]


@router.post(
    "",
    summary="Create a webhook",
    status_code=201,
    response_model=Envelope[SecretWebhookOut],
    responses=document.errors(400, 401, 409, 413, 415, 422, 429, 503),
    openapi_extra=document.body_of(CreateWebhook, {"url": "https://example.com/hooks/batches"}, required=True),
)
async def create(request: Request, service: Served, caller: Limited) -> Response:
    """For events of later changes. The answer has the secret that signs them; it is not shown again."""
    asked = await read_required_body(request, service, CreateWebhook)
    made = await service.in_thread(
        create_webhook,
        service.system.engine,
        caller.organization_id,
        asked.url,
        asked.events,
        allows_private=bool(service.system.settings.allowed_webhook_networks),
    )
    return answer(request, HTTPStatus.CREATED, "Webhook created. Keep its secret.", data=made.to_json())


@router.get(
    "",
    summary="List webhooks",
    response_model=Envelope[list[WebhookOut]],
    responses=document.errors(401, 422, 429, 503),
    dependencies=[Depends(refuse_repeated)],
)
async def list_all(
    request: Request, service: Served, caller: Limited, query: Annotated[PageQuery, Query()]
) -> Response:
    """By creation."""
    found = await service.in_thread(list_webhooks, service.system.engine, caller.organization_id)
    data = [webhook.to_json() for webhook in found[(query.page - 1) * query.limit :][: query.limit]]
    pagination = paginate(query, has_more=query.page * query.limit < len(found), total_count=len(found))
    return answer(request, HTTPStatus.OK, "Webhooks retrieved successfully.", data=data, pagination=pagination)


@router.get(
    "/{webhook_id}",
    summary="Retrieve a webhook",
    response_model=Envelope[WebhookOut],
    responses=document.errors(401, 404, 429, 503),
)
async def retrieve(request: Request, webhook: Found) -> Response:
    """Without its secret."""
    return answer(request, HTTPStatus.OK, "Webhook retrieved successfully.", data=webhook.to_json())


@router.post(
    "/{webhook_id}/rotate",
    summary="Make a new secret",
    response_model=Envelope[SecretWebhookOut],
    responses=document.errors(401, 404, 429, 503),
)
async def rotate(request: Request, service: Served, webhook: Found) -> Response:
    """For 24 hours, each event also has a signature by the previous secret."""
    rotated = await service.in_thread(rotate_secret, service.system.engine, webhook.id)
    message = "The webhook has a new secret. Keep it; the previous one is valid for 24 hours."
    return answer(request, HTTPStatus.OK, message, data=rotated.to_json())


@router.post(
    "/{webhook_id}/delete",
    summary="Delete a webhook",
    response_model=Envelope[WebhookOut],
    responses=document.errors(401, 404, 429, 503),
)
async def delete(request: Request, service: Served, webhook: Found) -> Response:
    """With its secrets and deliveries. Events that are not delivered are lost."""
    deleted = await service.in_thread(delete_webhook, service.system.engine, webhook.id)
    return answer(request, HTTPStatus.OK, "Webhook deleted.", data=deleted.to_json())


@router.post(
    "/{webhook_id}/test",
    summary="Send a test event",
    response_model=Envelope[DeliveryOut],
    responses=document.errors(401, 404, 429, 503),
)
async def test(request: Request, service: Served, webhook: Found) -> Response:
    """Sends an event of type `webhook.test` once and waits for the receiver's answer, at most 5 s."""
    sender: Sender = request.app.state.sender
    sent = await service.in_thread(send_test, service.system.engine, sender, webhook)
    message = "The receiver has the test event." if sent.error is None else "The test event is not delivered."
    return answer(request, HTTPStatus.OK, message, data=sent.to_json())


@router.get(
    "/{webhook_id}/deliveries",
    summary="List the deliveries of a webhook",
    response_model=Envelope[list[DeliveryOut]],
    responses=document.errors(401, 404, 422, 429, 503),
    dependencies=[Depends(refuse_repeated)],
)
async def deliveries(
    request: Request, service: Served, webhook: Found, query: Annotated[DeliveriesQuery, Query()]
) -> Response:
    """Newest first. Deliveries are kept as long as files of batches."""
    page = await service.in_thread(
        list_deliveries, service.system.engine, webhook.id, status=query.status, page=query.page, limit=query.limit
    )
    data = [delivery.to_json() for delivery in page.deliveries]
    pagination = paginate(query, has_more=page.has_more, total_count=page.total_count)
    return answer(request, HTTPStatus.OK, "Deliveries retrieved successfully.", data=data, pagination=pagination)


@router.post(
    "/{webhook_id}/redeliver",
    summary="Repeat deliveries",
    status_code=202,
    response_model=Envelope[RedeliveredOut],
    responses=document.errors(400, 401, 404, 413, 415, 422, 429, 503),
    openapi_extra=document.body_of(RedeliverRequest, {"deliveries": []}, required=False),
)
async def repeat(request: Request, service: Served, webhook: Found) -> Response:
    """Failed deliveries, or the named ones unless they are pending. Enables a webhook that a 410 has disabled."""
    asked = await read_optional_body(request, service, RedeliverRequest)
    count = await service.in_thread(redeliver, service.system.engine, webhook.id, asked.deliveries)
    return answer(request, HTTPStatus.ACCEPTED, "The deliveries are repeated.", data={"deliveries": count})
