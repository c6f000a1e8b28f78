"""The data rows of a CSV upload in blocks of whole rows, whatever the edges of what is read at once.

A row goes on over block edges until `csv_structure` finds its end. Of a row that is larger than an item
may be only the start is kept, so that memory stays bounded.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from batch_pipeline.payloads.csv_structure import Rows, find_rows
from batch_pipeline.payloads.encoding import TextFile
from batch_pipeline.payloads.model import ReadLimits


@dataclass(frozen=True)
class Block:
    """Bytes that begin and end with a row, and where its rows are.

    ``oversize_head`` is the start of a row whose end is the first row of this block, if that row is larger
    than an item may be.
    """

    data: bytes
    rows: Rows
    oversize_head: bytes | None


def row_blocks(parts: Iterable[tuple[bytes, bool]], delimiter: str, limits: ReadLimits) -> Iterator[Block]:
    """The data rows in blocks of whole rows; of a row that is too large only the start is kept."""
    data = b""
    unfinished = 0  # bytes of data that were searched for a row's end already
    oversize_head: bytes | None = None
    for part, final in parts:
        data += part
        if final:
            data += b"\n"
        elif len(data) < 2 * unfinished:
            continue  # searching a long row again for every block would be quadratic
        rows = find_rows(data, delimiter=ord(delimiter), final=final, max_cell_bytes=limits.max_cell_bytes)
        if len(rows.ends):
            yield Block(data, rows, oversize_head)
            oversize_head = None
        if _settled(data, rows) - rows.consumed > limits.max_item_bytes:
            if oversize_head is None:
                oversize_head = data[rows.consumed : rows.consumed + limits.max_item_bytes]
            data = _stand_in(data, rows, delimiter.encode())
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


def data_parts(text: TextFile, header_bytes: int, block_bytes: int) -> Iterator[tuple[bytes, bool]]:
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
