"""The two errors files of a batch, written together: what is rejected, as uploaded, and why."""

from collections.abc import Sequence
from types import TracebackType
from typing import BinaryIO, Self

from batch_pipeline.payloads import texts
from batch_pipeline.payloads.artifacts.columns import upload_columns
from batch_pipeline.payloads.artifacts.errors_csv import csv_header, csv_lines
from batch_pipeline.payloads.artifacts.errors_json import json_entries
from batch_pipeline.payloads.artifacts.json_array import JsonArrayFile
from batch_pipeline.payloads.artifacts.rejected import RejectedChunk, merge, split


class ErrorsWriter:
    """Writes ``errors.csv`` and ``errors.json`` as a stream; a context manager.

    errors.json: a JSON array with one line for each rejected row,
    ``{"row": …, "item": {…}, "errors": [{"code", "field", "message", "value"}, …]}``. The item is as
    uploaded: all columns of a CSV row as strings; the fields that a JSON item carries, with numbers and
    nested values as written; ``{"_raw": "the line"}`` for an unreadable row.

    errors.csv: UTF-8 without byte order mark, comma, CRLF, every text quoted. Header: the upload's columns,
    ``_row``, ``_errors``, ``_codes``, and ``_raw`` if there are unreadable rows. A cell (in the header, too)
    that begins with one of ``= + - @``, tab, CR or ``'`` has one apostrophe before it (CWE-1236). Messages,
    and codes in the same order, are joined by ``"; "``. An unreadable row has empty cells but for these.

    The same chunks give the same bytes. Leaving the context by an exception leaves the files unfinished: the
    JSON is not valid then, and neither is to be kept.

    Args:
        csv_file, json_file: written from where they are; not closed.
        columns: the upload's own columns; for JSON what `flattened_columns` gives.
        has_unreadable: whether some chunk has unreadable rows.
    """

    def __init__(
        self, csv_file: BinaryIO, json_file: BinaryIO, *, columns: Sequence[str], has_unreadable: bool
    ) -> None:
        self._csv_file = csv_file
        self._json = JsonArrayFile(json_file)
        self._columns = upload_columns(columns)
        self._has_unreadable = has_unreadable
        self._last_row = 0

    def __enter__(self) -> Self:
        self._csv_file.write(csv_header(self._columns, has_unreadable=self._has_unreadable).encode())
        self._json.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._json.end()

    def write(self, chunk: RejectedChunk) -> None:
        """Adds the rows of a chunk, readable and unreadable ones in row order.

        Raises ValueError: the rows are not ascending (within the chunk, or after those of the chunk before),
        a row is without errors or an error without row, there are unreadable rows though ``has_unreadable``
        is false, or an item has a field that is not among ``columns``.
        """
        if chunk.items.unreadable.num_rows and not self._has_unreadable:
            raise ValueError("unreadable rows in an errors file that was begun without a column for them")
        for piece in split(chunk, len(self._columns)):
            self._write_piece(piece)

    def _write_piece(self, piece: RejectedChunk) -> None:
        merged = merge(piece)
        if len(merged.rows) == 0:
            return
        numbers = merged.rows.to_numpy()
        if numbers[0] <= self._last_row:
            raise ValueError(f"row {numbers[0]} comes after row {self._last_row}")
        lines = csv_lines(piece, merged, self._columns, has_unreadable=self._has_unreadable)
        entries = json_entries(piece, merged)
        texts.write_texts(self._csv_file, lines)
        self._json.write(entries)
        self._last_row = int(numbers[-1])
