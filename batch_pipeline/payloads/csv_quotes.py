"""Which quotes of a block of CSV open and close cells, by the rules of `csv_structure`.

How: only *runs* of adjacent quotes matter. The effect of a run on the state "inside a quoted cell" depends on three
facts: whether it stands at the start of a cell, whether its length is odd, and whether a cell may end after it.

    start, odd    opens, or closes          start, even    opens and closes at once, or is escaped text
    else, odd     is text, or closes        else, even     is text

So the state before every run follows from cumulative sums, without a loop, as long as every quote that opens is closed.
Other blocks are walked run by run: a scan from an unclosed quote never passes the next odd run, so this stays linear.
"""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

QUOTE, LF, CR = 0x22, 0x0A, 0x0D

Offsets = npt.NDArray[np.int64]
Indices = npt.NDArray[np.intp]
Flags = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]


class RowFault(IntEnum):
    """What makes a row unreadable, whatever its number of cells."""

    NONE = 0
    #: a quote in the text of an unquoted cell, and a later unquoted cell that ends in a quote
    STRAY_QUOTES = 1
    #: a quote that opens a cell is followed by text after its closing quote, or by the end of the file
    UNCLOSED = 2
    #: a quote that opens a cell is not closed within the cell limit
    UNCLOSED_WITHIN_LIMIT = 3
    #: a cell is larger than the cell limit
    OVERSIZE = 4


@dataclass(frozen=True)
class Runs:
    """Runs of adjacent quotes in their order: offsets of begin and end, and what stands on either side."""

    begin: Offsets
    end: Offsets
    at_start: Flags
    at_end: Flags


@dataclass(frozen=True)
class Quoting:
    """What the quotes of a block do.

    Attributes:
        toggles: the runs (by index) that open or close a cell.
        text_within, text_at_end: offsets of runs that are text, within a cell or at its end.
        unclosed_at: offsets of quotes that open a cell and are not closed, with the fault of their row.
        open_broken: as in `Rows`.
    """

    toggles: Indices
    text_within: Offsets
    text_at_end: Offsets
    unclosed_at: list[tuple[int, RowFault]]
    open_broken: bool


def run_starts(is_quote: Flags) -> Flags:
    """Which quotes are the first of a run: one a run, so that memory does not grow with the length of runs."""
    first = np.empty_like(is_quote)
    first[0] = is_quote[0]
    np.greater(is_quote[1:], is_quote[:-1], out=first[1:])
    return first


def find_runs(data: Bytes, is_quote: Flags, begin: Offsets, delimiter: int) -> Runs:
    """The runs of quotes of a block; ``begin`` are the offsets of all `run_starts`."""
    end = begin + 1
    if is_quote[np.minimum(end, len(data) - 1)].any():  # some run is longer than one quote
        last = np.empty_like(is_quote)
        last[-1] = is_quote[-1]
        np.greater(is_quote[:-1], is_quote[1:], out=last[:-1])
        end = np.flatnonzero(last).astype(np.int64, copy=False) + 1
    ends_cell = np.zeros(256, dtype=np.bool_)
    ends_cell[[delimiter, LF, CR]] = True
    at_start: Flags = ends_cell[data[begin - 1]]
    at_start[0] |= is_quote[0]
    # What follows a run at the end of the block is unknown. `read_quotes` uses such a run only if it is over the limit.
    return Runs(begin, end, at_start, ends_cell[data[np.minimum(end, len(data) - 1)]])


def read_quotes(
    runs: Runs, find_line_ends: Callable[[], Offsets], size: int, *, final: bool, max_cell_bytes: int
) -> Quoting:
    """What the quotes of a block of ``size`` bytes do; without a loop if every quote that opens is closed in time.

    ``find_line_ends`` gives the offsets of all LF and CR. ``final`` says that the file ends with this block.
    """
    if not final and int(runs.end[-1]) == size and runs.end[-1] - runs.begin[-1] - 2 <= max_cell_bytes:
        # The run may go on in the next block. No line end follows it here, so no complete row depends on it.
        runs = Runs(runs.begin[:-1], runs.end[:-1], runs.at_start[:-1], runs.at_end[:-1])
    lengths = runs.end - runs.begin
    odd: Flags = (lengths & 1).astype(np.bool_)
    inside = _states(runs.at_start & odd, ~runs.at_start & odd)
    starts_cell: Flags = ~inside & runs.at_start
    opens: Flags = starts_cell & odd
    closes: Flags = inside & odd
    whole: Flags = starts_cell & ~odd
    bad: Flags = ~runs.at_end & (closes | whole)
    bad |= starts_cell & (lengths - 2 > max_cell_bytes)
    if not bad.any():
        opened, closed = runs.begin[opens], runs.end[closes]
        pending = len(opened) > len(closed)
        sizes = closed - opened[: len(closed)] - 2
        if not (len(sizes) and int(sizes.max()) > max_cell_bytes) and not (
            pending and (final or _is_past_limit(int(opened[-1]), size, max_cell_bytes))
        ):
            text = np.flatnonzero(~inside & ~runs.at_start)
            return _quoting(runs, np.flatnonzero(opens | closes), text, [], open_broken=False)
    return _walk(runs, [*find_line_ends().tolist(), size], final=final, max_cell_bytes=max_cell_bytes)


def _quoting(
    runs: Runs,
    toggles: Indices,
    text: Indices,
    unclosed_at: list[tuple[int, RowFault]],
    *,
    open_broken: bool,
) -> Quoting:
    at_end = runs.at_end[text]
    return Quoting(toggles, runs.begin[text[~at_end]], runs.begin[text[at_end]], unclosed_at, open_broken)


def _states(swaps: Flags, leaves: Flags) -> Flags:
    """Whether each run begins inside a quoted cell: swaps flip that state, leaves end it."""
    flips = np.cumsum(swaps, dtype=np.int32)
    state: npt.NDArray[np.int32] = np.zeros(len(swaps), dtype=np.int32)
    state[1:] = flips[:-1]
    if leaves.any():
        base = np.maximum.accumulate(np.where(leaves, flips, 0))
        state[1:] -= base[:-1]
    return (state & 1).astype(np.bool_)


def _is_past_limit(opened: int, size: int, max_cell_bytes: int) -> bool:
    """Whether the byte after the last place where the quote could be closed is known."""
    return size > opened + max_cell_bytes + 2


def _walk(runs: Runs, line_ends: list[int], *, final: bool, max_cell_bytes: int) -> Quoting:
    """The same run by run, resuming on the next line after each quote that is not closed.

    ``line_ends`` ends with the size of the block.
    """
    begin, end = runs.begin.tolist(), runs.end.tolist()
    at_start, at_end = runs.at_start.tolist(), runs.at_end.tolist()
    size = line_ends[-1]
    toggles: list[int] = []
    text: list[int] = []
    unclosed_at: list[tuple[int, RowFault]] = []
    open_broken = False
    opened = -1
    run = 0
    while run < len(begin) or opened >= 0:
        unclosed, cell_size = -1, 0
        if run == len(begin):
            past_limit = _is_past_limit(begin[opened], size, max_cell_bytes)
            if not final and not past_limit:
                toggles.append(opened)
                break
            unclosed, cell_size = begin[opened], max_cell_bytes + past_limit
        elif opened >= 0:
            if (end[run] - begin[run]) & 1:
                cell_size = end[run] - begin[opened] - 2
                if at_end[run] and cell_size <= max_cell_bytes:
                    toggles += (opened, run)
                    opened = -1
                else:
                    unclosed = begin[opened]
        elif at_start[run]:
            cell_size = end[run] - begin[run] - 2
            is_odd = bool(cell_size & 1)
            if cell_size > max_cell_bytes or not (is_odd or at_end[run]):
                unclosed = begin[run]
            elif is_odd:
                opened = run
        else:
            text.append(run)
        run += 1
        if unclosed >= 0:
            fault = RowFault.UNCLOSED_WITHIN_LIMIT if cell_size > max_cell_bytes else RowFault.UNCLOSED
            unclosed_at.append((unclosed, fault))
            opened = -1
            line_end = line_ends[bisect_left(line_ends, unclosed)]
            run = bisect_left(begin, line_end)
            open_broken = line_end == size
    return _quoting(
        runs,
        np.asarray(toggles, dtype=np.intp),
        np.asarray(text, dtype=np.intp),
        unclosed_at,
        open_broken=open_broken,
    )
