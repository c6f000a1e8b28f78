"""Cutting what a reader finds into chunks: readable rows as Arrow arrays, unreadable ones beside them.

Shared by all formats. It also holds the limit on the number of items, since it numbers the rows.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import pyarrow as pa

from batch_pipeline.errors import RefusedError
from batch_pipeline.payloads.model import UNREADABLE_SCHEMA, RawChunk, ReadLimits

# A chunk is closed early at this much text, so that wide rows don't make chunks that fill the memory.
CHUNK_BYTES = 32 << 20


@dataclass
class Unreadable:
    """Unreadable rows, ascending: position, text as uploaded, what is wrong."""

    rows: list[int] = field(default_factory=list)
    raws: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    characters: int = 0

    def add(self, row: int, raw: str, message: str) -> None:
        """Notes one row, which comes after those noted."""
        self.rows.append(row)
        self.raws.append(raw)
        self.messages.append(message)
        self.characters += len(raw)

    def extend(self, other: "Unreadable") -> None:
        """Notes the rows of another, which come after those noted."""
        self.rows += other.rows
        self.raws += other.raws
        self.messages += other.messages
        self.characters += other.characters

    def take(self, last_row: int | None) -> pa.Table:
        """Removes the rows up to a position, or all, and gives them as `UNREADABLE_SCHEMA`."""
        count = len(self.rows) if last_row is None else bisect_right(self.rows, last_row)
        arrays = [self.rows[:count], self.raws[:count], self.messages[:count]]
        del self.rows[:count], self.messages[:count]
        self.raws = self.raws[count:]
        self.characters = sum(map(len, self.raws))
        return pa.table(arrays, schema=UNREADABLE_SCHEMA)


def cut_text(data: bytes, max_bytes: int) -> str:
    """UTF-8 as text, cut to ``max_bytes`` between characters."""
    if len(data) <= max_bytes:
        return data.decode()
    return data[:max_bytes].decode(errors="ignore")


def check_item_count(rows: int, limits: ReadLimits) -> None:
    """Raises RefusedError ``too_large`` if that many rows are more than the limit."""
    if rows > limits.max_items:
        raise RefusedError(
            "too_large",
            f"The file has more than {limits.max_items:,} items, the most that one batch may have "
            "(setting BATCH_MAX_ITEMS): split it.",
        )


@dataclass(frozen=True)
class Piece:
    """Rows as one block of a file gives them: as in `RawChunk`, but of any size. CSV has no kinds."""

    rows: pa.Int64Array
    columns: dict[str, pa.StringArray]
    unreadable: Unreadable


def rechunk(pieces: Iterable[Piece], *, columns: tuple[str, ...], chunk_rows: int) -> Iterator[RawChunk]:
    """Joins and cuts pieces, which have the same columns, into chunks of about ``chunk_rows`` rows."""
    fields = [pa.field("row", pa.int64()), *(pa.field(name, pa.string()) for name in columns)]
    schema = pa.schema(fields)
    pending: list[pa.Table] = []
    rows = size = 0
    unreadable = Unreadable()

    def chunk(table: pa.Table, last_row: int | None) -> RawChunk:
        rows, *cells = [_one_array(column) for column in table.columns]
        return RawChunk(rows, dict(zip(columns, cells, strict=True)), {}, unreadable.take(last_row))

    for piece in pieces:
        unreadable.extend(piece.unreadable)
        pending.append(pa.Table.from_arrays([piece.rows, *piece.columns.values()], schema=schema))
        rows += len(piece.rows)
        size += pending[-1].nbytes
        is_full = len(unreadable.rows) >= chunk_rows or size + unreadable.characters >= CHUNK_BYTES
        if not is_full and rows < chunk_rows:
            continue
        waiting = pa.concat_tables(pending)
        while waiting.num_rows >= chunk_rows:
            yield chunk(waiting.slice(0, chunk_rows), waiting.column(0)[chunk_rows - 1].as_py())
            waiting = waiting.slice(chunk_rows)
        if len(unreadable.rows) >= chunk_rows or waiting.nbytes + unreadable.characters >= CHUNK_BYTES:
            yield chunk(waiting, None)
            waiting = schema.empty_table()
        pending, rows, size = [waiting], waiting.num_rows, waiting.nbytes
    if rows or unreadable.rows:
        yield chunk(pa.concat_tables(pending), None)


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    if column.num_chunks == 1:
        return column.chunk(0)
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # pyarrow gives one only if 2 GiB of text don't fit one array
        raise OverflowError("a chunk holds more text than one Arrow array can")
    return array
