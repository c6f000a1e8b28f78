"""The parts of an XLSX workbook: which sheet is read, where its texts are, and how its numbers are shown.

The file is a ZIP archive of XML parts that name each other by relations. Names are compared as Excel does (any case)
and as programs write them that Excel forgives: backslashes, percent-encoding, a slash before the name.
"""

import posixpath
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from batch_pipeline.errors import RefusedError
from batch_pipeline.payloads.compression import HARMLESS_BYTES
from batch_pipeline.payloads.model import ReadLimits
from batch_pipeline.payloads.unsupported import ZIP_ERRORS, archive_names, open_archive
from batch_pipeline.payloads.xlsx_xml import XmlReader, broken, refusing_what_is_broken, xml_blocks

Check = Callable[[], None]

# More than any workbook has (Excel: 65,490 cell formats); the tables are held in memory.
MAX_ENTRIES = 1 << 16
MAX_FORMAT_CHARACTERS = 255  # Excel's own limit

_WORKBOOK_PART = re.compile(r"/xl/workbook\d*\.xml")
_ROOT_RELATIONS = "/_rels/.rels"
_ROOT_BYTES = 64 << 10
# Built-in formats that are dates in East Asian versions of Excel; the library knows the others.
_EAST_ASIAN_DATES = frozenset([*range(27, 37), *range(50, 59)])
_GENERAL = "General"
_TIME_LETTERS = re.compile("[hms]", re.IGNORECASE)


@dataclass(frozen=True)
class NumberStyle:
    """How a number is shown.

    Attributes:
        is_date: as a date or time of day.
        has_day: as a date, with or without its time.
        is_duration: as hours that may be more than a day's.
        digits: with leading zeros up to this many digits; 0: without any.
    """

    is_date: bool = False
    has_day: bool = False
    is_duration: bool = False
    digits: int = 0


@dataclass(frozen=True)
class Workbook:
    """What is read of a workbook: its first visible sheet.

    Attributes:
        sheet, strings: names in the archive; a workbook need not have shared strings.
        styles: how numbers are shown, by the number that a cell names.
        counts_from_1904: whether dates are days since 1904 instead of 1900.
        compressed_bytes: stored size of sheet and strings.
    """

    sheet: str
    strings: str | None
    styles: tuple[NumberStyle, ...]
    counts_from_1904: bool
    compressed_bytes: int


def looks_like_workbook(path: Path, head: bytes) -> bool:
    """Whether a file is a workbook, perhaps a broken one."""
    if not head.startswith(b"PK\x03\x04"):
        return False
    names = archive_names(path)
    if names is None:
        return b"[Content_Types].xml" in head or b"xl/" in head
    if any(_WORKBOOK_PART.fullmatch(_part_name(name)) for name in names):
        return True
    try:
        with open_archive(path) as archive:
            package = _Package(archive)
            main = package.main_part()
            return main is not None and package.root_of(main) == "workbook"
    except (RefusedError, *ZIP_ERRORS):
        return False  # no workbook by its names, and not readable as one


def read_workbook(path: Path, limits: ReadLimits) -> Workbook:
    """Finds the parts. Raises RefusedError: ``unreadable_file`` (broken, no sheet), ``too_large`` (a ZIP bomb)."""
    with refusing_what_is_broken(), open_archive(path) as archive:
        package = _Package(archive)
        book = package.main_part()
        if book is None:
            raise broken("it has no workbook")
        folder, file_name = posixpath.split(_part_name(book))
        relations = {}
        for identifier, kind, part in package.relations(folder, file_name):
            relations[identifier] = (kind, part)
            if len(relations) > MAX_ENTRIES:
                raise broken("it has more parts than any workbook")
        sheet: str | None = None
        is_visible = False
        counts_from_1904 = False
        for tag, attributes in package.elements(book):
            if tag == "workbookPr":
                counts_from_1904 = attributes.get("date1904") in ("1", "true")
            elif tag == "sheet" and not is_visible:
                kind, part = next(
                    (relations[value] for value in _identifiers(attributes) if value in relations), ("", "")
                )
                shown = attributes.get("state", "visible") == "visible"
                if kind == "worksheet" and (sheet is None or shown):
                    sheet, is_visible = part, shown
        if sheet is None:
            raise broken("it has no worksheet")
        parts = {kind: part for kind, part in relations.values() if part in archive.NameToInfo}
        strings, styles = (
            parts.get(kind) or package.find(f"{folder}/{kind}.xml") for kind in ("sharedStrings", "styles")
        )
        found = [archive.getinfo(part) for part in (sheet, strings) if part is not None]
        compressed_bytes = _check_sizes(found, path.stat().st_size, limits)
        return Workbook(sheet, strings, _read_styles(package, styles), counts_from_1904, compressed_bytes)


def check_text_size(characters: int, workbook: Workbook, limits: ReadLimits) -> None:
    """Raises RefusedError ``too_large`` if the cells read so far hold too much text for the size of their parts.

    The archive's sizes don't bound it: a shared string of megabytes may be named by every cell.
    """
    _check_size(characters, workbook.compressed_bytes, "its cells' text", limits)


class _Package:
    """The parts of a workbook's archive."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._names = {_part_name(name): name for name in archive.namelist()}

    def find(self, *candidates: str) -> str | None:
        """The name in the archive of the first of these parts that is there."""
        return next((self._names[name] for name in map(_part_name, candidates) if name in self._names), None)

    def main_part(self) -> str | None:
        """The part that the package is about: of a workbook the list of its sheets."""
        targets = (part for _, kind, part in self.relations("", "") if kind == "officeDocument")
        main = next((part for part in targets if part in self._archive.NameToInfo), None)
        return main or next((name for part, name in self._names.items() if _WORKBOOK_PART.fullmatch(part)), None)

    def root_of(self, part: str) -> str:
        """The name of a part's first element, as far as one begins in its first bytes."""
        roots = _Elements()
        with self._archive.open(part) as file:
            roots.parse(file.read(_ROOT_BYTES))
        return roots.found[0][0] if roots.found else ""

    def elements(self, part: str | None) -> Iterator[tuple[str, dict[str, str]]]:
        """The elements of a small part, in the order in which they start; none for no part."""
        if part is None:
            return
        if self._archive.getinfo(part).file_size > HARMLESS_BYTES:
            raise broken(f"{part} is larger than any can be")
        reader = _Elements()
        for block in xml_blocks(self._archive, part):
            reader.parse(block)
            yield from reader.found
            reader.found.clear()

    def relations(self, folder: str, name: str) -> Iterator[tuple[str, str, str]]:
        """Identifier, last word of the type, and target of a part's relations; targets may also start at the root."""
        for tag, attributes in self.elements(self.find(f"{folder}/_rels/{name}.rels")):
            if tag == "Relationship":
                target = attributes.get("Target", "").replace("\\", "/")
                near = posixpath.join(folder or "/", target)
                part = self.find(target, near) if target.startswith("/") else self.find(near, f"/{target}")
                kind = attributes.get("Type", "").rpartition("/")[2]
                yield attributes.get("Id", ""), kind, part or near


class _Elements(XmlReader):
    """Collects the elements that start, with their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """See `XmlReader.start`."""
        self.found.append((tag, attributes))


def _part_name(name: str) -> str:
    """A name of a part or of a file in the archive, in the one form in which they are compared."""
    return posixpath.normpath("/" + unquote(name).replace("\\", "/").lstrip("/")).lower()


def _identifiers(attributes: dict[str, str]) -> list[str]:
    """What may be the relation that an element names: attributes ``id`` of some prefix."""
    return [value for name, value in attributes.items() if name.endswith(":id")]


def _read_styles(package: _Package, part: str | None) -> tuple[NumberStyle, ...]:
    from openpyxl.styles.numbers import BUILTIN_FORMATS

    formats: dict[int, str] = dict(BUILTIN_FORMATS)
    known: dict[int, NumberStyle] = {}
    styles: list[NumberStyle] = []
    of_cells = False
    for tag, attributes in package.elements(part):
        if tag == "numFmt":
            formats[_number(attributes)] = attributes.get("formatCode", _GENERAL)[:MAX_FORMAT_CHARACTERS]
        elif tag.endswith(("Xfs", "tyles")):
            of_cells = tag == "cellXfs"
        elif tag == "xf" and of_cells:
            number = _number(attributes)
            if number not in known:
                known[number] = number_style(number, formats.get(number, _GENERAL))
            styles.append(known[number])
        if len(styles) > MAX_ENTRIES or len(formats) > MAX_ENTRIES:
            raise broken("it has more formats of cells than any workbook")
    return tuple(styles)


def number_style(number: int, code: str) -> NumberStyle:
    """What a format of this number and code shows."""
    from openpyxl.styles.numbers import is_date_format, is_timedelta_format

    if is_timedelta_format(code):
        return NumberStyle(is_duration=True)
    if number in _EAST_ASIAN_DATES and code == _GENERAL:
        return NumberStyle(is_date=True, has_day=True)
    if is_date_format(code):
        return NumberStyle(is_date=True, has_day=is_date_format(_TIME_LETTERS.sub("", code)))
    return NumberStyle(digits=len(code) if code.strip("0") == "" else 0)


def _number(attributes: dict[str, str]) -> int:
    """The number of a format; General where none is given."""
    try:
        return int(attributes.get("numFmtId") or 0)
    except ValueError:
        raise broken("numFmtId is no number") from None


def _check_sizes(parts: list[zipfile.ZipInfo], archive_bytes: int, limits: ReadLimits) -> int:
    """Refuses ZIP bombs by the sizes that the directory states; returns the compressed size of the parts.

    No more than the stated `file_size` of a part is ever read. The stated `compress_size` may be a lie that makes the
    ratio look small, so the archive's own size bounds it.
    """
    for info in parts:
        _check_size(info.file_size, min(info.compress_size, archive_bytes), info.filename, limits)
    compressed_bytes = min(sum(info.compress_size for info in parts), archive_bytes)
    _check_size(sum(info.file_size for info in parts), compressed_bytes, "it", limits)
    return compressed_bytes


def _check_size(size: int, compressed: int, what: str, limits: ReadLimits) -> None:
    if size > limits.max_decompressed_bytes:
        raise RefusedError(
            "too_large",
            f"The workbook has more than {limits.max_decompressed_bytes:,} bytes once decompressed, the most that an "
            "upload may have (setting BATCH_MAX_DECOMPRESSED_BYTES): split it.",
        )
    if size > max(HARMLESS_BYTES, limits.max_decompression_ratio * compressed):
        raise RefusedError(
            "too_large",
            f"The workbook looks like a decompression bomb: {what} expands to more than "
            f"{limits.max_decompression_ratio:,} times its size (setting BATCH_MAX_DECOMPRESSION_RATIO).",
        )
