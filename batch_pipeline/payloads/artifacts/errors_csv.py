"""Lines of ``errors.csv``: each rejected item's cells as uploaded, then what is wrong with it.

Every text is quoted, not only where RFC 4180 demands it, so that readers that trim blanks or guess delimiters
leave it as it is.
"""

from collections.abc import Sequence

import pyarrow as pa

from batch_pipeline.payloads import texts
from batch_pipeline.payloads.artifacts.columns import flat_cells
from batch_pipeline.payloads.artifacts.rejected import Merged, RejectedChunk
from batch_pipeline.payloads.flat_header import CODES, ERRORS, RAW, ROW
from batch_pipeline.payloads.model import RawChunk

LINE_END = "\r\n"


def csv_header(columns: Sequence[str], *, has_unreadable: bool) -> str:
    """The first line: the upload's columns and those of an errors file."""
    own = [ROW, ERRORS, CODES, *([RAW] if has_unreadable else [])]
    return ",".join([*map(texts.csv_cell, columns), *own]) + LINE_END


def csv_lines(chunk: RejectedChunk, merged: Merged, columns: Sequence[str], *, has_unreadable: bool) -> pa.StringArray:
    """One line for each row, line end included."""
    unreadable = chunk.items.unreadable["raw"].combine_chunks()
    blank = '"",' * len(columns)
    items = merged.arrange(item_cells(chunk.items, columns), texts.repeat(blank, len(unreadable)))
    messages, codes = (
        texts.csv_content(texts.join_groups(chunk.errors[name].combine_chunks(), merged.error_offsets, "; "))
        for name in ("message", "code")
    )
    parts: list[pa.Array | str] = [items, merged.rows.cast(pa.string()), ',"', messages, '","', codes, '"']
    if has_unreadable:
        nothing = texts.repeat("", len(chunk.items.rows))
        parts += [',"', merged.arrange(nothing, texts.csv_content(unreadable)), '"']
    return texts.concat(*parts, LINE_END)


def item_cells(items: RawChunk, columns: Sequence[str], *, guarded: bool = True) -> pa.StringArray:
    """The cells of the upload's own columns, each followed by a comma."""
    cells = flat_cells(items, set(columns))
    parts: list[pa.Array | str] = []
    literal = ""
    for name in columns:
        literal += '"'
        if name in cells:
            parts += [literal, texts.csv_content(cells[name], guarded=guarded)]
            literal = ""
        literal += '",'
    if not parts:
        return texts.repeat(literal, len(items.rows))
    return texts.concat_present(*parts, literal)
