"""Dagster's PostgreSQL storage with one pool of connections per process.

Dagster's own storage opens a connection for each statement, and three more to look for its tables whenever an instance
is opened. An idle system does both several times a second, and each connection is a new process of the server.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from dagster import DagsterEvent, DagsterInstance, DagsterRun
from dagster._core.events import EVENT_TYPE_TO_PIPELINE_RUN_STATUS
from dagster._core.storage.runs.schema import RunTagsTable
from dagster._serdes import ConfigurableClassData
from dagster_postgres import (
    DagsterPostgresStorage,
    PostgresEventLogStorage,
    PostgresRunStorage,
    PostgresScheduleStorage,
)
from dagster_postgres.utils import create_pg_connection, create_pg_engine, pg_url_from_config

from batch_pipeline.dagster_home import find_dagster_tables
from batch_pipeline.database import CONNECT_TIMEOUT_SECONDS, replace_lost_connections
from batch_pipeline.errors import SettingError
from batch_pipeline.orchestration.run_events import EventLogStorage, without_wait_for_disk

# Connections that a process keeps once it has needed them. Its threads open more to use them at the same time.
_POOL_SIZE = 4
_POOL_RECYCLE_SECONDS = 1800


class PooledPostgresStorage(DagsterPostgresStorage):
    """Stands in dagster.yaml for Dagster's PostgreSQL storage, with the same settings except ``auth_provider``.

    All instances of a process share its connections. The first one creates missing tables.
    """

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> "PooledPostgresStorage":
        """Opens the storage. Raises SettingError for ``auth_provider``, and the errors of Dagster's storage."""
        if config_value.get("auth_provider") is not None:
            raise SettingError(
                "dagster.yaml: PooledPostgresStorage has no auth_provider; use Dagster's storage: postgres"
            )
        url = pg_url_from_config(config_value)
        shared = _shared(url)
        shared.has_tables = shared.has_tables or _finds_tables(shared.engine)
        autocreate = config_value.get("should_autocreate_tables", True) and not shared.has_tables
        storage = cls(url, autocreate, inst_data)
        shared.has_tables = shared.has_tables or autocreate
        storage._run_storage = RunStorage(url)
        storage._event_log_storage = EventLogStorage(url)
        storage._schedule_storage = _ScheduleStorage(url, should_autocreate_tables=False)
        for part in (storage._run_storage, storage._event_log_storage, storage._schedule_storage):
            part._engine = shared.engine  # there is no setting for it
        return storage


class RunStorage(PostgresRunStorage):
    """Dagster's storage of runs, which looks for columns six times a run. This one stops once it has found them.

    It can store a tag with the end of its run: alone, a tag takes a SELECT and an UPDATE of the run's row more.
    """

    _has_stats = False
    _has_backfills = False

    def __init__(self, postgres_url: str) -> None:
        """Expects that the tables exist."""
        super().__init__(postgres_url, should_autocreate_tables=False)
        self._ending_tags: dict[str, dict[str, str]] = {}

    def tag_at_end(self, run_id: str, new_tags: dict[str, str]) -> None:
        """Tags a run that ends in this process, once it ends. The run must not have the tags."""
        self._ending_tags[run_id] = new_tags

    def add_run_tags(self, run_id: str, new_tags: Mapping[str, str]) -> None:
        """Tags the run now, and not at its end."""
        super().add_run_tags(run_id, self._ending_tags.pop(run_id, {}) | dict(new_tags))

    def handle_run_event(self, run_id: str, event: DagsterEvent, update_timestamp: datetime | None = None) -> None:
        """Changes the run's status, and with it the tags that wait."""
        stores_tags = event.event_type in EVENT_TYPE_TO_PIPELINE_RUN_STATUS and run_id in self._ending_tags
        if stores_tags:
            rows = [{"run_id": run_id, "key": key, "value": value} for key, value in self._ending_tags[run_id].items()]
            # Before the status, so that whoever sees an ended run sees its tags. The status is on disk after the tags.
            with create_pg_connection(without_wait_for_disk(self._engine)) as connection:
                connection.execute(RunTagsTable.insert(), rows)
        super().handle_run_event(run_id, event, update_timestamp)
        if stores_tags:
            del self._ending_tags[run_id]

    def _get_run_by_id(self, run_id: str) -> DagsterRun | None:
        run = super()._get_run_by_id(run_id)
        waiting = self._ending_tags.get(run_id)
        return run if run is None or waiting is None else run.with_tags({**run.tags, **waiting})

    def has_run_stats_index_cols(self) -> bool:
        """Whether the table of runs has their times."""
        self._has_stats = self._has_stats or super().has_run_stats_index_cols()
        return self._has_stats

    def has_backfill_id_column(self) -> bool:
        """Whether the table of runs has their backfills."""
        self._has_backfills = self._has_backfills or super().has_backfill_id_column()
        return self._has_backfills


class _ScheduleStorage(PostgresScheduleStorage):
    """Dagster's storage of ticks, which looks for its tables at each call. This one stops once it has found them."""

    _has_table = False
    _built: frozenset[str] = frozenset()

    def has_built_index(self, migration_name: str) -> bool:
        """Whether the migration is complete."""
        if migration_name not in self._built and super().has_built_index(migration_name):
            self._built |= {migration_name}
        return migration_name in self._built

    def has_instigators_table(self) -> bool:
        """Whether the table of sensors' states exists."""
        self._has_table = self._has_table or super().has_instigators_table()
        return self._has_table

    def _has_instigators_table(self, conn: sa.Connection) -> bool:
        self._has_table = self._has_table or super()._has_instigators_table(conn)
        return self._has_table


def check_connection(url: str) -> None:
    """Opens a connection of this process, unless one is open. Raises SQLAlchemy's errors."""
    _shared(url).engine.connect().close()


def close_idle_connections() -> None:
    """Closes the connections that this process keeps, except those in use."""
    for (_, process_id), shared in list(_all_shared.items()):
        if process_id == os.getpid():
            shared.engine.dispose()


def keep_connections(instance: DagsterInstance) -> None:
    """As `PooledPostgresStorage`, for an instance whose dagster.yaml has Dagster's own storage, as the Helm chart's."""
    for part in _postgres_parts(instance):
        if part._token_provider is None:
            part._engine = _shared(part.postgres_url).engine


def limit_statements(instance: DagsterInstance, seconds: float) -> None:
    """Gives the instance connections of its own, on which a statement takes at most `seconds`."""
    for part in _postgres_parts(instance):
        part.optimize_for_webserver(
            statement_timeout=int(seconds * 1000), pool_recycle=_POOL_RECYCLE_SECONDS, max_overflow=-1
        )
        replace_lost_connections(part._engine, _ping)


def _postgres_parts(
    instance: DagsterInstance,
) -> "list[PostgresRunStorage | PostgresEventLogStorage | PostgresScheduleStorage]":
    """The parts of the instance's storage; none if the user's own dagster.yaml has another storage."""
    parts = (instance.run_storage, instance.event_log_storage, instance.schedule_storage)
    return [
        part
        for part in parts
        if isinstance(part, PostgresRunStorage | PostgresEventLogStorage | PostgresScheduleStorage)
    ]


@dataclass
class _Shared:
    engine: sa.Engine
    has_tables: bool = False


# By URL and process: a forked process must not use its parent's connections.
_all_shared: dict[tuple[str, int], _Shared] = {}


def _shared(url: str) -> _Shared:
    key = (url, os.getpid())
    if key not in _all_shared:
        engine = create_pg_engine(
            url,
            isolation_level="AUTOCOMMIT",
            pool_size=_POOL_SIZE,
            max_overflow=-1,
            pool_recycle=_POOL_RECYCLE_SECONDS,
            connect_args={"connect_timeout": CONNECT_TIMEOUT_SECONDS},
        )
        replace_lost_connections(engine, _ping)
        _all_shared.setdefault(key, _Shared(engine))
    return _all_shared[key]


def _finds_tables(engine: sa.Engine) -> bool:
    """Whether the tables are recorded. Dagster's own search takes three connections and all names of the schema."""
    try:
        with engine.connect() as connection:
            return find_dagster_tables(connection)
    except sa.exc.OperationalError:  # Dagster's search tries again, and reports it
        return False


def _ping(connection: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
