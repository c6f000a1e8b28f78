"""A server without Dagster beside it, for what needs no runs but those of mode sync."""

from collections.abc import Iterator

import httpx
import pytest
from serving import Client, new_client, served

from batch_pipeline.system import System


@pytest.fixture(scope="module")
def address(module_system: System) -> Iterator[str]:
    """The address of a server that waits for no run; nobody starts any but itself."""
    assert module_system.settings.dagster_url is None
    with served(runs_batches=True, mixed_wait_seconds=0.05, sync_turn_seconds=2.0, sync_workers=1) as url:
        yield url


@pytest.fixture(scope="module")
def http(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, timeout=120) as client:
        yield client


@pytest.fixture
def client(module_system: System, http: httpx.Client) -> Client:
    """A client of an organization of the test's own."""
    return new_client(module_system, http)
