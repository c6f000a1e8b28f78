"""What the functions of this package work with, opened once for a process."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread

from batch_pipeline.batches.watching import StatusWatch
from batch_pipeline.garbage import collect_as_usual
from batch_pipeline.orchestration.launching import Launcher
from batch_pipeline.orchestration.workers import WorkerPool
from batch_pipeline.service.copying import Copier
from batch_pipeline.settings import Settings
from batch_pipeline.storage.presigned import Presigner
from batch_pipeline.system import System, open_system

P = ParamSpec("P")
T = TypeVar("T")

# Fewer than the connections of the engine's pool, so that no thread waits for one.
THREADS = 16


@dataclass(frozen=True)
class Service:
    """The system, and what calls need beside it."""

    system: System
    presigner: Presigner
    launcher: Launcher
    workers: WorkerPool
    copier: Copier
    watch: StatusWatch
    _threads: CapacityLimiter = field(repr=False)

    async def in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls a function that waits for the database or storage, in one of a few threads."""
        return await to_thread.run_sync(partial(function, *args, **kwargs), limiter=self._threads)


@asynccontextmanager
async def open_service(settings: Settings | None = None, *, warm_up: bool = True) -> AsyncIterator[Service]:
    """Opens all of it; nothing is connected before it is used. Raises SettingError where a setting is missing.

    `warm_up`: the processes for mode sync are started at once, not by the first call.
    """
    collect_as_usual()
    with open_system(settings) as system:
        watch = StatusWatch(system.database_url)
        launcher = Launcher(system.settings.dagster_url)
        workers = WorkerPool(system.settings.sync_workers)
        if warm_up:
            workers.warm_up()
        presigner = Presigner(system.store, system.settings.storage_public_endpoint)
        copier = Copier()
        listening = asyncio.create_task(watch.run())
        try:
            yield Service(system, presigner, launcher, workers, copier, watch, CapacityLimiter(THREADS))
        finally:
            listening.cancel()
            with suppress(asyncio.CancelledError):
                await listening
            workers.close()
            copier.close()
            launcher.close()
