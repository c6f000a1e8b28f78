"""Compressed uploads: gzip and zstd, told by their first bytes, decompressed to a file within limits.

Both are streams of members (zstd: frames) one after another, each checked by its own checksum. Output is made in
small pieces, so that no input makes more than one piece in memory, however much it would expand to.
"""

import sys
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

from batch_pipeline.errors import RefusedError
from batch_pipeline.payloads.model import ReadLimits

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# What is said of a broken stream is no more exact than one input piece.
INPUT_BYTES = 4 << 10
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


def decompress(
    source: Path, target: Path, compression: Compression, limits: ReadLimits, *, check: Callable[[], None]
) -> None:
    """Writes what a compressed file holds; ``check`` is called often and may raise to stop.

    Raises RefusedError: ``unreadable_file`` (broken or cut off, with the byte), ``too_large`` (more than may be, or a
    decompression bomb).
    """
    size = 0
    ratio_limit = max(HARMLESS_BYTES, limits.max_decompression_ratio * source.stat().st_size)
    with source.open("rb") as compressed, target.open("wb") as plain:
        for part in _parts(compressed, compression):
            size += len(part)
            if size > limits.max_decompressed_bytes:
                raise RefusedError(
                    "too_large",
                    f"The file has more than {limits.max_decompressed_bytes:,} bytes once decompressed, the most that "
                    "an upload may have (setting BATCH_MAX_DECOMPRESSED_BYTES): split it.",
                )
            if size > ratio_limit:
                raise RefusedError(
                    "too_large",
                    f"The file looks like a decompression bomb: it expands to more than "
                    f"{limits.max_decompression_ratio:,} times its size (setting BATCH_MAX_DECOMPRESSION_RATIO). "
                    "Upload it uncompressed.",
                )
            plain.write(part)
            check()


def _parts(file: BinaryIO, compression: Compression) -> Iterator[bytes]:
    """The decompressed bytes; none is larger than `OUTPUT_BYTES`."""
    member: _Member | None = None
    rest = b""
    read = 0
    while piece := rest or file.read(INPUT_BYTES):
        start = read - len(rest)
        read += 0 if rest else len(piece)
        rest = b""
        if member is None:
            if compression is Compression.GZIP and start > 0:
                piece = piece.lstrip(b"\0")  # some writers pad a file with zeros, which gzip ignores
            if not piece:
                continue
            member = _GzipMember() if compression is Compression.GZIP else _ZstdFrame()
        try:
            yield from member.feed(piece)
        except (zlib.error, zstd.ZstdError) as error:
            raise RefusedError(
                "unreadable_file",
                f"The {compression} file is broken between byte {start:,} and byte {read:,} ({_said(error)}): "
                "compress the original anew and upload it again.",
            ) from None
        if member.ended:
            rest = member.unused
            member = None
    if member is not None:
        raise RefusedError(
            "unreadable_file",
            f"The {compression} file is cut off: it ends at byte {read:,}, before its end is due. Upload it again.",
        )


def _said(error: Exception) -> str:
    text = str(error).split(": ", 1)[-1]
    return text[:100]


class _Member(ABC):
    """One member of a stream, being decompressed. ``unused`` is the input after its end."""

    ended: bool
    unused: bytes

    @abstractmethod
    def feed(self, piece: bytes) -> Iterator[bytes]:
        """What this further input gives, in pieces. Raises the library's error."""


class _GzipMember(_Member):
    def __init__(self) -> None:
        self._stream = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)

    def feed(self, piece: bytes) -> Iterator[bytes]:
        while True:
            part = self._stream.decompress(piece, OUTPUT_BYTES)
            piece = self._stream.unconsumed_tail
            yield part
            if self._stream.eof or (not piece and len(part) < OUTPUT_BYTES):
                break
        self.ended, self.unused = self._stream.eof, self._stream.unused_data


class _ZstdFrame(_Member):
    def __init__(self) -> None:
        self._frame = zstd.ZstdDecompressor()

    def feed(self, piece: bytes) -> Iterator[bytes]:
        while True:
            yield self._frame.decompress(piece, OUTPUT_BYTES)
            piece = b""
            if self._frame.eof or self._frame.needs_input:
                break
        self.ended = self._frame.eof
        self.unused = self._frame.unused_data if self._frame.eof else b""
