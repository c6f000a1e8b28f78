"""The header of a CSV upload: its delimiter and its names.

Only the first lines are read here, by an exact parser of single rows; `csv_structure` does the rest.
"""

import re
from dataclasses import dataclass

from batch_pipeline.errors import RefusedError
from batch_pipeline.payloads.flat_header import FlatHeader, check_header
from batch_pipeline.payloads.model import ReadLimits

DELIMITERS = ",;\t|"
DELIMITER_NAMES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "vertical bar"}

_QUOTED = re.compile(r'"((?:[^"]|"")*+)"')
_LINE_END = re.compile(r"\r\n|\n|\r")


@dataclass(frozen=True)
class Header:
    """What the first row says about the rows after it.

    Attributes:
        delimiter: one of `DELIMITERS`.
        flat: its names.
        characters: length of everything up to the first data row, in characters.
    """

    delimiter: str
    flat: FlatHeader
    characters: int


def read_row(text: str, start: int, delimiter: str) -> tuple[list[str], int] | None:
    """The cells of the row at ``start`` and where the next one starts; None if it has a broken quote."""
    plain = re.compile(rf"[^{re.escape(delimiter)}\r\n]*+")
    cells: list[str] = []
    while True:
        if text.startswith('"', start):
            found = _QUOTED.match(text, start)
            if found is None:
                return None
            cells.append(found[1].replace('""', '"'))
        else:
            found = plain.match(text, start)
            assert found is not None  # noqa: S101  (the pattern matches the empty text too)
            cells.append(found[0])
        start = found.end()
        if text.startswith(delimiter, start):
            start += 1
        elif start == len(text):
            return cells, start
        elif line_end := _LINE_END.match(text, start):
            return cells, line_end.end()
        else:
            return None


def read_header(text: str, limits: ReadLimits) -> Header:
    """Reads the header from the first part of a file, which must hold the whole header.

    Raises RefusedError: ``unreadable_file`` (broken quotes, a nameless column), ``duplicate_headers`` (naming
    them), ``too_large`` (too many columns).
    """
    start = len(text) - len(text.lstrip("\r\n"))
    while True:  # a line of blanks alone is no header either
        line_end = _LINE_END.search(text, start)
        if line_end is None or text[start : line_end.start()].strip():
            break
        start = line_end.end()
    delimiter, cells, end = _find_delimiter(text, start)
    return Header(delimiter, check_header(cells, limits), end)


def _find_delimiter(text: str, start: int) -> tuple[str, list[str], int]:
    """The delimiter that gives the header most cells; among equals one that gives the next row as many.

    A header of one cell has commas for delimiters, whatever its rows hold.
    """
    best: tuple[tuple[int, bool], str, list[str], int] | None = None
    some_broken = False
    for delimiter in DELIMITERS:
        row = read_row(text, start, delimiter)
        if row is None:
            some_broken = True
            continue
        cells, end = row
        following = read_row(text, end, delimiter) if len(cells) > 1 else None
        score = (len(cells), following is not None and len(following[0]) == len(cells))
        if best is None or score > best[0]:
            best = (score, delimiter, cells, end)
    if best is None or (some_broken and len(best[2]) == 1):
        raise RefusedError(
            "unreadable_file",
            "The header's quotes are broken: a name that begins with a quote must end with one, followed by "
            f"a delimiter ({', '.join(DELIMITER_NAMES.values())}) or the line end.",
        )
    return best[1:]
