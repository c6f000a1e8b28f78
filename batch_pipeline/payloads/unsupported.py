"""Names the format of a file that is not read: by its first bytes, never by its name.

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
    # compressed files and archives
    (b"\xfd7zXZ\x00", "an xz file: decompress it"),
    (b"\x04\x22\x4d\x18", "an lz4 file: decompress it"),
    (b"\x02\x21\x4c\x18", "an lz4 file: decompress it"),
    (b"\xff\x06\x00\x00sNaPpY", "a Snappy file: decompress it"),
    (b"\x1f\x9d", "a compress (.Z) file: decompress it"),
    (b"LZIP\x01", "an lzip file: decompress it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive: take the file out of it"),
    (b"Rar!\x1a\x07", "a RAR archive: take the file out of it"),
    (b"MSCF\x00\x00\x00\x00", "a CAB archive: take the file out of it"),
    (b"!<arch>\n", "an ar archive: take the file out of it"),
    # tables, databases and data of programs
    (b"ARROW1\x00\x00", "an Arrow file: write it as Parquet, CSV or NDJSON"),
    (b"\xff\xff\xff\xff", "an Arrow stream: write it as Parquet, CSV or NDJSON"),
    (b"Obj\x01", "an Avro file: write it as CSV or NDJSON"),
    (b"SEQ\x06", "a Hadoop sequence file: write it as CSV or NDJSON"),
    (b"RCF\x01", "a Hadoop RCFile: write it as CSV or NDJSON"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file: write the table as CSV"),
    (b"\x93NUMPY", "a NumPy array: write it as CSV"),
    (b"SQLite format 3\x00", "an SQLite database: export the table as CSV"),
    (b"\x00\x01\x00\x00Standard Jet DB", "an Access database: export the table as CSV"),
    (b"\x00\x01\x00\x00Standard ACE DB", "an Access database: export the table as CSV"),
    (b"$FL2@(#)", "an SPSS file: export it as CSV"),
    (b"<stata_dta>", "a Stata file: export it as CSV"),
    (b"RDX2\n", "an R data file: write the table as CSV"),
    (b"RDX3\n", "an R data file: write the table as CSV"),
    (b"bplist00", "a binary property list: write it as CSV or JSON"),
    *((bytes([0x80, protocol]), "a Python pickle: write it as CSV or JSON") for protocol in range(2, 6)),
    # documents
    (b"%PDF-", "a PDF document"),
    (b"%!PS", "a PostScript document"),
    (b"{\\rtf", "an RTF document"),
    # images, sound and video
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF87a", "a GIF image"),
    (b"GIF89a", "a GIF image"),
    (b"II*\x00", "a TIFF image"),
    (b"MM\x00*", "a TIFF image"),
    # programs
    (b"\x7fELF", "a program"),
    (b"\xca\xfe\xba\xbe", "a program"),
    (b"\xcf\xfa\xed\xfe", "a program"),
    (b"\xce\xfa\xed\xfe", "a program"),
    (b"\x00asm", "a program"),
)
# CSV files may begin with these letters too, but then hold no binary data.
_LETTERS: tuple[tuple[bytes, str], ...] = (
    (b"ORC", "an ORC file: write it as Parquet, CSV or NDJSON"),
    (b"PARE", "an encrypted Parquet file: write it without encryption"),
    (b"FEA1", "a Feather file: write it as Parquet, CSV or NDJSON"),
    (b"BM", "a BMP image"),
    (b"RIFF", "an image, sound or video file (RIFF)"),
    (b"OggS", "a sound or video file (Ogg)"),
    (b"fLaC", "a sound file (FLAC)"),
    (b"ID3", "a sound file (MP3)"),
    (b"MZ", "a program"),
    (b"PGDMP", "a PostgreSQL dump: export the table as CSV"),
)
_BZIP2 = re.compile(rb"BZh[1-9]1AY&SY")
_TAR = re.compile(rb".{257}ustar[\x00 ]", re.DOTALL)
_DUCKDB = re.compile(rb".{8}DUCK.\x00", re.DOTALL)
_MEDIA = re.compile(rb"\x00\x00.{2}ftyp", re.DOTALL)
_MARKUP = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*<(?:\?xml|!doctype|html|!--|[a-z][\w:-]*[^,;|\t\r\n]*>\s*$)",
    re.IGNORECASE | re.MULTILINE,
)
# A local file, the end of an empty archive, and the mark of one in several parts.
_ZIP = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
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
    (_DUCKDB, "a DuckDB database: export the table as CSV"),
    (_MEDIA, "an image or video file"),
    (_MARKUP, "XML or HTML: write it as CSV or JSON"),
)
_FIRST_LINE = re.compile(rb"\s*([^\r\n]*)")
_BINARY = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
# A control character in JSON is an error of its grammar. A NUL right after the bracket is UTF-16.
_JSON = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\r\n]*[\[{][^\x00]")
_TEXT_MARKS = (b"\xff\xfe", b"\xfe\xff")


def unsupported_format(path: Path, head: bytes) -> str | None:
    """What a file that begins with these `HEAD_BYTES` looks like; None if it can be read as text."""
    if head.startswith(_COMPOUND):
        return _compound_format(path)
    if head.startswith(_ZIP):
        return _archive_format(path, head)
    signatures = _SIGNATURES if is_text(head) else _SIGNATURES + _LETTERS
    found = next((meaning for signature, meaning in signatures if head.startswith(signature)), None)
    if found is None:
        found = next((meaning for pattern, meaning in _PATTERNS if pattern.match(head)), None)
    first_line = _FIRST_LINE.match(head)
    is_known_text = head.startswith(_TEXT_MARKS) or _JSON.match(head)
    if found is None and not is_known_text and first_line and _BINARY.search(first_line[1]):
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


def is_text(head: bytes) -> bool:
    """Whether the first bytes of a file may be text: a CSV file may begin with the letters of a signature."""
    return _BINARY.search(head) is None


def archive_names(path: Path) -> list[str] | None:
    """The names of what is in a ZIP archive; None if it can't be read as one."""
    try:
        with open_archive(path) as archive:
            return archive.namelist()
    except ZIP_ERRORS:
        return None


def _archive_format(path: Path, head: bytes) -> str:
    """What a ZIP archive holds that is not an XLSX workbook."""
    if "xl/workbook.bin" in (archive_names(path) or ()):
        return _BINARY_WORKBOOK
    return next((meaning for mark, meaning in _ZIP_CONTENTS if mark in head), _ARCHIVE)


def _compound_format(path: Path) -> str:
    """What a file of Office's older container is; its directory stands near the start or the end."""
    with path.open("rb") as file:
        data = file.read(_COMPOUND_SEARCH_BYTES)
        file.seek(max(0, path.stat().st_size - _COMPOUND_SEARCH_BYTES))
        data += file.read()
    found = (meaning for name, meaning in _COMPOUND_CONTENTS if name.encode("utf-16-le") in data)
    return next(found, "an old Office file: save its table as XLSX or CSV")
