"""Warm processes that run batches for callers who wait: Dagster is imported before a call comes.

One run at a time in a process: two Dagster runs in threads of one process can deadlock in its logging configuration.
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

from batch_pipeline.errors import UnavailableError

if TYPE_CHECKING:
    from dagster import DagsterInstance

logger = logging.getLogger(__name__)


class WorkerLostError(Exception):
    """The process ended, or was ended, before the batch was through."""


class NoWorkerError(Exception):
    """All workers were busy for as long as the caller would wait."""


class Worker:
    """One process that runs one batch at a time; a process that is lost is replaced."""

    def __init__(self) -> None:
        self._executor = self._start()

    def _start(self) -> ProcessPoolExecutor:
        # Spawned, not forked: this process has threads, and connections that are its own.
        return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=_warm_up)

    def warm_up(self) -> None:
        """Begins to start the process; returns at once."""
        self._executor.submit(os.getpid)

    async def run(self, batch_id: str, *, at_most_seconds: float) -> None:
        """Runs the batch that awaits its caller; what becomes of it is in the ledger.

        Raises WorkerLostError where the process died, or did not end in time and was killed; UnavailableError where
        the database went away.
        """
        try:
            done: Future[str | None] = self._executor.submit(_execute, batch_id)
            outage = await asyncio.wait_for(asyncio.wrap_future(done), at_most_seconds)
            if outage is not None:
                raise UnavailableError("database", outage)
        except (BrokenProcessPool, TimeoutError) as error:
            self.kill()
            self._executor = self._start()
            self.warm_up()
            raise WorkerLostError(type(error).__name__) from error

    def kill(self) -> None:
        """Ends the process, whatever it is at."""
        end_processes(self._executor)


class WorkerPool:
    """Some workers, lent to one caller each, in the order in which they asked."""

    def __init__(self, number: int) -> None:
        self._workers = [Worker() for _ in range(number)]
        self._free: asyncio.Queue[Worker] = asyncio.Queue()
        for worker in self._workers:
            self._free.put_nowait(worker)

    def warm_up(self) -> None:
        """Begins to start all processes; returns at once."""
        for worker in self._workers:
            worker.warm_up()

    @asynccontextmanager
    async def worker(self, *, at_most_seconds: float) -> AsyncIterator[Worker]:
        """Lends a worker within the context. Raises NoWorkerError where none gets free in time."""
        try:
            worker = await asyncio.wait_for(self._free.get(), max(at_most_seconds, 0.01))
        except TimeoutError:
            raise NoWorkerError from None
        try:
            yield worker
        finally:
            self._free.put_nowait(worker)

    def close(self) -> None:
        """Ends all processes at once; batches that they were at are failed by reconciling."""
        for worker in self._workers:
            worker.kill()


def end_processes(executor: ProcessPoolExecutor) -> None:
    """Kills the executor's processes, whatever they are at, and waits for their end."""
    processes = list((executor._processes or {}).values())
    for process in processes:
        process.kill()
    executor.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.join()


def live_with_parent() -> None:
    """In a process of an executor: it leaves Ctrl-C to its parent, and does not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


_instance: "DagsterInstance | None" = None
_opened = ExitStack()


def _warm_up() -> None:
    """In the worker: imports all that a run needs."""
    live_with_parent()
    logging.getLogger().addHandler(logging.NullHandler())
    import batch_pipeline.orchestration.execute  # noqa: F401


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)


def _execute(batch_id: str) -> str | None:
    """In the worker: runs the batch; returns what is said of an outage of the database, None where there is none.

    Connections are kept for the next batch, and opened anew after an error.
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
        raise RuntimeError(type(error).__name__) from None  # many an error can't be sent to another process
    return None
