"""What a payload reader gives: limits, chunks of raw cells, and the interface of an open payload.

Nothing here knows how any format is read, and nothing here knows a resource's fields: text stays as uploaded.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.settings import Settings


class CellKind(IntEnum):
    """What a cell was in the upload; a cell of a flat format is always TEXT."""

    TEXT = 0
    NULL = 1
    NUMBER = 2
    BOOLEAN = 3
    ARRAY = 4
    OBJECT = 5


UNREADABLE_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("raw", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True)
class ReadLimits:
    """The limits of one read, by the settings of the same names.

    ``max_item_bytes`` and ``max_cell_bytes`` count UTF-8 as written in the upload, a cell without its
    enclosing quotes. ``max_json_depth`` counts the item itself as 1. ``chunk_rows`` is the size aimed at, not
    a promise.
    """

    max_items: int
    max_columns: int
    max_cell_bytes: int
    max_item_bytes: int
    max_json_depth: int
    max_decompressed_bytes: int
    max_decompression_ratio: int
    chunk_rows: int

    @classmethod
    def from_settings(cls, settings: Settings) -> "ReadLimits":
        """The limits of a deployment."""
        return cls(
            max_items=settings.max_items,
            max_columns=settings.max_columns,
            max_cell_bytes=settings.max_cell_bytes,
            max_item_bytes=settings.max_item_bytes,
            max_json_depth=settings.max_json_depth,
            max_decompressed_bytes=settings.max_decompressed_bytes,
            max_decompression_ratio=settings.max_decompression_ratio,
            chunk_rows=settings.chunk_rows,
        )


@dataclass(frozen=True)
class RawChunk:
    """Some consecutive rows of an upload, column by column, as uploaded.

    Attributes:
        rows: int64, ascending: each readable row's position in the upload, the first data row being 1,
            unreadable rows counted, blank lines not.
        columns: upload column -> string array as long as ``rows``, text as uploaded (untrimmed). Flat: every
            column of the header, never null, '' for an empty cell. JSON: the fields that occur in this chunk,
            null where the item does not carry the field.
        kinds: for the columns in which some carried value is not a JSON string: uint8 (`CellKind`), null
            where not carried. The text of NUMBER, BOOLEAN, ARRAY and OBJECT is its compact JSON text, numbers
            exactly as written; that of NULL is ''.
        unreadable: `UNREADABLE_SCHEMA`: the unreadable rows that lie among these rows, ascending; ``raw`` is
            the row as uploaded, cut to ``max_item_bytes``.
    """

    rows: pa.Int64Array
    columns: dict[str, pa.StringArray]
    kinds: dict[str, pa.UInt8Array]
    unreadable: pa.Table

    @property
    def decoded_bytes(self) -> int:
        """The size of its readable cells as UTF-8, with one separator for each."""
        return decoded_bytes(pa.chunked_array(list(self.columns.values()), pa.string()))


def decoded_bytes(column: pa.StringArray | pa.ChunkedArray) -> int:
    """The size of a column's texts as UTF-8, with one separator for each that is not null."""
    return int((pc.sum(pc.binary_length(column)).as_py() or 0) + len(column) - column.null_count)


class Payload(ABC):
    """An upload whose format, encoding and header are known to be good.

    Attributes:
        format: the name of its format, lower case.
        is_flat: whether its rows are cells under one header: every row has every column, and each cell is a text.
        columns: flat: the header's names, trimmed and NFC, without the ``_`` columns of an errors file.
            JSON: ().
        was_compressed: it came in a gzip or zstd file.
        is_errors_file: it has a ``_row`` column, as errors files of a batch have.
    """

    format: ClassVar[str]
    is_flat: ClassVar[bool] = True
    columns: tuple[str, ...] = ()
    is_errors_file: bool = False
    was_compressed: bool = False

    @abstractmethod
    def chunks(self) -> Iterator[RawChunk]:
        """Reads the rows from the start, each call anew, in memory that does not grow with the file.

        Raises RefusedError while iterating, perhaps after some chunks: ``unreadable_file`` (JSON grammar, with line
        and column; a broken part of a Parquet or XLSX file), ``too_large`` (more than ``max_items`` rows, or
        ``max_columns`` distinct JSON fields).
        """
