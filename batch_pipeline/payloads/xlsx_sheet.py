"""The cells of a worksheet as its XML holds them, row by row."""

from typing import NamedTuple

from batch_pipeline.payloads.xlsx_xml import XmlReader, broken

# XFD, the last column that a worksheet has.
MAX_COLUMNS = 16_384


class RawCell(NamedTuple):
    """A cell that has a value or a formula.

    Attributes:
        column: the first being 0.
        kind: its type (``t``), ``n`` where it has none.
        style: the number of its format (``s``), ``""`` where it has none.
        value: the text of its value; for ``s`` the number of a shared string.
        lacks_value: it has a formula and no stored value.
    """

    column: int
    kind: str
    style: str
    value: str
    lacks_value: bool


class SheetParser(XmlReader):
    """Takes a worksheet's XML block by block and gives its rows, in the order of the file.

    Shared strings stay numbers, so that a block of rows takes no more memory than its XML: a number of one digit may
    name a text of megabytes. An inline text longer than ``max_cell_characters`` is cut to one character more.
    """

    def __init__(self, *, max_cell_characters: int) -> None:
        super().__init__(max_cell_characters)
        self._columns: dict[str, int] = {}
        self._rows: list[list[RawCell]] = []
        self._row: list[RawCell] = []
        self._row_number = 0
        self._column = -1
        self._kind = "n"
        self._style = ""
        self._has_value = self._has_formula = self._in_cell = False

    def feed(self, block: bytes) -> list[list[RawCell]]:
        """The rows that end in this block and have cells with values; an empty block ends the sheet.

        Raises expat's errors and RefusedError.
        """
        self._rows = []
        self.parse(block)
        return self._rows

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """See `XmlReader.start`."""
        if tag == "c":
            place = attributes.get("r")
            self._column = self._column_of(place) if place else self._column + 1
            if self._column >= MAX_COLUMNS:
                raise broken("a row has more cells than a worksheet can have")
            self._kind = attributes.get("t") or "n"
            self._style = attributes.get("s", "")
            self._has_value = self._has_formula = False
            self._in_cell = True
            self._parts.clear()
            self._room = self._max + 1
        elif tag in ("v", "t"):
            self._in_text = self._in_cell and not self._phonetic
            self._has_value = True
        elif tag == "row":
            self._start_row(attributes.get("r"))
        elif tag == "f":
            self._has_formula = True
        elif tag == "is":
            self._kind = "inlineStr"  # also where the cell doesn't say so

    def end(self, tag: str) -> None:
        """See `XmlReader.end`."""
        if tag == "c":
            self._in_cell = False
            if self._has_value or self._has_formula:
                value = "".join(self._parts)
                # A formula whose value is an empty text has a value of type str; some programs store none at all.
                lacks_value = self._has_formula and not value and self._kind != "str"
                self._row.append(RawCell(self._column, self._kind, self._style, value, lacks_value))
        elif tag in ("v", "t"):
            self._in_text = False
        elif tag == "row":
            if self._row:
                self._rows.append(self._row)
            self._row = []

    def _start_row(self, number: str | None) -> None:
        self._row = []
        self._column = -1
        if not self._is_in_sheet_data():
            return
        if number and number.isascii() and number.isdigit() and len(number) < 10:
            if int(number) <= self._row_number:
                raise broken(f"row {number} stands after row {self._row_number}")
            self._row_number = int(number)
        else:
            self._row_number += 1

    def _is_in_sheet_data(self) -> bool:
        # Anchors of drawings also have elements called row; they stand deeper than worksheet, sheetData, row.
        return self._depth <= 3

    def _column_of(self, place: str) -> int:
        letters = place.rstrip("0123456789")
        column = self._columns.get(letters)
        if column is None:
            if not (1 <= len(letters) <= 3 and letters.isascii() and letters.isalpha()):
                raise broken(f"{place[:20]!r} is no place of a cell")
            column = -1
            for letter in letters.upper():
                column = (column + 1) * 26 + ord(letter) - ord("A")
            self._columns[letters] = column
        return column


def column_name(column: int) -> str:
    """The letters of a column, the first being 0."""
    letters = ""
    while column >= 0:
        letters = chr(ord("A") + column % 26) + letters
        column = column // 26 - 1
    return letters
