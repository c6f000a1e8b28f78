"""XLSX: small workbooks that expand to gigabytes are refused before the memory is spent."""

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from workbooks import by_hand

PARTS = "xl/worksheets/sheet1.xml", "xl/sharedStrings.xml", "xl/styles.xml", "xl/workbook.xml"
SHEET, STRINGS, STYLES, BOOK = PARTS
HEADER = b'<row><c t="str"><v>a</v></c></row>'
MEMORY_MB = 200

# Linux: the peak of the process's own memory, which is set back before each workbook; getrusage's can't be.
READER = """
import json, sys
from pathlib import Path
from limits import default_limits
from batch_pipeline.errors import RefusedError
from batch_pipeline.payloads.reader import open_payload
import openpyxl, pyarrow.compute

def memory_mb(name):
    return int(Path("/proc/self/status").read_text().partition(name)[2].split()[0]) >> 10

def read(path):
    try:
        rows = sum(len(chunk.rows) for chunk in open_payload(path, name=path.name, limits=default_limits()).chunks())
        return f"read {rows}"
    except RefusedError as error:
        return f"{error.code} {error.message}"

for line in sys.stdin:
    Path("/proc/self/clear_refs").write_text("5")
    start = memory_mb("VmRSS:")
    outcome = read(Path(line.rstrip()))
    print(json.dumps([outcome, memory_mb("VmHWM:") - start]), flush=True)
"""


def workbook(path: Path, parts: dict[str, Iterable[bytes]]) -> Path:
    """A workbook with these parts, each written in pieces."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        small = path.with_suffix(".small")
        small.write_bytes(by_hand(HEADER.decode(), strings="", styles=""))
        with zipfile.ZipFile(small) as template:
            for name in template.namelist():
                if name not in parts:
                    archive.writestr(name, template.read(name))
        for name, pieces in parts.items():
            with archive.open(name, "w", force_zip64=True) as part:
                for piece in pieces:
                    part.write(piece)
    return path


def around(root: str, pieces: Iterable[bytes]) -> Iterable[bytes]:
    yield f"<{root}>".encode()
    yield from pieces
    yield f"</{root}>".encode()


def nested(path: Path) -> Path:
    return workbook(path, {SHEET: [b"<a>" * (20 << 20)]})


def nested_strings(path: Path) -> Path:
    return workbook(path, {STRINGS: [b"<sst>", b"<r>" * (20 << 20)]})


def long_token(path: Path) -> Path:
    return workbook(path, {SHEET: [b'<worksheet x="', b"x" * (62 << 20), b'"/>']})


def long_comment(path: Path) -> Path:
    return workbook(path, {BOOK: [b"<workbook><!--", b"x" * (62 << 20), b"--></workbook>"]})


def names(path: Path) -> Path:
    names = ("".join(f"<a{number:x}/>" for number in range(at, at + 50_000)) for at in range(0, 1_500_000, 50_000))
    return workbook(path, {SHEET: around("worksheet", (text.encode() for text in names))})


def formats(path: Path) -> Path:
    return workbook(path, {STYLES: around("styleSheet", [b"<cellXfs>", b"<xf/>" * (12 << 20), b"</cellXfs>"])})


def long_strings_in_every_row(path: Path) -> Path:
    strings = around("sst", (b"<si><t>%d%s</t></si>" % (number, b"x" * 1_000_000) for number in range(40)))
    rows = b"".join(b'<row><c t="s"><v>%d</v></c></row>' % (number % 40) for number in range(100_000))
    return workbook(path, {STRINGS: strings, SHEET: around("sheetData", [HEADER, rows])})


def long_strings_in_every_cell(path: Path) -> Path:
    strings = around("sst", [b"<si><t>" + "é".encode() * 1_000_000 + b"</t></si>"])
    row = b"<row>" + b'<c t="s"><v>0</v></c>' * 16_000 + b"</row>"
    return workbook(path, {STRINGS: strings, SHEET: around("sheetData", [HEADER, row * 4])})


def large_directory(path: Path) -> Path:
    with zipfile.ZipFile(workbook(path, {}), "a") as archive:
        for number in range(100):
            entry = zipfile.ZipInfo(f"{number}")
            entry.comment = b"x" * 65_000
            archive.writestr(entry, b"")
    return path


def false_compressed_size(path: Path) -> Path:
    workbook(path, {SHEET: around("sheetData", [HEADER, b"<row/>" * (20 << 20)])})
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\x01\x02", 0, data.rindex(SHEET.encode()))
    data[entry + 20 : entry + 24] = (0x7FFFFFFF).to_bytes(4, "little")
    path.write_bytes(data)
    return path


ReadApart = Callable[[Path], tuple[str, int]]


@pytest.fixture(scope="module")
def read_apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReadApart]:
    """Reads workbooks in another process: gives what became of one, and how many MB of memory that took.

    The process has read a workbook before, so what it loads for its first one is not counted, whichever test is first.
    """
    with subprocess.Popen(
        [sys.executable, "-c", READER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent,
    ) as process:
        requests, answers = process.stdin, process.stdout
        assert requests is not None
        assert answers is not None

        def read(path: Path) -> tuple[str, int]:
            print(path, file=requests, flush=True)
            outcome, peak_mb = json.loads(answers.readline())
            return outcome, peak_mb

        first = around("sheetData", [HEADER, b'<row><c t="str"><v>b</v></c></row>'])
        assert read(workbook(tmp_path_factory.mktemp("first") / "x.xlsx", {SHEET: first}))[0] == "read 1"
        yield read


@pytest.mark.parametrize(
    ("build", "code", "named"),
    [
        (nested, "unreadable_file", "nested deeper"),
        (nested_strings, "unreadable_file", "nested deeper"),
        (long_token, "unreadable_file", "element or comment"),
        (long_comment, "unreadable_file", "element or comment"),
        (names, "unreadable_file", "names of elements"),
        (formats, "unreadable_file", "more formats"),
        (long_strings_in_every_row, "too_large", "BATCH_MAX_DECOMPRESSION_RATIO"),
        (large_directory, "unreadable_file", "directory"),
        (false_compressed_size, "too_large", "BATCH_MAX_DECOMPRESSION_RATIO"),
    ],
)
def test_a_workbook_that_would_fill_the_memory_is_refused(
    read_apart: ReadApart, tmp_path, build: Callable[[Path], Path], code, named
):
    refused, peak = read_apart(build(tmp_path / "bomb.xlsx"))
    assert refused.startswith(code)
    assert named in refused
    assert peak < MEMORY_MB


def test_rows_of_long_strings_are_rejected_in_bounded_memory(read_apart: ReadApart, tmp_path):
    outcome, peak = read_apart(long_strings_in_every_cell(tmp_path / "x.xlsx"))
    assert outcome == "read 0"
    assert peak < MEMORY_MB


def test_shared_strings_in_random_order_are_read_in_bounded_memory(read_apart: ReadApart, tmp_path):
    """Each look-up maps pages of the files of strings: unless they are given back, all 240 MB stay in memory."""
    texts = 24_000
    random = np.random.default_rng(1)
    order = random.integers(texts, size=8_000).tolist()
    filler = random.bytes(5_000).hex().encode()
    strings = around("sst", (b"<si><t>%d %s</t></si>" % (number, filler) for number in range(texts)))
    rows = b"".join(b'<row><c t="s"><v>%d</v></c></row>' % number for number in order)
    book = workbook(tmp_path / "x.xlsx", {STRINGS: strings, SHEET: around("sheetData", [HEADER, rows])})
    outcome, peak = read_apart(book)
    assert outcome == "read 8000"
    assert peak < MEMORY_MB
