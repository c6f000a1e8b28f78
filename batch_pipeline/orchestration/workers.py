"""Warm processes that run batches for callers who wait: they import Dagster before a call comes.

A process has one run at a time: two Dagster runs in threads of one process can deadlock in its logging configuration.
"""

import asyncio
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import AsyncIterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from anyio import to_thread

from batch_pipeline.errors import UnavailableError

if TYPE_CHECKING:
    from dagster import DagsterInstance

logger = logging.getLogger(__name__)


class WorkerLostError(Exception):
    """The process ended or was killed before the batch ended."""


class NoWorkerError(Exception):
    """All workers were busy for as long as the caller would wait."""


class Worker:
    """One process that runs one batch at a time; a process that is lost is replaced."""

    def __init__(self) -> None:
        self._executor = self._start()
        self._closed = False

    def _start(self) -> ProcessPoolExecutor:
        # Spawned, not forked: this process has threads, and connections that are its own.
        return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=_warm_up)

    def warm_up(self) -> None:
        """Begins to start the process; returns at once."""
        self._executor.submit(os.getpid)

    async def run(self, batch_id: str, *, at_most_seconds: float) -> None:
        """Runs the batch that awaits its caller; the ledger has its outcome.

        The process is idle afterwards: another replaces it if it died, did not end in time, or the caller is cancelled.

        Raises WorkerLostError where the process died, or did not end in time and was killed, or the worker is closed;
        UnavailableError where the database went away.
        """
        if self._closed:
            raise WorkerLostError("closed")
        try:
            done: Future[str | None] = self._executor.submit(_execute, batch_id)
            outage = await asyncio.wait_for(asyncio.wrap_future(done), at_most_seconds)
        except (BrokenProcessPool, TimeoutError) as error:
            await self._replace()
            raise WorkerLostError(type(error).__name__) from error
        except asyncio.CancelledError:
            await self._replace()  # the process would go on with the batch
            raise
        if outage is not None:
            raise UnavailableError("database", outage)

    async def _replace(self) -> None:
        lost = self._executor
        if not self._closed:
            self._executor = self._start()  # before the first await: the caller may be cancelled there
            self.warm_up()
        await to_thread.run_sync(end_processes, lost)

    def close(self) -> None:
        """Kills the process, whatever it does, and starts no other."""
        self._closed = True
        end_processes(self._executor)


class WorkerPool:
    """Some workers, lent to one caller each, in the order in which the callers asked."""

    def __init__(self, number: int) -> None:
        self._workers = [Worker() for _ in range(number)]
        self._free: asyncio.Queue[Worker] = asyncio.Queue()
        self.closed = False
        for worker in self._workers:
            self._free.put_nowait(worker)

    def warm_up(self) -> None:
        """Begins to start all processes; returns at once."""
        for worker in self._workers:
            worker.warm_up()

    @asynccontextmanager
    async def worker(self, *, at_most_seconds: float) -> AsyncIterator[Worker]:
        """Lends an idle worker within the context. Raises NoWorkerError where all are busy for this time."""
        try:
            worker = await asyncio.wait_for(self._free.get(), max(at_most_seconds, 0.01))
        except TimeoutError:
            raise NoWorkerError from None
        try:
            yield worker
        finally:
            self._free.put_nowait(worker)

    def close(self) -> None:
        """Kills all processes at once: whoever awaits a batch gets WorkerLostError, and reconciling ends the batch."""
        self.closed = True
        for worker in self._workers:
            worker.close()


def end_processes(executor: ProcessPoolExecutor) -> None:
    """Kills the executor's processes, whatever they do, and waits for their end."""
    processes = list((executor._processes or {}).values())
    for process in processes:
        process.kill()
    executor.shutdown(wait=False)  # its futures fail with BrokenProcessPool
    for process in processes:
        process.join()


def live_with_parent() -> None:
    """For a process of an executor: leaves Ctrl-C to the parent, and ends with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


_instance: "DagsterInstance | None" = None
_opened = ExitStack()


def _warm_up() -> None:
    """In the worker: imports everything that a run needs."""
    live_with_parent()
    logging.getLogger().addHandler(logging.NullHandler())
    import batch_pipeline.orchestration.execute  # noqa: F401


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)


def _execute(batch_id: str) -> str | None:
    """In the worker: runs the batch; returns the message of an outage of the database, else None.

    Keeps the connections for the next batch; opens new ones after an error.
    """
    global _instance  # noqa: PLW0603 - a process's own
    from batch_pipeline.orchestration.execute import execute_batch
    from batch_pipeline.orchestration.instance import open_instance
    from batch_pipeline.system import shared_system

    try:
        with shared_system() as system:
            if _instance is None:
                _instance = _opened.enter_context(open_instance(in_process=True))
            execute_batch(system, _instance, system.ledger.get(batch_id), log_level="CRITICAL")
    except Exception as error:
        _instance = None
        _opened.close()
        if isinstance(error, UnavailableError):
            return error.message
        raise RuntimeError(type(error).__name__) from None  # not every error can be pickled
    return None
