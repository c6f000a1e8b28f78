"""Telling what a file is that is not read: by its first bytes, never by its name.

A format that becomes readable leaves this list and gets its own module, registered in `formats`.
"""

import re

HEAD_BYTES = 4096

_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\xfd7zXZ\x00", "an xz file: decompress it"),
    (b"\x04\x22\x4d\x18", "an lz4 file: decompress it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive: take the file out of it"),
    (b"Rar!\x1a\x07", "a RAR archive: take the file out of it"),
    (b"PARE", "an encrypted Parquet file: write it without encryption"),
    (b"ARROW1\x00\x00", "an Arrow file: write it as CSV or NDJSON"),
    (b"Obj\x01", "an Avro file: write it as CSV or NDJSON"),
    (b"SQLite format 3\x00", "an SQLite database: export the table as CSV"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Excel workbook or another Office file: save it as CSV"),
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
_ARCHIVE = "a ZIP archive: take the file out of it"
_PATTERNS = (
    (_BZIP2, "a bzip2 file: decompress it"),
    (_TAR, "a tar archive: take the file out of it"),
    (_MARKUP, "XML or HTML: write it as CSV or JSON"),
)
_FIRST_LINE = re.compile(rb"\s*([^\r\n]*)")
_BINARY = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_TEXT_MARKS = (b"\xff\xfe", b"\xfe\xff")


def name_foreign(head: bytes) -> str | None:
    """What a file that begins with these `HEAD_BYTES` looks like, if it is none that can be read as text."""
    for signature, meaning in _SIGNATURES:
        if head.startswith(signature):
            return meaning
    if head.startswith(b"PK\x03\x04"):
        is_workbook = b"xl/" in head or b"[Content_Types].xml" in head
        return "an Excel workbook (XLSX): save its sheet as CSV" if is_workbook else _ARCHIVE
    for pattern, meaning in _PATTERNS:
        if pattern.match(head):
            return meaning
    first_line = _FIRST_LINE.match(head)
    if not head.startswith(_TEXT_MARKS) and first_line and _BINARY.search(first_line[1]):
        return "binary data, or UTF-16 without a byte order mark: save it as UTF-8"
    return None
