"""The rows of a worksheet, from the stream of its XML events."""

from dataclasses import dataclass, field

from batch_pipeline.payloads.xlsx_cells import CellFault, CellReader
from batch_pipeline.payloads.xlsx_package import LocalNames, broken, xml_parser

# XFD, the last column that a worksheet has.
MAX_COLUMNS = 16_384


@dataclass
class SheetRow:
    """A row that is not blank.

    Attributes:
        cells: text by column, the first being 0; only those that are not empty.
        fault: what is wrong with it, if anything is, naming the cell by column: the first fault.
    """

    cells: dict[int, str] = field(default_factory=dict)
    fault: tuple[int, str] | None = None


class SheetParser:
    """Takes a worksheet's XML block by block and gives its rows.

    ``max_cell_characters``: of a longer text only so much is kept and one character more.
    """

    def __init__(self, reader: CellReader, *, max_cell_characters: int) -> None:
        self._reader = reader
        self._max = max_cell_characters
        self._names = LocalNames()
        self._columns: dict[str, int] = {}
        self._rows: list[SheetRow] = []
        self._row = SheetRow()
        self._column = -1
        self._kind = "n"
        self._style: str | None = None
        self._has_value = self._has_formula = self._in_text = self._in_cell = False
        self._phonetic = 0
        self._parts: list[str] = []
        self._size = 0
        self._parser = xml_parser()
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._data

    def feed(self, block: bytes) -> list[SheetRow]:
        """The rows that end in this block; an empty one ends the sheet. Raises expat's errors and RefusedError."""
        self._rows = []
        self._parser.Parse(block, not block)
        return self._rows

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        tag = self._names[name]
        if tag == "c":
            place = attributes.get("r")
            self._column = self._column + 1 if place is None else self._column_of(place)
            if self._column >= MAX_COLUMNS:
                raise broken("a row has more cells than a worksheet can have")
            self._kind = attributes.get("t", "n")
            self._style = attributes.get("s")
            self._has_value = self._has_formula = False
            self._in_cell = True
            self._parts.clear()
            self._size = 0
        elif tag in ("v", "t"):
            self._in_text = self._in_cell and not self._phonetic
            self._has_value = True
        elif tag == "row":
            self._row = SheetRow()
            self._column = -1
        elif tag == "f":
            self._has_formula = True
        elif tag == "rPh":
            self._phonetic += 1

    def _end(self, name: str) -> None:
        tag = self._names[name]
        if tag == "c":
            self._in_cell = False
            if self._has_value or self._has_formula:
                self._end_cell()
        elif tag in ("v", "t"):
            self._in_text = False
        elif tag == "row":
            if self._row.cells and (self._row.fault or any(map(str.strip, self._row.cells.values()))):
                self._rows.append(self._row)
            self._row = SheetRow()
        elif tag == "rPh":
            self._phonetic -= 1

    def _end_cell(self) -> None:
        row = self._row
        try:
            # A formula whose value is an empty text has a value of type str; some programs store none at all.
            if self._has_formula and not self._parts and self._kind != "str":
                raise CellFault("has a formula without its value: open the file in Excel and save it", "=")
            text = self._reader.text(self._kind, self._style, "".join(self._parts))
        except CellFault as fault:
            text = fault.shown or "?"
            row.fault = row.fault or (self._column, str(fault))
        if text:
            row.cells[self._column] = text

    def _data(self, text: str) -> None:
        if self._in_text and self._size <= self._max:
            self._parts.append(text[: self._max + 1])
            self._size += len(text)

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
