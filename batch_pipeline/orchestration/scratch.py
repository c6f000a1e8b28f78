"""Scratch folders of runs on the local disk. A later run removes those of a killed one."""

import fcntl
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PREFIX = "batch-pipeline-run-"
_NEW_SECONDS = 60.0  # a newer folder may not be locked yet
_tidied_at = -math.inf  # by the monotonic clock


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yields an empty folder, locked while in use."""
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as folder:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield Path(folder)
        finally:
            os.close(descriptor)


@contextmanager
def emptied(folder: Path) -> Iterator[Path]:
    """Yields the folder, and removes the files in it afterwards; folders in it stay."""
    try:
        yield folder
    finally:
        for path in folder.iterdir():
            if not path.is_dir():
                path.unlink()


def remove_abandoned_folders() -> None:
    """Removes the scratch folders that killed processes left."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            if time.time() - folder.stat().st_mtime < _NEW_SECONDS:
                continue
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:  # removed since, or another user's
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue  # in use
        else:
            shutil.rmtree(folder, ignore_errors=True)  # another run may remove it concurrently
        finally:
            os.close(descriptor)


def tidy_up() -> None:
    """Removes abandoned folders, but once in `_NEW_SECONDS` at most: for the start of a run, which may be short."""
    global _tidied_at  # noqa: PLW0603 - the process's own
    if time.monotonic() - _tidied_at >= _NEW_SECONDS:
        _tidied_at = time.monotonic()
        remove_abandoned_folders()
