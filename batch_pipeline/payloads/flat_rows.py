"""Rows of flat formats that can't be used: what is wrong with their size, and how they are shown.

CSV shows a row as it stands in the file; formats that are no text show it as the line of CSV that it would be.
"""

from collections.abc import Iterable

from batch_pipeline.payloads.model import ReadLimits


def size_fault(limits: ReadLimits, *, item: bool) -> str:
    """The fault of a row that is too large, or (not ``item``) has a cell that is."""
    if item:
        return (
            f"the row is larger than {limits.max_item_bytes:,} bytes, the most that an item may have "
            "(setting BATCH_MAX_ITEM_BYTES)"
        )
    return (
        f"a cell is larger than {limits.max_cell_bytes:,} bytes, the most that a cell may have "
        "(setting BATCH_MAX_CELL_BYTES)"
    )


def width_fault(cells: int, columns: int) -> str:
    """The fault of a row that has another number of cells than the header."""
    return f"the row has {'1 cell' if cells == 1 else f'{cells:,} cells'}, the header has {columns:,}"


def row_text(cells: Iterable[str], limits: ReadLimits) -> str:
    """The cells as a line of CSV, as far as an item may reach."""
    parts: list[str] = []
    room = limits.max_item_bytes
    for cell in cells:
        text = cell[: room + 1]
        if any(character in text for character in ',"\r\n'):
            text = '"' + text.replace('"', '""') + '"'
        parts.append(text)
        room -= len(text) + 1
        if room <= 0:
            break
    return ",".join(parts)
