"""A deployment of the command line's tests: a database and a storage prefix on the session's servers."""

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from command_line import CommandLine

from batch_pipeline.batches.ledger import Ledger
from batch_pipeline.batches.organizations import create_organization
from batch_pipeline.dagster_home import dagster_database_url
from batch_pipeline.database import create_engine
from batch_pipeline.storage.store import Store


@pytest.fixture(scope="session")
def deployment(
    environment: dict[str, str],
    new_dagster_database: Callable[[], AbstractContextManager[str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, str]]:
    """The environment that names it: one for all tests, each of which has its own organization."""
    home = tmp_path_factory.mktemp("dagster-home")
    home.joinpath("dagster.yaml").write_bytes(Path(environment["DAGSTER_HOME"], "dagster.yaml").read_bytes())
    with new_dagster_database() as url:
        yield {
            **{name: value for name, value in os.environ.items() if name != "COLUMNS"},
            "BATCH_DATABASE_URL": url,
            "BATCH_STORAGE_URL": f"{environment['BATCH_STORAGE_URL']}/cli-{secrets.token_hex(4)}",
            "DAGSTER_POSTGRES_URL": dagster_database_url(url),
            "DAGSTER_HOME": str(home),
        }


@pytest.fixture
def cli(deployment: dict[str, str], tmp_path: Path) -> CommandLine:
    """Commands of the deployment, in an empty folder."""
    return CommandLine(deployment, tmp_path)


@pytest.fixture(scope="session")
def ledger(deployment: dict[str, str]) -> Iterator[Ledger]:
    """The deployment's ledger."""
    engine = create_engine(deployment["BATCH_DATABASE_URL"])
    yield Ledger(engine)
    engine.dispose()


@pytest.fixture(scope="session")
def store(deployment: dict[str, str]) -> Store:
    """The deployment's storage."""
    return Store(deployment["BATCH_STORAGE_URL"])


@pytest.fixture
def organization(ledger: Ledger) -> str:
    """A tenant of this test's own."""
    return create_organization(ledger.engine, f"tenant-{secrets.token_hex(6)}").id
