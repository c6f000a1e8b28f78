"""Systems for tests, each on a database and a storage prefix of its own."""

import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

import pytest
from folders import server_folder

from batch_pipeline.dagster_home import dagster_database_url
from batch_pipeline.database import url_of_role
from batch_pipeline.local.s3 import free_port
from batch_pipeline.local.system import LocalSystem, local_system
from batch_pipeline.settings import get_settings
from batch_pipeline.system import System, open_system

NewDatabase = Callable[[], AbstractContextManager[str]]


@contextmanager
def leading_to(variables: Mapping[str, str]) -> Iterator[None]:
    """``os.environ`` and the settings have these variables for the time of the ``with``."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        get_settings.cache_clear()
        yield
    get_settings.cache_clear()


@contextmanager
def new_system(
    new_dagster_database: NewDatabase, environment: Mapping[str, str], system_settings: Mapping[str, str]
) -> Iterator[System]:
    """A system on a database and a storage prefix of its own; ``os.environ`` leads to it."""
    with new_dagster_database() as url:
        variables = {
            "BATCH_DATABASE_URL": url,
            "BATCH_API_DATABASE_URL": url_of_role(url, "bp_api"),
            "BATCH_STORAGE_URL": f"{environment['BATCH_STORAGE_URL']}/test-{secrets.token_hex(6)}",
            "DAGSTER_POSTGRES_URL": dagster_database_url(url),
            "BATCH_INBOX_QUIET_SECONDS": "0",
            **system_settings,
        }
        with leading_to(variables), open_system() as opened:
            yield opened


@contextmanager
def running_system() -> Iterator[LocalSystem]:
    """The whole system as `batch-pipeline up` runs it, on the database and storage that ``os.environ`` leads to."""
    folder = server_folder()
    with local_system(folder / "data", port=free_port(), api_port=free_port(), s3_port=None) as system:
        yield system
        system.hurry()
    shutil.rmtree(folder)
