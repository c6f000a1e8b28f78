"""JSON arrays and NDJSON: each rule of reading, as cases."""

import time

import pytest

from batch_pipeline.payloads.model import CellKind

BLOCK_SIZES = pytest.mark.parametrize("block_bytes", [1, 2, 3, 7, 1 << 20])

BLANKS = " \n\t\r" * 50

# As JSON text of one item: its cells, and the kinds of those that are not JSON strings.
ITEMS = [
    pytest.param("{}", {}, {}, id="no fields"),
    pytest.param('{"a": "x"}', {"a": "x"}, {}, id="string"),
    pytest.param('{"a": ""}', {"a": ""}, {}, id="empty string"),
    pytest.param('{"a": null}', {"a": ""}, {"a": CellKind.NULL}, id="null"),
    pytest.param('{"a": true, "b": false}', {"a": "true", "b": "false"}, dict.fromkeys("ab", CellKind.BOOLEAN)),
    pytest.param('{"a": 1.50}', {"a": "1.50"}, {"a": CellKind.NUMBER}, id="digits stay"),
    pytest.param('{"a": -0}', {"a": "-0"}, {"a": CellKind.NUMBER}, id="minus zero"),
    pytest.param('{"a": 1E+400}', {"a": "1E+400"}, {"a": CellKind.NUMBER}, id="no float could hold it"),
    pytest.param(
        '{"a": 12345678901234567890.12345678901234567890}',
        {"a": "12345678901234567890.12345678901234567890"},
        {"a": CellKind.NUMBER},
        id="many digits",
    ),
    pytest.param('{"a": ' + "9" * 5000 + "}", {"a": "9" * 5000}, {"a": CellKind.NUMBER}, id="5,000 digits"),
    pytest.param('{"a": [ ]}', {"a": "[]"}, {"a": CellKind.ARRAY}, id="empty array"),
    pytest.param(
        '{"a": [1.0, "x\\ny", null, {"b" : true, "é": "\\u00e9"}]}',
        {"a": '[1.0,"x\\ny",null,{"b":true,"é":"é"}]'},
        {"a": CellKind.ARRAY},
        id="array",
    ),
    pytest.param('{"a": {"b": {"c": 1e5}}}', {"a": '{"b":{"c":1e5}}'}, {"a": CellKind.OBJECT}, id="object"),
    pytest.param('{"": "x"}', {"": "x"}, {}, id="empty name"),
    pytest.param('{"a": " \\u0000\\"\\\\\\/\\b\\f\\n\\r\\t "}', {"a": ' \0"\\/\b\f\n\r\t '}, {}, id="escapes"),
    pytest.param('{"a": "\\ud83d\\ude00 \\uD83D\\uDE00"}', {"a": "😀 😀"}, {}, id="surrogate pairs"),
    pytest.param('{"a": "\\\\ud800"}', {"a": "\\ud800"}, {}, id="an escaped backslash, then ud800"),
    pytest.param('{"a": "[{,}]"}', {"a": "[{,}]"}, {}, id="brackets in a string"),
]


@BLOCK_SIZES
@pytest.mark.parametrize("layout", ["[{item},{item}]", "\n[ {item}\r\n,\t{item} ]\n", "{item}\n\n \r\n{item}\r\n"])
@pytest.mark.parametrize(("item", "cells", "kinds"), ITEMS)
def test_items_are_read_as_written(read_upload, *, layout, item, cells, kinds, block_bytes):
    reading = read_upload(layout.replace("{item}", item), "x", block_bytes=block_bytes)
    assert reading.items == {1: cells, 2: cells}
    assert {name: kind for name, kind in reading.kinds[2].items() if kind != CellKind.TEXT} == kinds
    assert reading.raws == {}
    assert reading.columns == ()


@pytest.mark.parametrize("layout", ["[%s]", "%s\n"])
def test_a_field_that_an_item_does_not_carry_is_null(read_upload, layout):
    separator = "," if layout.startswith("[") else "\n"
    items = ['{"a":"1"}', '{"b":"2"}', '{"a":3,"b":null}']
    (chunk,) = read_upload(layout % separator.join(items)).chunks
    assert {name: column.to_pylist() for name, column in chunk.columns.items()} == {
        "a": ["1", None, "3"],
        "b": [None, "2", ""],
    }
    assert {name: column.to_pylist() for name, column in chunk.kinds.items()} == {
        "a": [CellKind.TEXT, None, CellKind.NUMBER],
        "b": [None, CellKind.TEXT, CellKind.NULL],
    }


@BLOCK_SIZES
@pytest.mark.parametrize("layout", ["[%s]", "%s\n"])
@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ('{"a":1,"b":2,"a":1}', '"a"'),
        ('{"x":{"y":[{"k":1,"k":2}]}}', '"k"'),
        ('{"a":"\\ud800"}', "surrogate"),
        ('{"a":"\\uDC00x"}', "surrogate"),
        ('{"a":["\\ud83d \\ude00"]}', "surrogate"),
        ('{"\\ud800":1}', "surrogate"),
        ('{"a":"' + "x" * 21 + '"}', "BATCH_MAX_CELL_BYTES"),
        ('{"a":"' + "é" * 11 + '"}', "BATCH_MAX_CELL_BYTES"),
        ('{"a":[' + "10," * 7 + "1]}", "BATCH_MAX_CELL_BYTES"),
        ('{"a":' + "1" * 21 + "}", "BATCH_MAX_CELL_BYTES"),
        ("7", "not an object"),
        ("-1.5e3", "not an object"),
        ('"x"', "not an object"),
        ("null", "not an object"),
        ("true", "not an object"),
        ("[]", "not an object"),
    ],
)
def test_a_bad_item_is_rejected_alone(read_upload, layout, bad, named, block_bytes):
    separator = "," if layout.startswith("[") else "\n"
    data = layout % separator.join(['{"a":"1"}', bad, '{"a":"3"}'])
    reading = read_upload(data, "x", block_bytes=block_bytes, max_cell_bytes=20)
    assert reading.items == {1: {"a": "1"}, 3: {"a": "3"}}
    assert reading.raws == {2: bad}
    assert named in reading.messages[2]


@BLOCK_SIZES
@pytest.mark.parametrize(
    ("over", "setting"),
    [
        ('{"a":[[[1]]]}', "BATCH_MAX_JSON_DEPTH"),
        ('{"a":{"b":{"c":{}}}}', "BATCH_MAX_JSON_DEPTH"),
        ("[" * 45 + "]" * 45, "BATCH_MAX_JSON_DEPTH"),
        ("[" * 3000 + "]" * 3000, "BATCH_MAX_"),
        ("{" + ",".join(f'"{n}":1' for n in range(20)) + "}", "BATCH_MAX_ITEM_BYTES"),
        ('{"a":"' + "é" * 50 + '"}', "BATCH_MAX_ITEM_BYTES"),
        ('{"a":"' + "x" * 5000 + '"}', "BATCH_MAX_ITEM_BYTES"),
        ('{"a":"' + "\\n" * 5000 + '"}', "BATCH_MAX_ITEM_BYTES"),
        ('{"a":"1","a":"' + "x" * 5000 + '"}', "BATCH_MAX_ITEM_BYTES"),
        ("1" * 101, "BATCH_MAX_ITEM_BYTES"),
    ],
)
def test_an_item_over_a_limit_refuses_an_array_with_line_and_column(refusal_of, over, setting, block_bytes):
    for rest in (f',\n{{"a":"3"}}]{BLANKS}', f"{BLANKS},{{}}]", f"{BLANKS}]"):
        data = f'[{{"a":"1"}},\n {over}{rest}'
        refusal = refusal_of(data, "x", block_bytes=block_bytes, max_json_depth=3, max_item_bytes=100)
        assert refusal.code == "too_large"
        assert setting in refusal.message
        assert "line 2, column 2:" in refusal.message


@BLOCK_SIZES
@pytest.mark.parametrize(
    ("over", "setting"),
    [
        ('{"a":[[[1]]]}', "BATCH_MAX_JSON_DEPTH"),
        ("[" * 3000 + "]" * 3000, "BATCH_MAX_"),
        ("{" + ",".join(f'"{n}":1' for n in range(20)) + "}", "BATCH_MAX_ITEM_BYTES"),
        ('{"a":"' + "é" * 50 + '"}', "BATCH_MAX_ITEM_BYTES"),
        ('{"a":"' + "x" * 5000 + '"}', "BATCH_MAX_ITEM_BYTES"),
    ],
)
def test_a_line_over_a_limit_is_rejected_alone(read_upload, over, setting, block_bytes):
    data = f'{{"a":"1"}}\n{over}\n{{"a":"3"}}'
    reading = read_upload(data, "x", block_bytes=block_bytes, max_json_depth=3, max_item_bytes=100)
    assert reading.items == {1: {"a": "1"}, 3: {"a": "3"}}
    assert over.startswith(reading.raws[2])
    assert setting in reading.messages[2]


@BLOCK_SIZES
def test_blanks_between_items_count_for_no_limit(read_upload, block_bytes):
    data = f'[{BLANKS}{{"a":"1"}}{BLANKS},{BLANKS}{{"a":"2"}}{BLANKS},7{BLANKS}]{BLANKS}'
    reading = read_upload(data, "x.json", block_bytes=block_bytes, max_item_bytes=9)
    assert reading.items == {1: {"a": "1"}, 2: {"a": "2"}}
    assert reading.raws == {3: "7"}


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_nesting_far_over_the_limit_is_refused_where_it_begins(refusal_of, opening):
    before = time.process_time()
    refusal = refusal_of("[\n" + opening * (24 << 20), "x.json")
    assert refusal.code == "too_large"
    assert "line 2, column 1: the item is nested deeper than 32 levels" in refusal.message
    assert time.process_time() - before < 20  # it took 69 s where it was read to its end


@pytest.mark.parametrize("block_bytes", [1 << 10, 1 << 20])
def test_a_raw_nul_breaks_the_grammar(read_upload, refusal_of, block_bytes):
    refusal = refusal_of('[{"a":"x\0y"}]', "x.json", block_bytes=block_bytes)
    assert refusal.code == "unreadable_file"
    assert "line 1, column 9:" in refusal.message
    reading = read_upload('{"a":"x\0y"}\n{"a":"2"}\n', "x.ndjson", block_bytes=block_bytes)
    assert "column 8:" in reading.messages[1]
    assert reading.items == {2: {"a": "2"}}


def test_exactly_the_limits_are_allowed(read_upload):
    item = '{"a":[{"b":1}],"c":"éé"}'
    limits = {"max_json_depth": 3, "max_cell_bytes": 9, "max_item_bytes": len(item.encode()), "max_columns": 2}
    for data in (f"[{item}]", f"{item}\n"):
        assert read_upload(data, **limits).items == {1: {"a": '[{"b":1}]', "c": "éé"}}


@BLOCK_SIZES
@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        pytest.param('[{"a":NaN}]', 1, 7, id="NaN"),
        pytest.param('[{"a":-Infinity}]', 1, 7, id="Infinity"),
        pytest.param("[NaN]", 1, 2, id="NaN as item"),
        pytest.param('[{"a":1},\n]', 2, 1, id="trailing comma in the array"),
        pytest.param('[{"a":1,}]', 1, 9, id="trailing comma in an object"),
        pytest.param('[{"a":[1,]}]', 1, 10, id="trailing comma in a list"),
        pytest.param('[\n  // x\n{"a":1}]', 2, 3, id="comment"),
        pytest.param('[{"a":1} /* x */]', 1, 10, id="comment after an item"),
        pytest.param('[{"a":"\\x41"}]', 1, 8, id="bad escape"),
        pytest.param('[{"a":"\\u12g4"}]', 1, 9, id="bad hexadecimal"),
        pytest.param('[{"a":"é\tb"}]', 1, 9, id="tab in a string"),
        pytest.param('[{"a":"x\ny"}]', 1, 9, id="line end in a string"),
        pytest.param('[\r\n\r\n {"é":01}]', 3, 8, id="leading zero"),
        pytest.param('[{"a":1.}]', 1, 8, id="no digits after the point"),
        pytest.param('[{"a":.5}]', 1, 7, id="no digits before the point"),
        pytest.param('[{"a":+1}]', 1, 7, id="plus"),
        pytest.param('[{"a":1e}]', 1, 8, id="no exponent"),
        pytest.param('[{"a":0x1F}]', 1, 8, id="hexadecimal"),
        pytest.param('[{"a":\u0661}]', 1, 7, id="digits of another script"),
        pytest.param('[{"a":True}]', 1, 7, id="True"),
        pytest.param("[{'a':1}]", 1, 3, id="single quotes"),
        pytest.param("[{a:1}]", 1, 3, id="no quotes"),
        pytest.param('[{"a" 1}]', 1, 7, id="no colon"),
        pytest.param('[{"a":1 "b":2}]', 1, 9, id="no comma in an object"),
        pytest.param('[{"a":1}\n{"a":2}]', 2, 1, id="no comma between items"),
        pytest.param('[{"a":1],[}]', 1, 8, id="wrong bracket"),
        pytest.param('[{"a":1}}', 1, 9, id="wrong bracket at the end"),
        pytest.param("[,{}]", 1, 2, id="leading comma"),
        pytest.param("[{},,{}]", 1, 5, id="two commas"),
        pytest.param("[{}] x", 1, 6, id="text after the end"),
        pytest.param("[{}]\n[{}]", 2, 1, id="two arrays"),
        pytest.param("[{}]]", 1, 5, id="one bracket too many"),
        pytest.param("[", 1, 2, id="only an opening bracket"),
        pytest.param('[{"a":1}', 1, 9, id="no end"),
        pytest.param('[{"a":1},\n', 2, 1, id="no end after a comma"),
        pytest.param('[{"a":"xyz', 1, 11, id="ends within a string"),
        pytest.param('[{"a":"\\u00', 1, 9, id="ends within an escape"),
        pytest.param('[{"a":tr', 1, 7, id="ends within a word"),
        pytest.param("[\u00a0{}]", 1, 2, id="a blank that is none of JSON's"),
        pytest.param('[{}, \ufeff{"a":1}]', 1, 6, id="a byte order mark within"),
    ],
)
def test_what_the_grammar_forbids_refuses_the_file_with_line_and_column(refusal_of, text, line, column, block_bytes):
    refusal = refusal_of(text, "x.json", block_bytes=block_bytes)
    assert refusal.code == "unreadable_file"
    assert f"line {line}, column {column}:" in refusal.message


@BLOCK_SIZES
@pytest.mark.parametrize("data", ["[]", " [ \n ] \n", "\ufeff[\t]"])
def test_an_empty_array_has_no_items(read_upload, data, block_bytes):
    reading = read_upload(data, block_bytes=block_bytes)
    assert reading.items == {}
    assert reading.raws == {}


@BLOCK_SIZES
@pytest.mark.parametrize(
    ("line", "column"),
    [
        ('{"a":NaN}', 6),
        ('{"a":1,}', 8),
        ('{"a":1} x', 9),
        ('{"a":1}{"a":2}', 8),
        (' {"a":01}', 8),
        ('{"a":"x', 8),
        ("oops", 1),
        ("1,2", 2),
        ('{"a":"\tx"}', 7),
        ("\u00a0", 1),
    ],
)
def test_a_broken_line_is_one_unreadable_row(read_upload, line, column, block_bytes):
    reading = read_upload(f'{{"a":"1"}}\n\n{line}\r\n\n{{"a":"3"}}', "x.ndjson", block_bytes=block_bytes)
    assert reading.items == {1: {"a": "1"}, 3: {"a": "3"}}
    assert reading.raws == {2: line}
    assert f"column {column}:" in reading.messages[2]


@pytest.mark.parametrize("layout", ["[%s]", "%s\n"])
def test_too_many_items_or_fields_refuse_the_file(refusal_of, layout):
    separator = "," if layout.startswith("[") else "\n"
    eleven = layout % separator.join(['{"a":1}'] * 11)
    assert "BATCH_MAX_ITEMS" in refusal_of(eleven, max_items=10).message
    fields = layout % separator.join(f'{{"f{number}":1}}' for number in range(11))
    refusal = refusal_of(fields, max_columns=10, chunk_rows=3)
    assert refusal.code == "too_large"
    assert "BATCH_MAX_COLUMNS" in refusal.message


@pytest.mark.parametrize("layout", ["[%s]", "%s\n"])
def test_chunks_have_the_size_asked_for(read_upload, layout):
    separator = "," if layout.startswith("[") else "\n"
    items = [f'{{"a":"{row}"}}' if row % 5 else "7" for row in range(1, 101)]
    reading = read_upload(layout % separator.join(items), chunk_rows=10, block_bytes=100)
    assert [len(chunk.rows) + chunk.unreadable.num_rows for chunk in reading.chunks] == [10] * 10
    assert list(reading.raws) == list(range(5, 101, 5))
    assert {row: item["a"] for row, item in reading.items.items()} == {
        row: str(row) for row in range(1, 101) if row % 5
    }
