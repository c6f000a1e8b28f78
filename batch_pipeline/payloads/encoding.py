"""The encoding of an upload, decided for the whole file before any row is used, and its text in blocks.

Rule (storage.md, Reading): UTF-8 with or without byte order mark; UTF-16 with one; else Windows-1252 if no
multi-byte UTF-8 sequence occurs in the file; else it is refused as mixed.
"""

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from batch_pipeline.errors import RefusedError

SCAN_BYTES = 1 << 20

_UTF_32_MARKS = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
_UTF_16_MARKS = ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))

# Well-formed multi-byte sequences (Unicode 15, table 3-7).
_MULTI_BYTE = re.compile(
    rb"[\xC2-\xDF][\x80-\xBF]"
    rb"|\xE0[\xA0-\xBF][\x80-\xBF]|[\xE1-\xEC\xEE\xEF][\x80-\xBF]{2}|\xED[\x80-\x9F][\x80-\xBF]"
    rb"|\xF0[\x90-\xBF][\x80-\xBF]{2}|[\xF1-\xF3][\x80-\xBF]{3}|\xF4[\x80-\x8F][\x80-\xBF]{2}"
)
_NOT_ASCII = re.compile(rb"[\x80-\xFF]")
_NOT_IN_WINDOWS_1252 = re.compile(rb"[\x81\x8D\x8F\x90\x9D]")


@dataclass(frozen=True)
class TextFile:
    """A file whose whole content is known to decode.

    Attributes:
        codec: name of the Python codec: utf-8, utf-16-le, utf-16-be or cp1252.
        mark_bytes: length of the byte order mark, which is no part of the text.
    """

    path: Path
    codec: str
    mark_bytes: int

    def blocks(self, block_bytes: int) -> Iterator[bytes]:
        """The text as UTF-8, in blocks of about ``block_bytes`` that may end within a character."""
        if self.codec == "utf-8":
            yield from _raw_blocks(self.path, block_bytes, self.mark_bytes)
        else:
            for text in self.texts(block_bytes):
                yield text.encode()

    def texts(self, block_bytes: int) -> Iterator[str]:
        """The text, in pieces decoded from about ``block_bytes`` bytes each; none is empty."""
        decoder = codecs.getincrementaldecoder(self.codec)()
        for block in _raw_blocks(self.path, block_bytes, self.mark_bytes):
            if text := decoder.decode(block):
                yield text


def decide_encoding(path: Path) -> TextFile:
    """Reads the whole file once and decides its encoding.

    Raises RefusedError ``unreadable_file``, with the byte offset (0-based) of what is wrong.
    """
    with path.open("rb") as file:
        head = file.read(4)
    if head.startswith(_UTF_32_MARKS):
        raise RefusedError(
            "unreadable_file",
            "The file is encoded in UTF-32 (byte order mark at byte offset 0): save it as UTF-8.",
        )
    for mark, codec in _UTF_16_MARKS:
        if head.startswith(mark):
            _check_utf_16(path, codec)
            return TextFile(path, codec, len(mark))
    mark_bytes = len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0
    multi_byte_at, invalid_at = _scan_utf_8(path)
    if invalid_at is None:
        return TextFile(path, "utf-8", mark_bytes)
    if multi_byte_at is None:
        multi_byte_at = _find(path, _MULTI_BYTE, invalid_at, overlap=3)
    if multi_byte_at is not None:
        raise RefusedError(
            "unreadable_file",
            f"The file mixes encodings: the byte at offset {invalid_at} is not UTF-8, but there is a UTF-8 "
            f"character at offset {multi_byte_at}. Save the whole file as UTF-8.",
        )
    undefined_at = _find(path, _NOT_IN_WINDOWS_1252, invalid_at, overlap=0)
    if undefined_at is not None:
        raise RefusedError(
            "unreadable_file",
            f"The byte at offset {undefined_at} is neither UTF-8 nor Windows-1252: save the file as UTF-8.",
        )
    return TextFile(path, "cp1252", 0)


def _raw_blocks(path: Path, block_bytes: int, skip_bytes: int = 0) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as file:
        file.seek(skip_bytes)
        while block := file.read(block_bytes):
            yield block


def _scan_utf_8(path: Path) -> tuple[int | None, int | None]:
    """Offsets of the first multi-byte sequence (or byte order mark) and of the first invalid byte."""
    multi_byte_at: int | None = None
    offset = 0
    carry = b""
    for block in _raw_blocks(path, SCAN_BYTES):
        if not carry and block.isascii():
            offset += len(block)
            continue
        data = carry + block
        try:
            _, used = codecs.utf_8_decode(data, "strict", False)
        except UnicodeDecodeError as error:
            if multi_byte_at is None:
                multi_byte_at = _first_non_ascii(data[: error.start], offset)
            return multi_byte_at, offset + error.start
        if multi_byte_at is None:
            multi_byte_at = _first_non_ascii(data[:used], offset)
        carry = data[used:]
        offset += used
    return multi_byte_at, (offset if carry else None)


def _first_non_ascii(data: bytes, offset: int) -> int | None:
    found = _NOT_ASCII.search(data)
    return offset + found.start() if found else None


def _find(path: Path, pattern: re.Pattern[bytes], start: int, overlap: int) -> int | None:
    """Offset of the first match at or after ``start``; no match is longer than ``overlap`` + 1 bytes."""
    carry = b""
    offset = start
    for block in _raw_blocks(path, SCAN_BYTES, start):
        data = carry + block
        if found := pattern.search(data):
            return offset + found.start()
        carry = data[len(data) - overlap :] if overlap else b""
        offset += len(data) - len(carry)
    return None


def _check_utf_16(path: Path, codec: str) -> None:
    decoder = codecs.getincrementaldecoder(codec)()
    offset = 2
    for block in _raw_blocks(path, SCAN_BYTES, 2):
        pending = len(decoder.getstate()[0])
        try:
            decoder.decode(block)
        except UnicodeDecodeError as error:
            raise _not_utf_16(offset - pending + error.start) from None
        offset += len(block)
    if pending_bytes := decoder.getstate()[0]:
        raise _not_utf_16(offset - len(pending_bytes))


def _not_utf_16(offset: int) -> RefusedError:
    return RefusedError(
        "unreadable_file",
        f"The file begins as UTF-16, but the byte at offset {offset} is not UTF-16: save it anew as UTF-8.",
    )
