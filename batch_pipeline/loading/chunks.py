"""Writes in chunks: each chunk's records, outcome and errors in one transaction.

A chunk is a range of rows of the upload, or in cleanup of the list of records to delete. If the database refuses one,
another transaction halves it, under savepoints, until single rows are found: one bad item costs only itself.

The plan stores with each chunk how many of its items get which verdict. So no later step reads the plan to count the
items of a chunk or of the batch.

Writers may be threads of several processes. A writer claims a chunk by the lock on its row in `batch_chunks`, in the
transaction that writes it. So a chunk of a writer that dies is free again.
"""

import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import psycopg
from psycopg import errors, sql
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from batch_pipeline.batches.locks import Turn, check_fence
from batch_pipeline.batches.model import PhaseName
from batch_pipeline.database import Connection
from batch_pipeline.loading.staging import STEP_WRITE, Staging

# Errors about the values of a row: of a type, a constraint or a trigger. No other error is the fault of an item.
REFUSALS = (
    psycopg.DataError,
    psycopg.IntegrityError,
    errors.RaiseException,
    errors.ProgramLimitExceeded,
)
TRANSIENT = (errors.SerializationFailure, errors.DeadlockDetected, errors.LockNotAvailable)
TRANSIENT_ATTEMPTS = 5


@dataclass(frozen=True)
class Planned:
    """The number of items by what the plan does with them.

    Attributes:
        new: accepted items that create records.
        existing: accepted items that mean existing records; of a delete, all accepted ones.
        unchanged: accepted items that change nothing.
    """

    new: int = 0
    existing: int = 0
    unchanged: int = 0
    rejected: int = 0
    duplicates: int = 0

    @property
    def accepted(self) -> int:
        """Items that are neither rejected nor duplicates."""
        return self.new + self.existing + self.unchanged

    @property
    def creates_accepted(self) -> bool:
        """Whether each of the items creates a record or is rejected."""
        return self.new > 0 and self == Planned(new=self.new, rejected=self.rejected)


@dataclass(frozen=True)
class Chunk:
    """A range of rows, both ends included.

    Attributes:
        planned: the items in it; None if its plan has other lines than items (undo, cleanup), or if an earlier release
            made the plan.
    """

    number: int
    first_row: int
    last_row: int
    planned: Planned | None = None


@dataclass(frozen=True)
class ChunkOutcome:
    """The number of items by what the chunk did with their records."""

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    deleted: int = 0
    failed: int = 0

    @property
    def written(self) -> int:
        """Items (in cleanup: records) that were handled as planned."""
        return self.created + self.updated + self.unchanged + self.deleted

    def __add__(self, other: "ChunkOutcome") -> "ChunkOutcome":
        return ChunkOutcome(
            self.created + other.created,
            self.updated + other.updated,
            self.unchanged + other.unchanged,
            self.deleted + other.deleted,
            self.failed + other.failed,
        )


def chunk_ranges(items: int, chunk_rows: int) -> list[Chunk]:
    """The chunks of rows 1 to `items`, in order."""
    return [
        Chunk(number, first, min(first + chunk_rows - 1, items))
        for number, first in enumerate(range(1, items + 1, chunk_rows))
    ]


def store_chunks(
    connection: Connection, batch_id: str, phase: PhaseName, chunks: list[Chunk], *, is_first: bool = False
) -> None:
    """Stores the chunk boundaries of a phase; replaces those of an attempt that did not complete its plan.

    `is_first`: there was no earlier attempt.
    """
    if not is_first:
        connection.execute("DELETE FROM batch_chunks WHERE batch_id = %s AND phase = %s", (batch_id, phase.value))
    connection.execute(
        "INSERT INTO batch_chunks (batch_id, phase, number, first_row, last_row)"
        " SELECT %s, %s, * FROM unnest(%s::integer[], %s::bigint[], %s::bigint[])",
        (
            batch_id,
            phase.value,
            [chunk.number for chunk in chunks],
            [chunk.first_row for chunk in chunks],
            [chunk.last_row for chunk in chunks],
        ),
    )


def count_chunks(connection: Connection, batch_id: str, phase: PhaseName) -> int:
    """The number of the phase's chunks; 0 if their boundaries are not stored yet."""
    row = connection.execute(
        "SELECT count(*) FROM batch_chunks WHERE batch_id = %s AND phase = %s", (batch_id, phase.value)
    ).fetchone()
    return 0 if row is None else int(row[0])


def next_chunk(
    connection: Connection, batch_id: str, phase: PhaseName, *, without: Collection[int] = ()
) -> Chunk | None:
    """The phase's first unfinished chunk that nobody is writing and that is not in `without`; None if there is none."""
    row = connection.execute(
        "SELECT number, first_row, last_row, planned_new, planned_existing, planned_unchanged, planned_rejected,"
        " planned_duplicates FROM batch_chunks"
        " WHERE batch_id = %s AND phase = %s AND done_at IS NULL AND number <> ALL(%s::integer[])"
        " ORDER BY number LIMIT 1 FOR UPDATE SKIP LOCKED",
        (batch_id, phase.value, list(without)),
    ).fetchone()
    if row is None:
        return None
    return Chunk(row[0], row[1], row[2], None if row[3] is None else Planned(*row[3:]))


_LEFT_OUT = """\
SELECT count(*) FILTER (WHERE verdict = 'r'), count(*) FILTER (WHERE verdict = 'd') FROM {plan}"""


def count_left_out(connection: Connection, staging: Staging) -> tuple[int, int]:
    """`ChunksDone.left_out` for the plan of an earlier release, which stored no counts."""
    rejected, duplicates = connection.execute(sql.SQL(_LEFT_OUT).format(plan=staging.plan)).fetchone() or (0, 0)
    return rejected, duplicates


def done_rows(connection: Connection, batch_id: str) -> str:
    """The rows of the upload in finished chunks, as the text of an int8multirange."""
    row = connection.execute(
        "SELECT coalesce(range_agg(int8range(first_row, last_row, '[]')), '{}')::text FROM batch_chunks"
        " WHERE batch_id = %s AND phase = %s AND done_at IS NOT NULL",
        (batch_id, PhaseName.processing.value),
    ).fetchone()
    return "{}" if row is None else str(row[0])


@dataclass(frozen=True)
class ChunksDone:
    """What is done of a phase.

    Attributes:
        chunks: number of finished chunks.
        total: number of all chunks.
        workers: number of processes that wrote the finished chunks.
        outcome: the sum of the outcomes of the finished chunks.
        left_out: once all chunks of processing are finished, the items that were rejected, by the plan or the database,
            and the duplicates; None if the plan has no counts: it is an earlier release's, an undo's or of cleanup.
    """

    chunks: int
    total: int
    workers: int
    outcome: ChunkOutcome
    left_out: tuple[int, int] | None

    def with_last(self, outcome: ChunkOutcome) -> "ChunksDone":
        """What is done once this process has written the last open chunk of a small batch, with this outcome."""
        left_out = None if self.left_out is None else (self.left_out[0] + outcome.failed, self.left_out[1])
        return ChunksDone(self.total, self.total, max(self.workers, 1), self.outcome + outcome, left_out)


def chunks_done(connection: Connection, batch_id: str, phase: PhaseName) -> ChunksDone:
    """What is done of the phase, by this and earlier attempts."""
    row = connection.execute(
        "SELECT count(done_at), count(*), count(DISTINCT worker),"
        " coalesce(sum(created), 0)::bigint, coalesce(sum(updated), 0)::bigint,"
        " coalesce(sum(unchanged), 0)::bigint, coalesce(sum(deleted), 0)::bigint, coalesce(sum(failed), 0)::bigint,"
        " coalesce(bool_and(planned_new IS NOT NULL), true), coalesce(sum(planned_rejected + failed), 0)::bigint,"
        " coalesce(sum(planned_duplicates), 0)::bigint"
        " FROM batch_chunks WHERE batch_id = %s AND phase = %s",  # the counts of an unfinished chunk are 0
        (batch_id, phase.value),
    ).fetchone()
    assert row is not None  # noqa: S101 - an aggregate gives one row
    done, total, workers, created, updated, unchanged, deleted, failed, has_counts, rejected, duplicates = row
    outcome = ChunkOutcome(created, updated, unchanged, deleted, failed)
    return ChunksDone(done, total, workers, outcome, (rejected, duplicates) if has_counts else None)


def done_outcome(connection: Connection, batch_id: str, phase: PhaseName) -> ChunkOutcome:
    """The sum of the outcomes of the phase's finished chunks."""
    return chunks_done(connection, batch_id, phase).outcome


def count_by_worker(connection: Connection, batch_id: str, phase: PhaseName) -> dict[str, int]:
    """The number of the phase's chunks by the process that wrote them (`worker_name`), the most first."""
    rows = connection.execute(
        "SELECT worker, count(*) FROM batch_chunks"
        " WHERE batch_id = %s AND phase = %s AND worker IS NOT NULL GROUP BY worker ORDER BY 2 DESC, 1",
        (batch_id, phase.value),
    )
    return {str(worker): int(chunks) for worker, chunks in rows}


def worker_name() -> str:
    """This process among those that work on a batch: host and process id."""
    return f"{socket.gethostname()}/{os.getpid()}"


_CLAIM = """\
SELECT FROM batch_chunks
WHERE batch_id = %s AND phase = %s AND number = %s AND done_at IS NULL
FOR UPDATE SKIP LOCKED"""


# A created record is not logged: the rows of created ones are stored with the chunk.
_MARK_DONE = """\
UPDATE batch_chunks SET
    done_at = clock_timestamp(), created = %(created)s, updated = %(updated)s, unchanged = %(unchanged)s,
    deleted = %(deleted)s, failed = %(failed)s, is_logged = %(is_logged)s, worker = %(worker)s,
    created_rows = CASE %(created)s
        WHEN 0 THEN NULL
        WHEN last_row - first_row + 1 THEN int8multirange(int8range(first_row, last_row, '[]'))
        ELSE (
            SELECT range_agg(int8range(row, row, '[]')) FROM {plan}
            WHERE row BETWEEN first_row AND last_row AND verdict = 'a' AND record_id IS NULL
        ) END
WHERE batch_id = %(batch)s AND phase = %(phase)s AND number = %(number)s"""


class ChunkWriter(ABC):
    """Writes chunks of one phase of one batch over one connection, which must be in autocommit mode.

    `logs`: writes the change log; see `change_log`.
    """

    phase: ClassVar[PhaseName]

    def __init__(self, connection: Connection, staging: Staging, turn: Turn, *, logs: bool) -> None:
        self._connection = connection
        self._staging = staging
        self._turn = turn
        self._logs = logs
        self._mark_done = sql.SQL(_MARK_DONE).format(plan=staging.plan)
        self._parameters: dict[str, Any] = {"organization": turn.organization_id, "batch": turn.batch_id}

    @retry(
        retry=retry_if_exception_type(TRANSIENT),
        stop=stop_after_attempt(TRANSIENT_ATTEMPTS),
        wait=wait_random_exponential(multiplier=0.05, max=2),
        reraise=True,
    )
    def write(self, chunk: Chunk) -> ChunkOutcome | None:
        """Writes a chunk and commits it with its outcome; None if it is done, or another writer is writing it.

        Raises SupersededError if the batch has lost its turn.
        """
        try:
            return self._write(chunk, self.apply)
        except REFUSALS as refusal:
            return self._write(chunk, partial(self._write_halves, refusal))

    def _write(
        self, chunk: Chunk, write_rows: Callable[[int, int, Planned | None], ChunkOutcome]
    ) -> ChunkOutcome | None:
        with self._connection.transaction():
            key = (self._turn.batch_id, self.phase.value, chunk.number)
            if self._connection.execute(_CLAIM, key).rowcount == 0:
                return None
            check_fence(self._connection, self._turn)
            outcome = write_rows(chunk.first_row, chunk.last_row, chunk.planned)
            self._connection.execute(
                self._mark_done,
                {
                    **self._parameters,
                    **vars(outcome),
                    "phase": self.phase.value,
                    "number": chunk.number,
                    "is_logged": self._logs,
                    "worker": worker_name(),
                },
            )
        return outcome

    @abstractmethod
    def apply(self, first: int, last: int, planned: Planned | None) -> ChunkOutcome:
        """Writes a range of rows. May raise one of `REFUSALS`. `planned`: its items, if their number is known."""

    @abstractmethod
    def reject(self, row: int, refusal: psycopg.Error) -> ChunkOutcome:
        """Handles a single row that the database refused."""

    def _write_rows(self, first: int, last: int) -> ChunkOutcome:
        try:
            with self._connection.transaction():
                return self.apply(first, last, None)
        except REFUSALS as refusal:
            return self._write_halves(refusal, first, last, None)

    def _write_halves(self, refusal: psycopg.Error, first: int, last: int, planned: Planned | None) -> ChunkOutcome:
        """Writes rows that the database refused together, in parts; rejects a single one."""
        if first == last:
            return self.reject(first, refusal)
        middle = (first + last) // 2
        outcome = self._write_rows(first, middle) + self._write_rows(middle + 1, last)
        if planned is None:
            return outcome
        # A sparse plan has no rows from which a part could count its unchanged items.
        done = outcome.created + outcome.updated + outcome.deleted + outcome.failed
        return replace(outcome, unchanged=planned.accepted - done)

    def _range(self, first: int, last: int) -> dict[str, Any]:
        return {**self._parameters, "first": first, "last": last}


def refusal_text(refusal: psycopg.Error) -> str:
    """The database's message, on one line. It may quote customers' data."""
    return " ".join((refusal.diag.message_primary or type(refusal).__name__).split())


class ItemWriter(ChunkWriter):
    """Writes items; an item that the database refuses becomes a rejected one."""

    phase = PhaseName.processing

    def reject(self, row: int, refusal: psycopg.Error) -> ChunkOutcome:
        """Rejects the item. The database's message may quote customers' data, so it goes to the item's error only."""
        self._connection.execute(
            sql.SQL("INSERT INTO {} (row, step, code, field, message) VALUES (%s, %s, 'write_failed', %s, %s)").format(
                self._staging.errors
            ),
            (row, STEP_WRITE, refusal.diag.column_name, f"the database refused the item: {refusal_text(refusal)}"),
        )
        changed = self._connection.execute(
            sql.SQL("UPDATE {} SET verdict = 'r' WHERE row = %s AND verdict = 'a'").format(self._staging.plan), (row,)
        )
        return ChunkOutcome(failed=changed.rowcount)
