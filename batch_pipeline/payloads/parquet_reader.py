"""Parquet uploads: a flat file whose cells have types; each value is read as the text that `arrow_texts` gives.

It is decoded in batches of rows, as many as memory surely has room for (`parquet_sizes`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from batch_pipeline.errors import RefusedError
from batch_pipeline.payloads.arrow_texts import cell_texts, depth_of, unreadable_part
from batch_pipeline.payloads.artifacts import texts
from batch_pipeline.payloads.chunking import CHUNK_BYTES, Piece, Unreadable, check_item_count, cut_text, rechunk
from batch_pipeline.payloads.flat_header import FlatHeader, check_header
from batch_pipeline.payloads.flat_rows import row_text, size_fault
from batch_pipeline.payloads.model import Payload, RawChunk, ReadLimits
from batch_pipeline.payloads.parquet_sizes import decodable_rows

MAGIC = b"PAR1"
PAGE_BUFFER_BYTES = 1 << 20


class ParquetPayload(Payload):
    """A Parquet upload. Every row is one, also where all of its cells are null; a null is an empty cell."""

    format = "parquet"

    def __init__(self, path: Path, limits: ReadLimits) -> None:
        self._path = path
        self._limits = limits
        with _refusing_what_is_broken(), self._open() as file:
            schema, metadata = file.schema_arrow, file.metadata
            self._header = check_header(schema.names, limits)
            _check_types(schema, self._header, limits)
            check_item_count(metadata.num_rows, limits)
            self._batch_rows = decodable_rows(path, metadata, max_bytes=CHUNK_BYTES, max_rows=limits.chunk_rows)
        self.columns = self._header.columns
        self.is_errors_file = self._header.is_errors_file

    def chunks(self) -> Iterator[RawChunk]:
        """See `Payload.chunks`."""
        return rechunk(self._pieces(), columns=self.columns, chunk_rows=self._limits.chunk_rows)

    def _open(self) -> pq.ParquetFile:
        return pq.ParquetFile(
            self._path,
            buffer_size=PAGE_BUFFER_BYTES,
            pre_buffer=False,
            page_checksum_verification=True,
        )

    def _pieces(self) -> Iterator[Piece]:
        rows_before = 0
        with _refusing_what_is_broken(), self._open() as file:
            expected = file.metadata.num_rows
            for batch in file.iter_batches(self._batch_rows, use_threads=False):
                columns = [batch.column(position) for position in self._header.kept]
                for name, column in zip(self.columns, columns, strict=True):
                    _check_text(name, column)
                yield from self._read_rows(columns, batch.num_rows, rows_before)
                rows_before += batch.num_rows
        if rows_before != expected:
            raise _broken(f"it has {rows_before:,} rows where its footer says {expected:,}")

    def _read_rows(self, columns: list[pa.Array], count: int, rows_before: int) -> Iterator[Piece]:
        """A batch's rows in pieces of limited size, the unreadable ones apart."""
        limits = self._limits
        cells = [cell_texts(column).fill_null("") for column in columns]
        sizes = [texts.byte_sizes(column) for column in cells]
        largest: npt.NDArray[np.int64] = np.zeros(count, np.int64)
        total: npt.NDArray[np.int64] = np.zeros(count, np.int64)
        for column_sizes in sizes:
            np.maximum(largest, column_sizes, out=largest)
            total += column_sizes
        bad = (largest > limits.max_cell_bytes) | (total > limits.max_item_bytes)
        for start, stop in texts.pieces(np.where(bad, limits.max_item_bytes, total)):
            unreadable = Unreadable()
            for index in np.flatnonzero(bad[start:stop]) + start:
                is_too_large = bool(total[index] > limits.max_item_bytes)
                raw = row_text((column[int(index)].as_py() for column in cells), limits)
                fault = size_fault(limits, item=is_too_large)
                unreadable.add(rows_before + int(index) + 1, cut_text(raw.encode(), limits.max_item_bytes), fault)
            good = np.flatnonzero(~bad[start:stop]) + start
            taken = pa.array(good)
            kept = [self._header.unguarded(column.take(taken)) for column in cells]
            yield Piece(
                pa.array(good + rows_before + 1, pa.int64()),
                dict(zip(self.columns, kept, strict=True)),
                unreadable,
            )


def _check_types(schema: pa.Schema, header: FlatHeader, limits: ReadLimits) -> None:
    """Refuses columns whose values have no text, by name."""
    kinds = {name: schema.field(position).type for position, name in zip(header.kept, header.columns, strict=True)}
    found = [part for name, kind in kinds.items() if (part := unreadable_part(name, kind)) is not None]
    if found:
        raise RefusedError(
            "unreadable_file",
            f"These columns hold values that are no text, number, boolean, time, list or struct: {', '.join(found)}. "
            "Write them as text, or leave them out.",
        )
    deep = [name for name, kind in kinds.items() if depth_of(kind) >= limits.max_json_depth]
    if deep:
        raise RefusedError(
            "too_large",
            f"These columns are nested deeper than {limits.max_json_depth} levels, the most that may be "
            f"(setting BATCH_MAX_JSON_DEPTH): {', '.join(deep)}.",
        )


def _check_text(name: str, column: pa.Array) -> None:
    """Parquet promises UTF-8, which its readers don't check."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid as error:
        raise RefusedError(
            "unreadable_file",
            f"The column {name} holds values that are not valid ({_said(error)}): write the file anew.",
        ) from None


@contextmanager
def _refusing_what_is_broken() -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _broken(_said(error)) from error


def _broken(what: str) -> RefusedError:
    return RefusedError("unreadable_file", f"The Parquet file is broken ({what}): write it anew and upload it again.")


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
