"""The process that runs a data directory's embedded servers while anyone uses them (``python -m …keeper``).

It is a process of its own so that whichever command began, the last one to end takes the servers with it,
however it ends. Its lock files in the data directory, all dropped by the kernel when their holders die:

- ``start.lock``: held while joining or leaving;
- ``users.lock``: held shared by every user; the keeper stops once it gets it exclusively;
- ``keeper.lock``: held by the keeper as long as it or a server of its lives.

Joining and leaving is `servers`.
"""

import json
import os
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

from batch_pipeline.errors import BatchError
from batch_pipeline.local.postgres import EmbeddedPostgres
from batch_pipeline.local.processes import FileLock
from batch_pipeline.local.s3 import EmbeddedS3

START_LOCK = "start.lock"
USERS_LOCK = "users.lock"
KEEPER_LOCK = "keeper.lock"
BUCKET = "batch"
STORAGE_FOLDER = "s3"

# How soon the servers end after their last user was killed; a user that leaves in order tells the keeper.
_POLL_SECONDS = 0.25


@dataclass(frozen=True)
class KeeperState:
    """What the keeper tells those who join, in ``servers.json``: the addresses, or why there are none."""

    pid: int
    database_url: str = ""
    s3_port: int = 0
    s3_endpoint: str = ""
    error_service: str = ""
    error: str = ""

    @staticmethod
    def path(data_dir: Path) -> Path:
        """The state's file in a data directory; absent while nothing runs."""
        return data_dir / "servers.json"

    @classmethod
    def read(cls, data_dir: Path) -> "KeeperState | None":
        """The state as last written, by a keeper that may have ended since."""
        try:
            return cls(**json.loads(cls.path(data_dir).read_text()))
        except FileNotFoundError:
            return None

    def write(self, data_dir: Path) -> None:
        """Writes it at once in full: a reader never sees a part."""
        with tempfile.NamedTemporaryFile("w", dir=data_dir, prefix=".servers-", delete=False) as file:
            json.dump(asdict(self), file)
        Path(file.name).rename(self.path(data_dir))


def keep(data_dir: Path, s3_port: int | None) -> int:
    """Runs the servers until nobody uses them, SIGTERM comes, or one of them ends by itself (exit code 1)."""
    postgres = EmbeddedPostgres(data_dir)
    s3 = EmbeddedS3(data_dir / STORAGE_FOLDER, s3_port)
    users = FileLock(data_dir / USERS_LOCK)
    # In this process SIGTERM is an exception, so that it ends a start-up as well, with everything cleaned up.
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        database_url = postgres.start()
        endpoint = s3.start(BUCKET)
        KeeperState(os.getpid(), database_url, s3.port or 0, endpoint).write(data_dir)
        while not users.acquire(wait=False):
            for server in (postgres, s3):
                if server.process is not None and (code := server.process.poll()) is not None:
                    _say(f"{type(server).__name__} ended with code {code} (see {server.log}): stopping")
                    return 1
            time.sleep(_POLL_SECONDS)
    except BatchError as error:
        _say(error.message)
        service = error.code.removesuffix("_unavailable")
        KeeperState(os.getpid(), error_service=service, error=error.message).write(data_dir)
        return 1
    else:
        return 0
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # stopping already
        state = KeeperState.read(data_dir)
        if state is not None and not state.error:  # an error stays, to be read by whoever waits for the start
            KeeperState.path(data_dir).unlink()
        s3.stop()
        postgres.stop()


def _leave(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)


def _say(line: str) -> None:
    sys.stderr.write(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {line}\n")


if __name__ == "__main__":
    sys.exit(keep(Path(sys.argv[1]), int(sys.argv[2]) or None))
