"""One fault in 20,000 rows: one precise complaint, and every other row as it was, in its place."""

import pyarrow as pa
import pytest
from limits import default_limits

from batch_pipeline.payloads.reader import open_payload

ROWS = 20_000
CHUNK_ROWS = 2_000
BLOCK_BYTES = 64 << 10
FAULTS = {
    "a lone opening quote": ('{row},"lone {row},x', "not closed"),
    "a lone opening quote at the row's start": ('"{row},name {row},x', "not closed"),
    "a lone opening quote at the row's end": ('{row},name {row},"', "not closed"),
    "text after a closing quote": ('{row},"name"{row},x', "not closed"),
    "too few cells": ("{row},name {row}", "2 cells"),
    "too many cells": ("{row},name {row},x,", "4 cells"),
    "another delimiter": ("{row};name {row};x", "1 cell"),
}


def _plain(row: int) -> str:
    return f"{row},name {row},x{row % 7}"


def _quoted(row: int) -> str:
    return f'"{row}","name {row}, ""quoted""","x\n{row % 7}"'


def _cells(row: int, *, quoted: bool) -> tuple[str, str, str]:
    return (f"{row}", f'name {row}, "quoted"', f"x\n{row % 7}") if quoted else (f"{row}", f"name {row}", f"x{row % 7}")


def _row_at_block_edge(lines: list[str], line_end: str) -> int:
    """The row in which the first block ends."""
    size = len(f"a,b,c{line_end}")
    for row, line in enumerate(lines, 1):
        size += len(line) + len(line_end)
        if size > BLOCK_BYTES:
            return row
    raise AssertionError("the file has one block only")


EDGES = ("chunk's first", "chunk's last", "block's edge", "first", "last")
CASES = [*((fault, "middle") for fault in FAULTS), *(("a lone opening quote", where) for where in EDGES)]


@pytest.mark.parametrize(("fault", "where"), CASES)
@pytest.mark.parametrize(("quoted", "line_end"), [(False, "\n"), (True, "\r\n")], ids=["plain", "quoted"])
def test_no_other_row_is_lost_merged_or_shifted(tmp_path, *, where, fault, quoted, line_end):
    lines = [(_quoted if quoted else _plain)(row) for row in range(1, ROWS + 1)]
    places = {
        "middle": ROWS // 2,
        "chunk's first": CHUNK_ROWS + 1,
        "chunk's last": CHUNK_ROWS,
        "first": 1,
        "last": ROWS,
    }
    bad = places.get(where) or _row_at_block_edge(lines, line_end)
    raw, message = FAULTS[fault]
    lines[bad - 1] = raw.format(row=bad)
    path = tmp_path / "upload.csv"
    path.write_bytes(line_end.join(["a,b,c", *lines, ""]).encode())
    payload = open_payload(path, name="x.csv", limits=default_limits(chunk_rows=CHUNK_ROWS), block_bytes=BLOCK_BYTES)
    chunks = list(payload.chunks())

    unreadable = pa.concat_tables([chunk.unreadable for chunk in chunks]).to_pylist()
    assert [(entry["row"], entry["raw"]) for entry in unreadable] == [(bad, lines[bad - 1])]
    assert message in unreadable[0]["message"]
    others = [row for row in range(1, ROWS + 1) if row != bad]
    assert pa.chunked_array([chunk.rows for chunk in chunks]).equals(pa.chunked_array([others]))
    expected = zip(*(_cells(row, quoted=quoted) for row in others), strict=True)
    for name, cells in zip("abc", expected, strict=True):
        assert pa.chunked_array([chunk.columns[name] for chunk in chunks]).equals(pa.chunked_array([cells]))
