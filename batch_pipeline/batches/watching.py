"""Hearing of changes of batches, rather than asking for them again and again (LISTEN, NOTIFY; triggers tell)."""

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
# What is missed while there is no connection is found by looking, ever more seldom.
FIRST_LOOK_SECONDS = 0.5
LAST_LOOK_SECONDS = 5.0


class StatusWatch:
    """One connection that hears of every change of a batch's status, for any number of those who wait.

    They wait for a batch by its id, or for any batch of some records by `organization/resource`.
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
    async def changes(self, *names: str) -> AsyncIterator["Changes"]:
        """Within the context, changes of these names are noted from the start, so that none is missed."""
        event = asyncio.Event()
        for name in names:
            self._waiting[name].add(event)
        try:
            yield Changes(event)
        finally:
            for name in names:
                self._waiting[name].discard(event)
                if not self._waiting[name]:
                    del self._waiting[name]

    async def _listen(self) -> None:
        parameters = connection_parameters(self._database_url)
        async with await psycopg.AsyncConnection.connect("", autocommit=True, **parameters) as connection:
            await connection.execute(f"LISTEN {CHANNEL}")
            self._tell(*self._waiting)  # what happened until now was not heard
            async for notice in connection.notifies():
                self._tell(*notice.payload.split(" ", 1))

    def _tell(self, *names: str) -> None:
        for name in names:
            for event in self._waiting.get(name, ()):
                event.set()


class Changes:
    """The changes that one who waits is told of."""

    def __init__(self, event: asyncio.Event) -> None:
        self._event = event
        self._look_seconds = FIRST_LOOK_SECONDS

    async def next(self, *, at_most_seconds: float) -> None:
        """Returns at the next change, when the time is up, or when it is time to look all the same."""
        try:
            await asyncio.wait_for(self._event.wait(), min(self._look_seconds, max(at_most_seconds, 0.0)))
        except TimeoutError:
            self._look_seconds = min(self._look_seconds * 2, LAST_LOOK_SECONDS)
        self._event.clear()
