"""Opens servers (configured or embedded), ledger, storage and Dagster for commands.

Heavy imports are inside functions, so that no command waits for imports that it does not use.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from batch_pipeline.cli.console import say
from batch_pipeline.cli.progress import step
from batch_pipeline.errors import SettingError, UnavailableError
from batch_pipeline.garbage import collect_seldom, collect_what_follows
from batch_pipeline.settings import get_settings

if TYPE_CHECKING:
    import sqlalchemy as sa
    from dagster import DagsterInstance

    from batch_pipeline.batches.ledger import Ledger
    from batch_pipeline.local.servers import LocalServers
    from batch_pipeline.system import System

# SQLSTATEs if the tables belong to another version: undefined table, column, schema, function.
_OTHER_SCHEMA = ("42P01", "42703", "3F000", "42883")


@contextmanager
def servers(data_dir: Path, *, migrate: bool = False) -> "Iterator[LocalServers | None]":
    """The servers in the settings, else the embedded servers of ``data_dir``, with the newest schema.

    The schema of a configured database is upgraded only with ``migrate``, because its operator decides when.
    Raises SettingError and UnavailableError.
    """
    embedded = get_settings().database_url is None
    if embedded:
        check_data_dir(data_dir)
    with step("opening the local PostgreSQL and S3" if embedded else "connecting to the database"):
        from batch_pipeline.local.connecting import connected
        from batch_pipeline.local.servers import embedded_servers
    with connected(data_dir, start=partial(embedded_servers, report=say)) as local:
        if migrate or local is not None:
            with step("checking the database's schema"):
                from batch_pipeline import migrations

                is_known = migrations.upgrade(get_settings().require_database_url())
                if local is not None:
                    migrations.roles.set_up(get_settings().require_database_url())
            if not is_known:
                say("The database has the schema of a newer version, which serves this version too.")
        with _schema_checked():
            yield local


@contextmanager
def open_ledger(data_dir: Path) -> "Iterator[tuple[Ledger, sa.Engine]]":
    """The ledger and its engine, for commands that need no storage."""
    with servers(data_dir):
        from batch_pipeline.batches.ledger import Ledger
        from batch_pipeline.database import create_engine

        engine = create_engine(get_settings().require_database_url())
        try:
            yield Ledger(engine), engine
        finally:
            engine.dispose()


@contextmanager
def open_storage_too(data_dir: Path) -> "Iterator[System]":
    """The system without Dagster."""
    with servers(data_dir), _system() as system:
        yield system


@contextmanager
def open_workplace(data_dir: Path) -> "Iterator[tuple[System, DagsterInstance]]":
    """The system and Dagster, to run batches in this process; checked, and with the newest schema."""
    with open_newest(data_dir) as system, open_dagster(system) as instance:
        yield system, instance


@contextmanager
def open_newest(data_dir: Path) -> "Iterator[System]":
    """The system without Dagster, with the newest schema."""
    with servers(data_dir, migrate=True), _system() as system:
        yield system


@contextmanager
def open_dagster(system: "System") -> "Iterator[DagsterInstance]":
    """Dagster, to run batches in this process, within `open_newest`.

    Fails the batches of killed processes first, because without a daemon nothing else does.
    """
    with ExitStack() as stack:
        # After the checks: Dagster takes seconds to import, and an outage should be reported before.
        with step("loading Dagster"):
            from batch_pipeline.dagster_home import has_dagster_tables
            from batch_pipeline.orchestration.instance import open_instance, upgrade_dagster
            from batch_pipeline.orchestration.reconciling import reconcile

            if not has_dagster_tables():
                upgrade_dagster()
            instance = stack.enter_context(open_instance(in_process=True))
            reconcile(system, instance)
        collect_what_follows()
        yield instance


@contextmanager
def open_for_retention(data_dir: Path) -> "Iterator[tuple[System, DagsterInstance]]":
    """The system, and Dagster's instance as Dagster's own processes open it, with the output of runs.

    Does not migrate a configured database. Raises SettingError if its schema belongs to another version.
    """
    collect_seldom()  # it may take hours
    with servers(data_dir) as local, ExitStack() as stack:
        system = stack.enter_context(_system())
        check_tables(system.engine)
        with step("loading Dagster"):
            from batch_pipeline.dagster_home import has_dagster_tables
            from batch_pipeline.orchestration.instance import open_migrated_instance, upgrade_dagster

            if local is not None and not has_dagster_tables():
                upgrade_dagster()
            instance = stack.enter_context(open_migrated_instance())
        yield system, instance


@contextmanager
def open_for_metrics(data_dir: Path) -> "Iterator[sa.Engine]":
    """The ledger's engine, with Dagster's tables present. Does not migrate a configured database."""
    with servers(data_dir) as local:
        with step("loading Dagster"):
            from batch_pipeline.dagster_home import has_dagster_tables
            from batch_pipeline.database import create_engine
            from batch_pipeline.orchestration.instance import upgrade_dagster

            if local is not None and not has_dagster_tables():
                upgrade_dagster()
        engine = create_engine(get_settings().require_database_url())
        try:
            yield engine
        finally:
            engine.dispose()


@contextmanager
def _system() -> "Iterator[System]":
    """The system, with its storage checked. Raises UnavailableError."""
    with ExitStack() as stack:
        with step("connecting to storage"):
            from batch_pipeline.system import open_system

            system = stack.enter_context(open_system())
            system.store.check()
        yield system


def check_tables(engine: "sa.Engine") -> None:
    """Queries the ledger's tables. Within `servers`, raises SettingError if they belong to another version."""
    import sqlalchemy as sa

    from batch_pipeline.batches.tables import attempts, batches
    from batch_pipeline.database import translating_outages

    with translating_outages(), engine.connect() as connection:
        for table in (batches, attempts):
            connection.execute(sa.select(table).limit(0))


def require_running_system(data_dir: Path) -> None:
    """Raises UnavailableError if the servers are embedded and no `up` is running, because nothing would start a batch.

    With configured servers the batch is accepted, and starts when Dagster runs.
    """
    from batch_pipeline.local.system import is_up

    if get_settings().database_url is None and not is_up(data_dir):
        raise UnavailableError(
            "dagster",
            f"No local system is running in {data_dir}: start `batch-pipeline up`, or use `batch-pipeline run`.",
        )


def check_data_dir(data_dir: Path) -> None:
    """Creates the folder. Raises SettingError if that fails."""
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
    except (ProgrammingError, psycopg.ProgrammingError) as error:
        cause = error.orig if isinstance(error, ProgrammingError) else error
        if isinstance(cause, psycopg.Error) and cause.sqlstate in _OTHER_SCHEMA:
            raise SettingError(
                "BATCH_DATABASE_URL names a database without this version's tables: run `batch-pipeline db upgrade`"
            ) from error
        raise
