"""The parts of an XLSX workbook: which sheet is read, where its texts are, and how its numbers are shown.

The file is a ZIP archive of XML parts. All are read as streams of XML events, so none is ever whole in memory, and only
as far as the limits on decompression allow. Document types are refused: nothing a workbook needs has one.
"""

import posixpath
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from xml.parsers import expat

from batch_pipeline.errors import RefusedError
from batch_pipeline.payloads.compression import HARMLESS_BYTES
from batch_pipeline.payloads.foreign import ZIP_ERRORS, archive_names
from batch_pipeline.payloads.model import ReadLimits

XML_BYTES = 256 << 10

_WORKBOOK_PART = re.compile(r"xl/workbook\d*\.xml", re.IGNORECASE)
_WORKSHEET = "/worksheet"
_STRINGS = "/sharedStrings"
_STYLES = "/styles"
# Built-in formats that are dates in East Asian versions of Excel; the library knows the others.
_EAST_ASIAN_DATES = frozenset([*range(27, 37), *range(50, 59)])
_GENERAL = "General"


@dataclass(frozen=True)
class NumberStyle:
    """How a number is shown.

    Attributes:
        is_date: as a date or time of day.
        is_duration: as hours that may be more than a day's.
        digits: with leading zeros up to this many digits; 0: without any.
    """

    is_date: bool = False
    is_duration: bool = False
    digits: int = 0


@dataclass(frozen=True)
class Workbook:
    """What of a workbook is read: its first visible sheet.

    Attributes:
        sheet, strings: names of parts; a workbook need not have shared strings.
        styles: how numbers are shown, by the number that a cell names.
        counts_from_1904: whether dates are days since 1904 instead of 1900.
    """

    path: Path
    sheet: str
    strings: str | None
    styles: tuple[NumberStyle, ...]
    counts_from_1904: bool


def looks_like_workbook(path: Path, head: bytes) -> bool:
    """Whether a file is a workbook, perhaps a broken one."""
    if not head.startswith(b"PK\x03\x04"):
        return False
    names = archive_names(path)
    if names is None:
        return b"[Content_Types].xml" in head or b"xl/" in head
    return any(_WORKBOOK_PART.fullmatch(name) for name in names)


def read_workbook(path: Path, limits: ReadLimits) -> Workbook:
    """Finds the parts. Raises RefusedError: ``unreadable_file`` (broken, no sheet), ``too_large`` (a ZIP bomb)."""
    with refusing_what_is_broken(), zipfile.ZipFile(path) as archive:
        names = {name.lower(): name for name in archive.namelist()}
        book = next((name for name in names.values() if _WORKBOOK_PART.fullmatch(name)), None)
        if book is None:
            raise broken("it has no workbook")
        folder, file_name = posixpath.split(book)
        targets: dict[str, tuple[str, str]] = {}  # relation id -> type, part
        for tag, attributes in _elements(archive, names.get(f"{folder}/_rels/{file_name}.rels".lower())):
            if tag == "Relationship":
                part = posixpath.normpath(posixpath.join("/" + folder, attributes.get("Target", ""))).lstrip("/")
                targets[attributes.get("Id", "")] = (attributes.get("Type", ""), names.get(part.lower(), part))
        sheets: list[tuple[bool, str]] = []
        counts_from_1904 = False
        for tag, attributes in _elements(archive, book):
            if tag == "workbookPr":
                counts_from_1904 = attributes.get("date1904") in ("1", "true")
            elif tag == "sheet":
                kind, part = targets.get(_relation(attributes), ("", ""))
                if kind.endswith(_WORKSHEET):
                    sheets.append((attributes.get("state", "visible") == "visible", part))
        if not sheets:
            raise broken("it has no worksheet")
        sheet = next((part for is_visible, part in sheets if is_visible), sheets[0][1])
        parts = {kind.rpartition("/")[2]: part for kind, part in targets.values() if part.lower() in names}
        strings, styles = (parts.get(kind.lstrip("/")) for kind in (_STRINGS, _STYLES))
        _check_sizes(archive, [part for part in (sheet, strings) if part is not None], limits)
        return Workbook(path, sheet, strings, _read_styles(archive, styles), counts_from_1904)


def xml_blocks(archive: zipfile.ZipFile, part: str) -> Iterator[bytes]:
    """A part's bytes, the last block being empty. Never more than the archive says that the part has."""
    with archive.open(part) as file:
        while block := file.read(XML_BYTES):
            yield block
    yield b""


def xml_parser() -> expat.XMLParserType:
    """A parser that gives texts in one piece where it can, and refuses document types."""

    def refuse(*_: object) -> None:
        raise broken("it has a document type, which no workbook needs")

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = refuse
    return parser


class LocalNames(dict[str, str]):
    """Element names without their prefix, as some programs write one."""

    def __missing__(self, name: str) -> str:
        local = name.rpartition(":")[2]
        if len(self) < 1000:  # a workbook has a few dozen
            self[name] = local
        return local


@contextmanager
def refusing_what_is_broken() -> Iterator[None]:
    """Turns what the libraries raise for broken archives and parts into a refusal."""
    try:
        yield
    except (*ZIP_ERRORS, expat.ExpatError) as error:
        raise broken(" ".join(str(error).split())[:200]) from error
    except KeyError as error:  # a part that is named and not there
        raise broken(f"a part is missing: {error}") from error


def broken(what: str) -> RefusedError:
    """The refusal of a workbook that can't be read."""
    return RefusedError(
        "unreadable_file", f"The Excel workbook is broken ({what}): open it in Excel, save it and upload it again."
    )


def _elements(archive: zipfile.ZipFile, part: str | None) -> Iterator[tuple[str, dict[str, str]]]:
    """The elements of a small part, in the order in which they start; none for no part."""
    if part is None:
        return
    if archive.getinfo(part).file_size > HARMLESS_BYTES:
        raise broken(f"{part} is larger than any can be")
    found: list[tuple[str, dict[str, str]]] = []
    names = LocalNames()
    parser = xml_parser()
    parser.StartElementHandler = lambda name, attributes: found.append((names[name], attributes))
    for block in xml_blocks(archive, part):
        parser.Parse(block, not block)
        yield from found
        found.clear()


def _relation(attributes: dict[str, str]) -> str:
    """The relation that an element names: an attribute ``id`` of some prefix."""
    return next((value for name, value in attributes.items() if name.endswith(":id")), "")


def _read_styles(archive: zipfile.ZipFile, part: str | None) -> tuple[NumberStyle, ...]:
    from openpyxl.styles.numbers import BUILTIN_FORMATS

    formats: dict[int, str] = dict(BUILTIN_FORMATS)
    styles: list[NumberStyle] = []
    of_cells = False
    for tag, attributes in _elements(archive, part):
        if tag == "numFmt":
            formats[_number(attributes, "numFmtId")] = attributes.get("formatCode", _GENERAL)
        elif tag.endswith(("Xfs", "tyles")):
            of_cells = tag == "cellXfs"
        elif tag == "xf" and of_cells:
            number = _number(attributes, "numFmtId")
            styles.append(number_style(number, formats.get(number, _GENERAL)))
    return tuple(styles)


def number_style(number: int, code: str) -> NumberStyle:
    """What a format of this number and code shows."""
    from openpyxl.styles.numbers import is_date_format, is_timedelta_format

    if is_timedelta_format(code):
        return NumberStyle(is_duration=True)
    if is_date_format(code) or (number in _EAST_ASIAN_DATES and code == _GENERAL):
        return NumberStyle(is_date=True)
    return NumberStyle(digits=len(code) if code.strip("0") == "" else 0)


def _number(attributes: dict[str, str], name: str) -> int:
    try:
        return int(attributes.get(name, 0))
    except ValueError:
        raise broken(f"{name} is no number") from None


def _check_sizes(archive: zipfile.ZipFile, parts: list[str], limits: ReadLimits) -> None:
    """Refuses ZIP bombs by the sizes that the archive tells, beyond which nothing is read."""
    found = [archive.getinfo(part) for part in parts]
    if sum(info.file_size for info in found) > limits.max_decompressed_bytes:
        raise RefusedError(
            "too_large",
            f"The workbook has more than {limits.max_decompressed_bytes:,} bytes once decompressed, the most that an "
            "upload may have (setting BATCH_MAX_DECOMPRESSED_BYTES): split it.",
        )
    for info in found:
        if info.file_size > max(HARMLESS_BYTES, limits.max_decompression_ratio * info.compress_size):
            raise RefusedError(
                "too_large",
                f"The workbook looks like a decompression bomb: {info.filename} expands to more than "
                f"{limits.max_decompression_ratio:,} times its size (setting BATCH_MAX_DECOMPRESSION_RATIO).",
            )


Check = Callable[[], None]
