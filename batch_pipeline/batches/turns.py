"""The turn: one batch at a time writes an organization's records of a resource, in the order of arrival.

Held by a session lock that dies with its holder. Each holder gets a higher fencing number, which every chunk's
transaction checks, so a run thought dead can't write after its successor began. A version counter tells a batch
whether another wrote since its plan was made.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg

from batch_pipeline.batches.model import Batch, Starter
from batch_pipeline.batches.states import LIVE
from batch_pipeline.database import connect
from batch_pipeline.errors import GaveWayError, SupersededError

Connection = psycopg.Connection[tuple[Any, ...]]

POLL_SECONDS = 0.2
# Longer than a run takes to be dequeued and to begin; waiting costs nothing but a slot.
GIVE_WAY_SECONDS = 30.0
# Of advisory locks: every chunk under way shares its batch's, so that who waits for them has no later one before him.
CHUNKS = "batch_pipeline.chunks:"
_SPACE = "batch_pipeline.turn:"


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
    others = referred_version(connection, str(batch.organization_id), referred)
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
def take_turn(database_url: str, batch: Batch, *, check: Callable[[], None], may_give_way: bool) -> Iterator[Turn]:
    """Waits until the batch is first in the order of arrival, and holds the turn within the context.

    `check` is called while waiting and may raise to give up. Raises GaveWayError where `may_give_way` (the run has one
    of Dagster's slots) and the batch has waited a while for one whose run has not begun: that one may need the slot.
    """
    organization_id, resource = str(batch.organization_id), str(batch.resource)
    with connect(database_url, autocommit=True) as connection:
        blocked_since: float | None = None
        while not _try_take(connection, batch):
            check()
            if not may_give_way or not _waits_for_a_launch(connection, batch):
                blocked_since = None
            elif blocked_since is None:
                blocked_since = time.monotonic()
            elif time.monotonic() - blocked_since > GIVE_WAY_SECONDS:
                raise GaveWayError(
                    "gave_way",
                    f"Batch {batch.id} is queued behind one whose run has not begun. This run ends to free its slot; "
                    "another will go on from here.",
                )
            time.sleep(POLL_SECONDS)
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
        (f"{_SPACE}{batch.organization_id}/{batch.resource}",),
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
