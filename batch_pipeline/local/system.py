"""The whole local system: the embedded servers and Dagster, as child processes of one command.

`services` defines the services.
"""

import functools
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from batch_pipeline.dagster_home import has_dagster_tables
from batch_pipeline.errors import SettingError
from batch_pipeline.garbage import collect_seldom
from batch_pipeline.local.announcing import Report, announced, silent
from batch_pipeline.local.api_key import local_key
from batch_pipeline.local.connecting import connected
from batch_pipeline.local.inbox_folders import make_inbox_folders
from batch_pipeline.local.postgres_files import SOCKET_PATH_BYTES
from batch_pipeline.local.private_files import data_folder, private_folder
from batch_pipeline.local.processes import FileLock
from batch_pipeline.local.s3 import HOST, require_free_port
from batch_pipeline.local.samples import launchpad_sample
from batch_pipeline.local.servers import LocalServers, embedded_servers, owned_servers
from batch_pipeline.local.services import (
    SHARED_MODULES,
    Places,
    redis_service,
    services,
    workers_environment,
    write_workspace,
)
from batch_pipeline.local.supervision import ServiceEndedError, Supervisor
from batch_pipeline.local.warm import warm_process
from batch_pipeline.settings import get_settings
from batch_pipeline.storage.keys import SAMPLE
from batch_pipeline.storage.store import Store

__all__ = ["LocalServers", "LocalSystem", "embedded_servers", "is_up", "local_system"]

UP_LOCK = "up.lock"
_WATCH_SECONDS = 0.25
# PostgreSQL releases the locks of a killed process within milliseconds.
_LOCKS_SECONDS = 5.0


@dataclass(frozen=True)
class LocalSystem:
    """The running local system.

    Attributes:
        dagster_url: address of the Dagster UI and its GraphQL.
        api_url: address of the HTTP API.
        api_key: a key of organization ``default``.
        servers: the embedded servers; None if others are configured.
        log_folder: folder of the services' logs.
    """

    dagster_url: str
    api_url: str
    api_key: str = field(repr=False)
    servers: LocalServers | None
    log_folder: Path
    _supervisor: Supervisor = field(repr=False)
    _hurry: threading.Event = field(repr=False)

    def check(self) -> None:
        """Raises ServiceEndedError, one line, if any part of the system has ended."""
        if self.servers is not None and (ended := self.servers.ended()) is not None:
            self.hurry()  # without the server no batch can end in order
            raise ServiceEndedError(ended)
        self._supervisor.check()

    def hurry(self) -> None:
        """Makes stopping kill instead of wait. May be called from a signal handler."""
        self._hurry.set()


@contextmanager
def local_system(
    data_dir: Path,
    *,
    port: int = 3000,
    api_port: int = 8000,
    s3_port: int | None = 9000,
    workers: int = 0,
    report: Report = silent,
    hurry: threading.Event | None = None,
) -> Iterator[LocalSystem]:
    """Starts servers (unless configured), migrates, starts Dagster, and stops all of it in reverse order.

    With ``workers``, that many Celery workers run the batches, one each at a time; their broker is the configured one,
    else a Redis server of this system's own.
    Only one runs at a time in a data directory. All ports are on 127.0.0.1. For the main thread. ``report`` gets a line
    for each step, and every 2 s while a step takes longer. Once ``hurry`` is set, by a signal handler for example,
    stopping kills instead of waiting. Raises SettingError if a port or the data directory is in use, UnavailableError
    if a part doesn't start; each is one line.
    """
    collect_seldom()  # this process may live for weeks
    data_dir = data_folder(data_dir)
    log_folder = private_folder(data_dir / "logs")
    hurry = hurry or threading.Event()
    start = functools.partial(owned_servers, s3_port=s3_port, report=report, in_a_hurry=hurry.is_set)
    with _alone(data_dir) as lock:
        require_free_port(port, purpose="the Dagster UI", flag="--port")
        require_free_port(api_port, purpose="the API", flag="--api-port")
        report("Starting …")
        with (
            warm_process(SHARED_MODULES, log_folder / "warm-process.log") as warm,
            connected(data_dir, start=start) as servers,
        ):
            with announced(report, "Preparing the database"):
                _migrate(is_embedded=servers is not None)
                if servers is not None:
                    _make_inbox_folders(servers)
                _put_sample()
                api_key = local_key(data_dir)
            dagster_url, api_url = f"http://{HOST}:{port}", f"http://{HOST}:{api_port}"
            try:
                with _private_sockets(data_dir) as sockets:
                    places = Places(data_dir, sockets, port, api_port, workers)
                    added = {
                        "BATCH_DAGSTER_URL": dagster_url,
                        "BATCH_API_URL": get_settings().api_url or api_url,
                        **workers_environment(places),
                    }
                    with Supervisor(
                        {**os.environ, **added}, log_folder, hurry=hurry, report=report, warm=warm
                    ) as supervisor:
                        try:
                            write_workspace(places)
                            supervisor.start(*redis_service(places))
                            with announced(report, "Loading what the services share"):
                                warm.wait_until_ready()
                            code_server, *others = services(places)
                            supervisor.start(code_server)
                            supervisor.start(*others)
                            lock.path.write_text(f"Dagster UI {dagster_url}, API {api_url}")
                            yield LocalSystem(dagster_url, api_url, api_key, servers, log_folder, supervisor, hurry)
                        finally:
                            report("Stopping …")
            finally:
                if servers is not None and servers.ended() is None:
                    with announced(report, "Recording the batches that were killed"):
                        _record_killed_batches()


def is_up(data_dir: Path) -> bool:
    """Whether a local system runs in the data directory."""
    if not (data_dir / UP_LOCK).exists():
        return False
    lock = FileLock(data_dir / UP_LOCK)
    try:
        return not lock.acquire(shared=True)
    finally:
        lock.release()


def _migrate(*, is_embedded: bool) -> None:
    from batch_pipeline import migrations

    database_url = get_settings().require_database_url()
    migrations.upgrade(database_url)
    if not has_dagster_tables():
        from batch_pipeline.orchestration.instance import upgrade_dagster

        upgrade_dagster()
    if is_embedded:
        migrations.roles.set_up(database_url)


def _put_sample() -> None:
    """Puts the file that the Launchpad's first config names into the bucket."""
    store = Store(get_settings().require_storage_url())
    store.write(SAMPLE, launchpad_sample())
    store.close()


def _make_inbox_folders(servers: LocalServers) -> None:
    from batch_pipeline.batches.organizations import list_organizations
    from batch_pipeline.database import create_engine

    engine = create_engine(get_settings().require_database_url())
    make_inbox_folders(servers.inbox, [organization.id for organization in list_organizations(engine)])
    engine.dispose()


def _record_killed_batches() -> None:
    """Fails the batches of killed processes now, instead of at the next start."""
    from batch_pipeline.batches.queries import running_batches
    from batch_pipeline.database import create_engine
    from batch_pipeline.orchestration.instance import open_instance
    from batch_pipeline.orchestration.reconciling import reconcile
    from batch_pipeline.system import open_system

    engine = create_engine(get_settings().require_database_url())
    deadline = time.monotonic() + _LOCKS_SECONDS
    while running_batches(engine) and time.monotonic() < deadline:
        with open_system() as system, open_instance() as instance:
            reconcile(system, instance)
        time.sleep(_WATCH_SECONDS)
    engine.dispose()


@contextmanager
def _alone(data_dir: Path) -> Iterator[FileLock]:
    """Yields the lock of the running local system. Its file has the addresses for commands that find it locked."""
    # Two daemons on one Dagster instance would start each sensor's runs twice.
    lock = FileLock(data_dir / UP_LOCK)
    try:
        if not lock.acquire():
            addresses = lock.path.read_text() or "it is starting"
            raise SettingError(
                f"The local system of {data_dir} is already running ({addresses}): end it, or choose another --data-dir"
            )
        lock.path.write_text("")
        yield lock
    finally:
        lock.release()


@contextmanager
def _private_sockets(data_dir: Path) -> Iterator[Path]:
    """A folder for sockets."""
    # mkdtemp closes it to other users, because a caller of the code server or of Redis can make it run any code.
    room = SOCKET_PATH_BYTES - len("/socket-12345678/code-server")
    for leftover in data_dir.glob("socket-*"):
        shutil.rmtree(leftover)
    place = data_dir if len(os.fsencode(data_dir)) <= room else None
    folder = Path(tempfile.mkdtemp(prefix="socket-", dir=place))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
