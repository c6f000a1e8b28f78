"""Dagster's instance: its storage's schema, and how this process opens it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from dagster import DagsterInstance
from dagster._core.instance.ref import InstanceRef  # the one way to open an instance with a setting overridden
from dagster_postgres.utils import DagsterPostgresException

from batch_pipeline.dagster_home import DAGSTER_SCHEMA
from batch_pipeline.database import connect
from batch_pipeline.errors import SettingError, UnavailableError
from batch_pipeline.settings import get_settings

_NO_CAPTURE: Any = {
    "compute_logs": {
        "module": "dagster._core.storage.noop_compute_log_manager",
        "class": "NoOpComputeLogManager",
    }
}


@contextmanager
def open_instance(*, captures_output: bool = True) -> Iterator[DagsterInstance]:
    """The instance of DAGSTER_HOME. Raises SettingError where it is not set, UnavailableError in an outage.

    Capturing what ops print takes four processes an op and the file descriptors of stdout and stderr: not for runs
    in a caller's own process.
    """
    home = os.environ.get("DAGSTER_HOME")
    if not home:
        raise SettingError("DAGSTER_HOME is not set: name the folder that has dagster.yaml")
    try:
        instance = DagsterInstance.from_ref(
            InstanceRef.from_dir(home, overrides=None if captures_output else _NO_CAPTURE)
        )
    except (sa.exc.OperationalError, DagsterPostgresException) as error:
        raise UnavailableError(
            "database", "Dagster's database can't be reached: check DAGSTER_POSTGRES_URL."
        ) from error
    with instance:
        yield instance


def upgrade_dagster() -> None:
    """Makes Dagster's schema and tables, or brings them to this version of Dagster."""
    settings = get_settings()
    if settings.database_url is not None:
        with connect(settings.require_database_url(), autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {DAGSTER_SCHEMA}")
    with open_instance() as instance:
        instance.upgrade()
