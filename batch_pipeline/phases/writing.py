"""Writes a phase's chunks while the batch's run holds its turn, on several connections and workers at once."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from psycopg.pq import TransactionStatus

from batch_pipeline.batches.locks import TURN_POLL_SECONDS, Turn, take_turn
from batch_pipeline.batches.model import Phase, PhaseName
from batch_pipeline.batches.states import BatchStatus
from batch_pipeline.database import Connection, borrowed_for_statements, borrowed_session
from batch_pipeline.loading.chunks import (
    ChunkOutcome,
    ChunksDone,
    ChunkWriter,
    chunks_done,
    count_by_worker,
    next_chunk,
)
from batch_pipeline.phases.attempt import Attempt
from batch_pipeline.phases.chunk_threads import ChunkThreads, ChunkWork

LONG_WAIT_SECONDS = 5.0  # a wait for the turn that is announced

MakeWriter = Callable[[Attempt, Connection, Turn], ChunkWriter]


@contextmanager
def turn_of(attempt: Attempt, begins: Callable[[Turn], Sequence[Phase]] = lambda turn: ()) -> Iterator[Turn]:
    """Waits for the batch's turn, sets status `processing`, and holds the turn. The wait does not use running time.

    `begins`: phases to store with the status.
    """
    began = time.time()

    def check() -> None:
        attempt.refresh()
        if time.time() - began >= LONG_WAIT_SECONDS:
            attempt.announce(PhaseName.processing, "waits for its turn, after an earlier batch of the same records")

    with take_turn(attempt.system.engine, attempt.batch, check=check, may_yield=attempt.has_slot) as turn:
        waited_seconds = time.time() - began
        if waited_seconds >= TURN_POLL_SECONDS:  # shorter: the turn was free
            attempt.waited(waited_seconds)
        attempt.move_to(BatchStatus.processing, *begins(turn), durably=False)  # the chunks' commits come after it
        yield turn


class InWork:
    """The chunks that the threads of this process are writing: none tries another one's before that has locked it.

    `left`: the number of open chunks. Once this process has written as many, nobody looks for another. None: unknown.
    """

    def __init__(self, left: int | None = None) -> None:
        self.lock = threading.Lock()
        self.numbers: set[int] = set()
        self.left = left


class Writing(ChunkWork):
    """Writes the chunks of the writer's phase. `in_work` is shared by the threads of the process."""

    def __init__(self, attempt: Attempt, connection: Connection, writer: ChunkWriter, in_work: InWork) -> None:
        self._batch_id = attempt.batch.id
        self._connection = connection
        self._writer = writer
        self._in_work = in_work

    def do_next(self) -> bool:
        """Writes the first open chunk that nobody else writes."""
        with self._in_work.lock:
            if self._in_work.left == 0:
                return False
            numbers = self._in_work.numbers
            chunk = next_chunk(self._connection, self._batch_id, self._writer.phase, without=numbers)
            if chunk is None:
                return False
            numbers.add(chunk.number)
        outcome = None
        try:
            outcome = self._writer.write(chunk)
        finally:
            with self._in_work.lock:
                numbers.discard(chunk.number)
                if outcome is not None and self._in_work.left is not None:
                    self._in_work.left -= 1
        return True

    def is_finished(self) -> bool:
        """Whether all chunks are written."""
        if self._in_work.left == 0:
            return True
        done = chunks_done(self._connection, self._batch_id, self._writer.phase)
        return done.chunks == done.total


def write_chunks(
    attempt: Attempt,
    turn: Turn,
    phase: PhaseName,
    make_writer: MakeWriter,
    *,
    total: int,
    claim: Callable[[Connection], None] = lambda connection: None,
) -> ChunkOutcome:
    """Runs a phase: writes its chunks that are not done yet; returns the outcome of all of its chunks.

    `claim` is called before, with a connection in autocommit mode.

    Other workers may write chunks as well (`phases.helping`); the phase ends when all are done, whoever wrote them. If
    a chunk fails here or work must stop, begins no further chunk. Raises the error of the failed chunk, or as
    `Attempt.check` does.
    """
    with borrowed_session(attempt.system.engine, **attempt.timed_session_settings) as connection:
        claim(connection)
        done = chunks_done(connection, attempt.batch.id, phase)
        todo = done.total - done.chunks
        attempt.begin(phase, total=total, already=done.outcome.written + done.outcome.failed)
        if attempt.batch.facts.shares_staging and todo <= 1:  # a thread would take as long as the rows do
            outcome = _write_last(attempt, connection, make_writer(attempt, connection, turn))
            done = chunks_done(connection, attempt.batch.id, phase) if outcome is None else done.with_last(outcome)
    if done.chunks < done.total:
        done = _write_in_threads(attempt, turn, phase, make_writer, done)
    attempt.complete(success=done.outcome.written, error=done.outcome.failed, total=total)
    if phase is PhaseName.processing:
        attempt.processed = done
    if attempt.is_parallel and done.workers > 1:
        with borrowed_for_statements(attempt.system.engine) as connection:
            attempt.announce_workers(phase, count_by_worker(connection, attempt.batch.id, phase))
    return done.outcome


def _write_last(attempt: Attempt, connection: Connection, writer: ChunkWriter) -> ChunkOutcome | None:
    """Writes the phase's last open chunk; None if there is none, or somebody else writes it."""
    try:
        chunk = next_chunk(connection, attempt.batch.id, writer.phase)
        return None if chunk is None else writer.write(chunk)
    finally:
        if connection.info.transaction_status is TransactionStatus.ACTIVE:  # interrupted
            connection.cancel_safe()


def _write_in_threads(
    attempt: Attempt, turn: Turn, phase: PhaseName, make_writer: MakeWriter, done: ChunksDone
) -> ChunksDone:
    """Writes the chunks that are left, until all are done; returns what is done."""
    todo = done.total - done.chunks
    attempt.offer(phase, chunks=todo, fence=turn.fence)

    def watch() -> bool:
        nonlocal done
        before, done = done, _read(attempt, phase)
        if done == before:
            attempt.check()
        else:
            attempt.advance(
                success=done.outcome.written,
                error=done.outcome.failed,
                chunk=done.chunks,
                chunks=done.total,
                workers=done.workers,
            )
        return True

    in_work = InWork(todo)
    ChunkThreads(
        attempt,
        lambda connection: Writing(attempt, connection, make_writer(attempt, connection, turn), in_work),
        threads=min(attempt.system.settings.database_writers, todo),
        stays=True,
    ).run(watch)
    return _read(attempt, phase)


def _read(attempt: Attempt, phase: PhaseName) -> ChunksDone:
    with borrowed_for_statements(attempt.system.engine) as connection:
        return chunks_done(connection, attempt.batch.id, phase)
