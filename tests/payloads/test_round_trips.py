"""Any table of text, written in any format, dialect, encoding and compression, reads back the same."""

import csv
import gzip
import io
import json
import sys
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from workbooks import by_hand, excel_text

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Table = list[list[str]]
# Beside any character: what other programs run, reorder, or take for something else.
HOSTILE = [
    *["'; DROP TABLE contacts; --", "$(rm -rf /)", "`id`", "=cmd|' /C calc'!A0", "@SUM(1)", "-1+1", "../../etc/passwd"],
    *[
        "\u202eabc",
        "a\u200bb",
        "\ufeffx",
        "שלום",
        "مرحبا",
        "👩‍👩‍👧",
        "e\u0301",
        "NULL",
        "nan",
        "true",
        "1e5",
        "0x1F",
        "[1]",
    ],
    *['{"a": 1}', '"', '""', "a,b;c\td|e", "line\nbreak", "line\r\nbreak", "\\N", "%s", "{0}", "<b>&amp;</b>", " x "],
]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(HOSTILE)
TABLES = st.integers(2, 4).flatmap(
    lambda width: st.lists(st.lists(TEXTS, min_size=width, max_size=width), min_size=1, max_size=6)
)


def _csv(table: Table, data: st.DataObject) -> bytes:
    delimiter, line_end = data.draw(st.sampled_from(",;\t|")), data.draw(st.sampled_from(["\n", "\r\n", "\r"]))
    text = io.StringIO()
    quoting = data.draw(st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]))
    if any(set(cell) & {"\r", "\n"} for row in table for cell in row):
        quoting = csv.QUOTE_ALL  # before Python 3.13 the writer quotes only those line breaks that end its own lines
    writer = csv.writer(text, delimiter=delimiter, lineterminator=line_end, quoting=quoting)
    writer.writerows(table)
    encodings = ["utf-8", "utf-8-sig", "utf-16"]
    if _is_windows_1252(text.getvalue()):
        encodings.append("cp1252")
    return text.getvalue().encode(data.draw(st.sampled_from(encodings)))


def _is_windows_1252(text: str) -> bool:
    """Whether the text can be written so, and can't be taken for UTF-8: one character beyond ASCII alone."""
    try:
        return len([byte for byte in text.encode("cp1252") if byte > 0x7F]) == 1
    except UnicodeEncodeError:
        return False


def _items(table: Table) -> list[dict[str, str]]:
    return [dict(zip(table[0], row, strict=True)) for row in table[1:]]


def _json(table: Table, data: st.DataObject) -> bytes:
    ensure_ascii, indent = data.draw(st.booleans()), data.draw(st.sampled_from([None, 1, "\t"]))
    encoding = data.draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
    return json.dumps(_items(table), ensure_ascii=ensure_ascii, indent=indent).encode(encoding)


def _ndjson(table: Table, data: st.DataObject) -> bytes:
    line_end = data.draw(st.sampled_from(["\n", "\r\n", "\n\n"]))
    return (line_end.join(json.dumps(item, ensure_ascii=data.draw(st.booleans())) for item in _items(table))).encode()


def _parquet(table: Table, data: st.DataObject) -> bytes:
    columns = {name: pa.array([row[place] for row in table[1:]]) for place, name in enumerate(table[0])}
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, row_group_size=data.draw(st.integers(1, 4)))
    return file.getvalue()


def _xlsx(table: Table, data: st.DataObject) -> bytes:
    del data
    rows = ("".join(f'<c t="inlineStr"><is>{excel_text(cell)}</is></c>' for cell in row) for row in table)
    return by_hand("".join(f"<row>{row}</row>" for row in rows))


WRITERS: dict[str, Callable[[Table, st.DataObject], bytes]] = {
    "csv": _csv,
    "json": _json,
    "ndjson": _ndjson,
    "parquet": _parquet,
    "xlsx": _xlsx,
}
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".zst": zstd.compress}


def writings(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a test any table, and how it is written in one of these formats and read."""
    return given(
        table=TABLES,
        name=st.sampled_from(names),
        suffix=st.sampled_from(list(COMPRESSIONS)),
        block_bytes=st.integers(1, 40) | st.just(1 << 20),
        chunk_rows=st.integers(1, 4),
        data=st.data(),
    )


@writings("csv", "json", "ndjson", "xlsx")
@settings(max_examples=examples(60, thorough=500))
def test_any_table_of_text_reads_back_the_same(read_upload, *, table, name, suffix, block_bytes, chunk_rows, data):
    check_round_trip(
        read_upload, table=table, name=name, suffix=suffix, block_bytes=block_bytes, chunk_rows=chunk_rows, data=data
    )


@writings("parquet")
@settings(max_examples=examples(4, thorough=50))  # each starts a process; block_bytes means nothing to it
def test_any_table_of_text_reads_back_the_same_from_parquet(
    read_upload, *, table, name, suffix, block_bytes, chunk_rows, data
):
    check_round_trip(
        read_upload, table=table, name=name, suffix=suffix, block_bytes=block_bytes, chunk_rows=chunk_rows, data=data
    )


def check_round_trip(read_upload, *, table, name, suffix, block_bytes, chunk_rows, data):
    header = [f"c{place}" for place in range(len(table[0]))]
    payload = WRITERS[name]([header, *table], data)
    if name != "xlsx":
        payload = bytes(COMPRESSIONS[suffix](payload))
    else:
        table = [row for row in table if any(cell.strip() for cell in row)]
    file_name = data.draw(st.sampled_from(["x", f"x.{name}{suffix}"]))
    reading = read_upload(payload, file_name, block_bytes=block_bytes, chunk_rows=chunk_rows)
    assert reading.format == name
    assert reading.raws == {}
    assert [list(item.values()) for item in reading.items.values()] == table
