"""Who is at work on a batch: a PostgreSQL session lock that dies with its holder.

A run holds the lock of its batch for as long as it works on it. Whoever finds the lock of a started batch free knows
that its owner is gone, also when that was killed.
"""

import time
from types import TracebackType
from typing import Any, Self

import psycopg

from batch_pipeline.database import connect
from batch_pipeline.errors import StateError

# The first of PostgreSQL's two advisory key spaces is split by this name, so that no other lock can collide.
_SPACE = "batch_pipeline.batch:"
POLL_SECONDS = 0.1


class Ownership:
    """Holds session locks on batches, on one connection, until it is closed."""

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        self._held: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def take(self, batch_id: str, *, wait_seconds: float = 0.0) -> None:
        """Takes the batch's lock. Raises StateError (`batch_busy`) where another process holds it for that long."""
        if batch_id in self._held:
            return
        if self._connection is None:
            self._connection = connect(self._database_url, autocommit=True)
        deadline = time.monotonic() + wait_seconds
        while not (taken := self._try_take(self._connection, batch_id)) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        if not taken:
            raise StateError("batch_busy", f"Another run is at work on batch {batch_id}: wait for it, or cancel it.")
        self._held.add(batch_id)

    @staticmethod
    def _try_take(connection: psycopg.Connection[tuple[Any, ...]], batch_id: str) -> bool:
        row = connection.execute(
            "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (_SPACE + batch_id,)
        ).fetchone()
        return row is not None and bool(row[0])

    def close(self) -> None:
        """Releases all locks. Safe to call again."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        self._held.clear()


def is_owned(connection: psycopg.Connection[tuple[Any, ...]], batch_id: str) -> bool:
    """Whether some process holds the batch's lock. Only looks, so that it can't get in the way of one who takes it."""
    row = connection.execute(
        """
        SELECT EXISTS (
            SELECT FROM pg_locks, hashtextextended(%s, 0) AS key
            WHERE locktype = 'advisory' AND granted AND objsubid = 1
              AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
              AND classid::bigint = (key >> 32) & 4294967295 AND objid::bigint = key & 4294967295
        )
        """,
        (_SPACE + batch_id,),
    ).fetchone()
    return row is not None and bool(row[0])
