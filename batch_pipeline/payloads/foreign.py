"""Telling what a file is that is not read: by its first bytes, never by its name.

A format that becomes readable leaves this list and gets its own module, registered in `formats`.
"""

import io
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HEAD_BYTES = 4096
# A ZIP directory is held in memory, at about twelve times its size; this has room for 80,000 files.
MAX_DIRECTORY_BYTES = 4 << 20

_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\xfd7zXZ\x00", "an xz file: decompress it"),
    (b"\x04\x22\x4d\x18", "an lz4 file: decompress it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive: take the file out of it"),
    (b"Rar!\x1a\x07", "a RAR archive: take the file out of it"),
    (b"PARE", "an encrypted Parquet file: write it without encryption"),
    (b"ARROW1\x00\x00", "an Arrow file: write it as CSV or NDJSON"),
    (b"Obj\x01", "an Avro file: write it as CSV or NDJSON"),
    (b"SQLite format 3\x00", "an SQLite database: export the table as CSV"),
    (b"%PDF-", "a PDF document"),
    (b"{\\rtf", "an RTF document"),
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF87a", "a GIF image"),
    (b"GIF89a", "a GIF image"),
    (b"\x7fELF", "a program"),
    (b"MZ\x90\x00", "a program"),
)
_BZIP2 = re.compile(rb"BZh[1-9]1AY&SY")
_TAR = re.compile(rb".{257}ustar", re.DOTALL)
_MARKUP = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*<(?:\?xml|!doctype|html|!--|[a-z][\w:-]*[^,;|\t\r\n]*>\s*$)",
    re.IGNORECASE | re.MULTILINE,
)
_ZIP = b"PK\x03\x04"
_ZIP_CONTENTS = (
    (b"mimetypeapplication/vnd.oasis.opendocument.spreadsheet", "an OpenDocument spreadsheet: save it as XLSX or CSV"),
    (b"word/", "a Word document: save its table as XLSX or CSV"),
    (b"ppt/", "a PowerPoint presentation"),
)
_ARCHIVE = "a ZIP archive: take the file out of it"
_BINARY_WORKBOOK = "a binary Excel workbook (XLSB): save it as XLSX or CSV"
# What the library raises for archives that are broken, in their directory or in a member.
ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
)
_COMPOUND = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
# Names within Office's older container, by which its contents are told.
_COMPOUND_CONTENTS = (
    ("EncryptedPackage", "an Excel workbook protected by a password: save it without one"),
    ("Workbook", "an old Excel workbook (XLS): save it as XLSX or CSV"),
    ("Book", "an old Excel workbook (XLS): save it as XLSX or CSV"),
)
_COMPOUND_SEARCH_BYTES = 1 << 20
_PATTERNS = (
    (_BZIP2, "a bzip2 file: decompress it"),
    (_TAR, "a tar archive: take the file out of it"),
    (_MARKUP, "XML or HTML: write it as CSV or JSON"),
)
_FIRST_LINE = re.compile(rb"\s*([^\r\n]*)")
_BINARY = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
# A control character in JSON is an error of its grammar. A NUL right after the bracket is UTF-16.
_JSON = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\r\n]*[\[{][^\x00]")
_TEXT_MARKS = (b"\xff\xfe", b"\xfe\xff")


def name_foreign(path: Path, head: bytes) -> str | None:
    """What a file that begins with these `HEAD_BYTES` looks like, if it is none that can be read as text."""
    if head.startswith(_COMPOUND):
        return _name_compound(path)
    if head.startswith(_ZIP):
        return _name_archive(path, head)
    found = next((meaning for signature, meaning in _SIGNATURES if head.startswith(signature)), None)
    if found is None:
        found = next((meaning for pattern, meaning in _PATTERNS if pattern.match(head)), None)
    first_line = _FIRST_LINE.match(head)
    is_text = head.startswith(_TEXT_MARKS) or _JSON.match(head)
    if found is None and not is_text and first_line and _BINARY.search(first_line[1]):
        found = "binary data, or UTF-16 without a byte order mark: save it as UTF-8"
    return found


class _ArchiveFile(io.FileIO):
    """A file in which no single read is larger than a directory may be: zipfile reads the whole directory at once."""

    def read(self, size: int | None = -1) -> bytes:
        """Raises BadZipFile for a larger read."""
        if size is not None and size > MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile(f"its directory has more than {MAX_DIRECTORY_BYTES:,} bytes")
        return super().read(size) or b""


@contextmanager
def open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """A ZIP archive for reading, in bounded memory. Raises one of `ZIP_ERRORS`."""
    with _ArchiveFile(path) as file, zipfile.ZipFile(file) as archive:
        yield archive


def archive_names(path: Path) -> list[str] | None:
    """The names of what is in a ZIP archive; None if it can't be read as one."""
    try:
        with open_archive(path) as archive:
            return archive.namelist()
    except ZIP_ERRORS:
        return None


def _name_archive(path: Path, head: bytes) -> str:
    """What a ZIP archive holds that is no workbook as they are read."""
    if "xl/workbook.bin" in (archive_names(path) or ()):
        return _BINARY_WORKBOOK
    return next((meaning for mark, meaning in _ZIP_CONTENTS if mark in head), _ARCHIVE)


def _name_compound(path: Path) -> str:
    """What a file of Office's older container is; its directory stands near the start or the end."""
    with path.open("rb") as file:
        data = file.read(_COMPOUND_SEARCH_BYTES)
        file.seek(max(0, path.stat().st_size - _COMPOUND_SEARCH_BYTES))
        data += file.read()
    found = (meaning for name, meaning in _COMPOUND_CONTENTS if name.encode("utf-16-le") in data)
    return next(found, "an old Office file: save its table as XLSX or CSV")
