"""Every lock of the system on one page: names, who holds which, and the order in which they are taken.

The turn: one batch at a time writes an organization's records of a resource, in the order of arrival. It is a session
lock that dies with its holder. Each holder gets a higher fencing number, which every chunk's transaction checks, so
that a run that was thought dead can't write after its successor began. A version counter shows a batch whether another
one wrote since its plan was made.

Ownership: a run holds the session lock of its batch while it works on it. If the lock of a started batch is free, its
owner is gone, even if it was killed.

Order. A transaction or process that needs several of these takes them from top to bottom, so that no two wait for each
other:

1. `INBOX` + key: one process takes in an object. Transaction lock, `exclusive_intake`.
2. `OWNER` + batch: a run works on the batch. Session lock, `Ownership`. The same with `run_owner`: the run works, but
   its batch is not resolved yet; with batch + "/copies": a process writes the copies of its upload.
3. `TURN` + records: a batch writes these records. Session lock, `take_turn`.
4. the row of `batches`: every change of a batch's status.
5. `LINE` + records: one transaction gives out a place in the order of arrival. Transaction lock, `take_place`.
6. `CHUNKS` + batch: chunks share it, the end of a batch takes it alone. Transaction lock, `check_fence`, `stop_chunks`.
7. the row of `turns`: chunks share it; the next holder, a final plan and the end of a batch change it.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import psycopg

from batch_pipeline.batches.model import Batch, Starter
from batch_pipeline.batches.states import LIVE
from batch_pipeline.database import connect
from batch_pipeline.errors import StateError, SupersededError, YieldedSlotError

Connection = psycopg.Connection[tuple[Any, ...]]

TURN_POLL_SECONDS = 0.2
OWNER_POLL_SECONDS = 0.1
YIELD_SECONDS = 30.0  # longer than a run takes to be dequeued and to begin; waiting costs only a slot

# Names of advisory locks: PostgreSQL's one key space is divided by these prefixes.
INBOX = "batch_pipeline.inbox:"
LINE = "batch_pipeline.line:"
OWNER = "batch_pipeline.batch:"
TURN = "batch_pipeline.turn:"
CHUNKS = "batch_pipeline.chunks:"


@dataclass(frozen=True)
class Turn:
    """A turn being held: its fencing number, and the version of the records when it was taken."""

    organization_id: str
    resource: str
    batch_id: str
    fence: int
    version: int


def planned_version(connection: Connection, batch: Batch, referred: Iterable[str] = ()) -> int | None:
    """The records' version for a plan about to be made; None where another batch is writing, so that it won't hold.

    `referred` are other resources whose records the plan depends on; see `referred_version`.
    """
    connection.execute(
        "INSERT INTO turns (organization_id, resource) VALUES (%s, %s) ON CONFLICT DO NOTHING",
        (batch.organization_id, batch.resource),
    )
    row = connection.execute(
        "SELECT version, holder FROM turns WHERE organization_id = %s AND resource = %s",
        (batch.organization_id, batch.resource),
    ).fetchone()
    others = referred_version(connection, batch.address.organization_id, referred)
    if row is None or row[1] not in (None, batch.id) or others is None:
        return None
    return int(row[0]) + others


def referred_version(connection: Connection, organization_id: str, resources: Iterable[str]) -> int | None:
    """The sum of the versions of other resources' records; None where some batch is writing any of them.

    As versions only grow, so does the sum of several when any of them does.
    """
    names = list(resources)
    if not names:
        return 0
    row = connection.execute(
        "SELECT coalesce(sum(version), 0)::bigint, count(holder) FROM turns"
        " WHERE organization_id = %s AND resource = ANY(%s)",
        (organization_id, names),
    ).fetchone()
    return int(row[0]) if row is not None and row[1] == 0 else None


@contextmanager
def take_turn(database_url: str, batch: Batch, *, check: Callable[[], None], may_yield: bool) -> Iterator[Turn]:
    """Waits until the batch is first in the order of arrival, and holds the turn within the context.

    `check` is called while waiting and may raise to give up. Raises YieldedSlotError where `may_yield` (the run has one
    of Dagster's slots) and the batch has waited a while for one whose run has not begun: that one may need the slot.
    """
    organization_id, resource = batch.address.organization_id, batch.address.resource
    with connect(database_url, autocommit=True) as connection:
        blocked_since: float | None = None
        while not _try_take(connection, batch):
            check()
            if not may_yield or not _waits_for_a_launch(connection, batch):
                blocked_since = None
            elif blocked_since is None:
                blocked_since = time.monotonic()
            elif time.monotonic() - blocked_since > YIELD_SECONDS:
                raise YieldedSlotError(
                    "gave_way",
                    f"Batch {batch.id} is queued behind one whose run has not begun. This run ends to free its slot; "
                    "another will go on from here.",
                )
            time.sleep(TURN_POLL_SECONDS)
        row = connection.execute(
            """
            INSERT INTO turns (organization_id, resource, fence, holder) VALUES (%s, %s, 1, %s)
            ON CONFLICT (organization_id, resource) DO UPDATE SET fence = turns.fence + 1, holder = excluded.holder
            RETURNING fence, version
            """,
            (organization_id, resource, batch.id),
        ).fetchone()
        assert row is not None  # noqa: S101 - INSERT … RETURNING gives one row
        turn = Turn(organization_id, resource, batch.id, int(row[0]), int(row[1]))
        yield turn
        # Not in a `finally`: after an error the holder stays noted until the batch has ended in the ledger.
        connection.execute(
            "UPDATE turns SET holder = NULL WHERE organization_id = %s AND resource = %s AND fence = %s",
            (organization_id, resource, turn.fence),
        )


def _waits_for_a_launch(connection: Connection, batch: Batch) -> bool:
    """Whether a batch ahead in line still awaits its run from the launcher."""
    row = connection.execute(
        """
        SELECT EXISTS (
            SELECT FROM batches
            WHERE organization_id = %s AND resource = %s AND arrival < %s AND awaits_run = %s)
        """,
        (batch.organization_id, batch.resource, batch.arrival, Starter.launcher.value),
    ).fetchone()
    return row is not None and bool(row[0])


def _try_take(connection: Connection, batch: Batch) -> bool:
    """Takes the session lock if no batch that arrived earlier is still to be processed."""
    first = connection.execute(
        """
        SELECT NOT EXISTS (
            SELECT FROM batches
            WHERE organization_id = %s AND resource = %s AND arrival < %s AND status = ANY(%s))
        """,
        (batch.organization_id, batch.resource, batch.arrival, LIVE),
    ).fetchone()
    if first is None or not first[0]:
        return False
    taken = connection.execute(
        "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))",
        (f"{TURN}{batch.organization_id}/{batch.resource}",),
    ).fetchone()
    return taken is not None and bool(taken[0])


def newer_writers(connection: Connection, batch: Batch, referred: Iterable[str] = ()) -> list[str]:
    """The batches of the same records that arrived later than this one's payload and have written.

    For a re-run also those of the resources `referred` to. A first run is not held to the order of arrival with those:
    they are written at the same time.
    """
    resources = [batch.resource, *(referred if batch.arrival != batch.first_arrival else ())]
    rows = connection.execute(
        """
        SELECT b.id FROM batches b
        WHERE b.organization_id = %s AND b.resource = ANY(%s) AND b.first_arrival > %s
          AND EXISTS (SELECT FROM batch_chunks c WHERE c.batch_id = b.id AND c.done_at IS NOT NULL)
        """,
        (batch.organization_id, resources, batch.first_arrival),
    )
    return [str(row[0]) for row in rows]


def claim_version(connection: Connection, turn: Turn) -> int:
    """Counts the version up, in the transaction in which the plan becomes final. Raises SupersededError."""
    row = connection.execute(
        """
        UPDATE turns SET version = version + 1
        WHERE organization_id = %s AND resource = %s AND fence = %s AND holder = %s RETURNING version
        """,
        (turn.organization_id, turn.resource, turn.fence, turn.batch_id),
    ).fetchone()
    if row is None:
        raise _lost(turn)
    return int(row[0])


def check_fence(connection: Connection, turn: Turn) -> None:
    """Holds the turn for the rest of the transaction. Raises SupersededError where it has been lost."""
    # A row's lock alone would be shared with the next chunk as well, past whoever waits to end the batch.
    connection.execute("SELECT pg_advisory_xact_lock_shared(hashtextextended(%s, 0))", (CHUNKS + turn.batch_id,))
    row = connection.execute(
        "SELECT FROM turns WHERE organization_id = %s AND resource = %s AND fence = %s AND holder = %s FOR SHARE",
        (turn.organization_id, turn.resource, turn.fence, turn.batch_id),
    ).fetchone()
    if row is None:
        raise _lost(turn)


def _lost(turn: Turn) -> SupersededError:
    return SupersededError("superseded", f"Batch {turn.batch_id} lost its turn; nothing more is written.")


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
            time.sleep(OWNER_POLL_SECONDS)
        if not taken:
            raise StateError("batch_busy", f"Another run is at work on batch {batch_id}: wait for it, or cancel it.")
        self._held.add(batch_id)

    @staticmethod
    def _try_take(connection: psycopg.Connection[tuple[Any, ...]], batch_id: str) -> bool:
        row = connection.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (OWNER + batch_id,)).fetchone()
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
        (OWNER + batch_id,),
    ).fetchone()
    return row is not None and bool(row[0])


def run_owner(run_id: str) -> str:
    """The name under which `Ownership` holds a run that has not resolved its batch yet."""
    return f"run/{run_id}"
