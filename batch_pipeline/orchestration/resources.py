"""Dagster resources: they open domain objects for a run and close them after it."""

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dagster import ConfigurableResource, InitResourceContext, ResourceDefinition

from batch_pipeline.batches.locks import Ownership
from batch_pipeline.batches.model import Batch
from batch_pipeline.orchestration.scratch import scratch_folder, tidy_up
from batch_pipeline.storage.local_copy import LocalCopy
from batch_pipeline.system import System, shared_system

if TYPE_CHECKING:
    from batch_pipeline.phases.attempt import Attempt


@dataclass
class Handover:
    """What a process that runs a batch for its caller knows of it, so that the run need not read it again.

    Attributes:
        batch: before its run; during the run another process may have changed it.
        upload: the batch's payload as stored, if the process has it in memory or in a local file.
        workplace: the context of the run's ops, once there is one.
    """

    batch: Batch
    upload: bytes | LocalCopy | None = None
    workplace: "Workplace | None" = None


HANDOVER: ContextVar[Handover | None] = ContextVar("handover", default=None)


@dataclass
class Workplace:
    """The context of a run's ops: the open system, and the locks that show that the run is alive.

    Attributes:
        scratch: a folder on local disk for the run.
        background: a thread for work of the run; the end of the run waits for it.
        attempt: the run's attempt as the last op of this process left it; None before the first.
        handover: what the run's caller knows of the batch, if the run is in its process.
    """

    system: System
    ownership: Ownership
    scratch: Path
    background: Executor
    attempt: "Attempt | None" = None
    handover: Handover | None = None


class SystemResource(ConfigurableResource[Workplace]):
    """The database, ledger and storage of the environment's settings, and the lock that shows that the run is alive.

    Opened once per process: the job's executor is in-process, so all ops of a run share it, and a worker keeps it for
    its next run (opening storage takes a third of a second).
    """

    @contextmanager
    def yield_for_execution(self, context: InitResourceContext) -> Iterator[Workplace]:
        """Opens the system unless the process has; the end releases the run's lock."""
        from batch_pipeline.orchestration.dagster_storage import keep_connections
        from batch_pipeline.orchestration.run_events import gathering_events

        with ExitStack() as opening:
            system = opening.enter_context(shared_system())
            if context.instance is not None and context.run is not None:
                keep_connections(context.instance)
                opening.enter_context(gathering_events(context.instance, context.run.run_id))
            yield from _workplace(system)


def opened_system(system: System) -> ResourceDefinition:
    """The resource for a run in a process that has the system open already."""

    def workplace(context: InitResourceContext) -> Iterator[Workplace]:
        del context
        yield from _workplace(system)

    return ResourceDefinition(workplace, description=SystemResource.__doc__)


def _workplace(system: System) -> Iterator[Workplace]:
    tidy_up()
    with scratch_folder() as scratch, Ownership(system.engine) as ownership, ThreadPoolExecutor(1) as background:
        workplace = Workplace(system, ownership, scratch, background, handover=HANDOVER.get())
        if workplace.handover is not None:
            workplace.handover.workplace = workplace
        yield workplace
