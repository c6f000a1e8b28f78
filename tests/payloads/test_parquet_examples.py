"""Parquet as other programs write it: every encoding, compression and page version, and files that are broken."""

import datetime as dt
import io
import os
import struct
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROWS = 3000

NUMBERS = pa.array(range(ROWS), pa.int64())
TEXTS = pa.array([f"person {number}@example.com" if number % 7 else None for number in range(ROWS)])
LISTS = pa.array([[f"{number}", None] * (number % 3) if number % 5 else None for number in range(ROWS)])
NESTED = pa.array([[{"a": [number] * (number % 4), "b": f"t{number}"}] for number in range(ROWS)])
BOOLEANS = pa.array([number % 3 == 0 for number in range(ROWS)])
FLOATS = pa.array([number / 4 for number in range(ROWS)], pa.float64())
DECIMALS = pa.array([Decimal(number) / 4 for number in range(ROWS)], pa.decimal128(20, 2))
FEW = pa.array([f"group {number % 3}" for number in range(ROWS)])

# pyarrow and DuckDB write the DELTA encodings of texts in version 2, Spark (parquet-java) DELTA_BYTE_ARRAY.
ENCODINGS = [
    (NUMBERS, "PLAIN"),
    (NUMBERS, "DELTA_BINARY_PACKED"),
    (NUMBERS, "BYTE_STREAM_SPLIT"),
    (FLOATS, "BYTE_STREAM_SPLIT"),
    (DECIMALS, "BYTE_STREAM_SPLIT"),
    (DECIMALS, "DELTA_BYTE_ARRAY"),
    (BOOLEANS, "RLE"),
    (TEXTS, "PLAIN"),
    (TEXTS, "DELTA_LENGTH_BYTE_ARRAY"),
    (TEXTS, "DELTA_BYTE_ARRAY"),
    (FEW, "DELTA_BYTE_ARRAY"),
    (TEXTS.cast(pa.large_string()), "DELTA_LENGTH_BYTE_ARRAY"),
    (TEXTS.cast(pa.string_view()), "DELTA_BYTE_ARRAY"),
    (LISTS, "DELTA_BYTE_ARRAY"),
    (LISTS, "DELTA_LENGTH_BYTE_ARRAY"),
]
COLUMNS = {"n": NUMBERS, "t": TEXTS, "l": LISTS, "s": NESTED, "b": BOOLEANS, "f": FLOATS, "d": DECIMALS, "g": FEW}


def parquet(columns: dict[str, pa.Array] | pa.Table, **options: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), file, **options)
    return file.getvalue()


def differing(found: dict[int, Any], expected: dict[int, Any]) -> list[int]:
    """The first rows that differ: a comparison of thousands of rows takes minutes to explain itself."""
    return [row for row in sorted(found.keys() | expected.keys()) if found.get(row) != expected.get(row)][:5]


@pytest.fixture(scope="module")
def expected(read_upload) -> dict[int, dict[str, str]]:
    """The items of `COLUMNS`, written as simply as can be: what one value is read as has its own tests."""
    data = parquet(COLUMNS, use_dictionary=False, compression="none", version="1.0")
    return read_upload(data).items


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_each_encoding_is_read_as_the_same_values(read_upload, version):
    columns = {f"x{number}": column for number, (column, _) in enumerate(ENCODINGS)}
    wanted = {
        f"x{number}.list.element" if pa.types.is_nested(column.type) else f"x{number}": encoding
        for number, (column, encoding) in enumerate(ENCODINGS)
    }
    plain = read_upload(parquet(columns, use_dictionary=False)).items
    encoded = parquet(
        columns,
        use_dictionary=False,
        column_encoding=wanted,
        data_page_version=version,
        data_page_size=4000,
        row_group_size=2000,
    )
    group = pq.ParquetFile(io.BytesIO(encoded)).metadata.row_group(0)
    assert all(encoding in group.column(number).encodings for number, encoding in enumerate(wanted.values()))
    assert differing(read_upload(encoded).items, plain) == []
    assert len(plain) == ROWS


@pytest.mark.parametrize(
    ("compression", "version", "use_dictionary"),
    [
        ("none", "1.0", True),
        ("snappy", "2.0", True),
        ("gzip", "1.0", False),
        ("brotli", "2.0", False),
        ("zstd", "2.0", True),
        ("lz4", "1.0", True),
    ],
)
def test_each_compression_is_read_as_the_same_values(read_upload, expected, compression, version, use_dictionary):
    data = parquet(
        COLUMNS,
        compression=compression,
        data_page_version=version,
        use_dictionary=use_dictionary,
        dictionary_pagesize_limit=5000,  # a column goes on without its dictionary where that gets larger
        data_page_size=3000,
        write_page_index=True,
    )
    reading = read_upload(data, chunk_rows=700)
    assert differing(reading.items, expected) == []


@pytest.mark.parametrize("encoding", ["DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY", "PLAIN"])
def test_categories_are_read_in_each_encoding_of_texts(read_upload, encoding):
    """pyarrow stores that a column was a dictionary, and can't read these encodings into one."""
    data = parquet({"ARROW:schema": FEW.dictionary_encode()}, use_dictionary=False, column_encoding=encoding)
    assert [item["ARROW:schema"] for item in read_upload(data).items.values()] == FEW.to_pylist()


def test_many_lists_structs_and_maps_are_read_in_large_batches(read_upload):
    """As DuckDB writes them: row groups of 122,880 rows, one page a column. They took 30 seconds."""
    rows = 130_000
    numbers = np.arange(rows)
    texts = pa.array(numbers).cast(pa.string())
    offsets = np.arange(rows + 1, dtype=np.int32)
    columns = {
        "l": pa.ListArray.from_arrays(offsets, texts),
        "m": pa.MapArray.from_arrays(offsets, texts, pa.array(numbers)),
        "s": pa.StructArray.from_arrays([pa.array(numbers), texts], ["x", "y"]),
        "ls": pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays([texts], ["z"])),
    }
    data = parquet(columns, row_group_size=122_880, data_page_size=100_000_000, compression="snappy")
    started = time.process_time(), os.times().children_user
    reading = read_upload(data)
    assert time.process_time() - started[0] + os.times().children_user - started[1] < 15
    assert len(reading.items) == rows
    assert reading.items[rows] == {
        "l": '["129999"]',
        "m": '{"129999":129999}',
        "s": '{"x":129999,"y":"129999"}',
        "ls": '[{"z":"129999"}]',
    }


@pytest.mark.parametrize(
    ("column", "texts", "options"),
    [
        pytest.param(
            pa.array([dt.datetime(2024, 1, 31, 7, 5, 9)]),
            ["2024-01-31T07:05:09Z"],
            {"use_deprecated_int96_timestamps": True},
            id="Spark's INT96 times",
        ),
        pytest.param(pa.array([Decimal("1.50")], pa.decimal128(5, 2)), ["1.50"], {"store_decimal_as_integer": True}),
        pytest.param(pa.array(["x"] * 3).dictionary_encode(), ["x"] * 3, {"store_schema": False}, id="no Arrow schema"),
        pytest.param(pa.array([["a"], []]), ['["a"]', "[]"], {"use_compliant_nested_type": False}, id="old lists"),
        pytest.param(pa.array(["a", "b"]), ["a", "b"], {"bloom_filter_options": {"x": {"ndv": 10}}}, id="Bloom filter"),
        pytest.param(pa.array([], pa.string()), [], {}, id="no rows"),
    ],
)
def test_what_other_programs_write_is_read(read_upload, column, texts, options):
    reading = read_upload(parquet({"x": column}, **options))
    assert [item["x"] for item in reading.items.values()] == texts
    assert reading.columns == ("x",)


def test_empty_row_groups_and_files_without_any_are_read(read_upload):
    schema = pa.schema([("x", pa.string()), ("l", pa.list_(pa.int64()))])
    file = io.BytesIO()
    with pq.ParquetWriter(file, schema) as writer:
        for values in ([], ["a"], [], ["b"], []):
            table = pa.table({"x": values, "l": [[1]] * len(values)}, schema=schema)
            writer.write_table(table)
    assert [item["x"] for item in read_upload(file.getvalue()).items.values()] == ["a", "b"]
    file = io.BytesIO()
    pq.ParquetWriter(file, schema).close()
    assert read_upload(file.getvalue()).items == {}


def _with_footer_size(data: bytes, size: int) -> bytes:
    return data[:-8] + struct.pack("<I", size) + data[-4:]


def _without_bytes(data: bytes, start: int, count: int) -> bytes:
    return data[:start] + data[start + count :]


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "cut off in the pages": lambda data: data[:500],
    "cut off in the footer": lambda data: data[:-20],
    "no end": lambda data: data[:-4] + b"XXXX",
    "a footer of no size": lambda data: _with_footer_size(data, 0),
    "a footer larger than the file": lambda data: _with_footer_size(data, 1 << 30),
    "a footer of something else": lambda data: data[:-100] + bytes(92) + data[-8:],
    "pages that are missing": lambda data: data[:4] + data[2000:],
    "pages of zeros": lambda data: data[:4] + bytes(2000) + data[2004:],
    "a page header that is damaged": lambda data: data[:4] + b"\xff" * 12 + data[16:],
    "a byte too few": lambda data: _without_bytes(data, 60, 1),
    "only the signature": lambda data: b"PAR1" + bytes(8) + b"PAR1",
}


@pytest.mark.parametrize("damage", BROKEN)
def test_a_broken_file_is_refused(refusal_of, damage):
    version = "1.0" if len(damage) % 2 else "2.0"
    data = parquet({"t": TEXTS, "n": NUMBERS, "l": LISTS}, data_page_version=version, write_page_checksum=True)
    assert refusal_of(BROKEN[damage](data)).code == "unreadable_file"


def test_text_that_is_not_utf_8_is_refused_by_its_column(refusal_of):
    column = pa.StringArray.from_buffers(1, pa.py_buffer(struct.pack("<ii", 0, 1)), pa.py_buffer(b"\xff"))
    refusal = refusal_of(parquet({"x": column}, write_statistics=False))
    assert (refusal.code, "column x" in refusal.message) == ("unreadable_file", True)
