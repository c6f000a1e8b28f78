"""CSV uploads: blocks of text to columns of text, with every row that can't be read cut out and named.

`csv_structure` decides where rows and cells are; pyarrow only builds the cells of the rows it found good,
since its own reading merges rows after an unclosed quote without a word.
"""

import codecs
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from batch_pipeline.errors import RefusedError
from batch_pipeline.payloads.chunking import Piece, Unreadable, check_item_count, cut_text, rechunk
from batch_pipeline.payloads.csv_blocks import Block, data_parts, row_blocks
from batch_pipeline.payloads.csv_header import Header, read_header
from batch_pipeline.payloads.csv_quotes import Flags, RowFault
from batch_pipeline.payloads.csv_structure import Rows
from batch_pipeline.payloads.encoding import TextFile
from batch_pipeline.payloads.flat_rows import size_fault, width_fault
from batch_pipeline.payloads.model import Payload, RawChunk, ReadLimits

_UNCLOSED = (
    "a quote that opens a cell is not closed before a delimiter or line end: close it, or double the quotes "
    "within the cell"
)
_STRAY_QUOTES = (
    "a quote stands within an unquoted cell and a later cell ends in a quote that nothing opened, as if a delimiter "
    "before a quoted cell was lost: put the delimiter back, or enclose these cells in quotes and double the quotes "
    "within them"
)


class CsvPayload(Payload):
    """A CSV upload. Empty lines are no rows; every other line after the header is one, or part of one."""

    format = "csv"

    def __init__(self, text: TextFile, limits: ReadLimits, *, block_bytes: int) -> None:
        self._text = text
        self._limits = limits
        self._block_bytes = block_bytes
        self._header, self._header_bytes = _read_header(text, limits)
        self.columns = self._header.flat.columns
        self.is_errors_file = self._header.flat.is_errors_file

    def chunks(self) -> Iterator[RawChunk]:
        """See `Payload.chunks`."""
        return rechunk(self._pieces(), columns=self.columns, chunk_rows=self._limits.chunk_rows)

    def _pieces(self) -> Iterator[Piece]:
        rows_before = 0
        parts = data_parts(self._text, self._header_bytes, self._block_bytes)
        for block in row_blocks(parts, self._header.delimiter, self._limits):
            for piece in _read_block(block, self._header, self._limits, rows_before):
                rows_before += len(piece.rows) + len(piece.unreadable.rows)
                check_item_count(rows_before, self._limits)
                yield piece


def _read_header(text: TextFile, limits: ReadLimits) -> tuple[Header, int]:
    """The header and the number of UTF-8 bytes up to the first data row."""
    for characters in (64 << 10, 2 * limits.max_item_bytes):
        head, whole = _head(text, characters)
        try:
            header = read_header(head, limits)
        except RefusedError:
            if whole or characters > limits.max_item_bytes:
                raise
            continue
        size = len(head[: header.characters].encode())
        if size > limits.max_item_bytes:
            break
        if whole or header.characters < len(head):
            return header, size
    raise RefusedError(
        "too_large",
        f"The header is larger than {limits.max_item_bytes:,} bytes, the most that a row may have "
        "(setting BATCH_MAX_ITEM_BYTES).",
    )


def _head(text: TextFile, characters: int) -> tuple[str, bool]:
    """At least the first ``characters`` of the text, and whether that is all of it."""
    parts: list[str] = []
    size = 0
    for part in text.texts(64 << 10):
        parts.append(part)
        size += len(part)
        if size > characters:
            return "".join(parts), False
    return "".join(parts), True


def _read_block(block: Block, header: Header, limits: ReadLimits, rows_before: int) -> Iterator[Piece]:
    """One block's rows, in pieces of limited size: a block of short rows has millions of them."""
    rows = block.rows
    sizes = rows.ends - rows.starts
    is_row: Flags = sizes > 0
    too_large: Flags = sizes > limits.max_item_bytes
    if block.oversize_head is not None:
        is_row[0] = too_large[0] = True
    bad: Flags = is_row & ((rows.cells != len(header.flat.names)) | (rows.faults != RowFault.NONE) | too_large)
    numbers = np.cumsum(is_row) + rows_before
    for start in range(0, len(is_row), limits.chunk_rows):
        part = slice(start, start + limits.chunk_rows)
        unreadable = Unreadable()
        for index in (np.flatnonzero(bad[part]) + start).tolist():
            head = block.oversize_head if index == 0 else None
            raw = head or block.data[rows.starts[index] : rows.ends[index]]
            message = _fault(rows, index, header, limits, is_too_large=bool(too_large[index]))
            unreadable.add(int(numbers[index]), cut_text(raw, limits.max_item_bytes), message)
        good: Flags = is_row[part] & ~bad[part]
        count = int(good.sum())
        if count:
            data = _select(block.data, rows, part, good, has_bad=bool(unreadable.rows))
            cells = _build_cells(data, count, header, newlines_in_cells=rows.quoted_line_ends)
        else:
            cells = [pa.array([], pa.string()) for _ in header.flat.kept]
        columns = dict(zip(header.flat.columns, cells, strict=True))
        yield Piece(pa.array(numbers[part][good], pa.int64()), columns, unreadable)


def _fault(rows: Rows, index: int, header: Header, limits: ReadLimits, *, is_too_large: bool) -> str:
    if is_too_large:
        return size_fault(limits, item=True)
    fault = RowFault(int(rows.faults[index]))
    if fault is RowFault.OVERSIZE:
        return size_fault(limits, item=False)
    if fault is RowFault.UNCLOSED_WITHIN_LIMIT:
        return (
            f"a quote that opens a cell is not closed within {limits.max_cell_bytes:,} bytes, the most that a cell may "
            "have (setting BATCH_MAX_CELL_BYTES): close it, or shorten the cell"
        )
    if fault is RowFault.UNCLOSED:
        return _UNCLOSED
    if rows.cells[index] != len(header.flat.names):
        return width_fault(int(rows.cells[index]), len(header.flat.names))
    return _STRAY_QUOTES


def _select(data: bytes, rows: Rows, part: slice, good: Flags, *, has_bad: bool) -> bytes | memoryview:
    """The bytes of a part's good rows with their line ends; blank lines may stand between them."""
    starts, nexts = rows.starts[part], rows.nexts[part]
    view = memoryview(data)
    if not has_bad:
        return view[int(starts[0]) : int(nexts[-1])]
    edges = np.flatnonzero(np.diff(good, prepend=False, append=False))
    firsts, lasts = edges[::2], edges[1::2] - 1
    return b"".join([view[a:b] for a, b in zip(starts[firsts].tolist(), nexts[lasts].tolist(), strict=True)])


def _build_cells(
    data: bytes | memoryview, count: int, header: Header, *, newlines_in_cells: bool
) -> list[pa.StringArray]:
    """The kept columns of ``count`` rows known to be well formed."""
    names = [str(position) for position in header.flat.kept]
    if bytes(data[:3]) == codecs.BOM_UTF8:  # of a cell: pyarrow would take it for a file's and drop it
        data = b"\n" + bytes(data)
    table = pacsv.read_csv(
        pa.BufferReader(pa.py_buffer(data)),
        read_options=pacsv.ReadOptions(
            use_threads=False,
            block_size=len(data) + 1,
            column_names=[str(position) for position in range(len(header.flat.names))],
        ),
        parse_options=pacsv.ParseOptions(
            delimiter=header.delimiter,
            newlines_in_values=newlines_in_cells,
            ignore_empty_lines=True,
        ),
        convert_options=pacsv.ConvertOptions(
            check_utf8=False,
            column_types=dict.fromkeys(names, pa.string()),
            include_columns=names,
            null_values=[],
            strings_can_be_null=False,
        ),
    )
    if table.num_rows != count:
        raise RuntimeError(f"pyarrow read {table.num_rows} rows where the structure has {count}")
    arrays = [column.chunk(0) if column.num_chunks == 1 else column.combine_chunks() for column in table.columns]
    return [header.flat.unguarded(array) for array in arrays]
