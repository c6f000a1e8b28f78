"""CSV uploads: blocks of text to columns of text, with every row that can't be read cut out and named.

`csv_structure` decides where rows and cells are; pyarrow only builds the cells of the rows it found good,
since its own reading merges rows after an unclosed quote without a word. This module joins blocks and rows
across their edges.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from batch_pipeline.errors import RefusedError
from batch_pipeline.payloads.chunking import Piece, Unreadable, check_item_count, cut_text, rechunk
from batch_pipeline.payloads.csv_header import Header, read_header
from batch_pipeline.payloads.csv_structure import Flags, Rows, find_rows
from batch_pipeline.payloads.encoding import TextFile
from batch_pipeline.payloads.model import Payload, PayloadFormat, RawChunk, ReadLimits

_BROKEN = (
    "a quote that opens a cell is not closed before a delimiter or line end: close it, or double the quotes "
    "within the cell"
)


class CsvPayload(Payload):
    """A CSV upload. Empty lines are no rows; every other line after the header is one, or part of one."""

    format = PayloadFormat.CSV

    def __init__(self, text: TextFile, limits: ReadLimits, *, block_bytes: int) -> None:
        self._text = text
        self._limits = limits
        self._block_bytes = block_bytes
        self._header, self._header_bytes = _read_header(text, limits)
        self.columns = tuple(self._header.names[position] for position in self._header.kept)
        self.is_errors_file = self._header.is_errors_file

    def chunks(self) -> Iterator[RawChunk]:
        """See `Payload.chunks`."""
        return rechunk(self._pieces(), columns=self.columns, chunk_rows=self._limits.chunk_rows)

    def _pieces(self) -> Iterator[Piece]:
        rows_before = 0
        parts = _data_parts(self._text, self._header_bytes, self._block_bytes)
        for block in _row_blocks(parts, self._header, self._limits):
            piece, count = _read_block(block, self._header, self._limits, rows_before)
            rows_before += count
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


@dataclass(frozen=True)
class _Block:
    """Bytes that begin and end with a row, and where its rows are.

    ``oversize_head`` is the start of a row whose end is the first row of this block, if that row is larger
    than an item may be.
    """

    data: bytes
    rows: Rows
    oversize_head: bytes | None


def _row_blocks(parts: Iterable[tuple[bytes, bool]], header: Header, limits: ReadLimits) -> Iterator[_Block]:
    """The data rows in blocks of whole rows; of a row that is too large only the start is kept."""
    delimiter = ord(header.delimiter)
    data = b""
    unfinished = 0  # bytes of data that were searched for a row's end already
    oversize_head: bytes | None = None
    for part, final in parts:
        data += part
        if final:
            data += b"\n"
        elif len(data) < 2 * unfinished:
            continue  # searching a long row again for every block would be quadratic
        rows = find_rows(data, delimiter=delimiter, final=final, max_cell_bytes=limits.max_cell_bytes)
        if len(rows.ends):
            yield _Block(data, rows, oversize_head)
            oversize_head = None
        if _settled(data, rows) - rows.consumed > limits.max_item_bytes:
            if oversize_head is None:
                oversize_head = data[rows.consumed : rows.consumed + limits.max_item_bytes]
            data = _stand_in(data, rows, header.delimiter.encode())
        else:
            data = data[rows.consumed :]
        unfinished = len(data)


def _settled(data: bytes, rows: Rows) -> int:
    """Up to where ``data`` is known to belong to the unfinished row."""
    if rows.open_return:
        return len(data) - 1
    if rows.open_broken or not data.startswith(b'"', rows.open_cell):
        return len(data)
    return rows.open_cell  # the quote may yet prove broken, and the row to have ended long ago


def _stand_in(data: bytes, rows: Rows, delimiter: bytes) -> bytes:
    """A short text that leaves the reader in the same state as the unfinished row that ``data`` ends with."""
    if rows.open_broken:
        return b'""x'
    if rows.open_return:
        return b"x\r"
    cell = data[rows.open_cell :]
    if cell.startswith(b'"'):  # of limited size, or it would be broken
        return delimiter + cell
    return delimiter + b"x" if cell else delimiter


def _data_parts(text: TextFile, header_bytes: int, block_bytes: int) -> Iterator[tuple[bytes, bool]]:
    """The bytes after the header, each block with whether it is the last."""
    skip = header_bytes
    previous = b""
    for block in text.blocks(block_bytes):
        if skip >= len(block):
            skip -= len(block)
            continue
        if previous:
            yield previous, False
        previous = block[skip:]
        skip = 0
    yield previous, True


def _read_block(block: _Block, header: Header, limits: ReadLimits, rows_before: int) -> tuple[Piece, int]:
    """One block's rows, and how many they are."""
    rows = block.rows
    width = len(header.names)
    sizes = rows.ends - rows.starts
    is_row = sizes > 0
    too_large = sizes > limits.max_item_bytes
    if block.oversize_head is not None:
        is_row[0] = too_large[0] = True
    good = is_row & (rows.cells == width) & ~(rows.broken | rows.oversize | too_large)
    numbers = np.cumsum(is_row) + rows_before
    unreadable = Unreadable()
    for index in np.flatnonzero(is_row & ~good).tolist():
        if too_large[index]:
            message = (
                f"the row is larger than {limits.max_item_bytes:,} bytes, the most that an item may have "
                "(setting BATCH_MAX_ITEM_BYTES)"
            )
        elif rows.broken[index]:
            message = _BROKEN
        elif rows.oversize[index]:
            message = (
                f"a cell is larger than {limits.max_cell_bytes:,} bytes, the most that a cell may have "
                "(setting BATCH_MAX_CELL_BYTES)"
            )
        else:
            message = f"the row has {_cells(int(rows.cells[index]))}, the header has {width:,}"
        raw = block.data[rows.starts[index] : rows.ends[index]]
        if index == 0 and block.oversize_head is not None:
            raw = block.oversize_head
        unreadable.add(int(numbers[index]), cut_text(raw, limits.max_item_bytes), message)

    arrays = _build_cells(block, good, header)
    columns = dict(zip((header.names[position] for position in header.kept), arrays, strict=True))
    return Piece(pa.array(numbers[good], pa.int64()), columns, unreadable), int(is_row.sum())


def _cells(count: int) -> str:
    return "1 cell" if count == 1 else f"{count:,} cells"


def _select(data: bytes, rows: Rows, good: Flags) -> bytes | memoryview:
    """The bytes of the good rows with their line ends, without a copy if they are all there is."""
    if good.all():
        return memoryview(data)[: rows.consumed]
    edges = np.flatnonzero(np.diff(good, prepend=False, append=False))
    firsts, lasts = edges[::2], edges[1::2] - 1
    view = memoryview(data)
    return b"".join(
        [view[a:b] for a, b in zip(rows.starts[firsts].tolist(), rows.nexts[lasts].tolist(), strict=True)]
    )


def _build_cells(block: _Block, good: Flags, header: Header) -> list[pa.StringArray]:
    """The kept columns of the good rows."""
    count = int(good.sum())
    names = [str(position) for position in header.kept]
    if count == 0:
        return [pa.array([], pa.string()) for _ in names]
    data = _select(block.data, block.rows, good)
    quoted = b'"' in block.data
    table = pacsv.read_csv(
        pa.BufferReader(pa.py_buffer(data)),
        read_options=pacsv.ReadOptions(
            use_threads=False,
            block_size=len(data) + 1,
            column_names=[str(position) for position in range(len(header.names))],
        ),
        parse_options=pacsv.ParseOptions(
            delimiter=header.delimiter,
            quote_char='"' if quoted else False,
            double_quote=quoted,
            newlines_in_values=block.rows.quoted_line_ends,
            ignore_empty_lines=False,
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
    arrays = [
        column.chunk(0) if column.num_chunks == 1 else column.combine_chunks() for column in table.columns
    ]
    return [_without_apostrophe(array) for array in arrays] if header.is_errors_file else arrays


def _without_apostrophe(cells: pa.StringArray) -> pa.StringArray:
    """Takes off the one apostrophe that an errors file puts before a cell that a spreadsheet might run."""
    protected = pc.starts_with(cells, "'")
    if not pc.any(protected).as_py():
        return cells
    return pc.if_else(protected, pc.utf8_slice_codeunits(cells, 1), cells)
