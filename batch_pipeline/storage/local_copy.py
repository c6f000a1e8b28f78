"""A local copy of a file that becomes an upload."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from batch_pipeline.settings import MIB

_BLOCK_BYTES = 4 * MIB


@dataclass(frozen=True)
class LocalCopy:
    """A copy that stays as it is.

    Attributes:
        path: on local disk.
        checksum: the SHA-256 of its content in hex.
    """

    path: Path
    checksum: str


def copy_file(source: Path, target: Path, *, is_left: Callable[[], bool]) -> LocalCopy:
    """Copies a file that others may change meanwhile. Ends early if `is_left`. Raises OSError."""
    digest = hashlib.sha256()
    with source.open("rb") as read, target.open("wb") as written:
        while not is_left() and (block := read.read(_BLOCK_BYTES)):
            written.write(block)
            digest.update(block)
    return LocalCopy(target, digest.hexdigest())
