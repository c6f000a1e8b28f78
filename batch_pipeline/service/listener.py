"""Waits for changes of a batch's status: PostgreSQL notifies (LISTEN, NOTIFY), so that callers need not poll."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg

from batch_pipeline.database import connection_parameters

logger = logging.getLogger(__name__)

CHANNEL = "batch_status"
RECONNECT_SECONDS = 2.0
# A notification is lost while there is no connection. So callers also poll, with growing intervals.
FIRST_POLL_SECONDS = 0.5
LAST_POLL_SECONDS = 5.0


class StatusListener:
    """One connection that is notified of each change of a batch's status, for any number of waiting calls.

    A call waits for a batch by its id, or for the batches of `organization/resource`.
    """

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url
        self._waiting: dict[str, set[asyncio.Event]] = defaultdict(set)

    async def run(self) -> None:
        """Listens until it is cancelled; connects again where the database goes away."""
        while True:
            try:
                await self._listen()
            except psycopg.OperationalError:
                logger.warning("Listening for batches was interrupted: trying again.")
            await asyncio.sleep(RECONNECT_SECONDS)

    @asynccontextmanager
    async def changes(self, name: str) -> AsyncIterator["Changes"]:
        """Collects the changes of this name from the start of the context, so that none is missed."""
        event = asyncio.Event()
        self._waiting[name].add(event)
        try:
            yield Changes(event)
        finally:
            self._waiting[name].discard(event)
            if not self._waiting[name]:
                del self._waiting[name]

    async def _listen(self) -> None:
        parameters = connection_parameters(self._database_url)
        async with await psycopg.AsyncConnection.connect("", autocommit=True, **parameters) as connection:
            await connection.execute(f"LISTEN {CHANNEL}")
            self._wake(*self._waiting)  # earlier notifications are lost
            async for notification in connection.notifies():
                self._wake(*notification.payload.split(" ", 1))

    def _wake(self, *names: str) -> None:
        for name in names:
            for event in self._waiting.get(name, ()):
                event.set()


class Changes:
    """The changes of one name."""

    def __init__(self, event: asyncio.Event) -> None:
        self._event = event
        self._poll_seconds = FIRST_POLL_SECONDS

    async def next(self, *, at_most_seconds: float) -> None:
        """Returns at the next change, after this time, or when the caller should poll."""
        try:
            await asyncio.wait_for(self._event.wait(), min(self._poll_seconds, max(at_most_seconds, 0.0)))
        except TimeoutError:
            self._poll_seconds = min(self._poll_seconds * 2, LAST_POLL_SECONDS)
        self._event.clear()
