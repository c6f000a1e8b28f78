"""errors.csv and errors.json: exact bytes of small cases, order, and what is refused."""

import csv
import io
import json

import pyarrow as pa
import pytest
from rejected_samples import Verbatim, csv_chunk, error_table, json_chunk, one_error_each, read_csv, write_errors

from batch_pipeline.payloads.artifacts import ErrorsWriter, RejectedChunk
from batch_pipeline.payloads.model import RawChunk
from batch_pipeline.payloads.texts import PIECE_BYTES


def test_a_csv_item_is_written_as_uploaded_with_all_its_errors() -> None:
    items = csv_chunk(["name", "phone"], {3: (' "Ann", B\n', "+1 415"), 7: ("", "-5")}, {})
    errors = error_table(
        [
            (3, "too_long", "name", 'name "x" is long', "x"),
            (3, "invalid_format", "phone", "=phone", "+1 415"),
            (7, "required", None, "is missing", None),
        ]
    )
    csv_bytes, json_bytes = write_errors([RejectedChunk(items, errors)], ["name", "phone"])
    assert csv_bytes == (
        b'"name","phone",_row,_errors,_codes\r\n'
        b'" ""Ann"", B\n","\'+1 415",3,"name ""x"" is long; =phone","too_long; invalid_format"\r\n'
        b'"","\'-5",7,"is missing","required"\r\n'
    )
    assert json_bytes == (
        b"[\n"
        b'{"row":3,"item":{"name":" \\"Ann\\", B\\n","phone":"+1 415"},"errors":['
        b'{"code":"too_long","field":"name","message":"name \\"x\\" is long","value":"x"},'
        b'{"code":"invalid_format","field":"phone","message":"=phone","value":"+1 415"}]},\n'
        b'{"row":7,"item":{"name":"","phone":"-5"},"errors":['
        b'{"code":"required","field":null,"message":"is missing","value":null}]}\n'
        b"]\n"
    )


def test_a_json_item_keeps_its_kinds_its_digits_and_only_the_fields_it_carries() -> None:
    items = json_chunk(
        {
            1: {"name": "A", "weight": Verbatim("1.10"), "paid": True, "notes": None},
            2: {"tags": Verbatim('["a",{"b":2E5}]'), "weight": "12345678901234567890.0"},
            3: {"metadata": Verbatim('{"x":-0.0}'), "weight": Verbatim("-123456789012345678901234567890")},
        }
    )
    columns = ["name", "weight", "paid", "notes", "tags", "metadata.x"]
    csv_bytes, json_bytes = write_errors([one_error_each(items)], columns)
    lines = json_bytes.splitlines()[1:-1]
    assert [line.split(b',"errors":')[0] for line in lines] == [
        b'{"row":1,"item":{"name":"A","weight":1.10,"paid":true,"notes":null}',
        b'{"row":2,"item":{"weight":"12345678901234567890.0","tags":["a",{"b":2E5}]}',
        b'{"row":3,"item":{"weight":-123456789012345678901234567890,"metadata":{"x":-0.0}}',
    ]
    assert csv_bytes.splitlines()[1:] == [
        b'"A","1.10","true","","","",1,"is missing","required"',
        b'"","12345678901234567890.0","","","[""a"",{""b"":2E5}]","",2,"is missing","required"',
        b'"","\'-123456789012345678901234567890","","","","\'-0.0",3,"is missing","required"',
    ]


@pytest.mark.parametrize("start", list("=+-@\t\r'"))
def test_a_cell_that_a_spreadsheet_might_run_has_one_apostrophe_before_it(start: str) -> None:
    text = f"{start}x"
    items = csv_chunk([text, "b"], {1: (text, f" {text}")}, {2: text})
    errors = error_table([(1, start, None, text, text), (2, "unreadable_row", None, text, None)])
    csv_bytes, json_bytes = write_errors([RejectedChunk(items, errors)], [text, "b"], has_unreadable=True)
    header, *rows = csv.reader(io.StringIO(csv_bytes.decode(), newline=""))
    assert header == [f"'{text}", "b", "_row", "_errors", "_codes", "_raw"]
    assert rows == [
        [f"'{text}", f" {text}", "1", f"'{text}", f"'{start}", ""],
        ["", "", "2", f"'{text}", "unreadable_row", f"'{text}"],
    ]
    assert json.loads(json_bytes)[0]["item"] == {text: text, "b": f" {text}"}


@pytest.mark.parametrize("text", ["a=b", " =x", "x'", "1-2", "ä+", "\n=x", "", "\uff1dx"])
def test_any_other_cell_is_left_alone(text: str) -> None:
    csv_bytes, _ = write_errors([one_error_each(csv_chunk(["a"], {1: (text,)}, {}))], ["a"])
    _, row = csv.reader(io.StringIO(csv_bytes.decode(), newline=""))
    assert row[0] == text


def test_unreadable_rows_stand_among_the_others_in_row_order() -> None:
    chunks = [
        one_error_each(csv_chunk(["a"], {2: ("two",), 4: ("four",)}, {1: "1,,", 3: 'x"', 5: "5,,\t"})),
        one_error_each(csv_chunk(["a"], {}, {8: "only\r\nbad"})),
        one_error_each(csv_chunk(["a"], {9: ("nine",)}, {})),
    ]
    csv_bytes, json_bytes = write_errors(chunks, ["a"], has_unreadable=True)
    entries = json.loads(json_bytes)
    assert [(entry["row"], entry["item"]) for entry in entries] == [
        (1, {"_raw": "1,,"}),
        (2, {"a": "two"}),
        (3, {"_raw": 'x"'}),
        (4, {"a": "four"}),
        (5, {"_raw": "5,,\t"}),
        (8, {"_raw": "only\r\nbad"}),
        (9, {"a": "nine"}),
    ]
    header, rows = read_csv(csv_bytes)
    assert header == ["a", "_row", "_errors", "_codes", "_raw"]
    assert [(row[0], row[1], row[4]) for row in rows] == [
        ("", "1", "1,,"),
        ("two", "2", ""),
        ("", "3", 'x"'),
        ("four", "4", ""),
        ("", "5", "5,,\t"),
        ("", "8", "only\r\nbad"),
        ("nine", "9", ""),
    ]


def test_without_chunks_the_files_are_a_header_and_an_empty_array() -> None:
    assert write_errors([], ["a"], has_unreadable=True) == (b'"a",_row,_errors,_codes,_raw\r\n', b"[]\n")


def test_a_chunk_without_rows_adds_nothing() -> None:
    assert write_errors([one_error_each(csv_chunk(["a"], {}, {}))], ["a"]) == write_errors([], ["a"])


def test_items_without_any_field_are_written() -> None:
    items = RawChunk(pa.array([1, 2], pa.int64()), {}, {}, json_chunk({}).unreadable)
    csv_bytes, json_bytes = write_errors([one_error_each(items)], [])
    assert csv_bytes.splitlines() == [
        b"_row,_errors,_codes",
        b'1,"is missing","required"',
        b'2,"is missing","required"',
    ]
    assert [entry["item"] for entry in json.loads(json_bytes)] == [{}, {}]


def test_an_item_that_carries_no_field_keeps_its_place_among_others() -> None:
    items = json_chunk({1: {}, 2: {"a": "x"}, 3: {}, 4: {"b": None}})
    _, json_bytes = write_errors([one_error_each(items)], ["a", "b"])
    assert [entry["item"] for entry in json.loads(json_bytes)] == [{}, {"a": "x"}, {}, {"b": None}]


def test_columns_that_no_item_of_a_chunk_carries_are_empty() -> None:
    csv_bytes, _ = write_errors([one_error_each(json_chunk({1: {"b": "x"}}))], ["a", "b", "c"])
    assert read_csv(csv_bytes)[1] == [["", "x", "", "1", "is missing", "required"]]


def test_a_json_field_named_like_a_column_of_the_errors_file_is_only_in_errors_json() -> None:
    items = json_chunk({1: {"_row": "9", "a": "x", " _errors": Verbatim("[1]")}})
    csv_bytes, json_bytes = write_errors([one_error_each(items)], ["_row", "a", " _errors"])
    assert read_csv(csv_bytes) == (["a", "_row", "_errors", "_codes"], [["x", "1", "is missing", "required"]])
    assert json.loads(json_bytes)[0]["item"] == {"_row": "9", "a": "x", " _errors": [1]}


def test_parts_of_arrow_arrays_are_written_without_their_neighbours() -> None:
    whole = csv_chunk(["a"], {row: (f'={row}"\x01',) for row in range(1, 6)}, {})
    part = RawChunk(whole.rows[1:3], {"a": whole.columns["a"][1:3]}, {}, whole.unreadable)
    csv_bytes, json_bytes = write_errors([one_error_each(part)], ["a"])
    assert [row[0] for row in read_csv(csv_bytes)[1]] == ['=2"\x01', '=3"\x01']
    assert [entry["item"]["a"] for entry in json.loads(json_bytes)] == ['=2"\x01', '=3"\x01']


def test_a_chunk_with_much_text_gives_the_same_files_as_many_small_ones() -> None:
    cell = '"\n\x02' + "x" * (PIECE_BYTES // 25)
    items = {row: (f"{row}{cell}", "=x") for row in range(1, 80, 2)}
    raws = {row: f"{row},\x02" for row in range(2, 60, 4)}
    parts = [
        csv_chunk(
            ["a", "b"],
            {row: item for row, item in items.items() if row // 10 == part},
            {row: raw for row, raw in raws.items() if row // 10 == part},
        )
        for part in range(8)
    ]
    at_once = write_errors([one_error_each(csv_chunk(["a", "b"], items, raws))], ["a", "b"], has_unreadable=True)
    assert sum(len(text) for text, _ in items.values()) > PIECE_BYTES
    assert at_once == write_errors(map(one_error_each, parts), ["a", "b"], has_unreadable=True)


def test_rows_out_of_order_are_an_error_also_among_much_text() -> None:
    items = {row: (f"{row}" + "x" * (PIECE_BYTES // 4),) for row in (1, 3, 5, 4, 7, 9)}
    with pytest.raises(ValueError, match="must be ascending"):
        write_errors([one_error_each(csv_chunk(["a"], items, {}))], ["a"])


class _Discarded(io.BytesIO):
    def write(self, data: object) -> int:
        return len(data)  # type: ignore[arg-type] # pyarrow passes buffers


def test_memory_does_not_grow_with_the_number_of_chunks() -> None:
    with ErrorsWriter(_Discarded(), _Discarded(), columns=["a"], has_unreadable=False) as writer:
        used = []
        for part in range(20):
            rows = range(part * 1000 + 1, part * 1000 + 1001)
            writer.write(one_error_each(csv_chunk(["a"], dict.fromkeys(rows, ("x" * 1000,)), {})))
            used.append(pa.total_allocated_bytes())
    assert used[-1] <= used[0] + 1000


def test_leaving_by_an_exception_leaves_the_json_unfinished() -> None:
    json_file = io.BytesIO()
    writer = ErrorsWriter(io.BytesIO(), json_file, columns=["a"], has_unreadable=False)

    def interrupted() -> None:
        with writer:
            writer.write(one_error_each(csv_chunk(["a"], {1: ("x",)}, {})))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(json.JSONDecodeError):
        json.loads(json_file.getvalue())


ONE = {1: ("x",)}
A = error_table([(1, "required", "a", "is missing", None)])


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        ([RejectedChunk(csv_chunk(["a"], ONE, {2: "bad"}), A)], "without a column for them"),
        ([RejectedChunk(csv_chunk(["a"], ONE, {}), error_table([]))], "differ, for instance at row 1"),
        ([RejectedChunk(csv_chunk(["a"], {}, {}), A)], "differ, for instance at row 1"),
        ([one_error_each(csv_chunk(["a"], {2: ("x",), 1: ("y",)}, {}))], "must be ascending"),
        ([RejectedChunk(csv_chunk(["a"], ONE, {}), A)] * 2, "row 1 comes after row 1"),
        ([one_error_each(csv_chunk(["b"], ONE, {}))], "none of the errors file's columns"),
    ],
    ids=["unreadable", "no errors", "no item", "descending", "twice", "unknown column"],
)
def test_input_that_would_make_a_wrong_file_is_an_error(chunks: list[RejectedChunk], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_errors(chunks, ["a"])
