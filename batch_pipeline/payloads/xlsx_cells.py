"""The text of an XLSX cell: numbers as Excel shows them at full length, dates as ISO 8601, formulas by their value."""

import datetime
from collections.abc import Callable
from decimal import Decimal

from batch_pipeline.payloads.xlsx_package import NumberStyle, Workbook, broken
from batch_pipeline.payloads.xlsx_strings import SharedStrings, unescaped

# Excel keeps and shows no more.
SIGNIFICANT_DIGITS = 15
PLAIN_DIGITS = 21
_PLAIN = NumberStyle()


class CellFault(Exception):  # noqa: N818 - it is no error of the program
    """What makes a cell unreadable; the text says what it holds."""

    def __init__(self, message: str, shown: str) -> None:
        super().__init__(message)
        self.shown = shown


class CellReader:
    """Reads the cells of one workbook."""

    def __init__(self, workbook: Workbook, strings: SharedStrings) -> None:
        from openpyxl.utils.datetime import MAC_EPOCH, WINDOWS_EPOCH, from_excel, from_ISO8601

        self._strings = strings
        self._styles = workbook.styles
        self._epoch: datetime.datetime = MAC_EPOCH if workbook.counts_from_1904 else WINDOWS_EPOCH
        self._from_excel: Callable[..., object] = from_excel
        self._from_iso: Callable[[str], object] = from_ISO8601

    def text(self, kind: str, style: str | None, value: str) -> str:
        """The text of a cell by its type, its style and the text of its value.

        Raises CellFault where it holds an error, and RefusedError where no workbook can have such a cell.
        """
        if kind == "s":
            return self._strings[_integer(value)]
        if kind in ("inlineStr", "str"):
            return unescaped(value)
        if kind == "b":
            return "true" if value.strip() == "1" else "false"
        if kind == "e":
            raise CellFault(f"has the error {value}: correct its formula, or empty it", value)
        if value == "":
            return ""
        return self._iso(value) if kind == "d" else self._number(value, style)

    def _number(self, value: str, style: str | None) -> str:
        shown = _PLAIN
        if style is not None and self._styles:
            number = _integer(style)
            shown = self._styles[number] if 0 <= number < len(self._styles) else _PLAIN
        if shown.is_date or shown.is_duration:
            return self._moment(value, shown)
        text = value if value.isascii() and value.isdigit() else number_text(value)
        if shown.digits and text.removeprefix("-").isdigit():
            return text.zfill(shown.digits + text.startswith("-"))
        return text

    def _moment(self, value: str, shown: NumberStyle) -> str:
        try:
            moment = self._from_excel(float(value), self._epoch, timedelta=shown.is_duration)
        except (ValueError, OverflowError):
            raise CellFault(f"is shown as a date, but {value} is none", value) from None
        return moment_text(moment)

    def _iso(self, value: str) -> str:
        try:
            return moment_text(self._from_iso(value))
        except ValueError:
            raise CellFault(f"is a date, but {value} is none", value) from None


def number_text(value: str) -> str:
    """A number as Excel shows it where it has room: 15 significant digits, no zeros at the end, no exponent."""
    try:
        number = float(value)
    except ValueError:
        raise CellFault(f"is a number, but {value!r} is none", value) from None
    digits = value.strip().removeprefix("-")
    if digits.isascii() and digits.isdigit():
        return value.strip()  # as programs other than Excel write: also longer ones, exactly
    shown = Decimal(f"{number:.{SIGNIFICANT_DIGITS}g}")
    if not shown.is_finite():
        raise CellFault(f"is a number, but {value!r} is none", value)
    if abs(shown.adjusted()) > PLAIN_DIGITS:
        return str(shown)
    text = f"{shown:f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) or "0"


def moment_text(moment: object) -> str:
    """A moment, which Excel knows without a zone, as ISO 8601 in UTC; times of day and durations as hours."""
    if isinstance(moment, datetime.datetime):
        precision = "milliseconds" if moment.microsecond else "seconds"
        return moment.isoformat(timespec=precision) + "Z"
    if isinstance(moment, datetime.date):
        return f"{moment.isoformat()}T00:00:00Z"
    if isinstance(moment, datetime.timedelta):
        seconds = round(moment.total_seconds())
        sign, seconds = ("-" if seconds < 0 else ""), abs(seconds)
        return f"{sign}{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    assert isinstance(moment, datetime.time)  # noqa: S101 - what the library returns else
    return moment.isoformat()


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise broken(f"{text[:20]!r} stands where a whole number must") from None
