"""Deliveries: one for each event and webhook. Claims them, records their attempts, lists and repeats them.

A claim is a lease: it moves `due_at` of a pending delivery by `LEASE`. If the process dies, the delivery is due again
after that time, so none is lost, and a receiver may get an event twice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from batch_pipeline.batches.ids import ALPHABET, LENGTH
from batch_pipeline.batches.outbox import DELIVERY_PREFIX, GIVE_UP_AFTER
from batch_pipeline.batches.tables import webhook_deliveries, webhook_events, webhooks
from batch_pipeline.batches.webhooks import valid_secrets
from batch_pipeline.database import single_statements, translating_outages

LEASE = timedelta(seconds=15)  # more than a call (5 s) and the record of its outcome take
DELIVERY_ID_PATTERN = f"^{DELIVERY_PREFIX}[{ALPHABET}]{{{LENGTH}}}$"

_NOW = sa.func.clock_timestamp()
_PRUNED_AT_ONCE = 1000


class DeliveryStatus(StrEnum):
    """Status of a delivery."""

    pending = "pending"  #: not delivered yet; will be attempted (again)
    delivered = "delivered"  #: the receiver answered 2xx
    failed = "failed"  #: given up: a dead letter until somebody repeats it


@dataclass(frozen=True)
class Delivery:
    """A delivery as people see it."""

    id: str
    webhook_id: str
    event_id: str  #: the header `webhook-id`, by which a receiver recognises a repeated event
    type: str  #: of the event
    batch_id: str | None
    status: DeliveryStatus
    attempts: int
    answer: int | None  #: the HTTP status of the last attempt; None if there was no answer
    error: str | None  #: why the last attempt failed
    created_at: datetime
    attempted_at: datetime | None
    due_at: datetime | None  #: of the next attempt; None unless pending

    def to_json(self) -> dict[str, Any]:
        """The delivery in answers; times in whole epoch seconds."""

        def seconds(moment: datetime | None) -> int | None:
            return None if moment is None else int(moment.timestamp())

        return {
            "object": "webhook_delivery",
            "id": self.id,
            "webhook_id": self.webhook_id,
            "event_id": self.event_id,
            "type": self.type,
            "batch_id": self.batch_id,
            "status": self.status.value,
            "attempts": self.attempts,
            "answer": self.answer,
            "error": self.error,
            "created_at": seconds(self.created_at),
            "attempted_at": seconds(self.attempted_at),
            "next_attempt_at": seconds(self.due_at),
        }


@dataclass(frozen=True)
class Claimed:
    """A delivery that this process attempts now."""

    id: str
    webhook_id: str
    event_id: str
    attempt: int  #: from 1
    give_up_at: datetime
    url: str
    body: str = field(repr=False)
    secrets: Sequence[str] = field(repr=False)


def claim_due(
    engine: sa.Engine,
    busy: Mapping[str, int],
    *,
    limit: int,
    webhook_limit: int,
    now: datetime | None = None,
) -> list[Claimed]:
    """Claims at most `limit` due deliveries, so that no webhook has more than `webhook_limit` at a time.

    `busy`: by webhook, the number of attempts that this process is making. Webhooks with fewer come first, so a slow
    receiver does not hold up others. `now`: the time to compare with; default: the database's clock.
    """
    due, clock = webhook_deliveries, _NOW if now is None else sa.literal(now)
    working = (
        sa.func.unnest(sa.cast(list(busy), sa.ARRAY(sa.Text)), sa.cast(list(busy.values()), sa.ARRAY(sa.Integer)))
        .table_valued("webhook_id", "number", name="working")
        .render_derived()
    )
    number = sa.func.coalesce(working.c.number, 0)
    first = (
        sa.select(due.c.id, due.c.due_at)
        .where(due.c.webhook_id == webhooks.c.id, due.c.due_at <= clock)
        .order_by(due.c.due_at)
        .limit(sa.func.greatest(webhook_limit - number, 0))
        .with_for_update(skip_locked=True)
        .lateral("first")
    )
    rank = number + sa.func.row_number().over(partition_by=webhooks.c.id, order_by=first.c.due_at)
    chosen = (
        sa.select(first.c.id)
        .select_from(webhooks.outerjoin(working, working.c.webhook_id == webhooks.c.id).join(first, sa.true()))
        .order_by(rank, first.c.due_at)
        .limit(limit)
        .cte("chosen")
    )
    statement = (
        sa.update(due)
        .where(due.c.id == chosen.c.id, due.c.event_id == webhook_events.c.id, due.c.webhook_id == webhooks.c.id)
        .values(due_at=clock + LEASE, attempts=due.c.attempts + 1, attempted_at=clock)
        .returning(due, webhooks.c.url, webhook_events.c.body)
    )
    with translating_outages(), engine.begin() as connection:
        rows = connection.execute(statement).all()
        secrets = valid_secrets(connection, [row.webhook_id for row in rows]) if rows else {}
    return [_claimed(row, secrets) for row in rows]


def claim(engine: sa.Engine, delivery_id: str) -> Claimed:
    """Claims the pending delivery whenever it is due. The caller knows that it exists."""
    due = webhook_deliveries
    statement = (
        sa.update(due)
        .where(due.c.id == delivery_id, due.c.event_id == webhook_events.c.id, due.c.webhook_id == webhooks.c.id)
        .values(due_at=_NOW + LEASE, attempts=due.c.attempts + 1, attempted_at=_NOW)
        .returning(due, webhooks.c.url, webhook_events.c.body)
    )
    with translating_outages(), engine.begin() as connection:
        row = connection.execute(statement).one()
        return _claimed(row, valid_secrets(connection, [row.webhook_id]))


def _claimed(row: sa.Row[Any], secrets: Mapping[str, Sequence[str]]) -> Claimed:
    found = secrets.get(row.webhook_id, ())
    return Claimed(row.id, row.webhook_id, row.event_id, row.attempts, row.give_up_at, row.url, row.body, tuple(found))


def record_delivered(engine: sa.Engine, claimed: Claimed, answer: int) -> None:
    """Records that the receiver has the event. Also after the claim has ended: then another attempt is needless."""
    values = {"status": DeliveryStatus.delivered.value, "due_at": None, "answer": answer, "error": None}
    statement = sa.update(webhook_deliveries).where(webhook_deliveries.c.id == claimed.id).values(values)
    with translating_outages(), engine.begin() as connection:
        connection.execute(statement)


def record_failed(
    engine: sa.Engine, claimed: Claimed, *, answer: int | None, error: str, again_at: datetime | None
) -> None:
    """Records a failed attempt. `again_at`: when to attempt it again; None gives up.

    Changes nothing if another process has claimed the delivery since.
    """
    status = DeliveryStatus.failed if again_at is None else DeliveryStatus.pending
    values = {"status": status.value, "due_at": again_at, "answer": answer, "error": error}
    with translating_outages(), engine.begin() as connection:
        connection.execute(sa.update(webhook_deliveries).where(_is_still(claimed)).values(values))


def record_gone(engine: sa.Engine, claimed: Claimed, *, answer: int, error: str) -> None:
    """Records that the receiver wants no more events: disables the webhook and gives up its pending deliveries."""
    values = {"status": DeliveryStatus.failed.value, "due_at": None, "error": error}
    pending = sa.and_(webhook_deliveries.c.webhook_id == claimed.webhook_id, webhook_deliveries.c.due_at.is_not(None))
    with translating_outages(), engine.begin() as connection:
        connection.execute(sa.update(webhooks).where(webhooks.c.id == claimed.webhook_id).values(disabled_at=_NOW))
        connection.execute(sa.update(webhook_deliveries).where(_is_still(claimed)).values(answer=answer))
        connection.execute(sa.update(webhook_deliveries).where(pending).values(values))


def _is_still(claimed: Claimed) -> sa.ColumnElement[bool]:
    return sa.and_(
        webhook_deliveries.c.id == claimed.id,
        webhook_deliveries.c.attempts == claimed.attempt,
        webhook_deliveries.c.status == DeliveryStatus.pending.value,
    )


@dataclass(frozen=True)
class DeliveryPage:
    """The deliveries of one page, and the number of deliveries on all pages."""

    deliveries: list[Delivery]
    total_count: int
    has_more: bool


def list_deliveries(
    engine: sa.Engine,
    webhook_id: str,
    *,
    status: DeliveryStatus | None = None,
    page: int = 1,
    limit: int = 25,
) -> DeliveryPage:
    """Page number `page` (from 1) of the webhook's deliveries, newest first."""
    wanted = webhook_deliveries.c.webhook_id == webhook_id
    if status is not None:
        wanted = sa.and_(wanted, webhook_deliveries.c.status == status.value)
    counted = sa.select(sa.func.count()).select_from(webhook_deliveries).where(wanted)
    statement = _shown().where(wanted).order_by(webhook_deliveries.c.id.desc()).limit(limit).offset((page - 1) * limit)
    with translating_outages(), single_statements(engine).begin() as connection:
        total = int(connection.execute(counted).scalar_one())
        found = [_from_row(row) for row in connection.execute(statement)]
    return DeliveryPage(found, total, has_more=page * limit < total)


def get_delivery(engine: sa.Engine, delivery_id: str) -> Delivery:
    """The delivery, which exists."""
    with translating_outages(), single_statements(engine).begin() as connection:
        return _from_row(connection.execute(_shown().where(webhook_deliveries.c.id == delivery_id)).one())


def redeliver(engine: sa.Engine, webhook_id: str, delivery_ids: Sequence[str] = ()) -> int:
    """Repeats deliveries of the webhook that are not pending, by default all failed ones; returns how many.

    They get three days again and keep the id of their event. Enables the webhook if its receiver had answered 410.
    """
    wanted = webhook_deliveries.c.status == DeliveryStatus.failed.value
    if delivery_ids:
        wanted = sa.and_(webhook_deliveries.c.id.in_(list(delivery_ids)), webhook_deliveries.c.due_at.is_(None))
    statement = (
        sa.update(webhook_deliveries)
        .where(webhook_deliveries.c.webhook_id == webhook_id, wanted)
        .values(status=DeliveryStatus.pending.value, attempts=0, due_at=_NOW, give_up_at=_NOW + GIVE_UP_AFTER)
    )
    with translating_outages(), engine.begin() as connection:
        connection.execute(sa.update(webhooks).where(webhooks.c.id == webhook_id).values(disabled_at=None))
        return connection.execute(statement).rowcount


def prune_events(engine: sa.Engine, created_before: datetime, *, dry_run: bool = False) -> int:
    """Deletes old events that no delivery is pending for, with their deliveries: at most 1,000. Returns how many.

    With `dry_run` counts all of them and deletes nothing.
    """
    pending = sa.select(webhook_deliveries.c.id).where(
        webhook_deliveries.c.event_id == webhook_events.c.id, webhook_deliveries.c.due_at.is_not(None)
    )
    old = sa.and_(webhook_events.c.created_at < created_before, sa.not_(pending.exists()))
    with translating_outages(), engine.begin() as connection:
        if dry_run:
            counted = sa.select(sa.func.count()).select_from(webhook_events).where(old)
            return int(connection.execute(counted).scalar_one())
        ids = connection.scalars(sa.select(webhook_events.c.id).where(old).limit(_PRUNED_AT_ONCE)).all()
        connection.execute(sa.delete(webhook_deliveries).where(webhook_deliveries.c.event_id.in_(ids)))
        return connection.execute(sa.delete(webhook_events).where(webhook_events.c.id.in_(ids))).rowcount


def _shown() -> sa.Select[Any]:
    joined = webhook_deliveries.join(webhook_events, webhook_events.c.id == webhook_deliveries.c.event_id)
    return sa.select(webhook_deliveries, webhook_events.c.type, webhook_events.c.batch_id).select_from(joined)


def _from_row(row: sa.Row[Any]) -> Delivery:
    return Delivery(
        row.id,
        row.webhook_id,
        row.event_id,
        row.type,
        row.batch_id,
        DeliveryStatus(row.status),
        row.attempts,
        row.answer,
        row.error,
        row.created_at,
        row.attempted_at,
        row.due_at,
    )
