"""Parquet: what each type of value is read as, what is refused by name, and that no value is lost to a limit."""

import datetime as dt
import io
import uuid
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_pipeline.errors import RefusedError
from batch_pipeline.payloads.parquet_decoder import BATCH_BYTES

MIDNIGHT = dt.datetime(2024, 1, 31, tzinfo=dt.UTC)


def parquet(table: pa.Table | dict[str, Any], **options: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), file, **options)
    return file.getvalue()


ROWS = 84  # a multiple of the number of values of each case

TYPES = [
    pytest.param([" a ", "", None], pa.string(), [" a ", "", ""], id="text"),
    pytest.param(["é😀", "\0\r\n", "'=x"], pa.large_string(), ["é😀", "\0\r\n", "'=x"], id="large text"),
    pytest.param(["u", None, "u"], pa.dictionary(pa.int8(), pa.string()), ["u", "", "u"], id="dictionary"),
    pytest.param([2**63 - 1, -1, None], pa.int64(), ["9223372036854775807", "-1", ""], id="integer"),
    pytest.param([2**64 - 1, 0], pa.uint64(), ["18446744073709551615", "0"], id="unsigned integer"),
    pytest.param([4155552671.0, 0.1, 1e15, 1e-7], pa.float64(), ["4155552671", "0.1", "1" + "0" * 15, "0.0000001"]),
    pytest.param([float("nan"), None, 1e300], pa.float64(), ["", "", "1e+300"], id="no number"),
    pytest.param([0.1, 16777216.0], pa.float32(), ["0.1", "16777216"], id="32-bit float"),
    pytest.param([Decimal("1.50"), Decimal("0.00"), None], pa.decimal128(38, 2), ["1.50", "0.00", ""]),
    pytest.param([Decimal("0"), Decimal("1e-10")], pa.decimal128(38, 10), ["0.0000000000", "0.0000000001"]),
    pytest.param([Decimal("9" * 60)], pa.decimal256(70, 0), ["9" * 60], id="long decimal"),
    pytest.param([True, False, None], pa.bool_(), ["true", "false", ""], id="boolean"),
    pytest.param([dt.date(2024, 1, 31), None], pa.date32(), ["2024-01-31T00:00:00Z", ""], id="date"),
    pytest.param([dt.datetime(2024, 1, 31, 7, 5, 9)], pa.timestamp("us"), ["2024-01-31T07:05:09Z"], id="naive time"),
    pytest.param([MIDNIGHT], pa.timestamp("ms", "Europe/Berlin"), ["2024-01-31T00:00:00Z"], id="time in a zone"),
    pytest.param([MIDNIGHT.replace(microsecond=120_000)], pa.timestamp("ns", "UTC"), ["2024-01-31T00:00:00.12Z"]),
    pytest.param([dt.time(7, 5), dt.time(1, 2, 3, 400)], pa.time64("us"), ["07:05:00", "01:02:03.0004"]),
    pytest.param([["a", 'q"\n', None], None, []], pa.list_(pa.string()), ['["a","q\\"\\n",null]', "", "[]"]),
    pytest.param([[1, 2], [3, 4]], pa.list_(pa.float64(), 2), ["[1,2]", "[3,4]"], id="fixed-size list"),
    pytest.param(
        [{"a": "x", "b": 1}, {"a": None, "b": 2}, None],
        pa.struct([("a", pa.string()), ("b", pa.int64())]),
        ['{"a":"x","b":1}', '{"b":2}', ""],
        id="struct, null members left out",
    ),
    pytest.param(
        [[{"w": 1.5, "t": None}], None, [None, {"w": None, "t": "é"}]],
        pa.list_(pa.struct([("w", pa.float64()), ("t", pa.string())])),
        ['[{"w":1.5}]', "", '[null,{"t":"é"}]'],
        id="list of structs",
    ),
    pytest.param(
        [[("k", "v"), ('"', None)], None], pa.map_(pa.string(), pa.string()), ['{"k":"v","\\"":null}', ""], id="map"
    ),
    pytest.param([None, None], pa.null(), ["", ""], id="nothing"),
    pytest.param([uuid.UUID(int=2**127 + 5).bytes, None], pa.uuid(), ["80000000-0000-0000-0000-000000000005", ""]),
    pytest.param(['{"a": 1}', None], pa.json_(), ['{"a": 1}', ""], id="JSON"),
]


@pytest.fixture(scope="module")
def typed_reading(read_upload):
    """One file with a column for each of `TYPES`, whose values are repeated."""
    columns = [case.values[:2] for case in TYPES]
    arrays = [pa.chunked_array([pa.array(values, kind)] * (ROWS // len(values))) for values, kind in columns]
    table = pa.table({f"x{number}": array for number, array in enumerate(arrays)})
    return read_upload(parquet(table, row_group_size=5), "x.csv", chunk_rows=2)


@pytest.mark.parametrize("number", range(len(TYPES)), ids=[case.id or str(case.values[1]) for case in TYPES])
def test_each_type_is_read_as_the_text_of_its_values(typed_reading, number):
    values, _, texts = TYPES[number].values
    assert [item[f"x{number}"] for item in typed_reading.items.values()] == texts * (ROWS // len(values))


def test_all_cells_of_all_rows_are_texts(typed_reading):
    assert typed_reading.format == "parquet"
    assert typed_reading.columns == tuple(f"x{number}" for number in range(len(TYPES)))
    assert list(typed_reading.items) == list(range(1, ROWS + 1))
    assert all(kinds == {} for kinds in typed_reading.kinds.values())


@given(
    table=st.integers(1, 4).flatmap(
        lambda width: st.lists(
            st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), min_size=width, max_size=width),
            max_size=12,
        )
    ),
    chunk_rows=st.integers(1, 5),
    options=st.fixed_dictionaries(
        {
            "row_group_size": st.integers(1, 5),
            "compression": st.sampled_from(["none", "snappy", "gzip", "zstd", "brotli", "lz4"]),
            "use_dictionary": st.booleans(),
            "data_page_version": st.sampled_from(["1.0", "2.0"]),
            "write_page_checksum": st.booleans(),
        }
    ),
)
@settings(max_examples=examples(4, thorough=50))
def test_any_table_of_text_reads_back_the_same(read_upload, *, table, chunk_rows, options):
    width = len(table[0]) if table else 2
    columns = {f"c{place}": pa.array([row[place] for row in table], pa.string()) for place in range(width)}
    reading = read_upload(parquet(columns, **options), chunk_rows=chunk_rows)
    assert reading.columns == tuple(columns)
    assert [list(item.values()) for item in reading.items.values()] == table
    assert reading.raws == {}


@pytest.mark.parametrize(
    ("column", "named"),
    [
        (pa.array([b"\xff"], pa.binary()), "x (binary)"),
        (pa.array([b"abcd"], pa.binary(4)), "x (fixed_size_binary"),
        (pa.array([[b"\xff"]], pa.list_(pa.binary())), "x (binary)"),
        (pa.array([{"y": {"z": b""}}], pa.struct([("y", pa.struct([("z", pa.binary())]))])), "x.y.z (binary)"),
        (pa.array([5], pa.duration("s")), "x (duration"),
    ],
)
def test_columns_of_what_has_no_text_are_refused_by_name(refusal_of, column, named):
    refusal = refusal_of(parquet({"a": ["1"], "x": column}))
    assert refusal.code == "unreadable_file"
    assert named in refusal.message


def test_an_errors_file_saved_as_parquet_is_one(read_upload):
    reading = read_upload(parquet({"'=x": ["'+1", "''a"], "_row": [1, 2], "_errors": ["bad", ""]}))
    assert reading.is_errors_file
    assert reading.columns == ("=x",)
    assert reading.items == {1: {"=x": "+1"}, 2: {"=x": "'a"}}


@pytest.mark.parametrize(
    ("names", "code"),
    [(["a", "b", "a"], "duplicate_headers"), (["a", " "], "unreadable_file"), (list("abcd"), "too_large")],
)
def test_headers_obey_the_rules_of_every_flat_file(refusal_of, names, code):
    table = pa.Table.from_arrays([pa.array(["1"])] * len(names), names)
    assert refusal_of(parquet(table), max_columns=3).code == code


def test_limits_reject_a_row_alone_or_refuse_the_file(read_upload, refusal_of):
    data = parquet({"a": ["1", "é" * 3, "2", "12345", "3"], "b": ["", "", "", "12345", "x"]})
    reading = read_upload(data, max_cell_bytes=5, max_item_bytes=9, chunk_rows=2)
    assert {row: item["a"] for row, item in reading.items.items()} == {1: "1", 3: "2", 5: "3"}
    assert reading.raws == {2: "ééé,", 4: "12345,123"}
    assert "BATCH_MAX_CELL_BYTES" in reading.messages[2]
    assert "BATCH_MAX_ITEM_BYTES" in reading.messages[4]
    refusal = refusal_of(data, max_items=4)
    assert (refusal.code, "BATCH_MAX_ITEMS" in refusal.message) == ("too_large", True)
    nested = pa.array([[[["x"]]]], pa.list_(pa.list_(pa.list_(pa.string()))))
    assert "BATCH_MAX_JSON_DEPTH" in refusal_of(parquet({"a": nested}), max_json_depth=3).message


@pytest.mark.parametrize("in_lists", [False, True])
def test_a_text_repeated_in_every_row_is_read_a_few_rows_at_a_time(read_upload, in_lists):
    encoded = pa.DictionaryArray.from_arrays(pa.array(np.zeros(60, np.int32)), ["x" * (1 << 20)])
    lists = pa.ListArray.from_arrays(pa.array(np.arange(61, dtype=np.int32)), encoded)
    data = parquet({"a": lists if in_lists else encoded, "b": encoded})
    assert len(data) < 1 << 20
    reading = read_upload(data, max_cell_bytes=4 << 20, max_decompression_ratio=10**6)
    assert sorted(reading.items) == list(range(1, 61))
    assert max(chunk.decoded_bytes for chunk in reading.chunks) < 4 * BATCH_BYTES


def test_any_damage_is_refused_or_leaves_a_readable_file(read_upload, refusal_of):
    data = parquet({"a": ["x" * 50, "y", None] * 10, "b": range(30)}, write_page_checksum=True)
    codes: list[str] = []
    places = range(4, len(data), len(data) // 10)
    for place in places:
        try:
            reading = read_upload(data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :])
        except RefusedError as refusal:
            codes.append(refusal.code)
        else:
            assert len(reading.items) == 30
    assert set(codes) <= {"unreadable_file", "too_large", "duplicate_headers"}
    assert codes.count("unreadable_file") > len(places) / 2
    refusal = refusal_of(data[: len(data) // 2])
    assert refusal.code == "unreadable_file"
    assert "Parquet" in refusal.message
