"""The threads in which a process does the chunks of a phase, each with a connection of its own."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

from batch_pipeline.database import Connection, borrowed_session
from batch_pipeline.phases.attempt import Attempt

WATCH_SECONDS = 0.25
BUSY_POLL_SECONDS = 0.1  # while other processes do the last chunks
STOP_SECONDS = 20.0  # running chunks may finish within this time once work must stop; they take about a second each


class ChunkWork(ABC):
    """The work on a phase's chunks over one connection, which is in autocommit mode."""

    @abstractmethod
    def do_next(self) -> bool:
        """Does the first open chunk that nobody else does, in one transaction. False if there is none."""

    @abstractmethod
    def is_finished(self) -> bool:
        """Whether all chunks are done."""


class ChunkThreads:
    """Does chunks in threads of this process.

    Args:
        open_work: makes the work for a thread's connection.
        threads: number of threads.
        stays: whether the threads wait for chunks that others do: these may fail, and leave a chunk open. The process
            of the batch's run stays, a helper does not.
    """

    def __init__(
        self, attempt: Attempt, open_work: Callable[[Connection], ChunkWork], *, threads: int, stays: bool
    ) -> None:
        self._attempt = attempt
        self._open_work = open_work
        self._threads = threads
        self._stays = stays
        self._connections: list[Connection] = []  # lent to a thread, under the lock
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._done = 0  # chunks, by the threads of this process
        self._ended = threading.Condition()  # a chunk was done, or work must stop

    def run(self, watch: Callable[[], bool]) -> None:
        """Returns once no chunk is left for this process, or `watch` has returned False.

        Calls `watch` four times a second. If it raises or a chunk fails, begins no further chunk and raises that error.
        """
        with ThreadPoolExecutor(max(self._threads, 1)) as pool:
            running: set[Future[None]] = {pool.submit(self._work) for _ in range(self._threads)}
            try:
                while running:
                    finished, running = wait(running, timeout=WATCH_SECONDS)
                    for future in finished:
                        future.result()
                    if running and not watch():
                        break
            finally:
                # Also if the run is interrupted: running chunks finish, and no further ones begin.
                self._stop.set()
                with self._ended:
                    self._ended.notify_all()
                wait(running, timeout=STOP_SECONDS)
                with self._lock:  # no thread returns its connection meanwhile
                    for connection in self._connections:
                        if not connection.closed:  # stuck, for example on another session's lock: roll its chunk back
                            connection.cancel_safe()

    def _work(self) -> None:
        # Each chunk opens its own transaction.
        with borrowed_session(self._attempt.system.engine, **self._attempt.timed_session_settings) as connection:
            with self._lock:
                self._connections.append(connection)
            try:
                self._do_all(connection)
            finally:
                with self._lock:
                    self._connections.remove(connection)

    def _do_all(self, connection: Connection) -> None:
        work = self._open_work(connection)
        while not self._stop.is_set():
            done = self._done
            if work.do_next():
                with self._ended:
                    self._done += 1
                    self._ended.notify_all()
            elif not self._stays or work.is_finished():
                return
            else:
                self._await_chunk(done)
            self._attempt.limit_transactions(connection)

    def _await_chunk(self, done: int) -> None:
        """Waits until this process has done more chunks than `done`, or others may have."""
        with self._ended:
            self._ended.wait_for(lambda: self._done > done or self._stop.is_set(), BUSY_POLL_SECONDS)
