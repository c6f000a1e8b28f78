"""Where the rows and cells of a block of CSV are. This module alone decides structure; it builds no cells.

Rules (storage.md, Reading): a cell that begins with a quote is quoted. Its closing quote must be followed by a
delimiter or line end, within the cell limit; ``""`` inside it is a quote. Otherwise only the line in which it opened is
unreadable, and reading resumes on the next line. A quote anywhere else is text. Line ends are LF, CRLF and CR.

A delimiter lost before a quoted cell (``a"b, c",d`` instead of ``a,"b, c",d``) shifts content between cells and may
keep their number. So a row is unreadable where a quote stands within the text of an unquoted cell and a later unquoted
cell ends in a quote.

`csv_quotes` finds which quotes open and close cells.

This is own code because pyarrow merges rows after an unclosed quote without an error, and the standard library's reader
resumes wherever the quote happens to end.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from batch_pipeline.payloads.csv_quotes import (
    CR,
    LF,
    QUOTE,
    Bytes,
    Flags,
    Indices,
    Offsets,
    Quoting,
    RowFault,
    find_runs,
    read_quotes,
    run_starts,
)


@dataclass(frozen=True)
class Rows:
    """The complete rows of a block, blank lines included. Arrays have one entry per row; offsets are into the block.

    Attributes:
        starts, ends: the row's bytes without its line end.
        nexts: where the following row starts.
        cells: number of cells; 1 for a blank line.
        faults: uint8 (`RowFault`).
        consumed: the bytes up to the end of the last complete row.
        open_cell: start of the cell that the rest of the block ends in; ``consumed`` if that is its first.
        open_broken: the rest of the block belongs to a row with an unclosed quote, up to its first line end.
        open_return: the rest of the block ends a row with a CR; an LF may still belong to that line end.
        quoted_line_ends: some quoted cell holds a line end.
    """

    starts: Offsets
    ends: Offsets
    nexts: Offsets
    cells: Offsets
    faults: Bytes
    consumed: int
    open_cell: int
    open_broken: bool
    open_return: bool
    quoted_line_ends: bool


def find_rows(block: bytes, *, delimiter: int, final: bool, max_cell_bytes: int) -> Rows:
    """Finds the complete rows of a block that begins at the start of a row.

    ``final`` says that the file ends with this block, which must then end with a line end.
    """
    data: Bytes = np.frombuffer(block, dtype=np.uint8)
    # A new array of the block's size costs more than a comparison, so one is used again.
    special: Flags = data == LF
    found: Flags = data == delimiter
    special |= found
    has_returns = b"\r" in block
    if has_returns:
        special |= np.equal(data, CR, out=found)
    quoting: Quoting | None = None
    quoted_line_ends = False
    if b'"' in block:
        is_quote: Flags = np.equal(data, QUOTE, out=found)
        special |= run_starts(is_quote)
        offsets, codes = _special_bytes(data, special)
        starts_run: Flags = codes == QUOTE
        marks = starts_run.nonzero()[0]
        runs = find_runs(data, is_quote, offsets[marks], delimiter)
        quoting = read_quotes(
            runs,
            lambda: np.flatnonzero((data == LF) | (data == CR)),
            len(data),
            final=final,
            max_cell_bytes=max_cell_bytes,
        )
        lengths = np.diff(marks[quoting.toggles], prepend=0, append=len(codes))
        inside: Flags = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
        inside_codes = codes[inside]
        quoted_line_ends = bool(((inside_codes == LF) | (inside_codes == CR)).any())
        outside: Flags = ~(starts_run | inside)
        offsets, codes = offsets[outside], codes[outside]
    else:
        offsets, codes = _special_bytes(data, special)

    open_return = False
    ends_row: Flags = codes != delimiter
    after: Offsets = offsets + 1
    if has_returns and len(codes):
        second: Flags = np.zeros(len(codes), dtype=np.bool_)
        second[1:] = (codes[1:] == LF) & (codes[:-1] == CR) & (offsets[1:] == after[:-1])
        after[:-1][second[1:]] += 1
        offsets, codes, ends_row, after = offsets[~second], codes[~second], ends_row[~second], after[~second]
        if not final and len(codes) and codes[-1] == CR and offsets[-1] == len(data) - 1:
            # Only the next block shows whether an LF belongs to this line end.
            offsets, ends_row, after = offsets[:-1], ends_row[:-1], after[:-1]
            open_return = True
    last_of_row = np.flatnonzero(ends_row)
    ends, nexts = offsets[last_of_row], after[last_of_row]
    starts = np.concatenate((np.zeros(1, dtype=np.int64), nexts))[: len(nexts)]
    consumed = int(nexts[-1]) if len(nexts) else 0
    complete = int(last_of_row[-1]) + 1 if len(last_of_row) else 0
    faults: Bytes = np.zeros(len(ends), dtype=np.uint8)
    if len(ends) and quoting is not None:
        _mark_quotes(faults, quoting, offsets[:complete], starts, nexts)
    if len(ends) and int((ends - starts).max()) > max_cell_bytes:
        oversize = _oversize_rows(data, offsets[:complete], after[:complete], last_of_row, max_cell_bytes)
        faults[oversize] = RowFault.OVERSIZE
    return Rows(
        starts=starts,
        ends=ends,
        nexts=nexts,
        cells=np.diff(last_of_row, prepend=-1).astype(np.int64, copy=False),
        faults=faults,
        consumed=consumed,
        open_cell=int(after[-1]) if len(offsets) > complete else consumed,
        open_broken=quoting is not None and quoting.open_broken,
        open_return=open_return,
        quoted_line_ends=quoted_line_ends,
    )


def _special_bytes(data: Bytes, special: Flags) -> tuple[Offsets, Bytes]:
    offsets: Offsets = np.flatnonzero(special).astype(np.int64, copy=False)
    return offsets, data[offsets]


def _mark_quotes(faults: Bytes, quoting: Quoting, separators: Offsets, starts: Offsets, nexts: Offsets) -> None:
    """Sets the faults that the quotes of complete rows make."""
    faults[_stray_rows(quoting, separators, starts, nexts)] = RowFault.STRAY_QUOTES
    for fault in (RowFault.UNCLOSED, RowFault.UNCLOSED_WITHIN_LIMIT):
        at = np.asarray([offset for offset, found in quoting.unclosed_at if found is fault], dtype=np.int64)
        rows = np.searchsorted(nexts, at, side="right")
        faults[rows[rows < len(nexts)]] = fault


def _stray_rows(quoting: Quoting, separators: Offsets, starts: Offsets, nexts: Offsets) -> Indices:
    """The rows in which a quote stands within the text of a cell and a later cell ends in a quote that is text."""
    within = quoting.text_within
    at_end = quoting.text_at_end[quoting.text_at_end < nexts[-1]]
    if not len(within) or not len(at_end):
        return np.zeros(0, dtype=np.intp)
    rows: Indices = np.searchsorted(nexts, at_end, side="right")
    # The first quote within a cell of the row decides: it stands in the earliest such cell.
    first = within[np.minimum(np.searchsorted(within, starts[rows]), len(within) - 1)]
    stray: Flags = (first >= starts[rows]) & (np.searchsorted(separators, first) < np.searchsorted(separators, at_end))
    return rows[stray]


def _oversize_rows(
    data: Bytes, separators: Offsets, after: Offsets, last_of_row: npt.NDArray[np.intp], max_cell_bytes: int
) -> Indices:
    starts = np.concatenate((np.zeros(1, dtype=np.int64), after))[:-1]
    sizes = separators - starts
    candidates = np.flatnonzero(sizes > max_cell_bytes)
    quoted = data[starts[candidates]] == QUOTE
    too_large = candidates[sizes[candidates] - 2 * quoted > max_cell_bytes]
    rows: Indices = np.searchsorted(last_of_row, too_large)
    return rows
