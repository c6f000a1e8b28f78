"""The embedded PostgreSQL and S3 servers of a data directory, shared by concurrent commands.

The first command owns the servers: it starts both as its children and stops them at its end. Other commands join: they
connect to the addresses in ``servers.json``. The owner waits for them before it stops the servers. If the owner is
killed, the servers end with it. Two lock files in the data directory, which the kernel releases when their holder dies:

- ``owner.lock``: held by the owner, from before it starts the servers until they have stopped;
- ``users.lock``: held shared by each command that joined.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from batch_pipeline.dagster_home import dagster_database_url, prepare_dagster_home
from batch_pipeline.database import url_of_role
from batch_pipeline.errors import SettingError
from batch_pipeline.local.announcing import Report, announced, silent
from batch_pipeline.local.postgres import EmbeddedPostgres
from batch_pipeline.local.private_files import data_folder, write_private
from batch_pipeline.local.processes import FileLock, exit_text, last_line, process_exists
from batch_pipeline.local.s3 import REGION, EmbeddedS3
from batch_pipeline.migrations.roles import API

OWNER_LOCK = "owner.lock"
USERS_LOCK = "users.lock"
BUCKET = "batch"
STORAGE_FOLDER = "s3"

# Files copied into the storage folder grow while they are copied, unlike objects put by S3.
_INBOX_QUIET_SECONDS = 2
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class LocalServers:
    """The running servers of one data directory.

    Attributes:
        data_dir: the folder of all their files (absolute).
        environment: the variables by which this package finds them, including the S3 key.
        storage_folder: the bucket's folder; its files are the objects.
        inbox: the folder ``uploads`` in it; a file copied to ``{organization}/{resource}/{action}/`` becomes
        a batch.
    """

    data_dir: Path
    environment: dict[str, str] = field(repr=False)
    storage_folder: Path
    inbox: Path
    _owned: Sequence[EmbeddedPostgres | EmbeddedS3] = field(default=(), repr=False)

    def ended(self) -> str | None:
        """One line on the server that has ended; None while both run, or if another command owns them."""
        for server in self._owned:
            if server.process is not None and (code := server.process.poll()) is not None:
                text = last_line(server.log, "FATAL")
                return f"{server.name} {exit_text(code)}{f': {text}' if text else ''} (see {server.log})"
        return None


@dataclass(frozen=True)
class _Record:
    """The content of ``servers.json``, which the owner writes when the servers answer."""

    pid: int
    database_url: str
    s3_endpoint: str

    @staticmethod
    def path(data_dir: Path) -> Path:
        return data_dir / "servers.json"

    @classmethod
    def of_living_owner(cls, data_dir: Path) -> "_Record | None":
        """The record; None if there is none or its writer has died."""
        try:
            record = cls(**json.loads(cls.path(data_dir).read_text()))
        except FileNotFoundError:
            return None
        return record if process_exists(record.pid) else None


@contextmanager
def embedded_servers(data_dir: Path, *, report: Report = silent) -> Iterator[LocalServers]:
    """Joins the running servers of ``data_dir``, or starts them and stops them at the end.

    Does not change ``os.environ``. If it started them, it waits at the end for the commands that joined.
    For the main thread. Raises UnavailableError, one line, if a server doesn't start.
    """
    data_dir = data_folder(data_dir)
    owner, users = FileLock(data_dir / OWNER_LOCK), FileLock(data_dir / USERS_LOCK)
    with announced(report, f"Waiting for the servers of {data_dir}, which another command starts or stops"):
        record = _join(data_dir, owner, users)
    if record is None:
        with _running(data_dir, owner, None, report, lambda: False) as servers:
            yield servers
        return
    try:
        yield _describe(data_dir, record)
    finally:
        users.release()


def _join(data_dir: Path, owner: FileLock, users: FileLock) -> _Record | None:
    """Acquires the users' lock and returns the owner's record. Without an owner, acquires its lock and returns None."""
    while not owner.acquire():
        # The record is read again after joining, because an owner that ends removes it before it waits for this lock.
        if _Record.of_living_owner(data_dir) is not None and users.acquire(shared=True):
            if (record := _Record.of_living_owner(data_dir)) is not None:
                owner.release()
                return record
            users.release()
        time.sleep(_POLL_SECONDS)
    return None


@contextmanager
def owned_servers(
    data_dir: Path, *, s3_port: int | None, report: Report = silent, in_a_hurry: Callable[[], bool] = lambda: False
) -> Iterator[LocalServers]:
    """Starts the servers and stops them at the end, as `embedded_servers`, but never joins running servers.

    ``s3_port`` None takes a free port. When ``in_a_hurry`` returns true, it does not wait for commands that joined.
    Raises SettingError if another command owns the servers, or the port is in use.
    """
    data_dir = data_folder(data_dir)
    owner = FileLock(data_dir / OWNER_LOCK)
    if not owner.acquire():
        owner.release()
        raise SettingError(
            f"Another command uses the servers of {data_dir}: wait until it has ended, or choose another --data-dir"
        )
    with _running(data_dir, owner, s3_port, report, in_a_hurry) as servers:
        yield servers


@contextmanager
def _running(
    data_dir: Path, owner: FileLock, s3_port: int | None, report: Report, in_a_hurry: Callable[[], bool]
) -> Iterator[LocalServers]:
    """Runs the servers. Gets the owner's lock from the caller, and releases it at the end."""
    postgres, s3 = EmbeddedPostgres(data_dir), EmbeddedS3(data_dir / STORAGE_FOLDER, s3_port)
    record = _Record.path(data_dir)
    try:
        record.unlink(missing_ok=True)  # left by an owner that was killed
        with announced(report, "Starting PostgreSQL and S3"):
            endpoint = s3.start(BUCKET)
            started = _Record(os.getpid(), postgres.start(), endpoint)
        servers = _describe(data_dir, started, (postgres, s3))
        write_private(record, json.dumps(asdict(started)))
        try:
            yield servers
        finally:
            record.unlink(missing_ok=True)
            _wait_for_users(data_dir, report, lambda: in_a_hurry() or servers.ended() is not None)
    finally:
        with announced(report, "Stopping PostgreSQL and S3"):
            s3.stop()
            postgres.stop()
        owner.release()


def _wait_for_users(data_dir: Path, report: Report, is_enough: Callable[[], bool]) -> None:
    users = FileLock(data_dir / USERS_LOCK)
    try:
        if not users.acquire():
            step = f"Waiting for other commands that use the servers of {data_dir} (Ctrl-C stops the servers)"
            report(f"{step} …")
            with announced(report, step):
                while not users.acquire() and not is_enough():
                    time.sleep(_POLL_SECONDS)
    finally:
        users.release()


def _describe(data_dir: Path, record: _Record, owned: Sequence[EmbeddedPostgres | EmbeddedS3] = ()) -> LocalServers:
    keys = EmbeddedS3(data_dir / STORAGE_FOLDER).keys
    storage_folder = data_dir / STORAGE_FOLDER / BUCKET
    return LocalServers(
        data_dir=data_dir,
        environment={
            "BATCH_DATABASE_URL": record.database_url,
            "BATCH_API_DATABASE_URL": url_of_role(record.database_url, API),
            "BATCH_STORAGE_URL": f"s3://{BUCKET}",
            "BATCH_INBOX_QUIET_SECONDS": str(_INBOX_QUIET_SECONDS),
            "AWS_ENDPOINT_URL": record.s3_endpoint,
            "AWS_ACCESS_KEY_ID": keys.access_key_id,
            "AWS_SECRET_ACCESS_KEY": keys.secret_access_key,
            "AWS_DEFAULT_REGION": REGION,
            "DAGSTER_POSTGRES_URL": dagster_database_url(record.database_url),
            "DAGSTER_HOME": str(prepare_dagster_home(data_dir)),
        },
        storage_folder=storage_folder,
        inbox=storage_folder / "uploads",
        _owned=owned,
    )
