"""The upload as CSV and as JSON: every row of it, as uploaded, whatever it was read from."""

import csv
import io
import json

import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_pipeline.payloads import texts
from batch_pipeline.payloads.artifacts import flattened_columns, write_csv_copy, write_json_copy

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(["=x", "'a", '"', "a,b\r\nc"])

VALUES = TEXTS | st.integers() | st.none() | st.booleans()


def csv_copy(reading, columns=None):
    file = io.BytesIO()
    columns = list(reading.columns) if columns is None else columns
    write_csv_copy(file, reading.chunks, columns, has_unreadable=bool(reading.raws))
    return file.getvalue()


def json_copy(reading):
    file = io.BytesIO()
    write_json_copy(file, reading.chunks)
    return file.getvalue()


@given(
    rows=st.lists(st.lists(TEXTS, min_size=2, max_size=2), max_size=8),
    chunk_rows=st.integers(1, 4),
    piece_bytes=st.sampled_from([30, 1 << 20]),
)
@settings(max_examples=examples(30, thorough=300))
def test_a_copy_of_a_flat_file_reads_back_as_its_original(read_upload, *, rows, chunk_rows, piece_bytes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(texts, "PIECE_BYTES", piece_bytes)
        text = io.StringIO()
        csv.writer(text, quoting=csv.QUOTE_ALL).writerows([["'=a", "b"], *rows])
        original = read_upload(text.getvalue(), "x.csv", chunk_rows=chunk_rows)
        as_csv, as_json = csv_copy(original), json_copy(original)
        assert read_upload(as_csv, "x.csv").items == original.items
        assert list(csv.reader(io.StringIO(as_csv.decode(), newline=""))) == [["'=a", "b"], *rows]
        assert json.loads(as_json) == [dict(zip(["'=a", "b"], row, strict=True)) for row in rows]


@given(
    items=st.lists(
        st.dictionaries(st.sampled_from("abc"), TEXTS | st.integers() | st.none() | st.booleans(), max_size=3),
        max_size=6,
    ),
    broken=st.sets(st.integers(0, 6)),
    chunk_rows=st.integers(1, 4),
)
@settings(max_examples=examples(30, thorough=300))
def test_unreadable_rows_stand_in_their_places(read_upload, *, items, broken, chunk_rows):
    lines = [json.dumps(item) for item in items]
    for place in sorted(broken, reverse=True):
        lines.insert(min(place, len(items)), "oops")
    original = read_upload("\n".join(lines) + '\n{"z":"end"}', "x.ndjson", chunk_rows=chunk_rows)
    copied = json.loads(json_copy(original))
    assert copied == [{"_raw": "oops"} if line == "oops" else json.loads(line) for line in lines] + [{"z": "end"}]
    columns = flattened_columns(sorted({name for item in items for name in item} | {"z"}), original.chunks)
    header, *rows = csv.reader(io.StringIO(csv_copy(original, columns).decode(), newline=""))
    assert header == [*columns, *(["_raw"] if broken else [])]
    assert len(rows) == len(copied)
    for row, item in zip(rows, copied, strict=True):
        shown = {name: cell for name, cell in zip(header, row, strict=True) if cell}
        given_values = {name: value if isinstance(value, str) else json.dumps(value) for name, value in item.items()}
        assert shown == {name: text for name, text in given_values.items() if text and item[name] is not None}


def test_nested_items_are_flattened_and_numbers_stay_as_written(read_upload):
    item = '{"a":1.50,"m":{"k":"v","n":[1,"x"]},"t":"=1+1"}'
    original = read_upload(f"[{item}]")
    columns = flattened_columns(["a", "m", "t"], original.chunks)
    assert csv_copy(original, columns) == b'"a","m.k","m.n","t"\r\n"1.50","v","[1,""x""]","=1+1"\r\n'
    assert json_copy(original) == f"[\n{item}\n]\n".encode()


def test_no_rows_make_empty_files(read_upload):
    original = read_upload("a,b\n", "x.csv")
    assert csv_copy(original) == b'"a","b"\r\n'
    assert json.loads(json_copy(original)) == []
