"""Rejected items with their errors, the one input of both errors files, and how its rows are put in order."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batch_pipeline.payloads import texts
from batch_pipeline.payloads.model import RawChunk


@dataclass(frozen=True)
class RejectedChunk:
    """The rejected rows of some stretch of an upload.

    Attributes:
        items: only the rejected items, as uploaded, and the unreadable rows of the stretch.
        errors: `ERRORS_SCHEMA` of `records.errors`, ascending by row: at least one for each item and each
            unreadable row, none for any other.
    """

    items: RawChunk
    errors: pa.Table


@dataclass(frozen=True)
class Merged:
    """The readable and unreadable rows of a chunk in one sequence, and which errors are whose.

    Attributes:
        rows: int64, ascending. error_offsets: the errors of the i-th row are those from ``error_offsets[i]``
        to ``error_offsets[i + 1]``. order: positions within "readable rows, then unreadable rows", or None if
        that is the sequence already.
    """

    rows: pa.Int64Array
    error_offsets: npt.NDArray[np.int32]
    order: pa.Int64Array | None

    def arrange(self, readable: pa.StringArray, unreadable: pa.StringArray) -> pa.StringArray:
        """One text for each row, from those of the readable and those of the unreadable rows."""
        if len(unreadable) == 0:
            return readable
        both = pa.concat_arrays([readable, unreadable])
        return both if self.order is None else both.take(self.order)


def merge(chunk: RejectedChunk) -> Merged:
    """Puts the rows of a chunk in order.

    Raises ValueError: the rows are not ascending, or rows and errors don't belong together.
    """
    readable, unreadable, with_errors = _row_numbers(chunk)
    rows = np.concatenate([readable, unreadable])
    order = None
    if len(unreadable) and len(readable) and unreadable[0] < readable[-1]:
        positions = np.argsort(rows, kind="stable")
        rows = rows[positions]
        order = pa.array(positions)
    if (np.diff(rows) <= 0).any() or (np.diff(with_errors) < 0).any():
        raise ValueError("rejected rows and their errors must be ascending, and each row there once")
    firsts = np.flatnonzero(np.diff(with_errors, prepend=-1))
    if not np.array_equal(with_errors[firsts], rows):
        odd = np.setxor1d(with_errors[firsts], rows)
        raise ValueError(f"rejected rows and errors differ, for instance at row {odd[0]}")
    offsets = np.append(firsts, len(with_errors)).astype(np.int32)
    return Merged(pa.array(rows), offsets, order)


def split(chunk: RejectedChunk, csv_columns: int) -> Iterator[RejectedChunk]:
    """The chunk in pieces small enough to work on; nearly always it is one.

    ``csv_columns``: how many columns of the upload errors.csv has, as each costs some bytes in every row.
    Raises ValueError as `merge` does.
    """
    items = chunk.items
    row_bytes = sum(len(name) + 8 for name in items.columns) + 3 * csv_columns + 64
    error_bytes = 64
    count = len(items.rows) + items.unreadable.num_rows
    if _nbytes(chunk) + count * row_bytes + chunk.errors.num_rows * error_bytes <= texts.PIECE_BYTES:
        yield chunk
        return
    rows = merge(chunk).rows.to_numpy()
    readable, unreadable, with_errors = _row_numbers(chunk)
    sizes = np.full(len(rows), row_bytes, np.int64)
    sizes += error_bytes * np.bincount(np.searchsorted(rows, with_errors), minlength=len(rows))
    for column in items.columns.values():
        sizes[np.searchsorted(rows, readable)] += texts.byte_sizes(column)
    sizes[np.searchsorted(rows, unreadable)] += texts.byte_sizes(items.unreadable["raw"])
    for name in ("code", "field", "message", "value"):
        np.add.at(sizes, np.searchsorted(rows, with_errors), texts.byte_sizes(chunk.errors[name]))
    for start, stop in texts.pieces(sizes):
        first, last = rows[start], rows[stop - 1]
        of_items, of_unreadable, of_errors = (
            slice(*np.searchsorted(numbers, [first, last + 1]).tolist())
            for numbers in (readable, unreadable, with_errors)
        )
        yield RejectedChunk(
            RawChunk(
                items.rows[of_items],
                {name: column[of_items] for name, column in items.columns.items()},
                {name: kinds[of_items] for name, kinds in items.kinds.items()},
                items.unreadable[of_unreadable],
            ),
            chunk.errors[of_errors],
        )


def _nbytes(chunk: RejectedChunk) -> int:
    columns = [*chunk.items.columns.values(), chunk.items.unreadable, chunk.errors]
    return sum(column.nbytes for column in columns)


def _row_numbers(chunk: RejectedChunk) -> tuple[npt.NDArray[np.int64], ...]:
    """The rows of the items, of the unreadable rows and of the errors."""
    return (
        chunk.items.rows.to_numpy(),
        chunk.items.unreadable["row"].to_numpy(),
        chunk.errors["row"].to_numpy(),
    )
