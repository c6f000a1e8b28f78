"""Delivers events to webhooks, at least once each. Several processes may do it at once.

The order of events is not kept: a failed delivery waits while later ones go out.
"""

import asyncio
import logging
import random
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from batch_pipeline.batches.deliveries import (
    LEASE,
    Claimed,
    Delivery,
    claim,
    claim_due,
    get_delivery,
    record_delivered,
    record_failed,
    record_gone,
)
from batch_pipeline.batches.outbox import TEST_TYPE, event_body, insert_event
from batch_pipeline.batches.webhooks import Webhook
from batch_pipeline.database import translating_outages
from batch_pipeline.errors import UnavailableError
from batch_pipeline.notifications.sending import Outcome, Sender

logger = logging.getLogger(__name__)

CALLS = 64  # of one process at a time
WEBHOOK_CALLS = 8  # of one process to one webhook at a time
POLL_SECONDS = 0.5
OUTAGE_SECONDS = 5.0  # pause after a fault of the database
GONE = 410  # Standard Webhooks: the receiver wants no more events


@dataclass(frozen=True)
class Pauses:
    """Pauses between attempts, in seconds: each three times the one before, plus or minus a fifth.

    With the defaults, a delivery has about 20 attempts in its three days.
    """

    first: float = 5.0
    longest: float = 6 * 3600.0

    def after(self, attempt: int) -> float:
        """The pause after the failed attempt number `attempt` (from 1)."""
        exponent = min(attempt - 1, 30)  # beyond it the longest pause applies anyway
        return min(self.first * 3.0**exponent, self.longest) * random.uniform(0.8, 1.2)  # noqa: S311 - spreads load


class Dispatcher:
    """Claims due deliveries and attempts them. A slow receiver occupies only its share of the calls."""

    def __init__(
        self,
        engine: sa.Engine,
        sender: Sender,
        *,
        pauses: Pauses | None = None,
        calls: int = CALLS,
        webhook_calls: int = WEBHOOK_CALLS,
    ) -> None:
        self._engine = engine
        self._sender = sender
        self._pauses = pauses or Pauses()
        self._calls = calls
        self._webhook_calls = webhook_calls
        self._busy: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Delivers until `stop` is set; then ends the calls that it makes. Survives outages of the database."""
        stopping = asyncio.create_task(stop.wait())
        while not stop.is_set():
            pause = POLL_SECONDS
            try:
                await self._start_due(None)
            except UnavailableError as error:
                logger.warning("Webhooks wait: %s", error.message)
                pause = OUTAGE_SECONDS
            except Exception:
                logger.exception("Webhooks wait %g s after an unexpected error.", OUTAGE_SECONDS)
                pause = OUTAGE_SECONDS
            # A free place is used as soon as a call ends.
            await asyncio.wait({stopping, *self._tasks}, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        await asyncio.gather(*self._tasks)

    async def deliver_due(self, now: datetime | None = None) -> int:
        """Attempts everything that is due now, once; returns how many. `now`: the time; default: the clock's."""
        now, count = now or datetime.now(UTC), 0
        while started := await self._start_due(now):
            count += started
            await asyncio.gather(*self._tasks)
        return count

    async def _start_due(self, now: datetime | None) -> int:
        free = self._calls - len(self._tasks)
        claimed = await asyncio.to_thread(
            claim_due, self._engine, dict(+self._busy), limit=free, webhook_limit=self._webhook_calls, now=now
        )
        for each in claimed:
            self._busy[each.webhook_id] += 1
            task = asyncio.create_task(self._attempt(each, now))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return len(claimed)

    async def _attempt(self, claimed: Claimed, now: datetime | None) -> None:
        try:
            await attempt(self._engine, self._sender, claimed, self._pauses, now)
        except UnavailableError as error:
            # The claim ends by itself; then the delivery is attempted again.
            logger.warning("The outcome of delivery %s is not recorded: %s", claimed.id, error.message)
        except Exception:
            logger.exception("The outcome of delivery %s is not recorded; it is attempted again.", claimed.id)
        finally:
            self._busy[claimed.webhook_id] -= 1


async def attempt(
    engine: sa.Engine, sender: Sender, claimed: Claimed, pauses: Pauses, now: datetime | None = None
) -> None:
    """Makes a claimed delivery's call and records its outcome. Raises UnavailableError in an outage."""
    try:
        outcome = await sender.send(claimed)
    except Exception:  # counts as a failed attempt, so that pauses grow and it is given up
        logger.exception("The call for delivery %s failed unexpectedly.", claimed.id)
        outcome = Outcome(None, "An unexpected error of the sender: see the log of the API.")
    if outcome.error is None and outcome.answer is not None:
        await asyncio.to_thread(record_delivered, engine, claimed, outcome.answer)
        return
    error = str(outcome.error)
    if outcome.answer == GONE:
        logger.warning("Webhook %s is disabled: its receiver answered 410.", claimed.webhook_id)
        await asyncio.to_thread(record_gone, engine, claimed, answer=GONE, error=error)
        return
    again_at = (now or datetime.now(UTC)) + timedelta(seconds=pauses.after(claimed.attempt))
    if again_at > claimed.give_up_at:
        logger.warning(
            "Webhook %s: delivery %s is given up after %d attempts.", claimed.webhook_id, claimed.id, claimed.attempt
        )
    await asyncio.to_thread(
        record_failed,
        engine,
        claimed,
        answer=outcome.answer,
        error=error,
        again_at=None if again_at > claimed.give_up_at else again_at,
    )


def send_test(engine: sa.Engine, sender: Sender, webhook: Webhook) -> Delivery:
    """Sends a test event to the webhook now, once, from this process. Returns its delivery, delivered or failed."""
    body = event_body(TEST_TYPE, datetime.now(UTC), {"object": "webhook", "id": webhook.id})
    with translating_outages(), engine.begin() as connection:
        (delivery_id,) = insert_event(
            connection,
            webhook.organization_id,
            TEST_TYPE,
            body,
            [webhook.id],
            give_up_after=timedelta(0),
            due_after=LEASE,  # this process attempts it, not a dispatcher
        )
    asyncio.run(attempt(engine, sender, claim(engine, delivery_id), Pauses()))
    return get_delivery(engine, delivery_id)
