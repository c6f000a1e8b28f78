"""Where the rows and cells of a block of CSV are: the one authority on structure, building no cells.

Rules (storage.md, Reading): a cell that begins with a quote is quoted, and its closing quote must be followed
by a delimiter or line end, within the cell limit; ``""`` inside it is a quote. Else only the line in which it
opened is broken and reading resumes on the next line. A quote anywhere else is text. Line ends are LF, CRLF
and CR.

How: quotes matter only as *runs* of adjacent quotes. A run's effect on the state "inside a quoted cell"
depends on three facts: whether it stands at the start of a cell, whether its length is odd, and whether a
cell may end after it.

    start, odd    opens, or closes          start, even    opens and closes at once, or is escaped text
    else, odd     is text, or closes        else, even     is text

So the state before every run follows from cumulative sums, without a loop, as long as no quote is broken.
Blocks with a broken quote are walked run by run: a scan from a broken quote never passes the next odd run, so
this stays linear.
"""

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

QUOTE, LF, CR = 0x22, 0x0A, 0x0D

Offsets = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Rows:
    """The complete rows of a block, blank lines included. Arrays have one entry per row; offsets are into it.

    Attributes:
        starts, ends: the row's bytes without its line end.
        nexts: where the following row starts.
        cells: number of cells; 1 for a blank line.
        broken: the row has a quote that opens a cell and is not closed.
        oversize: some cell is larger than the cell limit.
        separators: offsets of all structural delimiters and line ends.
        consumed: the bytes up to the end of the last complete row.
        open_cell: start of the cell that the rest of the block ends in; ``consumed`` if that is its first.
        open_broken: the rest of the block belongs to a row with a broken quote, up to its first line end.
        open_return: the rest of the block ends a row with a CR, of which an LF may still be part.
        quoted_line_ends: some quoted cell holds a line end.
    """

    starts: Offsets
    ends: Offsets
    nexts: Offsets
    cells: Offsets
    broken: Flags
    oversize: Flags
    separators: Offsets
    consumed: int
    open_cell: int
    open_broken: bool
    open_return: bool
    quoted_line_ends: bool


@dataclass(frozen=True)
class _Quoting:
    """Which special bytes (by index) are outside quoted cells, and the offsets of quotes that are broken."""

    outside: Flags
    broken_at: list[int]
    open_broken: bool


def find_rows(block: bytes, *, delimiter: int, final: bool, max_cell_bytes: int) -> Rows:
    """Finds the complete rows of a block that begins at the start of a row.

    ``final`` says that the file ends with this block, which must then end with a line end.
    """
    data: Bytes = np.frombuffer(block, dtype=np.uint8)
    special: Flags = data == LF
    special |= data == delimiter
    has_returns = b"\r" in block
    if has_returns:
        special |= data == CR
    has_quotes = b'"' in block
    if has_quotes:
        special |= data == QUOTE
    offsets: Offsets = np.flatnonzero(special).astype(np.int64, copy=False)
    codes: Bytes = data[offsets]

    broken_at: list[int] = []
    open_broken = False
    open_return = quoted_line_ends = False
    if has_quotes:
        quoting = _read_quotes(data, offsets, codes, delimiter, final=final, max_cell_bytes=max_cell_bytes)
        broken_at, open_broken = quoting.broken_at, quoting.open_broken
        inside_codes = codes[~quoting.outside]
        quoted_line_ends = bool(((inside_codes == LF) | (inside_codes == CR)).any())
        offsets, codes = offsets[quoting.outside], codes[quoting.outside]

    ends_row: Flags = codes != delimiter
    after: Offsets = offsets + 1
    if has_returns and len(codes):
        second: Flags = np.zeros(len(codes), dtype=np.bool_)
        second[1:] = (codes[1:] == LF) & (codes[:-1] == CR) & (offsets[1:] == after[:-1])
        after[:-1][second[1:]] += 1
        offsets, codes, ends_row, after = offsets[~second], codes[~second], ends_row[~second], after[~second]
        if not final and len(codes) and codes[-1] == CR and offsets[-1] == len(data) - 1:
            # Whether an LF belongs to this line end is known with the next block only.
            offsets, ends_row, after = offsets[:-1], ends_row[:-1], after[:-1]
            open_return = True
    return _rows(
        data,
        offsets,
        after,
        np.flatnonzero(ends_row),
        broken_at=broken_at,
        open_broken=open_broken,
        open_return=open_return,
        quoted_line_ends=quoted_line_ends,
        max_cell_bytes=max_cell_bytes,
    )


def _rows(
    data: Bytes,
    separators: Offsets,
    after: Offsets,
    last_of_row: npt.NDArray[np.intp],
    *,
    broken_at: list[int],
    open_broken: bool,
    open_return: bool,
    quoted_line_ends: bool,
    max_cell_bytes: int,
) -> Rows:
    ends = separators[last_of_row]
    nexts = after[last_of_row]
    starts = np.concatenate((np.zeros(1, dtype=np.int64), nexts))[: len(nexts)]
    consumed = int(nexts[-1]) if len(nexts) else 0
    complete = int(last_of_row[-1]) + 1 if len(last_of_row) else 0
    broken = np.zeros(len(ends), dtype=np.bool_)
    if broken_at:
        rows = np.searchsorted(nexts, np.asarray(broken_at, dtype=np.int64), side="right")
        broken[rows[rows < len(ends)]] = True
    oversize = np.zeros(len(ends), dtype=np.bool_)
    if len(ends) and int((ends - starts).max()) > max_cell_bytes:
        oversize = _oversize_rows(data, separators[:complete], after[:complete], last_of_row, max_cell_bytes)
    return Rows(
        starts=starts,
        ends=ends,
        nexts=nexts,
        cells=np.diff(last_of_row, prepend=-1).astype(np.int64, copy=False),
        broken=broken,
        oversize=oversize,
        separators=separators[:complete],
        consumed=consumed,
        open_cell=int(after[-1]) if len(separators) > complete else consumed,
        open_broken=open_broken,
        open_return=open_return,
        quoted_line_ends=quoted_line_ends,
    )


def _oversize_rows(
    data: Bytes, separators: Offsets, after: Offsets, last_of_row: npt.NDArray[np.intp], max_cell_bytes: int
) -> Flags:
    starts = np.concatenate((np.zeros(1, dtype=np.int64), after))[:-1]
    sizes = separators - starts
    candidates = np.flatnonzero(sizes > max_cell_bytes)
    quoted = data[starts[candidates]] == QUOTE
    too_large = candidates[sizes[candidates] - 2 * quoted > max_cell_bytes]
    oversize = np.zeros(len(last_of_row), dtype=np.bool_)
    oversize[np.searchsorted(last_of_row, too_large)] = True
    return oversize


def _read_quotes(
    data: Bytes, offsets: Offsets, codes: Bytes, delimiter: int, *, final: bool, max_cell_bytes: int
) -> _Quoting:
    is_quote: Flags = codes == QUOTE
    quotes = np.flatnonzero(is_quote)
    at = offsets[quotes]
    is_first: Flags = np.ones(len(at), dtype=np.bool_)
    is_first[1:] = at[1:] != at[:-1] + 1
    first = np.flatnonzero(is_first)
    length = np.diff(first, append=len(at))
    begin = at[first]
    end = begin + length
    mark = quotes[first]  # index of the run's first quote among the special bytes
    if not final and int(end[-1]) == len(data):
        # The run may go on in the next block. No line end follows it here, so no complete row depends on it.
        begin, end, length, mark = begin[:-1], end[:-1], length[:-1], mark[:-1]

    ends_cell = np.zeros(256, dtype=np.bool_)
    ends_cell[[delimiter, LF, CR]] = True
    at_start: Flags = ends_cell[data[begin - 1]]
    if len(begin) and begin[0] == 0:
        at_start[0] = True
    at_end: Flags = ends_cell[data[end]] if len(end) else np.zeros(0, dtype=np.bool_)
    odd: Flags = (length & 1).astype(np.bool_)

    inside = _states(at_start & odd, ~at_start & odd)
    opens: Flags = ~inside & at_start & odd
    closes: Flags = inside & odd
    bad: Flags = ~at_end & (closes | (~inside & at_start & ~odd))
    if not bad.any():
        opened, closed = begin[opens], end[closes]
        pending = len(opened) > len(closed)
        sizes = closed - opened[: len(closed)] - 2
        if not (len(sizes) and int(sizes.max()) > max_cell_bytes) and not (
            pending and (final or _is_past_limit(int(opened[-1]), len(data), max_cell_bytes))
        ):
            toggles: npt.NDArray[np.uint8] = np.zeros(len(codes), dtype=np.uint8)
            toggles[mark[opens | closes]] = 1
            return _Quoting(_outside(toggles, is_quote), [], open_broken=False)
    return _walk(
        begin.tolist(),
        end.tolist(),
        at_start.tolist(),
        at_end.tolist(),
        offsets=offsets,
        marks=mark,
        is_quote=is_quote,
        line_ends=offsets[(codes == LF) | (codes == CR)].tolist(),
        size=len(data),
        final=final,
        max_cell_bytes=max_cell_bytes,
    )


def _states(swaps: Flags, leaves: Flags) -> Flags:
    """Whether each run begins inside a quoted cell: swaps flip that state, leaves end it."""
    flips = np.cumsum(swaps)
    state: npt.NDArray[np.intp] = np.zeros(len(swaps), dtype=np.intp)
    state[1:] = flips[:-1]
    if leaves.any():
        base = np.maximum.accumulate(np.where(leaves, flips, 0))
        state[1:] -= base[:-1]
    return (state & 1).astype(np.bool_)


def _outside(toggles: npt.NDArray[np.uint8], is_quote: Flags) -> Flags:
    inside = np.bitwise_xor.accumulate(toggles) if len(toggles) else toggles
    return ~(is_quote | inside.astype(np.bool_))


def _is_past_limit(opened: int, size: int, max_cell_bytes: int) -> bool:
    """A quote is broken once the byte after the last place where it could be closed is known."""
    return size > opened + max_cell_bytes + 2


def _walk(
    begin: list[int],
    end: list[int],
    at_start: list[bool],
    at_end: list[bool],
    *,
    offsets: Offsets,
    marks: npt.NDArray[np.intp],
    is_quote: Flags,
    line_ends: list[int],
    size: int,
    final: bool,
    max_cell_bytes: int,
) -> _Quoting:
    """The same run by run, resuming on the next line after each broken quote."""
    toggled: list[int] = []
    broken_at: list[int] = []
    open_broken = False
    opened = -1
    run, runs = 0, len(begin)
    while run < runs or opened >= 0:
        broken = -1
        if run == runs:
            if not final and not _is_past_limit(begin[opened], size, max_cell_bytes):
                toggled.append(opened)
                break
            broken = begin[opened]
        elif opened >= 0:
            if (end[run] - begin[run]) & 1:
                if at_end[run] and end[run] - begin[opened] - 2 <= max_cell_bytes:
                    toggled += (opened, run)
                    opened = -1
                else:
                    broken = begin[opened]
        elif at_start[run]:
            if (end[run] - begin[run]) & 1:
                opened = run
            elif not at_end[run]:
                broken = begin[run]
        run += 1
        if broken >= 0:
            broken_at.append(broken)
            opened = -1
            line = bisect_left(line_ends, broken)
            if line == len(line_ends):
                open_broken = True
                break
            run = bisect_left(begin, line_ends[line])
    toggles: npt.NDArray[np.uint8] = np.zeros(len(is_quote), dtype=np.uint8)
    toggles[marks[toggled]] = 1
    return _Quoting(_outside(toggles, is_quote), broken_at, open_broken)
