"""Compressed uploads: gzip and zstd, recognised by their first bytes, decompressed to a file within limits.

The libraries read members (zstd: frames) one after another, check their checksums, and refuse what follows the last.
"""

import gzip
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from batch_pipeline.errors import RefusedError
from batch_pipeline.payloads.model import ReadLimits

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

OUTPUT_BYTES = 1 << 20
# Smaller results harm nobody, however well they were compressed.
HARMLESS_BYTES = 64 << 20

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE = tuple(bytes([number]) + b"\x2a\x4d\x18" for number in range(0x50, 0x60))


class Compression(StrEnum):
    """The compressions that are read."""

    GZIP = "gzip"
    ZSTD = "zstd"


_SUFFIXES = (".gz", ".gzip", ".zst", ".zstd")


def compression_of(head: bytes) -> Compression | None:
    """The compression of a file that begins with these bytes."""
    if head.startswith(_GZIP):
        return Compression.GZIP
    if head.startswith((_ZSTD, *_ZSTD_SKIPPABLE)):
        return Compression.ZSTD
    return None


def inner_name(name: str) -> str:
    """The name of what a compressed file of this name holds."""
    suffix = next((suffix for suffix in _SUFFIXES if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)]


@dataclass(frozen=True)
class ExpansionLimit:
    """How large an upload of ``stored_bytes`` may get once it is decompressed or decoded."""

    stored_bytes: int
    limits: ReadLimits

    def check(self, size: int) -> None:
        """Raises RefusedError ``too_large`` if that is more than may be, or a decompression bomb."""
        limits = self.limits
        if size > limits.max_decompressed_bytes:
            raise RefusedError(
                "too_large",
                f"The file has more than {limits.max_decompressed_bytes:,} bytes once decompressed, the most that "
                "an upload may have (setting BATCH_MAX_DECOMPRESSED_BYTES): split it.",
            )
        if size > max(HARMLESS_BYTES, limits.max_decompression_ratio * self.stored_bytes):
            raise RefusedError(
                "too_large",
                "The file looks like a decompression bomb: it expands to more than "
                f"{limits.max_decompression_ratio:,} times its size (setting BATCH_MAX_DECOMPRESSION_RATIO). "
                "Upload it uncompressed, as CSV or JSON.",
            )


def decompress(
    source: Path, target: Path, compression: Compression, limits: ReadLimits, *, check: Callable[[], None]
) -> None:
    """Writes what a compressed file holds; ``check`` is called often and may raise to stop.

    Raises RefusedError: ``unreadable_file`` (broken or cut off, with the byte), ``too_large`` (as `ExpansionLimit`).
    """
    size = 0
    stored_bytes = source.stat().st_size
    limit = ExpansionLimit(stored_bytes, limits)
    open_stream = gzip.open if compression is Compression.GZIP else zstd.open
    with source.open("rb") as compressed, open_stream(compressed) as stream, target.open("wb") as plain:
        try:
            while part := stream.read(OUTPUT_BYTES):
                size += len(part)
                limit.check(size)
                plain.write(part)
                check()
        except EOFError:
            raise RefusedError(
                "unreadable_file",
                f"The {compression} file is cut off: it ends at byte {stored_bytes:,}, before its end is due. "
                "Upload it again.",
            ) from None
        except (gzip.BadGzipFile, zlib.error, zstd.ZstdError) as error:
            raise RefusedError(
                "unreadable_file",
                f"The {compression} file is broken before byte {compressed.tell():,} ({_error_text(error)}): "
                "compress the original again and upload it.",
            ) from None


def _error_text(error: Exception) -> str:
    return str(error).split(": ", 1)[-1][:100]
