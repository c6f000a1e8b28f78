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
from batch_pipeline.database import CONNECT_TIMEOUT_SECONDS, connect
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
    _check_database()
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


def _check_database() -> None:
    """One attempt to connect, with a clear answer: Dagster itself would try for 15 s, and log each failure."""
    url = os.environ.get("DAGSTER_POSTGRES_URL")
    if not url:
        return  # a dagster.yaml of the user's own, with another storage
    try:
        engine = sa.create_engine(url, poolclass=sa.NullPool, connect_args={"connect_timeout": CONNECT_TIMEOUT_SECONDS})
        engine.connect().close()
    except (sa.exc.ArgumentError, ValueError):  # their texts repeat the URL with the password
        raise SettingError(
            "DAGSTER_POSTGRES_URL is no URL that SQLAlchemy can read: give postgresql+psycopg2://user@host/name"
        ) from None
    except sa.exc.OperationalError as error:
        said = " ".join(str(error.orig).split())
        raise UnavailableError(
            "database", f"Dagster's database can't be reached: {said} Check DAGSTER_POSTGRES_URL."
        ) from error


def upgrade_dagster() -> None:
    """Makes Dagster's schema and tables, or brings them to this version of Dagster."""
    settings = get_settings()
    if settings.database_url is not None:
        with connect(settings.require_database_url(), autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {DAGSTER_SCHEMA}")
    with open_instance() as instance:
        instance.upgrade()
