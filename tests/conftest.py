"""What all tests share: a PostgreSQL and an S3 server for the session, and a corner of both for each test."""

import gc
import os
import secrets
import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import psycopg
import pytest
from databases import DatabasePool, other_database
from examples import THOROUGH, USUAL
from folders import server_folder
from psycopg import sql
from systems import NewDatabase, leading_to, new_system, running_system

from batch_pipeline import migrations
from batch_pipeline.dagster_home import dagster_database_url
from batch_pipeline.garbage import collect_seldom
from batch_pipeline.local.postgres import SERVER_SETTINGS
from batch_pipeline.local.system import LocalServers, LocalSystem, embedded_servers
from batch_pipeline.settings import get_settings
from batch_pipeline.system import System

if TYPE_CHECKING:
    from dagster import DagsterInstance
    from xdist.remote import Producer
    from xdist.scheduler import LoadFileScheduling

# A shell ignores them for what it starts in the background, and so would every process that tests start, and kill.
for _number, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)

collect_seldom()  # imports and tests are millions of objects, which stay

# On a busy machine a short example takes seconds now and then, and so does making one.
for _profile, _examples in ((USUAL, 40), (THOROUGH, 500)):
    hypothesis.settings.register_profile(
        _profile,
        max_examples=_examples,
        deadline=None,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )
hypothesis.settings.load_profile(USUAL)

# Files of tests that share a running system, which takes 25 s of processor to start.
SHARING = "tests/running/"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the files first that share a system, then those that allow themselves the most time.

    Begun last, one of them would keep one core busy alone.
    """

    def patience(item: pytest.Item) -> float:
        mark = item.get_closest_marker("timeout")
        return float(mark.args[0]) if mark else 0.0

    longest: dict[Path, float] = {}
    for item in items:
        longest[item.path] = max(longest.get(item.path, 0.0), patience(item))
    items.sort(key=lambda item: (not item.nodeid.startswith(SHARING), -longest[item.path]))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: "Producer") -> "LoadFileScheduling | None":
    """The tests of a file run in one process, and so do those of the files that share a running system."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):  # type: ignore[misc] # xdist has no types
        def _split_scope(self, nodeid: str) -> str:
            return SHARING if nodeid.startswith(SHARING) else str(super()._split_scope(nodeid))

    return Scheduling(config, log)


def pytest_collection_finish() -> None:
    """Exempts what has been imported and collected from garbage collection, which would look at all of it each time."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup() -> None:
    """Undoes what the services of earlier tests have set: a server collects fourteen times as often."""
    collect_seldom()


def pytest_unconfigure() -> None:
    """What tests have left in reference cycles ends while there is an interpreter that can close it."""
    gc.collect()


@pytest.fixture(scope="session")
def session_folder() -> Iterator[Path]:
    """A folder of this test process's own."""
    folder = server_folder()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def servers(session_folder: Path) -> Iterator[LocalServers]:
    """The running servers of this session; `environment` makes the package use them."""
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            # To drop a table, the server looks through all buffers, and tests drop many thousands of small tables.
            patch.setitem(SERVER_SETTINGS, "shared_buffers", "32MB")
            patch.setitem(SERVER_SETTINGS, "max_wal_size", "256MB")  # the files may be in memory
            running = stack.enter_context(embedded_servers(session_folder / "servers"))
        with psycopg.connect(running.environment["BATCH_DATABASE_URL"], autocommit=True) as connection:
            # Tests kill processes, which loses nothing that was committed; they cut no power, which would.
            connection.execute("ALTER SYSTEM SET fsync = off")
            connection.execute("ALTER SYSTEM SET full_page_writes = off")
            connection.execute("ALTER SYSTEM SET autovacuum_naptime = '1h'")  # it would visit dozens of databases
            connection.execute("SELECT pg_reload_conf()")
        yield running


@pytest.fixture(scope="session")
def environment(servers: LocalServers) -> Iterator[dict[str, str]]:
    """``os.environ`` leads to `servers` for the rest of the session. Returns the variables set."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("BATCH_", "AWS_", "DAGSTER_"))]:
            patch.delenv(name)  # a developer's own deployment is no test's business
        for name, value in servers.environment.items():
            patch.setenv(name, value)
        get_settings.cache_clear()
        yield servers.environment
    get_settings.cache_clear()


@pytest.fixture(scope="session")
def new_database(servers: LocalServers) -> Iterator[NewDatabase]:
    """Gives, in a ``with``, the URL of a new database with the newest schema and no rows.

    Each is a copy of a template that was migrated once, or one that another test has left.
    """
    server_url = servers.environment["BATCH_DATABASE_URL"]
    template = sql.Identifier("tests_template")
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(template))
        migrations.upgrade(other_database(server_url, "tests_template"))
        migrations.roles.set_up(other_database(server_url, "tests_template"))
        # A template can only be copied while nobody is connected to it.
        connection.execute(sql.SQL("ALTER DATABASE {} WITH ALLOW_CONNECTIONS false").format(template))
        with closing(DatabasePool(connection, server_url, "tests_template")) as pool:
            yield pool.database


@pytest.fixture
def database_url(new_database: NewDatabase) -> Iterator[str]:
    """A database of this test's own, with the newest schema and no rows."""
    with new_database() as url:
        yield url


@pytest.fixture(scope="module")
def module_database_url(new_database: NewDatabase) -> Iterator[str]:
    """A database shared by one module's tests, which only read or keep to their own organization."""
    with new_database() as url:
        yield url


@pytest.fixture
def storage_url(environment: dict[str, str]) -> str:
    """A prefix of this test's own in the session's bucket, empty."""
    return f"{environment['BATCH_STORAGE_URL']}/test-{secrets.token_hex(6)}"


@pytest.fixture(scope="session")
def new_dagster_database(environment: dict[str, str], new_database: NewDatabase) -> Iterator[NewDatabase]:
    """As `new_database`, with Dagster's tables too; another template, as making those costs seconds."""
    from batch_pipeline.orchestration.instance import upgrade_dagster

    server_url = environment["BATCH_DATABASE_URL"]
    template = sql.Identifier("tests_template_dagster")
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(
                template, sql.Identifier("tests_template")
            )
        )
        url = other_database(server_url, "tests_template_dagster")
        with leading_to({"BATCH_DATABASE_URL": url, "DAGSTER_POSTGRES_URL": dagster_database_url(url)}):
            upgrade_dagster()
        migrations.roles.set_up(url)
        connection.execute(sql.SQL("ALTER DATABASE {} WITH ALLOW_CONNECTIONS false").format(template))

        with closing(DatabasePool(connection, server_url, "tests_template_dagster")) as pool:
            yield pool.database


@pytest.fixture(scope="module")
def system_settings() -> dict[str, str]:
    """Variables ``BATCH_…`` that a module's systems have; a module that wants some overrides this."""
    return {}


@pytest.fixture
def system(
    new_dagster_database: NewDatabase, environment: dict[str, str], system_settings: dict[str, str]
) -> Iterator[System]:
    """The system on a database and a storage prefix of this test's own; ``os.environ`` leads to it."""
    with new_system(new_dagster_database, environment, system_settings) as opened:
        yield opened


@pytest.fixture(scope="module")
def module_system(
    new_dagster_database: NewDatabase, environment: dict[str, str], system_settings: dict[str, str]
) -> Iterator[System]:
    """As `system`, shared by one module's tests, each of which keeps to organizations of its own."""
    with new_system(new_dagster_database, environment, system_settings) as opened:
        yield opened


@pytest.fixture
def instance(system: System) -> Iterator["DagsterInstance"]:
    """Dagster's instance, with its tables in the database of `system`."""
    from batch_pipeline.orchestration.instance import open_instance

    with open_instance(in_process=True) as opened:
        yield opened


@pytest.fixture(scope="module")
def module_instance(module_system: System) -> Iterator["DagsterInstance"]:
    """Dagster's instance, with its tables in the database of `module_system`."""
    from batch_pipeline.orchestration.instance import open_instance

    with open_instance(in_process=True) as opened:
        yield opened


@pytest.fixture(scope="module")
def running(module_system: System) -> Iterator[LocalSystem]:
    """The whole system as `batch-pipeline up` runs it, on this module's database and storage."""
    del module_system  # os.environ leads to it
    with running_system() as system:
        yield system
