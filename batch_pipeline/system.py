"""Opens the settings, database, ledger and storage that batches need, as one object."""

import atexit
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from threading import Lock

import sqlalchemy as sa
from psycopg import sql

from batch_pipeline.batches.callers import create_api_engine
from batch_pipeline.batches.ledger import Ledger
from batch_pipeline.batches.reruns import Reruns
from batch_pipeline.batches.tables import metadata
from batch_pipeline.database import borrowed, create_engine, translating_outages
from batch_pipeline.garbage import collect_as_usual
from batch_pipeline.records.registry import CHANGES_TABLES, RESOURCES
from batch_pipeline.settings import Settings, get_settings
from batch_pipeline.storage.store import Store

# Role bp_api may not read tables that are of no organization.
_READABLE = "SELECT name FROM unnest(%s::text[]) AS name WHERE has_table_privilege(name, 'SELECT')"


@dataclass(frozen=True, eq=False)
class System:
    """The open system: settings, database, ledger and storage. Two of the same settings are not equal.

    Attributes:
        partitions: names of partitions of the change log that exist.
    """

    settings: Settings
    database_url: str
    engine: sa.Engine
    ledger: Ledger
    store: Store
    partitions: set[str] = field(default_factory=set)


def connect_ahead(system: System, connections: int) -> None:
    """Opens this many connections to the database, and one to storage, so that later callers find them open.

    Each connection reads no row of every table that its role may read, because its server process then has the tables'
    descriptions. Raises UnavailableError.
    """
    tables = (*metadata.tables, *(resource.table for resource in RESOURCES.values()), *CHANGES_TABLES)
    with translating_outages(), ExitStack() as borrowing:
        for _ in range(connections):  # all at once: a connection that was returned would be lent again
            connection = borrowing.enter_context(borrowed(system.engine))
            for (table,) in connection.execute(_READABLE, (list(tables),)).fetchall():
                connection.execute(sql.SQL("SELECT FROM {} WHERE false").format(sql.Identifier(table)))
    system.store.check()
    system.store.prepare()


@contextmanager
def open_system(settings: Settings | None = None, *, for_api: bool = False) -> Iterator[System]:
    """Opens the system for the settings, by default the process's. Raises SettingError if a setting is missing.

    Connections are opened on first use, so an outage is raised there. `for_api`: each transaction acts for the API key
    of its call (`batches.callers`).
    """
    settings = settings or get_settings()
    database_url = settings.require_api_database_url() if for_api else settings.require_database_url()
    store = Store(settings.require_storage_url())
    if for_api:
        engine = create_api_engine(database_url, row_security=settings.api_row_security)
    else:
        engine = create_engine(database_url)
    ledger = Ledger(engine, Reruns(settings.reruns, settings.rerun_pause_seconds))
    try:
        yield System(settings, database_url, engine, ledger, store)
    finally:
        engine.dispose()
        store.close()


@contextmanager
def shared_system() -> Iterator[System]:
    """The process's system, kept open for later callers. Threads may use it concurrently.

    For long-lived processes that use it often and briefly. It is reopened after an exception in the ``with`` block and
    after a change of settings or AWS_ variables. The previous one is closed when its last user leaves. At the process's
    end the last one is closed. Raises as `open_system`.
    """
    global _shared  # noqa: PLW0603 - the process's own
    opened_with = (get_settings(), {name: text for name, text in os.environ.items() if name.startswith("AWS_")})
    with _lock:
        if _shared is None or _shared.opened_with != opened_with:
            collect_as_usual()
            closing = ExitStack()
            replaced, _shared = _shared, _Shared(closing.enter_context(open_system()), opened_with, closing)
            if replaced is not None and replaced.users == 0:
                replaced.closing.close()
        shared = _shared
        shared.users += 1
    try:
        yield shared.system
    except BaseException:
        with _lock:
            if _shared is shared:
                _shared = None
        raise
    finally:
        with _lock:
            shared.users -= 1
            if shared.users == 0 and _shared is not shared:
                shared.closing.close()


@dataclass
class _Shared:
    """An open system with the number of its users; `closing` closes it."""

    system: System
    opened_with: tuple[Settings, dict[str, str]] = field(repr=False)
    closing: ExitStack
    users: int = 0


_lock = Lock()
_shared: _Shared | None = None


@atexit.register
def _close_shared() -> None:
    """Closes the shared system while its connections can still be closed: later the interpreter is half gone."""
    if _shared is not None:
        _shared.closing.close()
