"""Folders of tests in which servers keep their files."""

import shutil
import tempfile
from pathlib import Path

import psutil

_IN_MEMORY, _ON_DISK = Path("/dev/shm"), Path("/var/tmp")  # noqa: S108 - folders of a random name
# All test processes together take less.
_ENOUGH_BYTES = 8 << 30


def server_folder() -> Path:
    """A new folder with a short path that every account may enter, also that of root's PostgreSQL.

    It is in memory if there is plenty: a database has a thousand files, to make which takes a second of processor on
    some disks. Tests end servers in every way, but cut no power: what was written to a file is there after either.
    """
    is_plenty = (
        _IN_MEMORY.is_mount()
        and shutil.disk_usage(_IN_MEMORY).free > _ENOUGH_BYTES
        and psutil.virtual_memory().available > _ENOUGH_BYTES
    )
    folder = Path(tempfile.mkdtemp(prefix="batch-pipeline-tests-", dir=_IN_MEMORY if is_plenty else _ON_DISK))
    folder.chmod(0o755)
    return folder
