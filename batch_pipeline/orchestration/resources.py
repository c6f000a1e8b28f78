"""Dagster resources: they open plain domain objects for a run and close them after it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

from dagster import ConfigurableResource, InitResourceContext
from pydantic import PrivateAttr

from batch_pipeline.batches.ownership import Ownership
from batch_pipeline.system import System, open_system


class SystemResource(ConfigurableResource[Any]):
    """The database, ledger and storage that the environment names, and the lock that shows this run is alive.

    Opened once per run: the job's executor is in-process, so all of a run's ops share it.
    """

    _system: System | None = PrivateAttr(default=None)
    _ownership: Ownership | None = PrivateAttr(default=None)

    @contextmanager
    def yield_for_execution(self, context: InitResourceContext) -> Iterator[Self]:
        """Opens the system; closing it releases the run's lock."""
        del context
        with open_system() as system, Ownership(system.database_url) as ownership:
            self._system = system
            self._ownership = ownership
            yield self

    @property
    def system(self) -> System:
        """The open system."""
        assert self._system is not None  # noqa: S101 - Dagster opens resources before it hands them out
        return self._system

    @property
    def ownership(self) -> Ownership:
        """The locks of this run."""
        assert self._ownership is not None  # noqa: S101 - as above
        return self._ownership
