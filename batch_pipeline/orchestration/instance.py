"""Opens Dagster's instance in this process, and creates or upgrades its tables."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from dagster import DagsterInstance
from dagster._core.instance.ref import InstanceRef  # the one way to open an instance with a setting overridden
from dagster_postgres.utils import DagsterPostgresException

from batch_pipeline.dagster_home import DAGSTER_SCHEMA, record_dagster_tables
from batch_pipeline.database import CONNECT_TIMEOUT_SECONDS, connect
from batch_pipeline.errors import SettingError, UnavailableError
from batch_pipeline.orchestration.dagster_storage import (
    check_connection,
    close_idle_connections,
    keep_connections,
    limit_statements,
)
from batch_pipeline.settings import get_settings

# Dagster's capture of op output costs four processes per op and replaces the file descriptors of stdout and stderr.
_IN_PROCESS: Any = {
    "compute_logs": {
        "module": "dagster._core.storage.noop_compute_log_manager",
        "class": "NoOpComputeLogManager",
    },
    "instance_class": {"module": __name__, "class": "InProcessInstance"},
}
_WRONG_TABLES_MESSAGE = (
    "Dagster's database (DAGSTER_POSTGRES_URL) has no tables of this version: run `batch-pipeline db upgrade`"
)


class InProcessInstance(DagsterInstance):
    """The instance for runs in the caller's process, one or several at once, each in its own thread."""

    @classmethod
    def config_schema(cls) -> Mapping[str, Any]:
        """No additional settings."""
        return {}

    @staticmethod
    def config_defaults(base_dir: str) -> Mapping[str, Any]:
        """Dagster's defaults."""
        return InstanceRef.config_defaults(base_dir)

    def get_yaml_python_handlers(self) -> Sequence[logging.Handler]:
        """No handlers, so that Dagster leaves the caller's logging unchanged.

        With handlers, Dagster calls `logging.config.dictConfig` at the start of each run. That closes all handlers of
        the process: it holds logging's lock and waits for each handler's. A run that writes an event holds its
        handler's lock and may wait for logging's. So two runs in threads can deadlock.
        """
        return []


@contextmanager
def open_instance(*, in_process: bool = False) -> Iterator[DagsterInstance]:
    """Opens the instance of DAGSTER_HOME. Raises SettingError if it is not set, UnavailableError in an outage.

    Use `in_process` for runs in this process: they print to the caller's output and leave its logging unchanged.
    """
    _check_database()
    home = os.environ.get("DAGSTER_HOME")
    if not home:
        raise SettingError("DAGSTER_HOME is not set: name the folder that has dagster.yaml")
    try:
        instance = DagsterInstance.from_ref(InstanceRef.from_dir(home, overrides=_IN_PROCESS if in_process else None))
    except (sa.exc.OperationalError, DagsterPostgresException) as error:
        raise UnavailableError(
            "database", "Dagster's database can't be reached: check DAGSTER_POSTGRES_URL."
        ) from error
    try:
        with instance:
            keep_connections(instance)
            yield instance
    finally:
        close_idle_connections()


@contextmanager
def open_migrated_instance(*, statement_seconds: float = 0) -> Iterator[DagsterInstance]:
    """As `open_instance`, but never creates Dagster's tables.

    `statement_seconds`: maximum time of a statement; 0: no maximum. Raises SettingError if the tables are missing or
    belong to another version of Dagster.
    """
    _check_database()
    url = os.environ.get("DAGSTER_POSTGRES_URL")
    if url:
        engine = sa.create_engine(url, poolclass=sa.NullPool, connect_args={"connect_timeout": CONNECT_TIMEOUT_SECONDS})
        with engine.connect() as connection:
            if connection.scalar(sa.select(sa.func.to_regclass("runs"))) is None:
                raise SettingError(_WRONG_TABLES_MESSAGE)
    with open_instance() as instance:
        if statement_seconds:
            limit_statements(instance, statement_seconds)
        version = instance.run_storage.alembic_version()
        if version is not None and version[0] != version[1]:
            raise SettingError(_WRONG_TABLES_MESSAGE)
        yield instance


def _check_database() -> None:
    """Connects once and fails with a clear error. Dagster itself retries for 15 s and logs each failure."""
    url = os.environ.get("DAGSTER_POSTGRES_URL")
    if not url:
        return  # the user's own dagster.yaml has another storage
    try:
        check_connection(url)
    except (sa.exc.ArgumentError, ValueError):  # their texts repeat the URL with the password
        raise SettingError(
            "DAGSTER_POSTGRES_URL is not a valid SQLAlchemy URL: give postgresql+psycopg2://user@host/name"
        ) from None
    except sa.exc.OperationalError as error:
        cause = " ".join(str(error.orig).split())
        raise UnavailableError(
            "database", f"Dagster's database can't be reached: {cause} Check DAGSTER_POSTGRES_URL."
        ) from error


def upgrade_dagster() -> None:
    """Creates Dagster's schema and tables, or upgrades them to this version of Dagster."""
    settings = get_settings()
    if settings.database_url is not None:
        with connect(settings.require_database_url(), autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {DAGSTER_SCHEMA}")
    with open_instance() as instance:
        instance.upgrade()
    record_dagster_tables()
