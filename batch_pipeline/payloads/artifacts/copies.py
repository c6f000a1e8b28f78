"""The whole upload once more, as CSV or as JSON, from its parsed chunks: for people who download it in another format.

Cells stand as they were uploaded, unguarded: a copy that is uploaded again means the same as the original.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from batch_pipeline.payloads import texts
from batch_pipeline.payloads.artifacts.errors_csv import LINE_END, item_cells
from batch_pipeline.payloads.artifacts.errors_json import json_items, unreadable_items
from batch_pipeline.payloads.artifacts.json_array import JsonArrayFile
from batch_pipeline.payloads.flat_header import RAW
from batch_pipeline.payloads.model import RawChunk


def write_csv_copy(file: BinaryIO, chunks: Iterable[RawChunk], columns: Sequence[str], *, has_unreadable: bool) -> None:
    """Writes the rows as CSV: UTF-8, comma, CRLF, every cell quoted.

    Args:
        file: written from where it is; not closed.
        chunks: all of the upload's.
        columns: the upload's own columns; for JSON what `flattened_columns` gives.
        has_unreadable: whether some chunk has unreadable rows; their text then stands in a last column ``_raw``, and
            their other cells are empty.
    """
    if has_unreadable:  # a field of JSON items of this name is shown by the JSON copy
        columns = [name for name in columns if name.strip() != RAW]
    names = [*columns, *([RAW] if has_unreadable else [])]
    file.write((",".join(texts.csv_cell(name, guarded=False) for name in names) + LINE_END).encode())
    for chunk in chunks:
        for piece in _pieces(chunk, 3 * len(columns)):
            raws = piece.unreadable["raw"].combine_chunks()
            cells = item_cells(piece, columns, guarded=False)
            if not has_unreadable:  # each cell has a comma after it
                lines = texts.without_last_character(cells)
            else:
                blank = texts.repeat('"",' * len(columns), len(raws))
                raw_cells = texts.concat(blank, '"', texts.csv_content(raws, guarded=False), '"')
                lines = _in_order(piece, texts.concat(cells, '""'), raw_cells)
            texts.write_texts(file, texts.concat(lines, LINE_END))


def write_json_copy(file: BinaryIO, chunks: Iterable[RawChunk]) -> None:
    """Writes the items as a JSON array, one a line: those of flat formats with texts, JSON items as they were written.

    An unreadable row is ``{"_raw": "the line"}``.
    """
    array = JsonArrayFile(file)
    array.begin()
    for chunk in chunks:
        for piece in _pieces(chunk, sum(len(name) + 8 for name in chunk.columns)):
            array.write(_in_order(piece, json_items(piece), unreadable_items(piece)))
    array.end()


def _pieces(chunk: RawChunk, row_bytes: int) -> Iterator[RawChunk]:
    """The chunk in pieces small enough to work on, each of consecutive rows."""
    size = row_bytes * (len(chunk.rows) + chunk.unreadable.num_rows) + chunk.unreadable.nbytes
    if size + sum(column.nbytes for column in chunk.columns.values()) <= texts.PIECE_BYTES:
        yield chunk
        return
    readable, unreadable = chunk.rows.to_numpy(), chunk.unreadable["row"].to_numpy()
    rows = np.sort(np.concatenate([readable, unreadable]))
    sizes = np.full(len(rows), row_bytes, np.int64)
    for column in chunk.columns.values():
        sizes[np.searchsorted(rows, readable)] += texts.byte_sizes(column)
    sizes[np.searchsorted(rows, unreadable)] += texts.byte_sizes(chunk.unreadable["raw"])
    for start, stop in texts.pieces(sizes):
        edges = [rows[start], rows[stop - 1] + 1]
        of_items, of_unreadable = (slice(*np.searchsorted(some, edges).tolist()) for some in (readable, unreadable))
        yield RawChunk(
            chunk.rows[of_items],
            {name: column[of_items] for name, column in chunk.columns.items()},
            {name: kinds[of_items] for name, kinds in chunk.kinds.items()},
            chunk.unreadable[of_unreadable],
        )


def _in_order(chunk: RawChunk, readable: pa.StringArray, unreadable: pa.StringArray) -> pa.StringArray:
    """The texts of the readable and of the unreadable rows in the order of the upload."""
    if len(unreadable) == 0:
        return readable
    rows = np.concatenate([chunk.rows.to_numpy(), chunk.unreadable["row"].to_numpy()])
    return pa.concat_arrays([readable, unreadable]).take(pa.array(np.argsort(rows, kind="stable")))
