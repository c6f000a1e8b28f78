"""Parquet uploads: a flat file whose cells have types; each value is read as the text that `arrow_texts` gives.

Another process decodes it, under a limit of memory (`parquet_decoder`). Rows that don't fit are decoded in smaller
batches, down to one row.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batch_pipeline.errors import RefusedError
from batch_pipeline.payloads import texts
from batch_pipeline.payloads.arrow_texts import depth_of, unreadable_part
from batch_pipeline.payloads.chunking import Piece, Unreadable, check_item_count, cut_text, rechunk
from batch_pipeline.payloads.compression import ExpansionLimit
from batch_pipeline.payloads.flat_header import FlatHeader, check_header
from batch_pipeline.payloads.flat_rows import row_text, size_fault
from batch_pipeline.payloads.model import Payload, RawChunk, ReadLimits, decoded_bytes
from batch_pipeline.payloads.parquet_decoder import MEMORY_BYTES
from batch_pipeline.payloads.parquet_process import OutOfMemory, ParquetDecoder, broken

# Batches get smaller by this factor where they don't fit into memory.
SHRINKING = 16


class ParquetPayload(Payload):
    """A Parquet upload. Every row is one, also where all of its cells are null; a null is an empty cell."""

    format = "parquet"

    def __init__(self, path: Path, limits: ReadLimits, *, stored_bytes: int, check: Callable[[], None]) -> None:
        self._path = path
        self._limits = limits
        self._check = check
        self._expansion = ExpansionLimit(stored_bytes, limits)
        with ExitStack() as refused:
            decoder = refused.enter_context(closing(self._decoder(0, 1)))
            self._rows = decoder.rows
            self._header = check_header(decoder.schema.names, limits)
            _check_types(decoder.schema, self._header, limits)
            check_item_count(self._rows, limits)
            refused.pop_all()
        self.columns = self._header.columns
        self.is_errors_file = self._header.is_errors_file
        # The first reading goes on where the schema was sent: starting a decoder takes longer than most files.
        self._opened: ParquetDecoder | None = decoder
        weakref.finalize(self, decoder.close)

    def chunks(self) -> Iterator[RawChunk]:
        """See `Payload.chunks`."""
        return rechunk(self._pieces(), columns=self.columns, chunk_rows=self._limits.chunk_rows)

    def _decoder(self, first_row: int, divisor: int) -> ParquetDecoder:
        return ParquetDecoder(self._path, first_row=first_row, divisor=divisor, max_rows=self._limits.chunk_rows)

    def _pieces(self) -> Iterator[Piece]:
        rows = size = 0
        for batch in self._batches():
            self._check()
            size += sum(decoded_bytes(column) for column in batch.columns)
            self._expansion.check(size)
            if rows + batch.num_rows > self._rows:
                break
            yield from self._read_rows([batch.column(position) for position in self._header.kept], rows)
            rows += batch.num_rows
        else:
            if rows == self._rows:
                return
        raise broken(f"it does not have the {self._rows:,} rows that its footer states")

    def _batches(self) -> Iterator[pa.RecordBatch]:
        done, divisor = 0, 1
        opened, self._opened = self._opened, None
        while True:
            with closing(opened or self._decoder(done, divisor)) as decoder:
                opened = None
                try:
                    for batch in decoder.batches():
                        yield batch
                        done += batch.num_rows
                    return
                except OutOfMemory:
                    if done > decoder.first_row:
                        divisor = SHRINKING
                    elif decoder.batch_rows > 1:
                        divisor *= SHRINKING
                    else:
                        raise RefusedError(
                            "too_large",
                            f"Row {done + 1:,} of the Parquet file takes more than {MEMORY_BYTES:,} bytes of memory "
                            "when decoded: write shorter texts or lists, and smaller pages or row groups.",
                        ) from None

    def _read_rows(self, cells: list[pa.StringArray], rows_before: int) -> Iterator[Piece]:
        """A batch's rows in pieces of limited size, the unreadable ones apart."""
        limits = self._limits
        sizes = [texts.byte_sizes(column) for column in cells]
        largest: npt.NDArray[np.int64] = np.maximum.reduce(sizes)
        total: npt.NDArray[np.int64] = np.add.reduce(sizes)
        bad = (largest > limits.max_cell_bytes) | (total > limits.max_item_bytes)
        for start, stop in texts.pieces(np.where(bad, limits.max_item_bytes, total)):
            unreadable = Unreadable()
            for index in np.flatnonzero(bad[start:stop]) + start:
                is_too_large = bool(total[index] > limits.max_item_bytes)
                shown = (_cut_cell(column[int(index)], limits.max_item_bytes) for column in cells)
                raw = cut_text(row_text(shown, limits).encode(), limits.max_item_bytes)
                unreadable.add(rows_before + int(index) + 1, raw, size_fault(limits, item=is_too_large))
            good = np.flatnonzero(~bad[start:stop]) + start
            taken = pa.array(good)
            kept = [self._header.unguarded(column.take(taken)) for column in cells]
            yield Piece(
                pa.array(good + rows_before + 1, pa.int64()),
                dict(zip(self.columns, kept, strict=True)),
                unreadable,
            )


def _cut_cell(cell: pa.StringScalar, max_bytes: int) -> str:
    """A cell's start, as far as an item may reach: it may be hundreds of megabytes, and a str four times as many."""
    return cut_text(bytes(memoryview(cell.as_buffer())[: max_bytes + 1]), max_bytes + 1)


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
