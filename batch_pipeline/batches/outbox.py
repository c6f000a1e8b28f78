"""The outbox: events for webhooks, written in the transaction that changes a batch's status.

An event and its deliveries are committed with the change or not at all. Every later attempt sends the same text.
`notifications` delivers them.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from batch_pipeline.batches.ids import new_id
from batch_pipeline.batches.model import Batch
from batch_pipeline.batches.states import BatchStatus
from batch_pipeline.batches.tables import webhook_deliveries, webhook_events, webhooks

EVENT_PREFIX = "evt_"
DELIVERY_PREFIX = "dlv_"
TEST_TYPE = "webhook.test"
GIVE_UP_AFTER = timedelta(days=3)  # after its event, a delivery is not attempted again


class EventType(StrEnum):
    """A change of a batch's status that webhooks are told of."""

    planned = "batch.planned"
    completed = "batch.completed"
    failed = "batch.failed"
    timed_out = "batch.timed_out"
    expired = "batch.expired"


EVENT_OF = {BatchStatus(kind.name): kind for kind in EventType}  # by the new status


def write_event(connection: sa.Connection, batch: Batch) -> None:
    """Writes the event of the batch's new status, with a delivery for each webhook that subscribes to it.

    Writes nothing if no webhook of the organization does. Batches of inbox folders that name no known resource or
    action are only for the operator, so they have no events.
    """
    kind = EVENT_OF.get(batch.status)
    if kind is None or batch.organization_id is None or batch.resource is None or batch.action is None:
        return
    subscribed = sa.select(webhooks.c.id).where(
        webhooks.c.organization_id == batch.organization_id,
        webhooks.c.disabled_at.is_(None),
        sa.literal(kind.value) == sa.any_(webhooks.c.events),
    )
    webhook_ids = connection.scalars(subscribed).all()
    if webhook_ids:
        body = event_body(kind, batch.updated_at, batch.to_json())
        insert_event(connection, batch.organization_id, kind, body, webhook_ids, batch_id=batch.id)


def event_body(kind: str, at: datetime, data: Mapping[str, Any]) -> str:
    """The text that is signed and sent: type, time (ISO 8601, UTC) and data, as Standard Webhooks recommends."""
    moment = at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps({"type": kind, "timestamp": moment, "data": data}, separators=(",", ":"))


def insert_event(
    connection: sa.Connection,
    organization_id: str,
    kind: str,
    body: str,
    webhook_ids: Sequence[str],
    *,
    batch_id: str | None = None,
    give_up_after: timedelta = GIVE_UP_AFTER,
    due_after: timedelta = timedelta(0),
) -> list[str]:
    """Writes an event with a pending delivery for each webhook. Returns the ids of the deliveries."""
    event_id = new_id(EVENT_PREFIX)
    event = {"id": event_id, "organization_id": organization_id, "batch_id": batch_id, "type": kind, "body": body}
    connection.execute(sa.insert(webhook_events).values(event))
    now = sa.func.clock_timestamp()
    deliveries = [
        {
            "id": new_id(DELIVERY_PREFIX),
            "webhook_id": webhook_id,
            "event_id": event_id,
            "due_at": now + due_after,
            "give_up_at": now + give_up_after,
        }
        for webhook_id in webhook_ids
    ]
    connection.execute(sa.insert(webhook_deliveries).values(deliveries))
    return [str(delivery["id"]) for delivery in deliveries]
