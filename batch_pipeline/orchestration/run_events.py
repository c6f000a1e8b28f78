"""Dagster's storage of events, which can store several events of a run in one statement.

Dagster stores each event alone, in two round trips. A small batch has some twenty events, which took longer than its
rows did. Here the events of a batch's run wait for a quarter of a second at most, to be stored together.

A killed process loses the events that wait. A batch's run can lose them, other runs can't: the ledger knows what was
done, so Dagster may execute an op again whose end is missing. An event that starts or ends a run never waits.

For the same reason their commits don't wait for the server's disk. The run's status changes after them, and that commit
waits, for theirs as well.
"""

import copy
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Self

import sqlalchemy as sa
from dagster import DagsterEventType, DagsterInstance
from dagster._core.events import ASSET_EVENTS
from dagster._core.events.log import EventLogEntry
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster_postgres import PostgresEventLogStorage
from dagster_postgres.utils import DagsterPostgresException

WAIT_SECONDS = 0.25

_INSERT = SqlEventLogStorageTable.insert().returning(SqlEventLogStorageTable.c.id, sort_by_parameter_order=True)

logger = logging.getLogger(__name__)


@lru_cache(maxsize=4)
def without_wait_for_disk(engine: sa.Engine) -> sa.Engine:
    """The engine with commits that don't wait for the server's disk: a crash of the server may lose the newest.

    For psycopg2 with autocommit: it sends the setting with the statement, and both are one transaction.
    """
    engine = engine.execution_options()  # on the same connections, with listeners of its own

    def set_first(_connection: object, _cursor: object, statement: str, parameters: Any, *_: object) -> tuple[str, Any]:
        return f"SET LOCAL synchronous_commit = off; {statement}", parameters

    sa.event.listen(engine, "before_cursor_execute", set_first, retval=True)
    return engine


@dataclass
class _Waiting:
    """The events of a run that wait. The lock protects the list, and their order in the database."""

    events: list[EventLogEntry] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    has_ended: threading.Event = field(default_factory=threading.Event)


class EventLogStorage(PostgresEventLogStorage):
    """Dagster's storage of events. Those of a run in `gathering_events` wait to be stored together.

    They are stored without Dagster's notification (NOTIFY): no release that has this storage listens to it.
    """

    def __init__(self, postgres_url: str) -> None:
        """Expects that the tables exist."""
        super().__init__(postgres_url, should_autocreate_tables=False)
        self._waiting: dict[str, _Waiting] = {}
        self._known_tables: set[str] = set()

    def store_event(self, event: EventLogEntry) -> None:
        """Stores the event, or keeps it waiting. Raises the error of an event that waited."""
        waiting = self._waiting.get(event.run_id)
        if waiting is not None:
            with waiting.lock:
                if event.run_id in self._waiting:  # else the context has ended, and stores what waits no more
                    waiting.events.append(event)
                    if event.dagster_event is not None and event.dagster_event.is_job_event:
                        self._store(waiting)
                    return
        super().store_event(event)

    def has_table(self, table_name: str) -> bool:
        """Whether the table exists. Dagster asks at each check of an asset; a table that was found stays."""
        if table_name not in self._known_tables and super().has_table(table_name):
            self._known_tables.add(table_name)
        return table_name in self._known_tables

    @contextmanager
    def gathering(self, run_id: str) -> Iterator[None]:
        """See `gathering_events`."""
        if run_id in self._waiting:  # by the caller
            yield
            return
        waiting = self._waiting[run_id] = _Waiting()
        threading.Thread(target=self._store_late, args=(waiting,), daemon=True).start()
        try:
            yield
        finally:
            waiting.has_ended.set()
            with waiting.lock:
                del self._waiting[run_id]
                self._store(waiting)

    def store_waiting(self, run_id: str) -> None:
        """Stores the events of the run that wait."""
        waiting = self._waiting.get(run_id)
        if waiting is not None:
            with waiting.lock:
                self._store(waiting)

    def _store_late(self, waiting: _Waiting) -> None:
        """Stores events that have waited, until the run has ended."""
        while not waiting.has_ended.wait(WAIT_SECONDS):
            with waiting.lock:
                try:
                    self._store(waiting)
                except (sa.exc.DBAPIError, DagsterPostgresException):  # the run's own thread tries again, and raises
                    logger.info("Events of a run could not be stored yet.")

    def _store(self, waiting: _Waiting) -> None:
        if not waiting.events:
            return
        storage = self._without_wait_for_disk()
        with storage._connect() as connection:
            rows = [self._event_to_row(event) for event in waiting.events]
            numbers = connection.execute(_INSERT, rows).scalars().all()
        stored, waiting.events = waiting.events, []
        for event, number in zip(stored, numbers, strict=True):
            storage._index(event, number)

    def _without_wait_for_disk(self) -> Self:
        """The same storage with other commits."""
        storage = copy.copy(self)
        storage._engine = without_wait_for_disk(self._engine)
        return storage

    def _index(self, event: EventLogEntry, number: int) -> None:
        """Shows the event on the page of its asset, as Dagster's `store_event` does."""
        if event.dagster_event_type in ASSET_EVENTS:
            # A transaction takes four round trips more. Events without tags, as ours are, have one statement.
            begin = self.index_transaction if self._tags_for_asset_event(event) else self.index_connection
            with begin() as connection:
                self._store_asset_event_tags(connection, [event], [number])
                self._store_asset_event(connection, event, number)
        if event.dagster_event_type is DagsterEventType.ASSET_CHECK_EVALUATION:
            # Dagster would look for a planned evaluation to replace. A batch's run plans none.
            self._store_runless_asset_check_evaluation(event, number)


@contextmanager
def gathering_events(instance: DagsterInstance, run_id: str) -> Iterator[None]:
    """Within the context, this process stores the run's events together, up to `WAIT_SECONDS` later.

    Only with our storage in dagster.yaml. Contexts may be nested. Raises the error of an event that waited.
    """
    storage = instance.event_log_storage
    with storage.gathering(run_id) if isinstance(storage, EventLogStorage) else nullcontext():
        yield


def store_waiting_events(instance: DagsterInstance, run_id: str) -> None:
    """Stores the events of the run that wait in this process. Raises the error of an event."""
    storage = instance.event_log_storage
    if isinstance(storage, EventLogStorage):
        storage.store_waiting(run_id)
