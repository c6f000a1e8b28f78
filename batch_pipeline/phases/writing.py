"""Writes a phase's chunks while it holds the batch's turn, on several connections at once."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager

from batch_pipeline.batches.locks import TURN_POLL_SECONDS, Turn, take_turn
from batch_pipeline.batches.model import PhaseName
from batch_pipeline.batches.states import BatchStatus
from batch_pipeline.database import Connection, borrowed, connect, set_in_session
from batch_pipeline.loading.chunks import Chunk, ChunkOutcome, ChunkWriter, count_chunks, done_outcome, open_chunks
from batch_pipeline.phases.attempt import Attempt

WATCH_SECONDS = 0.25
LONG_WAIT_SECONDS = 5.0  # a wait for the turn that is announced
STOP_SECONDS = 20.0  # running chunks may finish within this time once work must stop; they take about a second each

MakeWriter = Callable[[Connection], ChunkWriter]


@contextmanager
def turn_of(attempt: Attempt) -> Iterator[Turn]:
    """Waits for the batch's turn, sets status `processing`, and holds the turn. The wait does not use running time."""
    began = time.time()

    def check() -> None:
        attempt.refresh()
        if time.time() - began >= LONG_WAIT_SECONDS:
            attempt.announce(PhaseName.processing, "waits for its turn, after an earlier batch of the same records")

    with take_turn(attempt.system.database_url, attempt.batch, check=check, may_yield=attempt.has_slot) as turn:
        waited_seconds = time.time() - began
        if waited_seconds >= TURN_POLL_SECONDS:  # shorter: the turn was free
            attempt.waited(waited_seconds)
        attempt.move_to(BatchStatus.processing)
        yield turn


def write_chunks(attempt: Attempt, phase: PhaseName, make_writer: MakeWriter, *, total: int) -> ChunkOutcome:
    """Runs a phase: writes its chunks that are not done yet; returns the outcome of all of its chunks.

    If a chunk fails or work must stop, begins no further chunk. Raises the error of the failed chunk, or as
    `Attempt.check` does.
    """
    with borrowed(attempt.system.engine) as connection:
        done = done_outcome(connection, attempt.batch.id, phase)
        todo = open_chunks(connection, attempt.batch.id, phase)
        chunks = count_chunks(connection, attempt.batch.id, phase)
    attempt.begin(phase, total=total, already=done.written + done.failed)
    done = _ChunkWriters(attempt, make_writer, todo, chunks=chunks).run(done)
    attempt.complete(success=done.written, error=done.failed, total=total)
    return done


class _ChunkWriters:
    """The writers of one phase: each is a thread with its own connection."""

    def __init__(self, attempt: Attempt, make_writer: MakeWriter, todo: list[Chunk], *, chunks: int) -> None:
        self._attempt = attempt
        self._make_writer = make_writer
        self._todo: queue.SimpleQueue[Chunk] = queue.SimpleQueue()
        for chunk in todo:
            self._todo.put(chunk)
        self._writers = min(attempt.system.settings.database_writers, len(todo))
        self._chunks, self._chunks_done = chunks, chunks - len(todo)
        self._outcomes: queue.SimpleQueue[ChunkOutcome] = queue.SimpleQueue()
        self._connections: list[Connection] = []
        self._stop = threading.Event()

    def run(self, done: ChunkOutcome) -> ChunkOutcome:
        """Writes all chunks and reports progress; `done` is the outcome of earlier attempts."""
        with ThreadPoolExecutor(max(self._writers, 1)) as pool:
            running: set[Future[None]] = {pool.submit(self._write) for _ in range(self._writers)}
            try:
                while running:
                    finished, running = wait(running, timeout=WATCH_SECONDS)
                    for future in finished:
                        future.result()
                    if running:
                        done = self._report(done)
            finally:
                # Also if the run is interrupted: running chunks finish, and no further ones begin.
                self._stop.set()
                wait(running, timeout=STOP_SECONDS)
                for connection in self._connections:
                    if not connection.closed:  # stuck, for example on another session's lock: roll its chunk back
                        connection.cancel_safe()
        return self._add_up(done)

    def _report(self, done: ChunkOutcome) -> ChunkOutcome:
        now = self._add_up(done)
        if now == done:
            self._attempt.check()
        else:
            self._attempt.advance(success=now.written, error=now.failed, chunk=self._chunks_done, chunks=self._chunks)
        return now

    def _add_up(self, done: ChunkOutcome) -> ChunkOutcome:
        while not self._outcomes.empty():
            done += self._outcomes.get()
            self._chunks_done += 1
        return done

    def _write(self) -> None:
        # Autocommit, because each chunk opens its own transaction.
        with connect(self._attempt.system.database_url, autocommit=True) as connection:
            set_in_session(connection, self._attempt.session_settings)
            self._connections.append(connection)
            writer = self._make_writer(connection)
            while not self._stop.is_set():
                try:
                    chunk = self._todo.get_nowait()
                except queue.Empty:
                    return
                self._attempt.limit_transactions(connection)
                self._outcomes.put(writer.write(chunk))
