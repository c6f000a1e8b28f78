"""The items that come with a request: a JSON array as it was written, or a file as base64 data URL."""

import base64
import binascii
import json
import mmap
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import unquote_to_bytes

from batch_pipeline.errors import RefusedError, WrongValuesError
from batch_pipeline.payloads.model import ReadLimits
from batch_pipeline.payloads.reader import open_payload
from batch_pipeline.settings import MIB, Settings
from batch_pipeline.storage.store import Store

_DATA_URL = re.compile(rb'"data:([\w.+-]+/[\w.+-]+)?(?:;[\w.+-]+=[^;,"]{0,99}){0,9};base64,', re.ASCII | re.IGNORECASE)
_HEAD_BYTES = 2_000
_BLOCK_BYTES = 4 * MIB  # of base64: a multiple of four characters
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
    """The bytes that are the batch's upload; the view is good as long as the context that made it."""

    view: memoryview
    file_name: str

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.view)

    def store(self, store: Store, key: str) -> None:
        """Writes it to the key. Raises UnavailableError."""
        if self.size <= _BLOCK_BYTES:
            store.write(key, bytes(self.view))
            return
        with _file_of(self.view) as path:
            store.upload(path, key)

    def count_items(self, settings: Settings, *, at_most: int) -> int:
        """The number of items, unreadable ones included; counting ends above `at_most`.

        What the reader refuses counts as none: the batch's run will say why.
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


@contextmanager
def inline_payload(raw: memoryview) -> Iterator[InlinePayload | None]:
    """The payload of the member `data` as it was written; None for null. Raises WrongValuesError."""
    if bytes(raw[:4]) == b"null":
        yield None
    elif raw[0] == ord("["):
        yield InlinePayload(raw, "items.json")
    elif raw[0] == ord('"'):
        with tempfile.TemporaryFile() as file:
            extension = _decode(raw, file)
            with _mapped(file) as view:
                yield InlinePayload(view, f"items{extension}")
    else:
        raise WrongValuesError(_WRONG)


def _decode(raw: memoryview, file: IO[bytes]) -> str:
    """Writes what the data URL stands for, block by block; returns the extension of its media type."""
    if (head := _DATA_URL.match(bytes(raw[:_HEAD_BYTES]))) is None:
        raise WrongValuesError(_WRONG)
    text = raw[head.end() : -1]
    if any(sign in block for block in _blocks(text) for sign in (b"\\", b"%")):
        # Some writers escape the slash, or percent-encode as URLs may: rare, so at the price of some copies.
        unescaped = json.loads(b'"' + bytes(text) + b'"').encode()
        text = memoryview(unquote_to_bytes(unescaped))
    last = len(text) - 1
    try:
        for start in range(0, len(text), _BLOCK_BYTES):
            block = bytes(text[start : start + _BLOCK_BYTES])
            if start + _BLOCK_BYTES <= last and block.endswith(b"="):
                raise binascii.Error("padding within")
            file.write(base64.b64decode(block, validate=True))
    except (binascii.Error, ValueError):
        raise WrongValuesError(["data: the data URL is no base64"]) from None
    file.flush()
    return _EXTENSIONS.get((head[1] or b"").lower(), "")


def _blocks(view: memoryview) -> Iterator[bytes]:
    for start in range(0, len(view), _BLOCK_BYTES):
        yield bytes(view[start : start + _BLOCK_BYTES])


@contextmanager
def _mapped(file: IO[bytes]) -> Iterator[memoryview]:
    size = file.seek(0, 2)
    if size == 0:  # which can't be mapped
        yield memoryview(b"")
        return
    with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as view:
        yield view


@contextmanager
def _file_of(view: memoryview) -> Iterator[Path]:
    with tempfile.NamedTemporaryFile(prefix="batch-pipeline-") as file:
        for block in _blocks(view):
            file.write(block)
        file.flush()
        yield Path(file.name)
