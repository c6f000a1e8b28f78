"""The registry of formats that are read.

A further format is one new module with a `Payload`, and one `ReadableFormat` below. The first that recognises an
upload reads it: binary formats by their first bytes, texts by content, then by name. Any other text is CSV.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from batch_pipeline.errors import RefusedError
from batch_pipeline.payloads.csv_reader import CsvPayload
from batch_pipeline.payloads.encoding import TextFile, decide_encoding
from batch_pipeline.payloads.json_reader import JsonPayload
from batch_pipeline.payloads.model import Payload, ReadLimits
from batch_pipeline.payloads.ndjson_reader import NdjsonPayload, refuse_single_object
from batch_pipeline.payloads.parquet_decoder import MAGIC
from batch_pipeline.payloads.parquet_reader import ParquetPayload
from batch_pipeline.payloads.unsupported import is_text
from batch_pipeline.payloads.xlsx_package import looks_like_workbook
from batch_pipeline.payloads.xlsx_reader import XlsxPayload


@dataclass(frozen=True)
class Upload:
    """A file to be read, as a format sees it.

    Attributes:
        path: a local, seekable copy of the upload.
        name: the name that its sender gave it.
        head: its first bytes (`unsupported.HEAD_BYTES`), as stored.
        block_bytes: how much is read at once.
        stored_bytes: its size as it came.
        was_compressed: it came compressed; ``path``, ``name`` and ``head`` are those of what was in it.
        check: to be called often in long work before the first row; may raise to stop.
    """

    path: Path
    name: str
    head: bytes
    limits: ReadLimits
    block_bytes: int
    stored_bytes: int
    was_compressed: bool
    check: Callable[[], None]

    @cached_property
    def text(self) -> TextFile:
        """Its encoding; for text formats only. Raises RefusedError as `decide_encoding` does."""
        return decide_encoding(self.path)

    @cached_property
    def first_character(self) -> str:
        """The first character of the text that is not blank. Raises RefusedError ``empty_file`` if there is none."""
        for part in self.text.texts(64 << 10):
            if stripped := part.lstrip():
                return stripped[0]
        raise RefusedError("empty_file", "The file holds only blanks: send one with a header or items.")

    def is_named(self, *suffixes: str) -> bool:
        """Whether its name ends with one of these."""
        return self.name.lower().endswith(suffixes)


@dataclass(frozen=True)
class ReadableFormat:
    """A format, how an upload of it is recognised, and how it is opened."""

    payload: type[Payload]
    recognises: Callable[[Upload], bool]
    opens: Callable[[Upload], Payload]


def _open_csv(upload: Upload) -> Payload:
    return CsvPayload(upload.text, upload.limits, block_bytes=upload.block_bytes)


def _open_json(upload: Upload) -> Payload:
    return JsonPayload(upload.text, upload.limits, block_bytes=upload.block_bytes)


def _open_ndjson(upload: Upload) -> Payload:
    refuse_single_object(
        upload.text,
        upload.limits,
        is_named_json=upload.is_named(".json"),
        is_named_lines=upload.is_named(*_LINES),
    )
    return NdjsonPayload(upload.text, upload.limits, block_bytes=upload.block_bytes)


def _open_parquet(upload: Upload) -> Payload:
    return ParquetPayload(upload.path, upload.limits, stored_bytes=upload.stored_bytes, check=upload.check)


def _is_parquet(upload: Upload) -> bool:
    return upload.head.startswith(MAGIC) and not is_text(upload.head)


def _open_xlsx(upload: Upload) -> Payload:
    if upload.was_compressed:
        raise RefusedError(
            "unsupported_format",
            "The compressed file holds an Excel workbook, which is compressed already: upload it as it is.",
        )
    return XlsxPayload(upload.path, upload.limits, check=upload.check)


_LINES = (".ndjson", ".jsonl", ".ldjson")

BINARY_FORMATS: tuple[ReadableFormat, ...] = (
    ReadableFormat(ParquetPayload, _is_parquet, _open_parquet),
    ReadableFormat(XlsxPayload, lambda upload: looks_like_workbook(upload.path, upload.head), _open_xlsx),
)

TEXT_FORMATS: tuple[ReadableFormat, ...] = (
    ReadableFormat(JsonPayload, lambda upload: upload.first_character == "[", _open_json),
    ReadableFormat(
        NdjsonPayload,
        lambda upload: upload.first_character == "{" or upload.is_named(*_LINES),
        _open_ndjson,
    ),
    ReadableFormat(JsonPayload, lambda upload: upload.is_named(".json"), _open_json),
    ReadableFormat(CsvPayload, lambda upload: True, _open_csv),
)

FORMATS: dict[str, type[Payload]] = {
    payload.format: payload
    for payload in sorted(
        {readable.payload for readable in (*TEXT_FORMATS, *BINARY_FORMATS)}, key=lambda payload: payload.format
    )
}


def is_flat(name: str) -> bool:
    """`Payload.is_flat` of the named format. Raises KeyError for a format that is not read."""
    return FORMATS[name].is_flat
