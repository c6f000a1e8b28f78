"""The whole local system: the servers, and Dagster beside them, as child processes of one command.

A service more is one more line in `_services`.
"""

import http.client
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from batch_pipeline.dagster_home import LOCATION_NAME, MODULE_NAME, dagster_environment
from batch_pipeline.errors import SettingError, UnavailableError
from batch_pipeline.local.api_key import local_key
from batch_pipeline.local.postgres_files import SOCKET_PATH_BYTES
from batch_pipeline.local.processes import FileLock
from batch_pipeline.local.s3 import HOST, require_free_port
from batch_pipeline.local.servers import LocalServers, embedded_servers
from batch_pipeline.local.supervision import Service, ServiceEndedError, Supervisor
from batch_pipeline.settings import get_settings

__all__ = ["LocalServers", "LocalSystem", "connected", "embedded_servers", "is_up", "local_system", "run_up"]

UP_LOCK = "up.lock"
_WATCH_SECONDS = 0.25
# What runs that are under way get to end in; a chunk takes seconds, and what is left undone resumes.
_RUNS_STOP_SECONDS = 30.0


@dataclass(frozen=True)
class LocalSystem:
    """The running local system.

    Attributes:
        dagster_url: address of the Dagster UI and its GraphQL.
        api_url: address of the HTTP API.
        api_key: a key of organization ``default``.
        servers: the embedded servers; None where others are configured.
        log_folder: where each service's output goes.
    """

    dagster_url: str
    api_url: str
    api_key: str = field(repr=False)
    servers: LocalServers | None
    log_folder: Path
    _supervisor: Supervisor = field(repr=False)

    def check(self) -> None:
        """Raises ServiceEndedError, one line, if any part of the system has ended by itself."""
        self._supervisor.check()
        if self.servers is not None and not self.servers.running():
            raise ServiceEndedError(
                "service_ended", f"the embedded servers ended (see {self.log_folder / 'keeper.log'})"
            )


@contextmanager
def connected(data_dir: Path, *, s3_port: int | None = None) -> Iterator[LocalServers | None]:
    """Makes this process's settings lead to a database and a storage, for the time of the ``with``.

    Those that BATCH_DATABASE_URL and BATCH_STORAGE_URL name (yielding None), else the embedded servers of
    ``data_dir``. ``os.environ`` gets what is missing, Dagster's variables included, and is restored in the
    end.

    Raises SettingError if only one of the two variables is set; UnavailableError as `embedded_servers`.
    """
    settings = get_settings()
    if (settings.database_url is None) != (settings.storage_url is None):
        missing = "BATCH_DATABASE_URL" if settings.database_url is None else "BATCH_STORAGE_URL"
        raise SettingError(f"{missing} is not set: set both it and its counterpart, or neither")
    if settings.database_url is not None:
        with _environment(dagster_environment(settings, data_dir=data_dir)):
            yield None
        return
    with embedded_servers(data_dir, s3_port=s3_port) as servers, _environment(servers.environment):
        yield servers


@contextmanager
def local_system(
    data_dir: Path, *, port: int = 3000, api_port: int = 8000, s3_port: int | None = 9000
) -> Iterator[LocalSystem]:
    """Starts servers (unless configured), migrates, starts Dagster, and stops all of it in reverse order.

    One at a time runs for a data directory. All ports are on 127.0.0.1. To be used from the main thread.
    Raises UnavailableError, one line, where a port is taken or a part doesn't come up.
    """
    require_free_port(port, service="dagster", purpose="the Dagster UI", flag="--port")
    require_free_port(api_port, service="api", purpose="the API", flag="--api-port")
    data_dir = data_dir.resolve()
    log_folder = data_dir / "logs"
    with _alone(data_dir), connected(data_dir, s3_port=s3_port) as servers:
        _migrate()
        if servers is not None:
            _make_inbox_folders(servers)
        # Should this process be killed, the database stays until its runs have recorded that they ended.
        holds = [] if servers is None else [servers.use_descriptor]
        dagster_url, api_url = f"http://{HOST}:{port}", f"http://{HOST}:{api_port}"
        environment = {**os.environ, "BATCH_DAGSTER_URL": dagster_url}
        supervision = Supervisor(environment, log_folder, guard_holds=holds)
        with _code_server_socket(data_dir) as code_server, supervision as supervisor:
            workspace = code_server.with_name("workspace.yaml")
            workspace.write_text(
                "load_from:\n  - grpc_server:\n"
                f"      host: localhost\n      socket: {code_server}\n      location_name: {LOCATION_NAME}\n"
            )
            supervisor.start(*_services(code_server, workspace, data_dir, port=port, api_port=api_port))
            yield LocalSystem(dagster_url, api_url, local_key(data_dir), servers, log_folder, supervisor)


def run_up(
    data_dir: Path,
    *,
    port: int = 3000,
    api_port: int = 8000,
    s3_port: int = 9000,
    on_ready: Callable[[LocalSystem], None],
    report: Callable[[str], None],
) -> int:
    """Runs the local system until SIGINT, SIGTERM or SIGHUP; ``on_ready`` is called once it answers.

    Runs that are under way get 30 s to end; a second signal ends everything at once. Returns the exit code:
    0 after a signal, 1 if a part of the system ended by itself, which ``report`` is told in one line.
    Raises as `local_system`.
    """
    with _stop_signals() as stopping:
        try:
            with local_system(data_dir, port=port, api_port=api_port, s3_port=s3_port) as system:
                stopping.then = system._supervisor.hurry
                on_ready(system)
                try:
                    while True:
                        system.check()
                        time.sleep(_WATCH_SECONDS)
                finally:
                    stopping.requested = True  # whatever the reason: a signal now means haste
        except _StopRequested:
            return 0
        except ServiceEndedError as error:
            report(error.message)
            return 1


def _services(code_server: Path, workspace: Path, data_dir: Path, *, port: int, api_port: int) -> Sequence[Service]:
    """In the order of starting; they are stopped in reverse, so that nothing new is begun while runs end."""
    python = [sys.executable, "-m"]
    return (
        # One code server for both others: definitions are imported once. `dagster api grpc` rather than
        # `dagster code-server`, which adds a proxy process in between. A socket, as everyone on the machine
        # could use a port.
        Service(
            "the code server",
            [
                *(*python, "dagster", "api", "grpc", "--socket", str(code_server)),
                *("--module-name", MODULE_NAME, "--location-name", LOCATION_NAME, "--log-level", "warning"),
            ],
            is_ready=lambda: _accepts(code_server),
            stop_seconds=_RUNS_STOP_SECONDS,
        ),
        Service(
            "the Dagster webserver",
            [
                *python,
                "dagster_webserver",
                "--host",
                HOST,
                "--port",
                str(port),
                "--workspace",
                str(workspace),
            ],
            is_ready=lambda: _answers(port, "/server_info"),
        ),
        Service("the Dagster daemon", [*python, "dagster._daemon", "run", "--workspace", str(workspace)]),
        Service(
            "the API",
            [*python, "batch_pipeline", "api", "--port", str(api_port), "--data-dir", str(data_dir)],
            is_ready=lambda: _answers(api_port, "/readyz"),
        ),
    )


def is_up(data_dir: Path) -> bool:
    """Whether a local system runs in the data directory."""
    if not (data_dir / UP_LOCK).exists():
        return False
    lock = FileLock(data_dir / UP_LOCK)
    try:
        return not lock.acquire(shared=True, wait=False)
    finally:
        lock.release()


def _migrate() -> None:
    from batch_pipeline import migrations
    from batch_pipeline.orchestration import instance

    migrations.upgrade(get_settings().require_database_url())
    instance.upgrade_dagster()


def _make_inbox_folders(servers: LocalServers) -> None:
    from batch_pipeline.batches.organizations import list_organizations
    from batch_pipeline.database import create_engine
    from batch_pipeline.local.inbox_folders import make_inbox_folders

    engine = create_engine(get_settings().require_database_url())
    make_inbox_folders(servers.inbox, [organization.id for organization in list_organizations(engine)])
    engine.dispose()


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    get_settings.cache_clear()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        get_settings.cache_clear()


@contextmanager
def _alone(data_dir: Path) -> Iterator[None]:
    # Two daemons on one Dagster instance would start each sensor's runs twice.
    data_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
    lock = FileLock(data_dir / UP_LOCK)
    try:
        if not lock.acquire(wait=False):
            raise UnavailableError(
                "dagster",
                f"the local system of {data_dir} runs already: end it, or choose another --data-dir",
            )
        yield
    finally:
        lock.release()


@contextmanager
def _code_server_socket(data_dir: Path) -> Iterator[Path]:
    # Closed to others, as mkdtemp makes it: who reaches the code server can have it run anything.
    room = SOCKET_PATH_BYTES - len("/socket-12345678/code-server")
    for left_by_a_killed_one in data_dir.glob("socket-*"):
        shutil.rmtree(left_by_a_killed_one)
    place = data_dir if len(os.fsencode(data_dir)) <= room else None
    folder = Path(tempfile.mkdtemp(prefix="socket-", dir=place))
    try:
        yield folder / "code-server"
    finally:
        shutil.rmtree(folder)


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        return connection.connect_ex(str(path)) == 0


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.client.OK
    except OSError:
        return False
    finally:
        connection.close()


class _StopRequested(BaseException):
    """A signal asks this process to stop. No Exception, so that nothing on the way takes it for a failure."""


class _Stopping:
    """What the signals do: the first one stops, each later one calls ``then``."""

    def __init__(self) -> None:
        self.requested = False
        self.then: Callable[[], None] = lambda: None

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        if self.requested:
            self.then()
            return
        self.requested = True
        raise _StopRequested


@contextmanager
def _stop_signals() -> Iterator[_Stopping]:
    stopping = _Stopping()
    before = {number: signal.signal(number, stopping) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
