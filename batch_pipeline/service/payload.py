"""The items that come with a request: a JSON array as it was written, or a file as base64 data URL."""

import base64
import binascii
import json
import mmap
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile, SpooledTemporaryFile
from urllib.parse import unquote_to_bytes

from batch_pipeline.errors import RefusedError, WrongValuesError
from batch_pipeline.payloads.model import ReadLimits
from batch_pipeline.payloads.reader import open_payload
from batch_pipeline.settings import MIB, Settings
from batch_pipeline.storage.store import Store

MEMORY_BYTES = MIB  # larger bodies and payloads are in files
EVENT_LOOP_BYTES = 16_384  # smaller bodies are read in the event loop: a change to a thread and back takes longer

_DATA_URL = re.compile(
    rb'"data:([\w.+-]+\\?/[\w.+-]+)?(?:;[\w.+-]+=[^;,"]{0,99}){0,9};base64,', re.ASCII | re.IGNORECASE
)
_HEAD_BYTES = 2_000
# The decoders keep Python's interpreter lock for a whole block, and the event loop waits for it.
_BLOCK_BYTES = MIB // 4
_EXTENSIONS = {
    b"text/csv": ".csv",
    b"application/csv": ".csv",
    b"text/tab-separated-values": ".tsv",
    b"application/json": ".json",
    b"application/x-ndjson": ".ndjson",
    b"application/ndjson": ".ndjson",
    b"application/jsonl": ".jsonl",
    b"application/vnd.apache.parquet": ".parquet",
    b"application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": ".xlsx",
    b"application/gzip": ".gz",
    b"application/zstd": ".zst",
}
_WRONG = ["data: must be a JSON array of items, or a file as base64 data URL (data:text/csv;base64,…)"]


@dataclass(frozen=True)
class InlinePayload:
    """The bytes of the batch's upload."""

    view: memoryview
    file_name: str

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.view)

    def store(self, store: Store, key: str) -> None:
        """Writes the payload to the key. Raises UnavailableError."""
        if self.size <= MEMORY_BYTES:
            store.write(key, bytes(self.view))
            return
        with _file_of(self.view) as path:
            store.upload(path, key)

    def count_items(self, settings: Settings, *, at_most: int) -> int:
        """Counts the items, unreadable ones included, and stops above `at_most`.

        A payload that the reader refuses has 0 items: its batch's run reports the reason.
        """
        count = 0
        with _file_of(self.view) as path:
            try:
                payload = open_payload(path, name=self.file_name, limits=ReadLimits.from_settings(settings))
                for chunk in payload.chunks():
                    count += len(chunk.rows) + chunk.unreadable.num_rows
                    if count > at_most:
                        break
            except RefusedError:
                return 0
        return count


def inline_payload(raw: memoryview) -> InlinePayload | None:
    """The payload of the member `data`, given as its JSON text; None for null. Raises WrongValuesError."""
    if bytes(raw[:4]) == b"null":
        return None
    if raw[0] == ord("["):
        return InlinePayload(raw, "items.json")
    if raw[0] == ord('"'):
        return _decode(raw)
    raise WrongValuesError(_WRONG)


def view_of(file: SpooledTemporaryFile[bytes]) -> memoryview:
    """All bytes of the file, which may then be closed.

    The view of a file on disk is a mapping. Nobody closes it, because slices of it may be in use anywhere: Python frees
    it with the last of them.
    """
    size = file.seek(0, 2)
    if size <= MEMORY_BYTES:
        file.seek(0)
        return memoryview(file.read())
    file.flush()
    return memoryview(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ))


def _decode(raw: memoryview) -> InlinePayload:
    """Decodes a data URL, given as JSON text, block by block."""
    if (head := _DATA_URL.match(bytes(raw[:_HEAD_BYTES]))) is None:
        raise WrongValuesError(_WRONG)
    # Some writers escape the slash, or percent-encode the digits as URLs may.
    unescaped = without_escapes(blocks(raw[head.end() : -1]), b"\\", len(r"\u002F"), _parse_escapes)
    digits = without_escapes(unescaped, b"%", len("%2F"), unquote_to_bytes)
    with SpooledTemporaryFile(max_size=MEMORY_BYTES) as file:
        try:
            for block in _decode_base64(digits):
                file.write(block)
        except ValueError:  # also from the JSON text of half a surrogate pair, or of other than ASCII
            raise WrongValuesError(["data: the data URL is no base64"]) from None
        extension = _EXTENSIONS.get((head[1] or b"").replace(b"\\", b"").lower(), "")
        return InlinePayload(view_of(file), f"items{extension}")


def without_escapes(
    text: Iterable[bytes], mark: bytes, longest: int, replace: Callable[[bytes], bytes]
) -> Iterator[bytes]:
    """Replaces escapes of at most `longest` characters, which begin with the mark and may span two blocks."""
    rest = b""
    for following in text:
        block = rest + following
        last = block.rfind(mark, max(len(block) - longest + 1, 0))
        block, rest = (block, b"") if last < 0 else (block[:last], block[last:])
        yield replace(block) if mark in block else block
    yield replace(rest)


def _parse_escapes(text: bytes) -> bytes:
    parsed: str = json.loads(b'"' + text + b'"')
    return parsed.encode()


def _decode_base64(digits: Iterable[bytes]) -> Iterator[bytes]:
    """Raises ValueError."""
    rest = b""
    padded = False
    for following in digits:
        block = rest + following
        whole = len(block) // 4 * 4
        block, rest = block[:whole], block[whole:]
        if padded and block:
            raise binascii.Error("padding within")
        padded = block.endswith(b"=") or padded
        yield base64.b64decode(block, validate=True)
    if rest:
        raise binascii.Error("an incomplete group of four")


def blocks(view: memoryview) -> Iterator[bytes]:
    """The view's bytes in blocks of 256 KiB."""
    for start in range(0, len(view), _BLOCK_BYTES):
        yield bytes(view[start : start + _BLOCK_BYTES])


@contextmanager
def _file_of(view: memoryview) -> Iterator[Path]:
    with NamedTemporaryFile(prefix="batch-pipeline-") as file:
        for block in blocks(view):
            file.write(block)
        file.flush()
        yield Path(file.name)
