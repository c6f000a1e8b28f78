"""Recognising formats and encodings: by content first, and refusing by name of what the file looks like."""

import bz2
import io
import lzma
import pickle
import sqlite3
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.orc
import pytest

from batch_pipeline.payloads.encoding import SCAN_BYTES


@pytest.mark.parametrize(
    ("data", "name", "expected"),
    [
        ("a,b\n1,2\n", "x.json", None),
        ("a,b\n1,2\n", "x", "csv"),
        ("a,b\n1,2\n", "x.csv", "csv"),
        ("a,b\n1,2\n", "x.xlsx", "csv"),
        ('[{"a":1}]', "x.csv", "json"),
        (' \r\n\t[{"a":1}]', "x", "json"),
        ("\ufeff[]", "x", "json"),
        ('{"a":1}\n{"a":2}\n', "x.json", "ndjson"),
        ('{"a":1}\n', "x.csv", "ndjson"),
        ('{"a":1}\n', "x.NDJSON", "ndjson"),
        ('\n{"a":1}\n', "x.jsonl", "ndjson"),
        ('oops\n{"a":1}\n', "x.jsonl", "ndjson"),
        ('{"a":1,}\n{"a":2}\n', "x", "ndjson"),
    ],
)
def test_content_tells_the_format_and_the_name_where_it_does_not(read_upload, refusal_of, data, name, expected):
    if expected is None:
        assert refusal_of(data, name).code == "unreadable_file"
    else:
        assert read_upload(data, name).format == expected


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ('{"a":1}', "x.json"),
        ('{"a":1}\n\n', "x.JSON"),
        ('{\n  "a": 1\n}\n', "x.json"),
        ('{\n  "a": 1\n}\n', "x"),
        ('{"items": [\n{"a":1}\n]}', "x"),
    ],
)
def test_a_single_object_is_refused_with_what_to_do(refusal_of, data, name):
    refusal = refusal_of(data, name)
    assert refusal.code == "unreadable_file"
    assert "[ ]" in refusal.message
    assert "NDJSON" in refusal.message


@pytest.mark.parametrize("name", ["x.csv", "x.json", "x.ndjson", "x"])
@pytest.mark.parametrize("data", [b"", b" \r\n\t\n", b"\xef\xbb\xbf", b"\xff\xfe", b"\xef\xbb\xbf\n"])
def test_a_file_of_nothing_is_empty(refusal_of, data, name):
    assert refusal_of(data, name).code == "empty_file"


def _zip_of(member: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(member, "<x/>")
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "looks_like"),
    [
        (b"BZh91AY&SY\x00", "bzip2"),
        (b"\xfd7zXZ\x00\x00", "xz"),
        (b"PARE\x15\x04\x15", "encrypted Parquet"),
        (_zip_of("items.csv"), "ZIP"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100), "Office"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "PDF"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "PNG"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "JPEG"),
        (b"SQLite format 3\x00", "SQLite"),
        (b'<?xml version="1.0"?>\n<a/>', "XML"),
        (b"\n<!DOCTYPE html>\n<html>", "HTML"),
        (b"<items>\n<item/>\n</items>", "XML"),
        (b"items.csv" + bytes(248) + b"ustar\x0000", "tar"),
        (bytes(range(256)), "binary"),
        ("a,b\n1,2\n".encode("utf-16-le"), "UTF-16"),
    ],
)
@pytest.mark.parametrize("name", ["x.csv", "x.json", "x"])
def test_other_formats_are_refused_naming_what_they_look_like(refusal_of, data, looks_like, name):
    refusal = refusal_of(data, name)
    assert refusal.code == "unsupported_format"
    assert looks_like in refusal.message


# Cells with line breaks, so that a file of them has lines that look like text.
TABLE = pa.table({"name": ["a\r\nb", "c\nd"] * 3000, "number": range(6000)})


def _written(write: Callable[[io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def _arrow_stream(file: io.BytesIO) -> None:
    with pa.ipc.new_stream(file, TABLE.schema) as writer:
        writer.write_table(TABLE)


def _tar(file: io.BytesIO) -> None:
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("items.csv"))


def _sqlite() -> bytes:
    with sqlite3.connect(":memory:") as database:
        database.execute("CREATE TABLE items (name TEXT)")
        return database.serialize()


SAMPLES: dict[str, tuple[Callable[[], bytes], str]] = {
    "ORC": (lambda: _written(lambda file: pa.orc.write_table(TABLE, file)), "an ORC file"),
    "ORC, zlib": (lambda: _written(lambda file: pa.orc.write_table(TABLE, file, compression="zlib")), "an ORC file"),
    "Arrow file": (lambda: _written(lambda file: pa.feather.write_feather(TABLE, file)), "an Arrow file"),
    "Arrow stream": (lambda: _written(_arrow_stream), "an Arrow stream"),
    "SQLite": (_sqlite, "an SQLite database"),
    "NumPy": (lambda: _written(lambda file: np.save(file, np.arange(9))), "a NumPy array"),
    "pickle": (lambda: pickle.dumps(["a\nb"] * 9), "a Python pickle"),
    "xz": (lambda: lzma.compress(b"a\nb\n" * 999), "an xz file"),
    "bzip2": (lambda: bz2.compress(b"a\nb\n" * 999), "a bzip2 file"),
    "lz4": (lambda: pa.Codec("lz4").compress(b"a\nb\n", asbytes=True), "an lz4 file"),
    "tar": (lambda: _written(_tar), "a tar archive"),
    "empty ZIP": (lambda: _written(lambda file: zipfile.ZipFile(file, "w").close()), "a ZIP archive"),
    "program": (lambda: Path(sys.executable).resolve().read_bytes()[:99_999], "a program"),
    # what no library here writes, by the published signatures
    "Avro": (lambda: b"Obj\x01\x04\x14avro.codec\x08null\x16avro.schema\n\n", "an Avro file"),
    "HDF5": (lambda: b"\x89HDF\r\n\x1a\n\x00\x00\x00\x00\x00\x08\x08\x00", "an HDF5 file"),
    "Feather": (lambda: b"FEA1\x00\x00\x00\x00\nx\n", "a Feather file"),
    "DuckDB": (lambda: b"\n\x01\n\x02\n\x03\n\x04DUCK\x40\x00\x00\x00", "a DuckDB database"),
    "7-Zip": (lambda: b"7z\xbc\xaf\x27\x1c\x00\x04\n\n", "a 7-Zip archive"),
    "RAR": (lambda: b"Rar!\x1a\x07\x01\x00\n", "a RAR archive"),
    "TIFF": (lambda: b"II*\x00\n\x00\x00\x00\n", "a TIFF image"),
    "BMP": (lambda: b"BM\n\x0d\x00\x00\x00\x00\x00\x00", "a BMP image"),
    "WebP": (lambda: b"RIFF\n\x00\x00\x00WEBPVP8 ", "an image"),
    "MP4": (lambda: b"\x00\x00\x00\x18ftypmp42\n", "an image or video"),
    "MP3": (lambda: b"ID3\n\x04\x00\x00", "a sound file"),
    "RTF": (lambda: b"{\\rtf1\\ansi\n}", "an RTF document"),
    "PostScript": (lambda: b"%!PS-Adobe-3.0\n", "a PostScript document"),
    "R": (lambda: b"RDX3\nX\n\x00\x00", "an R data file"),
    "SPSS": (lambda: b"$FL2@(#) SPSS DATA FILE\n\x00", "an SPSS file"),
    "deb": (lambda: b"!<arch>\ndebian-binary   \n", "an ar archive"),
    "Access": (lambda: b"\x00\x01\x00\x00Standard ACE DB\x00\n", "an Access database"),
    "compress": (lambda: b"\x1f\x9d\x90\n\x0a", "a compress (.Z) file"),
    "Snappy": (lambda: b"\xff\x06\x00\x00sNaPpY\n", "a Snappy file"),
}


@pytest.mark.parametrize("sample", SAMPLES)
def test_a_known_signature_is_recognised_whatever_line_breaks_follow(refusal_of, sample):
    make, looks_like = SAMPLES[sample]
    refusal = refusal_of(make(), "x.csv")
    assert (refusal.code, looks_like in refusal.message) == ("unsupported_format", True), refusal.message


@pytest.mark.parametrize(
    "header", ["PARENT_ID,x", "PAR1,PAR2", "ORC,x", "ORCID;x", "BMI,x", "MZ,x", "ID3,x", "RIFF,x", "DUCK,DUCKS"]
)
def test_a_csv_file_may_begin_with_the_letters_of_a_signature(read_upload, header):
    reading = read_upload(f"{header}\n1\n")
    assert reading.format == "csv"


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("utf-8", "é,日,😀"),
        ("utf-8-sig", "é,日,😀"),
        ("utf-16", "é,日,😀"),
        ("cp1252", "é,€,ÿ"),
    ],
)
@pytest.mark.parametrize("block_bytes", [1, 2, 3, 5, 1 << 20])
def test_text_is_read_in_each_encoding(read_upload, encoding, text, block_bytes):
    cells = text.split(",")
    as_csv = read_upload(f"é,b,c\n{text}\n".encode(encoding), block_bytes=block_bytes)
    assert as_csv.items == {1: dict(zip(("é", "b", "c"), cells, strict=True))}
    as_json = read_upload(f'[{{"é":"{text}"}}]'.encode(encoding), block_bytes=block_bytes)
    assert as_json.items == {1: {"é": text}}
    as_lines = read_upload(f'{{"é":"{text}"}}\n'.encode(encoding), block_bytes=block_bytes)
    assert as_lines.items == {1: {"é": text}}


def test_utf_16_big_endian_is_told_by_its_mark(read_upload):
    data = b"\xfe\xff" + "a,b\né,😀\n".encode("utf-16-be")
    assert read_upload(data, block_bytes=3).items == {1: {"a": "é", "b": "😀"}}


FILLER = b"x" * 30 + b"\n"
LONG = b"a\n" + FILLER * (2 * SCAN_BYTES // len(FILLER))


@pytest.mark.parametrize(
    ("data", "offsets"),
    [
        pytest.param(b"a\n\xc3\xa9\n\xe9\n", (5, 2), id="UTF-8 first"),
        pytest.param(b"a\n\xe9\n\xc3\xa9\n", (2, 4), id="Windows-1252 first"),
        pytest.param(b"a\n\xe9\xc3\xa9\n", (2, 3), id="side by side"),
        pytest.param(LONG + b"\xe9\n" + LONG + b"\xc3\xa9\n", (len(LONG), 2 * len(LONG) + 2), id="far apart"),
        pytest.param(b"\xef\xbb\xbfa\n\xe9\n", (5, 0), id="a byte order mark"),
        pytest.param(b"a\n\xf0\x9f\x98\x80\xf0\x9f\x98", (6, 2), id="cut at the end"),
    ],
)
def test_a_file_of_mixed_encodings_is_refused_with_the_offset(refusal_of, data, offsets):
    refusal = refusal_of(data)
    assert refusal.code == "unreadable_file"
    assert all(f"offset {offset}" in refusal.message for offset in offsets)


@pytest.mark.parametrize("sequence", [b"\xc3\xa9", b"\xe2\x82\xac", b"\xf0\x9f\x98\x80"])
@pytest.mark.parametrize("place", range(-5, 2))
def test_a_multi_byte_sequence_is_found_across_a_scan_edge(refusal_of, sequence, place):
    start = b"a\n\xe9\n"
    # The search for sequences begins at the first byte that is not UTF-8, here at 2.
    data = start + b"x" * (SCAN_BYTES + 2 + place - len(start)) + sequence + b"\n"
    refusal = refusal_of(data, max_cell_bytes=1 << 22)
    assert f"offset {data.index(sequence)}" in refusal.message


@pytest.mark.parametrize("place", range(-4, 2))
def test_a_character_across_a_scan_edge_is_utf_8(read_upload, place):
    data = b"a\n" + b"x" * (SCAN_BYTES + place - 2) + "😀\n".encode()
    assert read_upload(data, max_cell_bytes=1 << 22).items[1]["a"].endswith("x😀")


@pytest.mark.parametrize(
    ("data", "offset"),
    [
        pytest.param(b"a\n\xe9\x81\n", 3, id="no character of Windows-1252"),
        pytest.param(b"\xff\xfea\x00\n\x00\x3d", 6, id="UTF-16 of odd length"),
        pytest.param(b"\xff\xfea\x00\n\x00\x3d\xd8b\x00", 6, id="UTF-16 with half a pair"),
        pytest.param(b"\xff\xfe\x00\x00a\x00\x00\x00", 0, id="UTF-32"),
    ],
)
def test_an_undecodable_file_is_refused_with_the_offset(refusal_of, data, offset):
    refusal = refusal_of(data)
    assert refusal.code == "unreadable_file"
    assert f"offset {offset}" in refusal.message
