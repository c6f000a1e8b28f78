"""The text of an XLSX cell: numbers as Excel shows them at full length, dates as ISO 8601, formulas by their value."""

import datetime
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from decimal import Decimal

from batch_pipeline.payloads.xlsx_package import NumberStyle, Workbook
from batch_pipeline.payloads.xlsx_sheet import RawCell
from batch_pipeline.payloads.xlsx_strings import SharedStrings, unescaped
from batch_pipeline.payloads.xlsx_xml import broken

# Excel keeps and shows no more.
SIGNIFICANT_DIGITS = 15
PLAIN_DIGITS = 21
# The day that Excel shows as 1900-02-29, which never was.
_PHANTOM_DAY = 60
_PLAIN = NumberStyle()
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_BOOLEANS = {"1": "true", "true": "true", "0": "false", "false": "false"}


class CellFault(Exception):  # noqa: N818 - it is no error of the program
    """A cell is unreadable: the message says why, ``shown`` is what the cell holds."""

    def __init__(self, message: str, shown: str) -> None:
        super().__init__(message)
        self.shown = shown


@dataclass
class SheetRow:
    """A row that is not blank.

    Attributes:
        cells: text by column, the first being 0; only those that are not empty.
        characters: of all texts.
        fault: the column of the first unreadable cell and why it is unreadable.
    """

    cells: dict[int, str] = field(default_factory=dict)
    characters: int = 0
    fault: tuple[int, str] | None = None


class CellReader:
    """Reads the cells of one workbook."""

    def __init__(self, workbook: Workbook, strings: SharedStrings) -> None:
        from openpyxl.utils.datetime import MAC_EPOCH, WINDOWS_EPOCH, from_excel, from_ISO8601

        self._strings = strings
        self._styles = workbook.styles
        self._counts_from_1904 = workbook.counts_from_1904
        self._epoch: datetime.datetime = MAC_EPOCH if workbook.counts_from_1904 else WINDOWS_EPOCH
        self._from_excel: Callable[..., object] = from_excel
        self._duration: Callable[[str], object] = from_ISO8601

    def row(self, raw: Iterable[RawCell], max_characters: int) -> SheetRow | None:
        """The texts of a row; None if it is blank.

        Of a row of more than ``max_characters`` only so many and one more are kept, so that a few shared strings of
        megabytes in thousands of cells don't fill the memory.

        Raises RefusedError ``unreadable_file``: a shared string does not exist.
        """
        row = SheetRow()
        is_blank = True
        for cell in raw:
            try:
                text = self._text(cell)
            except CellFault as fault:
                text = fault.shown or "?"
                row.fault = row.fault or (cell.column, str(fault))
            if text:
                text = text[: max_characters + 1 - row.characters]
                row.cells[cell.column] = text
                row.characters += len(text)
                is_blank = is_blank and not text.strip()
                if row.characters > max_characters:
                    break
        return None if is_blank else row

    def _text(self, cell: RawCell) -> str:
        kind, value = cell.kind, cell.value
        if cell.lacks_value:
            raise CellFault("has a formula without its value: open the file in Excel and save it", "=")
        if kind in ("inlineStr", "str"):
            return unescaped(value)
        value = value.strip()
        if kind == "e":
            raise CellFault(f"has the error {value}: correct its formula, or empty it", value)
        if value == "":
            return ""
        if kind == "s":
            return self._strings[_index(value)]
        if kind == "b":
            if value.lower() not in _BOOLEANS:
                raise CellFault(f"is a boolean, but {value!r} is none", value)
            return _BOOLEANS[value.lower()]
        return self._iso(value) if kind == "d" else self._number(value, cell.style)

    def _number(self, value: str, style: str) -> str:
        # A cell without a style, or with one that is no number, has the first.
        number = int(style) if style.isascii() and style.isdigit() and len(style) < 10 else 0
        shown = self._styles[number] if number < len(self._styles) else _PLAIN
        text = value if value.isascii() and value.isdigit() else number_text(value)
        if shown.is_date or shown.is_duration:
            return self._moment(value, shown)
        if shown.digits and text.removeprefix("-").isdigit():
            return text.zfill(shown.digits + text.startswith("-"))
        return text

    def _moment(self, value: str, shown: NumberStyle) -> str:
        serial = float(value)
        try:
            if not shown.is_duration and (serial < 0 or (int(serial) == _PHANTOM_DAY and not self._counts_from_1904)):
                raise ValueError(f"Excel shows {value} as no date")
            moment = self._from_excel(serial, self._epoch, timedelta=shown.is_duration)
        except (ValueError, OverflowError):
            raise CellFault(f"is shown as a date, but {value} is none", value) from None
        if isinstance(moment, datetime.time) and shown.has_day and self._counts_from_1904:
            moment = datetime.datetime.combine(self._epoch, moment)  # day 0 is a date there
        return moment_text(moment)

    def _iso(self, value: str) -> str:
        try:
            if value.startswith("PT"):
                return moment_text(self._duration(value))
            if value[2:3] == ":":
                return moment_text(datetime.time.fromisoformat(value))
            moment = datetime.datetime.fromisoformat(value)
            if moment.tzinfo is not None:
                moment = moment.astimezone(datetime.UTC).replace(tzinfo=None)
            return moment_text(moment)
        except (ValueError, OverflowError):
            raise CellFault(f"is a date, but {value} is none", value) from None


def number_text(value: str) -> str:
    """A number as Excel shows it where it has room: 15 significant digits, no zeros at the end, no exponent."""
    if not _NUMBER.fullmatch(value):
        raise CellFault(f"is a number, but {value!r} is none", value)
    digits = value.lstrip("+-")
    if digits.isdigit():  # as programs other than Excel write: also longer ones, exactly
        return "-" + digits if value.startswith("-") and digits.strip("0") else digits
    shown = Decimal(f"{float(value):.{SIGNIFICANT_DIGITS}g}")
    if not shown.is_finite():
        raise CellFault(f"is a number, but {value!r} is none", value)
    if abs(shown.adjusted()) > PLAIN_DIGITS:
        return str(shown)
    text = f"{shown:f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def moment_text(moment: object) -> str:
    """A moment, which Excel knows without a zone, as ISO 8601 in UTC; times of day and durations as hours."""
    if isinstance(moment, datetime.datetime):
        precision = "microseconds" if moment.microsecond % 1000 else "milliseconds" if moment.microsecond else "seconds"
        return moment.isoformat(timespec=precision) + "Z"
    if isinstance(moment, datetime.timedelta):
        seconds = round(moment.total_seconds())
        sign, seconds = ("-" if seconds < 0 else ""), abs(seconds)
        return f"{sign}{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    assert isinstance(moment, datetime.time)  # noqa: S101 - the library returns nothing else
    return moment.isoformat()


def _index(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise broken(f"{text[:20]!r} is not the number of a text")
    return int(text)
