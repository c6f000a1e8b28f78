"""All locks of the system: their names, their holders and the order of acquisition.

The turn: one batch at a time writes an organization's records of a resource, in the order of arrival. The turn is a
session lock, so PostgreSQL releases it when its holder dies. Each holder gets a higher fencing number. Every chunk's
transaction checks it, so a run that was presumed dead can't write after its successor began. A version counter shows
whether another batch wrote after a plan was made.

Ownership: a run holds the session lock of its batch while it works on the batch. If the lock of a running batch is
free, its owner has died.

Order: a transaction or process that needs several locks acquires them from top to bottom. This prevents deadlocks.

1. `INBOX` + key: a process takes in an object. Transaction lock, `exclusive_intake`.
2. `OWNER` + batch: a run works on the batch. Session lock, `Ownership`. With `run_owner`: the run has not resolved its
   batch yet. With `run_task`: a worker executes the run; acquired before the others of this line. With batch +
   "/copies": a process writes the copies of the batch's upload.
3. `TURN` + records: a batch writes these records. Session lock, `take_turn`.
4. the row of `batches`: every change of a batch's status.
5. `LINE` + records: a transaction assigns a place in the order of arrival. Transaction lock, `take_place`.
   The row of a chunk, in `batch_chunks` or staging: a transaction does this chunk. Nobody waits for it (SKIP LOCKED).
6. `CHUNKS` + batch: shared by chunks (`check_fence`), exclusive for the end of the batch (`ledger`). Transaction lock.
7. the row of `turns`: shared by chunks; changed by the next holder, a final plan and the end of a batch.
8. `STAGED` + batch: a transaction replaces staged rows of the batch. Transaction lock, `lock_staged`.

`PARTITIONS`: a transaction makes or drops partitions of the change log. It holds no other lock of this list and doesn't
wait for this one: `loading.change_partitions`.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import sqlalchemy as sa
from psycopg.types.json import Jsonb

from batch_pipeline.batches.model import Batch, Starter
from batch_pipeline.batches.states import LIVE
from batch_pipeline.database import Connection, borrowed_session, translating_outages
from batch_pipeline.errors import StateError, SupersededError, YieldedSlotError

TURN_POLL_SECONDS = 0.2
OWNER_POLL_SECONDS = 0.1
YIELD_SECONDS = 30.0  # more than a run needs from the queue to its first op; waiting costs only a slot

# Prefixes of advisory lock names: all names are hashed into one key space.
INBOX = "batch_pipeline.inbox:"
LINE = "batch_pipeline.line:"
OWNER = "batch_pipeline.batch:"
TURN = "batch_pipeline.turn:"
CHUNKS = "batch_pipeline.chunks:"
STAGED = "batch_pipeline.staged:"
PARTITIONS = "batch_pipeline.partitions"


@dataclass(frozen=True)
class Turn:
    """A held turn: its fencing number, and the version of the records when it was acquired."""

    organization_id: str
    resource: str
    batch_id: str
    fence: int
    version: int


def lock_staged(connection: Connection, batch_id: str) -> None:
    """Waits until no other transaction replaces rows that the batch has in shared staging tables.

    A run that was presumed dead may be in such a transaction: its successor must see the rows to remove them.
    """
    connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (STAGED + batch_id,))


def planned_version(connection: Connection, batch: Batch, referred: Iterable[str] = ()) -> int | None:
    """The version of the records, for a plan that the caller makes next.

    None if another batch is writing them: such a plan would be outdated. `referred` are other resources whose records
    the plan depends on; see `referred_version`.
    """
    records = (batch.organization_id, batch.resource)
    find = "SELECT version, holder FROM turns WHERE organization_id = %s AND resource = %s"
    row = connection.execute(find, records).fetchone()
    if row is None:  # the first batch of these records
        connection.execute(
            "INSERT INTO turns (organization_id, resource) VALUES (%s, %s) ON CONFLICT DO NOTHING", records
        )
        row = connection.execute(find, records).fetchone()
    others = referred_version(connection, batch.address.organization_id, referred)
    if row is None or row[1] not in (None, batch.id) or others is None:
        return None
    return int(row[0]) + others


def referred_version(connection: Connection, organization_id: str, resources: Iterable[str]) -> int | None:
    """The sum of the versions of the resources' records; None if a batch is writing any of them.

    Versions only grow, so the sum changes whenever one of them does.
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
def take_turn(engine: sa.Engine, batch: Batch, *, check: Callable[[], None], may_yield: bool) -> Iterator[Turn]:
    """Waits until the batch is first in the order of arrival; holds the turn within the context.

    Calls `check` while it waits; `check` may raise to stop waiting. With `may_yield` (the run occupies a slot of
    Dagster's), raises YieldedSlotError after `YIELD_SECONDS` behind a batch whose run has not begun: that run may need
    the slot.
    """
    with borrowed_session(engine) as connection:
        blocked_since: float | None = None
        while (turn := _try_take(connection, batch)) is None:
            check()
            if not may_yield or not _waits_for_a_launch(connection, batch):
                blocked_since = None
            elif blocked_since is None:
                blocked_since = time.monotonic()
            elif time.monotonic() - blocked_since > YIELD_SECONDS:
                raise YieldedSlotError(
                    "gave_way",
                    f"Batch {batch.id} is queued behind a batch without a run. This run ends to free its slot; "
                    "another run continues from here.",
                )
            time.sleep(TURN_POLL_SECONDS)
        yield turn
        # Not in a `finally`: after an error, the batch stays the holder until the ledger has ended it. The commit does
        # not wait for the server's disk: a crash that loses it loses what comes after it, too, and ends the holder.
        connection.execute(
            "UPDATE turns SET holder = NULL WHERE organization_id = %s AND resource = %s AND fence = %s"
            " AND set_config('synchronous_commit', 'off', true) = 'off'",
            (turn.organization_id, turn.resource, turn.fence),
        )


def _waits_for_a_launch(connection: Connection, batch: Batch) -> bool:
    """Whether a batch with an earlier arrival still awaits its run from the launcher."""
    row = connection.execute(
        """
        SELECT EXISTS (
            SELECT FROM batches
            WHERE organization_id = %s AND resource = %s AND arrival < %s AND awaits_run = %s
              AND (if_changed IS NOT NULL OR options ->> 'plan_only' IS DISTINCT FROM 'true'))
        """,
        (batch.organization_id, batch.resource, batch.arrival, Starter.launcher.value),
    ).fetchone()
    return row is not None and bool(row[0])


def _try_take(connection: Connection, batch: Batch) -> Turn | None:
    """Acquires the session lock if no batch with an earlier arrival is live, and makes the batch the turn's holder.

    Returns the turn; None if another batch comes first or holds it.
    """
    organization_id, resource = batch.address.organization_id, batch.address.resource
    row = connection.execute(
        """
        WITH tried AS MATERIALIZED (
            SELECT CASE WHEN NOT EXISTS (
                SELECT FROM batches
                WHERE organization_id = %(organization)s AND resource = %(resource)s
                  AND arrival < %(arrival)s AND status = ANY(%(live)s)
                  AND (if_changed IS NOT NULL OR options ->> 'plan_only' IS DISTINCT FROM 'true')
            ) THEN pg_try_advisory_lock(hashtextextended(%(lock)s, 0)) END AS is_taken
        )
        INSERT INTO turns (organization_id, resource, fence, holder)
        SELECT %(organization)s, %(resource)s, 1, %(batch)s FROM tried WHERE is_taken
        ON CONFLICT (organization_id, resource) DO UPDATE SET fence = turns.fence + 1, holder = excluded.holder
        RETURNING fence, version
        """,  # a batch that only makes a plan blocks nobody
        {
            "organization": organization_id,
            "resource": resource,
            "arrival": batch.arrival,
            "live": LIVE,
            "lock": f"{TURN}{organization_id}/{resource}",
            "batch": batch.id,
        },
    ).fetchone()
    return None if row is None else Turn(organization_id, resource, batch.id, int(row[0]), int(row[1]))


def newer_writers(connection: Connection, batch: Batch, referred: Iterable[str] = ()) -> list[str]:
    """Ids of batches of the same records whose payload arrived later and that have written chunks.

    A batch at its first place in the order of arrival has been live since then, so later ones of the same records wait
    for it, unless it only makes a plan. A re-run also considers the `referred` resources. A first run does not: other
    resources are written concurrently, without an order of arrival between them.
    """
    is_first_place = batch.arrival == batch.first_arrival
    if is_first_place and not batch.awaits_decision:
        return []
    resources = [batch.resource, *(() if is_first_place else referred)]
    rows = connection.execute(
        """
        SELECT b.id FROM batches b
        WHERE b.organization_id = %s AND b.resource = ANY(%s) AND b.first_arrival > %s
          AND EXISTS (SELECT FROM batch_chunks c WHERE c.batch_id = b.id AND c.done_at IS NOT NULL)
        """,
        (batch.organization_id, resources, batch.first_arrival),
    )
    return [str(row[0]) for row in rows]


def claim_version(
    connection: Connection, turn: Turn, *, referred: int | None = None, plan: Mapping[str, Any] | None = None
) -> None:
    """Increments the records' version and makes the batch's plan one for it, in the caller's transaction.

    `referred`: see `referred_version`; None: a later attempt makes the plan anew. `plan`: replaces the plan as shown,
    unless None. Raises SupersededError if the turn is lost.
    """
    row = connection.execute(
        """
        WITH locked AS MATERIALIZED (SELECT id FROM batches WHERE id = %(batch)s FOR UPDATE), claimed AS (
            UPDATE turns SET version = version + 1 FROM locked
            WHERE organization_id = %(organization)s AND resource = %(resource)s
              AND fence = %(fence)s AND holder = locked.id
            RETURNING version
        )
        UPDATE batches SET plan_version = claimed.version + %(referred)s::bigint, plan = coalesce(%(plan)s, plan)
        FROM claimed WHERE id = %(batch)s
        RETURNING id
        """,
        {
            "organization": turn.organization_id,
            "resource": turn.resource,
            "fence": turn.fence,
            "batch": turn.batch_id,
            "referred": referred,
            "plan": None if plan is None else Jsonb(plan),
        },
    ).fetchone()
    if row is None:
        raise _turn_lost_error(turn)


def held_turn(connection: Connection, batch: Batch, fence: int) -> Turn:
    """The turn that the batch's run holds, for a helper. Raises SupersededError if it has another fencing number."""
    organization_id, resource = batch.address.organization_id, batch.address.resource
    row = connection.execute(
        "SELECT version FROM turns WHERE organization_id = %s AND resource = %s AND fence = %s AND holder = %s",
        (organization_id, resource, fence, batch.id),
    ).fetchone()
    turn = Turn(organization_id, resource, batch.id, fence, 0 if row is None else int(row[0]))
    if row is None:
        raise _turn_lost_error(turn)
    return turn


def check_fence(connection: Connection, turn: Turn) -> None:
    """Holds the turn until the end of the transaction. Raises SupersededError if the turn is lost."""
    # The row lock alone is not enough: new chunks would share it ahead of a transaction that waits to end the batch.
    # The row is locked last, as it then is: its conditions are checked anew if it has changed during the wait.
    row = connection.execute(
        """
        WITH chunks AS MATERIALIZED (SELECT pg_advisory_xact_lock_shared(hashtextextended(%s, 0)))
        SELECT FROM chunks, turns
        WHERE organization_id = %s AND resource = %s AND fence = %s AND holder = %s FOR SHARE OF turns
        """,
        (CHUNKS + turn.batch_id, turn.organization_id, turn.resource, turn.fence, turn.batch_id),
    ).fetchone()
    if row is None:
        raise _turn_lost_error(turn)


def _turn_lost_error(turn: Turn) -> SupersededError:
    return SupersededError("superseded", f"Batch {turn.batch_id} lost its turn; nothing more is written.")


class Ownership:
    """Holds session locks on batches, on one connection of the engine's pool, until it is closed."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._session = ExitStack()
        self._connection: Connection | None = None
        self._held: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Releases all locks. After an exception it closes the connection: a statement may be in progress."""
        self._session.__exit__(kind, error, trace)
        self._forget()

    def take(self, batch_id: str, *, wait_seconds: float = 0.0) -> None:
        """Acquires the batch's lock. Raises StateError (`batch_busy`) if it is not free within `wait_seconds`.

        Raises UnavailableError in an outage.
        """
        if batch_id in self._held:
            return
        with translating_outages():
            if self._connection is None:
                self._connection = self._session.enter_context(borrowed_session(self._engine))
            deadline = time.monotonic() + wait_seconds
            while not (taken := self._try_take(self._connection, batch_id)) and time.monotonic() < deadline:
                time.sleep(OWNER_POLL_SECONDS)
        if not taken:
            raise StateError(
                "batch_busy", f"Another run is working on batch {batch_id}: wait for it, or cancel the batch."
            )
        self._held.add(batch_id)

    @staticmethod
    def _try_take(connection: Connection, batch_id: str) -> bool:
        row = connection.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (OWNER + batch_id,)).fetchone()
        return row is not None and bool(row[0])

    def close(self) -> None:
        """Releases all locks. Idempotent."""
        self._session.close()
        self._forget()

    def _forget(self) -> None:
        self._connection = None
        self._held.clear()


def is_owned(connection: Connection, batch_id: str) -> bool:
    """Whether a process holds the batch's lock. Reads `pg_locks`, so it never blocks a process that acquires it."""
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
    """The name that `Ownership` locks for a run that has not resolved its batch yet."""
    return f"run/{run_id}"


def run_task(run_id: str) -> str:
    """The name that `Ownership` locks while a Celery worker executes the run."""
    return f"task/{run_id}"
