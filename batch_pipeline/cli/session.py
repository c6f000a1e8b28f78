"""What commands work with: servers (configured or embedded), ledger, storage, and Dagster where they run batches.

Every import of something heavy is inside a function, so that no command pays for what it does not use.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from batch_pipeline.cli.console import say
from batch_pipeline.errors import SettingError, UnavailableError
from batch_pipeline.settings import get_settings

if TYPE_CHECKING:
    import sqlalchemy as sa
    from dagster import DagsterInstance

    from batch_pipeline.batches.ledger import Ledger
    from batch_pipeline.local.servers import LocalServers
    from batch_pipeline.system import System

# SQLSTATEs of a database whose tables are not (yet) those of this version: undefined table, column, schema, function.
_OTHER_SCHEMA = ("42P01", "42703", "3F000", "42883")


@contextmanager
def servers(data_dir: Path, *, migrate: bool = False) -> "Iterator[LocalServers | None]":
    """The servers that the settings name, else the embedded ones of ``data_dir``; with the newest schema.

    A configured database is brought to the newest schema only where ``migrate``: its operator decides when.
    Raises SettingError and UnavailableError.
    """
    from batch_pipeline import migrations
    from batch_pipeline.local.servers import embedded_servers
    from batch_pipeline.local.system import connected

    if get_settings().database_url is None:
        check_data_dir(data_dir)
    with connected(data_dir, start=partial(embedded_servers, report=say)) as local:
        if migrate or local is not None:
            migrations.upgrade(get_settings().require_database_url())
        with _schema_checked():
            yield local


@contextmanager
def open_ledger(data_dir: Path) -> "Iterator[tuple[Ledger, sa.Engine]]":
    """The ledger and its engine, for commands that need no storage."""
    from batch_pipeline.batches.ledger import Ledger
    from batch_pipeline.database import create_engine

    with servers(data_dir):
        engine = create_engine(get_settings().require_database_url())
        try:
            yield Ledger(engine), engine
        finally:
            engine.dispose()


@contextmanager
def open_storage_too(data_dir: Path) -> "Iterator[System]":
    """The system without Dagster."""
    from batch_pipeline.system import open_system

    with servers(data_dir), open_system() as system:
        yield system


@contextmanager
def open_workplace(data_dir: Path) -> "Iterator[tuple[System, DagsterInstance]]":
    """All that it takes to run batches in this process, reachable and up to date.

    Batches whose process was killed are failed on the way: on a machine without a daemon nobody else would.
    """
    from batch_pipeline.system import open_system

    with servers(data_dir, migrate=True), open_system() as system:
        system.store.check()
        # Only now: it takes seconds to import, which nobody should wait for to hear that something is away.
        from batch_pipeline.orchestration.instance import open_instance, upgrade_dagster
        from batch_pipeline.orchestration.reconciling import reconcile

        upgrade_dagster()
        with open_instance(in_process=True) as instance:
            reconcile(system, instance)
            yield system, instance


@contextmanager
def open_for_retention(data_dir: Path) -> "Iterator[tuple[System, DagsterInstance]]":
    """The system and Dagster's instance as its other processes have it, with what runs printed.

    Nothing is changed on the way: configured databases that have another schema raise SettingError.
    """
    from batch_pipeline.system import open_system

    with servers(data_dir) as local, open_system() as system:
        system.store.check()
        check_tables(system.engine)
        # Only now: see `open_workplace`.
        from batch_pipeline.orchestration.instance import open_migrated_instance, upgrade_dagster

        if local is not None:
            upgrade_dagster()
        with open_migrated_instance() as instance:
            yield system, instance


def check_tables(engine: "sa.Engine") -> None:
    """Fails in a `servers` block, as any query would, where the ledger's tables are not those of this version."""
    import sqlalchemy as sa

    from batch_pipeline.batches.tables import attempts, batches
    from batch_pipeline.database import translating_outages

    with translating_outages(), engine.connect() as connection:
        for table in (batches, attempts):
            connection.execute(sa.select(table).limit(0))


def require_running_system(data_dir: Path) -> None:
    """Raises UnavailableError where the embedded servers are to be used and no `up` runs that would start batches.

    With configured servers a batch is accepted all the same, and starts when Dagster is back.
    """
    from batch_pipeline.local.system import is_up

    if get_settings().database_url is None and not is_up(data_dir):
        raise UnavailableError(
            "dagster", f"No local system runs in {data_dir}: start `batch-pipeline up`, or use `batch-pipeline run`."
        )


def check_data_dir(data_dir: Path) -> None:
    """Makes the folder. Raises SettingError where that is not possible."""
    from batch_pipeline.local.private_files import data_folder

    try:
        data_folder(data_dir)
    except OSError as error:
        raise SettingError(f"--data-dir {data_dir} can't be used ({error.strerror}): name another folder") from None


@contextmanager
def _schema_checked() -> Iterator[None]:
    import psycopg
    from sqlalchemy.exc import ProgrammingError

    try:
        yield
    except ProgrammingError as error:
        if isinstance(error.orig, psycopg.Error) and error.orig.sqlstate in _OTHER_SCHEMA:
            raise SettingError(
                "BATCH_DATABASE_URL names a database without this version's tables: run `batch-pipeline db upgrade`"
            ) from error
        raise
