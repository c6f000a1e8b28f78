"""What the functions of this package work with, opened once for a process."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures.process import BrokenProcessPool
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ParamSpec, TypeVar

import psycopg
import sqlalchemy as sa
from anyio import CapacityLimiter, to_thread

from batch_pipeline.batches.accept import CLAIM_SECONDS, is_turn_free
from batch_pipeline.batches.api_keys import find_key
from batch_pipeline.batches.callers import CALL_THREADS
from batch_pipeline.errors import BatchError, NotFoundError
from batch_pipeline.garbage import collect_as_usual, present_objects_spared
from batch_pipeline.logs import bound
from batch_pipeline.orchestration.launching import Launcher
from batch_pipeline.orchestration.workers import WorkerPool
from batch_pipeline.service.copying import Copier
from batch_pipeline.service.listener import StatusListener
from batch_pipeline.service.payload import InlinePayload
from batch_pipeline.settings import Settings
from batch_pipeline.storage.presigned import Presigner
from batch_pipeline.system import System, connect_ahead, open_system

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

WARM_UP_SECONDS = 60.0
# Calls that store their items at once. Each takes the processor as long as ten that only read, so with more of them all
# others would wait. Two keep a process busy unless storage takes longer than 30 ms for an object; then add processes.
STORING_CALLS = 2
UNKNOWN_KEY = f"key_{'1' * 16}_{'1' * 43}"


@dataclass(frozen=True)
class Service:
    """The system, and what else the calls of one process share."""

    system: System
    presigner: Presigner
    launcher: Launcher
    workers: WorkerPool
    copier: Copier
    listener: StatusListener
    storing: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(STORING_CALLS), repr=False)
    _threads: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(CALL_THREADS), repr=False)
    _started: set[asyncio.Task[Any]] = field(default_factory=set, repr=False)

    @property
    def claim_seconds(self) -> float | None:
        """Seconds that a call has to launch its batch's run before the sensor does; None: Dagster doesn't answer."""
        return CLAIM_SECONDS if self.launcher.is_available else None

    async def in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls the function in one of a few threads: it may wait for the database, storage or disk, or compute."""
        return await to_thread.run_sync(partial(function, *args, **kwargs), limiter=self._threads)

    async def finish(self, work: Coroutine[Any, Any, T]) -> T:
        """Awaits the work. If the caller is cancelled, the work continues, and `open_service` waits for its end."""
        task = asyncio.create_task(work)
        self._started.add(task)
        task.add_done_callback(self._started.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_log_failure)
            raise

    async def finish_started(self) -> None:
        """Returns once all work that `finish` started has ended."""
        await asyncio.gather(*self._started, return_exceptions=True)


def _log_failure(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("The work of a cancelled call failed.", exc_info=error)


async def _warm_up(service: Service) -> None:
    try:
        async with asyncio.timeout(WARM_UP_SECONDS):
            await asyncio.gather(service.workers.warm_up(), service.in_thread(_open_connections, service.system))
    except BatchError as error:
        logger.warning("The first calls will be slow, because warming up failed: %s", error.message)
    except (psycopg.Error, sa.exc.DBAPIError, BrokenProcessPool, RuntimeError, TimeoutError) as error:
        logger.warning("The first calls will be slow, because warming up failed (%s).", type(error).__name__)


def _open_connections(system: System) -> None:
    """Opens this process's connections, and runs code that calls need once: names for logs, keys, batches, payloads."""
    connect_ahead(system, CALL_THREADS)
    with bound():
        find_key(system.engine, UNKNOWN_KEY)
    is_turn_free(system.engine, "", "")
    with suppress(NotFoundError):
        system.ledger.get("")
    InlinePayload(memoryview(b"[{}]"), "items.json").count_items(system.settings, at_most=1)


@asynccontextmanager
async def open_service(settings: Settings | None = None, *, warm_up: bool = True) -> AsyncIterator[Service]:
    """Opens all of it. Raises SettingError where a setting is missing.

    `warm_up`: yields once the first call is as fast as later ones: the processes for mode sync and this one have their
    code loaded and connections open. In an outage it yields all the same, at the latest after `WARM_UP_SECONDS`.
    Without it, processes and connections start with the first call.
    """
    with open_system(settings, for_api=True) as system:
        listener = StatusListener(system.database_url)
        launcher = Launcher(system.settings.dagster_url)
        workers = WorkerPool(system.settings.sync_workers)
        presigner = Presigner(system.store, system.settings.storage_public_endpoint)
        copier = Copier()
        service = Service(system, presigner, launcher, workers, copier, listener)
        listening = asyncio.create_task(listener.run())
        try:
            if warm_up:
                await _warm_up(service)
            with present_objects_spared() if warm_up else nullcontext():
                collect_as_usual()
                yield service
        finally:
            listening.cancel()
            with suppress(asyncio.CancelledError):
                await listening
            workers.close()
            await service.finish_started()
            copier.close()
            launcher.close()
