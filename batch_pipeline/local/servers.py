"""Using the embedded servers: whoever comes first starts them, others join, the last one to leave stops them.

What runs them meanwhile is `keeper`, where the lock files are explained.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from batch_pipeline.dagster_home import dagster_database_url, prepare_dagster_home
from batch_pipeline.errors import UnavailableError
from batch_pipeline.local.keeper import (
    BUCKET,
    KEEPER_LOCK,
    START_LOCK,
    STORAGE_FOLDER,
    USERS_LOCK,
    KeeperState,
)
from batch_pipeline.local.processes import FileLock, is_alive, last_line, start_process
from batch_pipeline.local.s3 import REGION, EmbeddedS3

if TYPE_CHECKING:
    import psutil

# Files copied into the storage folder grow while they are copied, unlike objects put by S3.
_INBOX_QUIET_SECONDS = 2
_POLL_SECONDS = 0.02

# Keepers that this process began: kept, so that they are waited for and leave no zombie behind.
_started: dict[int, subprocess.Popen[bytes]] = {}


@dataclass(frozen=True)
class LocalServers:
    """The running servers of one data directory.

    Attributes:
        data_dir: where everything of theirs lies (absolute).
        environment: the variables by which every part of this package finds them; holds the S3 key.
        storage_folder: the bucket's folder: its files are the objects.
        inbox: the folder ``uploads`` in it; a file copied to ``{organization}/{resource}/{action}/`` becomes
        a batch.
    """

    data_dir: Path
    environment: dict[str, str] = field(repr=False)
    storage_folder: Path
    inbox: Path
    _keeper: "psutil.Process" = field(repr=False)
    _users: FileLock = field(repr=False)

    @property
    def use_descriptor(self) -> int:
        """An open file that keeps the servers running as long as a process that it is handed to."""
        return self._users.descriptor

    def running(self) -> bool:
        """Whether the servers still run (both end if one does)."""
        return is_alive(self._keeper)


@contextmanager
def embedded_servers(data_dir: Path, *, s3_port: int | None = None) -> Iterator[LocalServers]:
    """Starts, or joins, the PostgreSQL and S3 servers of ``data_dir``; the last user to leave stops them.

    Any number of processes may use them. One that is killed counts as having left; with nobody left, they
    stop. ``s3_port`` None takes the running server's port, or a free one. Nothing is set in ``os.environ``.

    Raises UnavailableError, one line, where a server doesn't come up or the port is not to be had.
    """
    data_dir = data_dir.resolve()
    data_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
    users = FileLock(data_dir / USERS_LOCK)
    with FileLock(data_dir / START_LOCK):
        users.acquire(shared=True)  # waits while a keeper without users is stopping
        try:
            state = _join(data_dir, s3_port)
        except BaseException:
            users.release()
            raise
    try:
        yield _describe(data_dir, users, state)
    finally:
        with FileLock(data_dir / START_LOCK):
            _leave(data_dir, users)


def _join(data_dir: Path, s3_port: int | None) -> KeeperState:
    """The state of the running keeper, or of a new one. Called with the start lock held."""
    lock = FileLock(data_dir / KEEPER_LOCK)
    log = data_dir / "logs" / "keeper.log"
    keeper: subprocess.Popen[bytes] | None = None
    try:
        # In a loop, as a keeper that ends lets go of its users a moment before it lets go of this lock.
        while (state := _state(data_dir, keeper)) is None:
            if keeper is None and lock.acquire(wait=False):  # nobody keeps
                KeeperState.path(data_dir).unlink(missing_ok=True)  # left by one that was killed
                keeper = _start_keeper(data_dir, s3_port, lock, log)
            elif keeper is not None and keeper.poll() is not None and _state(data_dir, keeper) is None:
                raise UnavailableError("database", f"the embedded servers did not start: {last_line(log)} (see {log})")
            time.sleep(_POLL_SECONDS)
    finally:
        lock.release()
    if state.error:
        if keeper is not None:  # on its way out
            keeper.wait()
        raise UnavailableError(state.error_service, state.error)
    if s3_port is not None and state.s3_port != s3_port:
        raise UnavailableError(
            "storage",
            f"the S3 server of {data_dir} already runs on port {state.s3_port}, not {s3_port}: "
            f"end the command that uses it, or give --s3-port {state.s3_port}",
        )
    return state


def _state(data_dir: Path, started: "subprocess.Popen[bytes] | None") -> KeeperState | None:
    """What the keeper that we started says, or else one that lives; None as long as there is nothing."""
    state = KeeperState.read(data_dir)
    if state is None or (started is not None and started.pid == state.pid):
        return state
    keeper = _process(state.pid)
    return state if keeper is not None and is_alive(keeper) and not state.error else None


def _start_keeper(data_dir: Path, s3_port: int | None, lock: FileLock, log: Path) -> "subprocess.Popen[bytes]":
    keeper = start_process(
        # -P: the folder it happens to start in is no place to import from.
        [sys.executable, "-P", "-m", "batch_pipeline.local.keeper", str(data_dir), str(s3_port or 0)],
        log=log,
        folder=Path("/"),
        death_signal=None,  # it outlives the one that began
        descriptors=[lock.descriptor],
    )
    _started[keeper.pid] = keeper
    lock.close_here()
    return keeper


def _leave(data_dir: Path, users: FileLock) -> None:
    """Drops this use; if the last, stops the keeper and waits for it. Called with the start lock held."""
    last = users.acquire(wait=False)
    # Only a keeper that is stopping holds the lock exclusively (as changing from shared to exclusive lets go
    # between).
    stopping = not last and not users.acquire(shared=True, wait=False)
    if last or stopping:
        ended = FileLock(data_dir / KEEPER_LOCK)
        if not ended.acquire(wait=False):
            # Not the state from the time of joining: the keeper then may have been killed, and another come.
            state = KeeperState.read(data_dir)
            keeping = None if state is None else _process(state.pid)
            if last and keeping is not None:
                keeping.send_signal(signal.SIGTERM)
            ended.acquire()
            while keeping is not None and is_alive(keeping):  # its files are closed a moment before its end
                time.sleep(_POLL_SECONDS)
        ended.release()
        for pid, keeper in list(_started.items()):
            if keeper.poll() is not None:
                del _started[pid]
    users.release()


def _process(pid: int) -> "psutil.Process | None":
    import psutil

    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None


def _describe(data_dir: Path, users: FileLock, state: KeeperState) -> LocalServers:
    keeper = _process(state.pid)
    if keeper is None:
        raise UnavailableError(
            "database", f"the embedded servers ended at once (see {data_dir / 'logs' / 'keeper.log'})"
        )
    keys = EmbeddedS3(data_dir / STORAGE_FOLDER).keys
    storage_folder = data_dir / STORAGE_FOLDER / BUCKET
    return LocalServers(
        data_dir=data_dir,
        environment={
            "BATCH_DATABASE_URL": state.database_url,
            "BATCH_STORAGE_URL": f"s3://{BUCKET}",
            "BATCH_INBOX_QUIET_SECONDS": str(_INBOX_QUIET_SECONDS),
            "AWS_ENDPOINT_URL": state.s3_endpoint,
            "AWS_ACCESS_KEY_ID": keys.access_key_id,
            "AWS_SECRET_ACCESS_KEY": keys.secret_access_key,
            "AWS_DEFAULT_REGION": REGION,
            "DAGSTER_POSTGRES_URL": dagster_database_url(state.database_url),
            "DAGSTER_HOME": str(prepare_dagster_home(data_dir)),
        },
        storage_folder=storage_folder,
        inbox=storage_folder / "uploads",
        _keeper=keeper,
        _users=users,
    )
