"""The services of the local system: their commands, and how to see that they answer.

To add a service, add it to `services`.
"""

import functools
import http.client
import platform
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from batch_pipeline.dagster_home import LOCATION_NAME, MODULE_NAME
from batch_pipeline.local import redis
from batch_pipeline.local.private_files import write_private
from batch_pipeline.local.s3 import HOST
from batch_pipeline.local.supervision import Service
from batch_pipeline.settings import get_settings

# Time for running batches to end. A chunk takes seconds, and a retry processes the rest.
_RUNS_STOP_SECONDS = 30.0
_RUNS_STOP_NOTE = f" once running batches have ended, after {_RUNS_STOP_SECONDS:.0f} s at most (Ctrl-C kills them)"
_PYTHON = [sys.executable, "-m"]

# What `services` and their runs import, for the process that they are forked from. They lack the modules that services
# run as ``__main__``, because Python would warn that these are imported already.
SHARED_MODULES = ("batch_pipeline.orchestration.preload", "dagster._cli.api")
# What the services after the code server import too. It is imported after that is forked, which then takes less memory.
LATER_MODULES = (
    "dagster._daemon.cli",
    "dagster_webserver.cli",
    "batch_pipeline.cli.serving",
    "batch_pipeline.api.server",
    "batch_pipeline.api.app",
)


@dataclass(frozen=True)
class Places:
    """Where the services are.

    Attributes:
        data_dir: the data directory.
        sockets: a folder that only its owner can enter.
        port: of the Dagster webserver.
        api_port: of the API.
        workers: the number of Celery workers; with 0, the code server runs the batches.
    """

    data_dir: Path
    sockets: Path
    port: int
    api_port: int
    workers: int = 0

    @property
    def code_server(self) -> Path:
        """The code server's socket: every user of the machine could use a port."""
        return self.sockets / "code-server"

    @property
    def redis(self) -> Path:
        """The socket of Redis."""
        return self.sockets / "redis"

    @property
    def workspace(self) -> Path:
        """Dagster's workspace.yaml."""
        return self.sockets / "workspace.yaml"


def write_workspace(places: Places) -> None:
    """Writes Dagster's workspace.yaml."""
    location = f"host: localhost\n      socket: {places.code_server}\n      location_name: {LOCATION_NAME}"
    write_private(places.workspace, f"load_from:\n  - grpc_server:\n      {location}\n")


def workers_environment(places: Places) -> dict[str, str]:
    """The variables by which Dagster and the workers use the broker; none without workers."""
    if not places.workers:
        return {}
    return {"BATCH_LAUNCHER": "celery", "BATCH_CELERY_BROKER_URL": _broker_url(places)}


def redis_service(places: Places) -> Sequence[Service]:
    """Redis, which others need to start. None without workers, or if a broker is configured. Raises SettingError."""
    if not places.workers or get_settings().celery_broker_url is not None:
        return ()
    command = redis.redis_command(places.redis, places.data_dir / "redis")
    return (Service("Redis", command, is_ready=functools.partial(redis.answers, places.redis), start_seconds=30.0),)


def services(places: Places) -> Sequence[Service]:
    """The services in the order of starting. They stop in reverse order, so that nothing starts runs while runs end.

    The code server, the first, must answer before the others start: webserver and daemon ask it for the definitions. If
    it doesn't answer, they log an error and ask again later.
    """
    dagster = [*_PYTHON, "batch_pipeline.orchestration.dagster_command"]
    return (
        # One code server for both others: definitions are imported once. `dagster code-server` would add a proxy
        # process in between.
        Service(
            "the code server",
            [
                *(*_PYTHON, "batch_pipeline.orchestration.code_server", "--socket", str(places.code_server)),
                *("--module-name", MODULE_NAME, "--location-name", LOCATION_NAME, "--log-level", "warning"),
            ],
            is_ready=lambda: _accepts(places.code_server),
            stop_seconds=_RUNS_STOP_SECONDS,
            stop_note=_RUNS_STOP_NOTE,
            is_forked=True,
            forks_runs=True,
            imported_next=LATER_MODULES,
        ),
        *(worker_service(places, number) for number in range(1, places.workers + 1)),
        Service(
            "the Dagster webserver",
            [
                *(*dagster, "dagster_webserver", "--host", HOST, "--port", str(places.port)),
                *("--workspace", str(places.workspace)),
            ],
            is_ready=lambda: _answers(places.port, "/server_info"),
            is_forked=True,
        ),
        Service(
            "the Dagster daemon",
            [*dagster, "dagster._daemon", "run", "--workspace", str(places.workspace)],
            is_forked=True,
        ),
        Service(
            "the API",
            [
                *(*_PYTHON, "batch_pipeline", "api", "--port", str(places.api_port)),
                *("--data-dir", str(places.data_dir)),
            ],
            is_ready=lambda: _answers(places.api_port, "/readyz"),
            is_forked=True,
            forks_runs=get_settings().api_processes == 1,
        ),
    )


def worker_service(places: Places, number: int, *, concurrency: int = 1) -> Service:
    """A Celery worker."""
    name = f"worker-{number}@{platform.node()}"
    return Service(
        f"worker {number}",
        [
            *(*_PYTHON, "batch_pipeline", "worker", "--concurrency", str(concurrency), "--name", name),
            *("--data-dir", str(places.data_dir)),
        ],
        is_ready=functools.partial(_worker_answers, _broker_url(places), name),
        stop_seconds=_RUNS_STOP_SECONDS,
        stop_note=_RUNS_STOP_NOTE,
    )


def _broker_url(places: Places) -> str:
    settings = get_settings()
    return redis.redis_url(places.redis) if settings.celery_broker_url is None else settings.require_broker_url()


def _worker_answers(broker_url: str, name: str) -> bool:
    from batch_pipeline.orchestration.celery_app import is_worker_ready

    return is_worker_ready(broker_url, name)


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
