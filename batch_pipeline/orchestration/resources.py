"""Dagster resources: they open domain objects for a run and close them after it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dagster import ConfigurableResource, InitResourceContext, ResourceDefinition

from batch_pipeline.batches.locks import Ownership
from batch_pipeline.orchestration.scratch import scratch_folder, tidy_up
from batch_pipeline.system import System, shared_system

if TYPE_CHECKING:
    from batch_pipeline.phases.attempt import Attempt


@dataclass
class Workplace:
    """The context of a run's ops: the open system, and the locks that show that the run is alive.

    Attributes:
        scratch: a folder on local disk for the run.
        attempt: the run's attempt as the last op of this process left it; None before the first.
    """

    system: System
    ownership: Ownership
    scratch: Path
    attempt: "Attempt | None" = None


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
    with scratch_folder() as scratch, Ownership(system.engine) as ownership:
        yield Workplace(system, ownership, scratch)
