"""Warm processes that run batches for waiting callers.

A process has one run at a time: two Dagster runs in threads of one process can deadlock in its logging configuration.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from anyio import to_thread

from batch_pipeline.batches.model import Batch
from batch_pipeline.batches.states import Reason
from batch_pipeline.errors import UnavailableError
from batch_pipeline.orchestration.forking import end_processes, forked_executor

if TYPE_CHECKING:
    from dagster import DagsterInstance

    from batch_pipeline.system import System

LOST_WORKER = Reason(
    "worker_lost",
    "The process that ran the batch ended without recording a reason: it was killed, or its machine is gone. "
    "Written records stay. Retry the batch to process the rest.",
)


class WorkerLostError(Exception):
    """The worker's process ended before its batch."""


class NoWorkerError(Exception):
    """All workers stayed busy for the caller's maximum wait."""


class Worker:
    """One process that runs one batch at a time. A lost process is replaced."""

    def __init__(self) -> None:
        self._executor = forked_executor()
        self._closed = False

    def warm_up(self) -> "Future[str | None]":
        """Starts the process in the background and makes it ready for its first batch (`warming`).

        The result is the message of a database or storage outage, else None.
        """
        return self._executor.submit(_warm_up)

    async def run(self, batch: Batch, *, at_most_seconds: float, upload: bytes | None = None) -> None:
        """Runs a batch that awaits its caller; the ledger has its outcome. `upload`: see `execute_batch`.

        Afterwards the worker is idle: the process is killed and replaced if it did not end in time or the caller is
        cancelled, and replaced if it died.

        Raises WorkerLostError if the process died, did not end within `at_most_seconds`, or the worker is closed;
        UnavailableError if the database went away.
        """
        if self._closed:
            raise WorkerLostError("closed")
        try:
            done: Future[str | None] = self._executor.submit(_execute, batch, upload)
            outage = await asyncio.wait_for(asyncio.wrap_future(done), at_most_seconds)
        except (BrokenProcessPool, TimeoutError) as error:
            await self._replace()
            raise WorkerLostError(type(error).__name__) from error
        except asyncio.CancelledError:
            await self._replace()  # otherwise the process would continue with the batch
            raise
        if outage is not None:
            raise UnavailableError("database", outage)

    async def _replace(self) -> None:
        lost = self._executor
        if not self._closed:
            self._executor = forked_executor()  # before the first await, where the caller may be cancelled
            self.warm_up()
        await to_thread.run_sync(end_processes, lost)

    def close(self) -> None:
        """Kills the process and starts no other."""
        self._closed = True
        end_processes(self._executor)


class WorkerPool:
    """A fixed number of workers. Each is lent to one caller at a time, first come, first served.

    The worker that was returned last is lent first: its caches are warm.
    """

    def __init__(self, number: int) -> None:
        self._workers = [Worker() for _ in range(number)]
        self._free: asyncio.LifoQueue[Worker] = asyncio.LifoQueue()
        self.closed = False
        for worker in self._workers:
            self._free.put_nowait(worker)

    async def warm_up(self) -> None:
        """Returns once every process is ready for its first batch.

        Raises UnavailableError in an outage, and BrokenProcessPool if a process has died. The processes start all the
        same, and open what they need with their first batch.
        """
        warming = [asyncio.wrap_future(worker.warm_up()) for worker in self._workers]
        for outage in await asyncio.gather(*warming):
            if outage is not None:
                raise UnavailableError("database", outage)

    @asynccontextmanager
    async def worker(self, *, at_most_seconds: float) -> AsyncIterator[Worker]:
        """Lends an idle worker for the context. Raises NoWorkerError if all stay busy for `at_most_seconds`."""
        try:
            worker = await asyncio.wait_for(self._free.get(), max(at_most_seconds, 0.01))
        except TimeoutError:
            raise NoWorkerError from None
        try:
            yield worker
        finally:
            self._free.put_nowait(worker)

    def close(self) -> None:
        """Kills all processes. Callers that await a batch get WorkerLostError, and reconciling ends the batch."""
        self.closed = True
        for worker in self._workers:
            worker.close()


_instance: "DagsterInstance | None" = None
_opened = ExitStack()


def _execute(batch: Batch, upload: bytes | None) -> str | None:
    """In the worker's process: runs the batch; returns the message of a database outage, else None."""
    from batch_pipeline.orchestration.execute import execute_batch

    def run(system: "System", instance: "DagsterInstance") -> None:
        execute_batch(system, instance, batch, upload=upload, log_level="CRITICAL")

    return _with_connections(run)


def _warm_up() -> str | None:
    """In the worker's process: as `warming.warm_up`; returns the message of an outage, else None."""
    from batch_pipeline.orchestration.warming import warm_up

    return _with_connections(warm_up)


def _with_connections(work: "Callable[[System, DagsterInstance], None]") -> str | None:
    """Does the work with the process's connections; returns the message of an outage, else None.

    Keeps the connections for the next work; opens new ones after an error.
    """
    global _instance  # noqa: PLW0603 - a process's own
    from batch_pipeline.orchestration.instance import open_instance
    from batch_pipeline.system import shared_system

    try:
        with shared_system() as system:
            if _instance is None:
                _instance = _opened.enter_context(open_instance(in_process=True))
            work(system, _instance)
    except Exception as error:
        _instance = None
        _opened.close()
        if isinstance(error, UnavailableError):
            return error.message
        raise RuntimeError(type(error).__name__) from None  # not every error can be pickled
    return None
