"""What the functions of this package work with, opened once for a process."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread

from batch_pipeline.garbage import collect_as_usual
from batch_pipeline.orchestration.launching import Launcher
from batch_pipeline.orchestration.workers import WorkerPool
from batch_pipeline.service.copying import Copier
from batch_pipeline.service.listener import StatusListener
from batch_pipeline.settings import Settings
from batch_pipeline.storage.presigned import Presigner
from batch_pipeline.system import System, open_system

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

# Fewer than the connections of the engine's pool, so that no thread waits for one.
THREADS = 16


@dataclass(frozen=True)
class Service:
    """The system, and what else the calls of one process share."""

    system: System
    presigner: Presigner
    launcher: Launcher
    workers: WorkerPool
    copier: Copier
    listener: StatusListener
    _threads: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(THREADS), repr=False)
    _started: set[asyncio.Task[Any]] = field(default_factory=set, repr=False)

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


@asynccontextmanager
async def open_service(settings: Settings | None = None, *, warm_up: bool = True) -> AsyncIterator[Service]:
    """Opens all of it; connects to nothing before its first use. Raises SettingError where a setting is missing.

    `warm_up`: starts the processes for mode sync at once, not with the first call.
    """
    collect_as_usual()
    with open_system(settings) as system:
        listener = StatusListener(system.database_url)
        launcher = Launcher(system.settings.dagster_url)
        workers = WorkerPool(system.settings.sync_workers)
        if warm_up:
            workers.warm_up()
        presigner = Presigner(system.store, system.settings.storage_public_endpoint)
        copier = Copier()
        service = Service(system, presigner, launcher, workers, copier, listener)
        listening = asyncio.create_task(listener.run())
        try:
            yield service
        finally:
            listening.cancel()
            with suppress(asyncio.CancelledError):
                await listening
            workers.close()
            await service.finish_started()
            copier.close()
            launcher.close()
