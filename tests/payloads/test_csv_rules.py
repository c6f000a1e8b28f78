"""CSV: each rule of reading, as cases."""

from itertools import chain

import pytest

BLOCK_SIZES = pytest.mark.parametrize("block_bytes", [1, 2, 3, 7, 1 << 20])


@BLOCK_SIZES
@pytest.mark.parametrize(
    ("body", "items", "raws"),
    [
        pytest.param("1,2\n3,4\n", {1: "12", 2: "34"}, {}, id="plain"),
        pytest.param("1,2\n3,4", {1: "12", 2: "34"}, {}, id="no line end at the end"),
        pytest.param("1,2\r\n3,4\r\n", {1: "12", 2: "34"}, {}, id="CRLF"),
        pytest.param("1,2\r3,4\r", {1: "12", 2: "34"}, {}, id="CR"),
        pytest.param("1,2\r\r\n3,4\n\n\r5,6", {1: "12", 2: "34", 3: "56"}, {}, id="line ends mixed"),
        pytest.param("\n\n1,2\n\n\n3,4\n\n", {1: "12", 2: "34"}, {}, id="blank lines are no rows"),
        pytest.param(",\n", {1: ["", ""]}, {}, id="a row of empty cells is a row"),
        pytest.param(' 1 ,"\t2 "\n', {1: [" 1 ", "\t2 "]}, {}, id="blanks stay"),
        pytest.param('"1","2"\n', {1: "12"}, {}, id="quoted"),
        pytest.param('"","a ""b"""\n', {1: ["", 'a "b"']}, {}, id="doubled quotes"),
        pytest.param('"a\nb","c\r\nd,"\n1,2\n', {1: ["a\nb", "c\r\nd,"], 2: "12"}, {}, id="line ends in quotes"),
        pytest.param('5" pipe,a"b"c\n1,2\n', {1: ['5" pipe', 'a"b"c'], 2: "12"}, {}, id="quotes as text"),
        pytest.param('a",b"\nc"",d\n', {1: ['a"', 'b"'], 2: ['c""', "d"]}, {}, id="quotes end text"),
        pytest.param('5",10"\n5"",10""\n', {1: ['5"', '10"'], 2: ['5""', '10""']}, {}, id="inches"),
        pytest.param('5",10" pipe\n', {1: ['5"', '10" pipe']}, {}, id="inches, then a quote within"),
        pytest.param('a"b"c"\n1,2\n', {2: "12"}, {1: 'a"b"c"'}, id="one cell of quotes too few"),
        pytest.param('5" pipe,"10"""\n', {1: ['5" pipe', '10"']}, {}, id="a quote within, then a quoted cell"),
        pytest.param('5" pipe,10"\n1,2\n', {2: "12"}, {1: '5" pipe,10"'}, id="as if a delimiter were lost"),
        pytest.param('5" pipe,1\n1,10"\n', {1: ['5" pipe', "1"], 2: ["1", '10"']}, {}, id="stray quotes in two rows"),
        pytest.param('"a\nb",c"d\n1,2"\n', {1: ["a\nb", 'c"d'], 2: ["1", '2"']}, {}, id="stray, after quoted"),
        pytest.param('1,"x,y\n2,3\n', {2: "23"}, {1: '1,"x,y'}, id="unclosed to the end"),
        pytest.param('1,"x,y\n2,"p"\n3,4\n', {2: "2p", 3: "34"}, {1: '1,"x,y'}, id="unclosed, then quoted"),
        pytest.param('1,"x,y\r\n2,"p",q\r\n3,4', {3: "34"}, {1: '1,"x,y', 2: '2,"p",q'}, id="unclosed, CRLF"),
        pytest.param('1,"x"y\n2,3\n', {2: "23"}, {1: '1,"x"y'}, id="text after a closing quote"),
        pytest.param('1,""x\n2,3\n', {2: "23"}, {1: '1,""x'}, id="text after empty quotes"),
        pytest.param('1,"x" \n2,3\n', {2: "23"}, {1: '1,"x" '}, id="a blank after a closing quote"),
        pytest.param('"a\nb","c\n1,2\n', {2: "12"}, {1: '"a\nb","c'}, id="unclosed after a cell of two lines"),
        pytest.param('"\n"x\n1,2\n', {3: "12"}, {1: '"', 2: '"x'}, id="unclosed twice"),
        pytest.param('1,"', {}, {1: '1,"'}, id="a quote ends the file"),
        pytest.param("1\n2,3,4\n5,6\n", {3: "56"}, {1: "1", 2: "2,3,4"}, id="too few and too many cells"),
        pytest.param("a\0b,\0\n1,2\n", {1: ["a\0b", "\0"], 2: "12"}, {}, id="NUL is text"),
        pytest.param("\ufeff1,\ufeff\n\ufeff,2\n", {1: ["\ufeff1", "\ufeff"], 2: ["\ufeff", "2"]}, {}, id="marks"),
        pytest.param("é,日本\n", {1: ["é", "日本"]}, {}, id="beyond ASCII"),
        pytest.param("NULL,nan\ntrue,1e5\n", {1: ["NULL", "nan"], 2: ["true", "1e5"]}, {}, id="nothing is inferred"),
        pytest.param('a\\,b\n\\",c\n', {1: ["a\\", "b"], 2: ['\\"', "c"]}, {}, id="a backslash is text"),
    ],
)
def test_rows_are_read_and_broken_ones_cut_out_alone(read_upload, body, items, raws, block_bytes):
    reading = read_upload("a,b\n" + body, "x.csv", block_bytes=block_bytes)
    assert reading.items == {row: dict(zip("ab", cells, strict=True)) for row, cells in items.items()}
    assert reading.raws == raws


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        pytest.param("a,b", ("a", "b"), id="comma"),
        pytest.param("a;b", ("a", "b"), id="semicolon"),
        pytest.param("a\tb", ("a", "b"), id="tab"),
        pytest.param("a|b", ("a", "b"), id="vertical bar"),
        pytest.param("id", ("id",), id="single column"),
        pytest.param('"a,x";b', ("a,x", "b"), id="delimiter within quotes"),
        pytest.param('"a;1;2;3",b', ("a;1;2;3", "b"), id="many other delimiters within quotes"),
        pytest.param(' a ,"\tb "', ("a", "b"), id="names are trimmed"),
        pytest.param("e\u0301,b", ("é", "b"), id="names are NFC"),
        pytest.param('"a\nb",c', ("a\nb", "c"), id="line end in a name"),
        pytest.param('"say ""x""",b', ('say "x"', "b"), id="quotes in a name"),
        pytest.param('a",b', ('a"', "b"), id="quote as text in a name"),
    ],
)
@BLOCK_SIZES
def test_header_gives_delimiter_and_names(read_upload, header, columns, block_bytes):
    reading = read_upload(f"\n \r\n{header}\n", "x.csv", block_bytes=block_bytes)
    assert reading.columns == columns
    assert reading.items == {}
    assert reading.raws == {}


def test_among_delimiters_with_equal_counts_the_next_row_decides(read_upload):
    assert read_upload("a;b,c\n1;2\n").items == {1: {"a": "1", "b,c": "2"}}
    assert read_upload("a;b,c\n1,2\n").items == {1: {"a;b": "1", "c": "2"}}


@pytest.mark.parametrize(
    ("data", "code", "named"),
    [
        ("a,b,a\n", "duplicate_headers", ["more than once: a."]),
        ("a, a\n", "duplicate_headers", ["a"]),
        ("\u00e9,e\u0301\n", "duplicate_headers", ["é"]),
        ("a,,b\n", "unreadable_file", ["Column 2"]),
        ('a,"b\n', "unreadable_file", ["quotes"]),
        ("a,b,c,d\n", "too_large", ["BATCH_MAX_COLUMNS", "4", "3"]),
        ("x" * 500 + "\n", "too_large", ["BATCH_MAX_ITEM_BYTES"]),
        ("a\n" + "1\n" * 11, "too_large", ["BATCH_MAX_ITEMS", "10"]),
    ],
)
def test_a_file_is_refused_as_a_whole(refusal_of, data, code, named):
    refusal = refusal_of(data, "x.csv", max_columns=3, max_items=10, max_item_bytes=100, max_cell_bytes=100)
    assert refusal.code == code
    assert all(word in refusal.message for word in named)


def test_exactly_the_limits_are_allowed(read_upload):
    limits = {"max_columns": 2, "max_items": 2, "max_cell_bytes": 5, "max_item_bytes": 10}
    reading = read_upload('a,b\n12345,"67"\n"éé1",2\n', **limits)
    assert reading.items == {1: {"a": "12345", "b": "67"}, 2: {"a": "éé1", "b": "2"}}


@BLOCK_SIZES
@pytest.mark.parametrize(
    ("row", "setting"),
    [
        pytest.param("123456,1", "BATCH_MAX_CELL_BYTES", id="cell"),
        pytest.param("ééé,1", "BATCH_MAX_CELL_BYTES", id="cell, in bytes"),
        pytest.param("1,123456", "BATCH_MAX_CELL_BYTES", id="last cell"),
        pytest.param("12345,12345", "BATCH_MAX_ITEM_BYTES", id="item"),
        pytest.param("1," * 40 + "2", "BATCH_MAX_ITEM_BYTES", id="item of many cells"),
        pytest.param("1" * 300, "BATCH_MAX_ITEM_BYTES", id="item of one long cell"),
        pytest.param('"1",' * 40 + '"2"', "BATCH_MAX_ITEM_BYTES", id="item of many quoted cells"),
    ],
)
def test_a_row_beyond_a_limit_is_unreadable_alone(read_upload, row, setting, block_bytes):
    reading = read_upload(f"a,b\n1,2\n{row}\n3,4\n", max_cell_bytes=5, max_item_bytes=10, block_bytes=block_bytes)
    assert reading.items == {1: {"a": "1", "b": "2"}, 3: {"a": "3", "b": "4"}}
    assert setting in reading.messages[2]
    assert row.startswith(reading.raws[2])


@BLOCK_SIZES
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    ("row", "cells"),
    [
        pytest.param('a"b, c",d', 3, id="plain"),
        pytest.param('"x",a"b, c"', 3, id="after a quoted cell, at the end"),
        pytest.param('a"b, c","d"', 3, id="before a quoted cell"),
        pytest.param('a"b,"c",d"', 3, id="around a quoted cell"),
        pytest.param('a"b, ""c"",d', 3, id="with doubled quotes"),
        pytest.param('éa"b,é, c"', 3, id="over three cells"),
    ],
)
def test_a_delimiter_lost_before_a_quoted_cell_makes_the_row_unreadable(
    read_upload, *, row, cells, line_end, block_bytes
):
    header = ",".join("abc"[:cells])
    rows = [header, "1,2,3", row, '4,"5",6', ""]
    reading = read_upload(line_end.join(rows), "x.csv", block_bytes=block_bytes)
    assert reading.items == {1: {"a": "1", "b": "2", "c": "3"}, 3: {"a": "4", "b": "5", "c": "6"}}
    assert reading.raws == {2: row}
    assert "a delimiter before a quoted cell was lost" in reading.messages[2]


@BLOCK_SIZES
@pytest.mark.parametrize(
    ("row", "message"),
    [
        pytest.param('"123456",1', "a cell is larger than 5 bytes", id="quoted"),
        pytest.param('1,"123456"', "a cell is larger than 5 bytes", id="quoted, last"),
        pytest.param('"""""""""",1', "a cell is larger than 5 bytes", id="only quotes"),
        pytest.param('""""""""""""""""""""""x,1', "a cell is larger than 5 bytes", id="quotes, then text"),
        pytest.param('"12,34,",1', "not closed within 5 bytes", id="quoted, with delimiters"),
        pytest.param('1,"12', "not closed within 5 bytes", id="not closed for longer"),
    ],
)
def test_a_quoted_cell_beyond_the_limit_is_reported_as_that(read_upload, row, message, block_bytes):
    rows = ["a,b", "1,2", row, "3,4", "5,6", "7,8", ""]
    reading = read_upload("\n".join(rows), max_cell_bytes=5, max_item_bytes=100, block_bytes=block_bytes)
    assert sorted(reading.items) == [1, 3, 4, 5]
    assert reading.raws == {2: row}
    assert message in reading.messages[2]
    assert "BATCH_MAX_CELL_BYTES" in reading.messages[2]


@BLOCK_SIZES
def test_an_unclosed_quote_within_the_limit_is_reported_as_that(read_upload, block_bytes):
    limits = {"max_cell_bytes": 12, "block_bytes": block_bytes}
    assert "BATCH" not in read_upload('a,b\n1,"2\n3,4\n', **limits).messages[1]
    assert "BATCH" not in read_upload('a,b\n1,"2"x\n3,4\n3,4\n3,4\n3,4\n', **limits).messages[1]


@BLOCK_SIZES
def test_quotes_closed_beyond_the_cell_limit_break_only_their_line(read_upload, block_bytes):
    data = 'a,b\n"""""""","\nx"\n1,2\n'
    assert read_upload(data, max_cell_bytes=6).items == {1: {"a": '"""', "b": "\nx"}, 2: {"a": "1", "b": "2"}}
    reading = read_upload(data, max_cell_bytes=5, block_bytes=block_bytes)
    assert reading.raws == {1: '"""""""","', 2: 'x"'}
    assert reading.items == {3: {"a": "1", "b": "2"}}


@BLOCK_SIZES
def test_a_quote_closed_beyond_the_cell_limit_breaks_only_its_line(read_upload, block_bytes):
    body = '"1234\n6",1\n2,3\n'
    assert read_upload(f"a,b\n{body}", max_cell_bytes=6).items == {
        1: {"a": "1234\n6", "b": "1"},
        2: {"a": "2", "b": "3"},
    }
    reading = read_upload(f"a,b\n{body}", max_cell_bytes=5, block_bytes=block_bytes)
    assert reading.raws == {1: '"1234'}
    assert reading.items == {2: {"a": '6"', "b": "1"}, 3: {"a": "2", "b": "3"}}


def test_the_message_names_what_is_wrong(read_upload):
    reading = read_upload('a,b\n1\n1,2,3\n1,"2\n')
    assert reading.messages[1] == "the row has 1 cell, the header has 2"
    assert reading.messages[2] == "the row has 3 cells, the header has 2"
    assert "not closed" in reading.messages[3]


def test_an_errors_file_loses_its_own_columns_and_one_apostrophe_per_cell(read_upload):
    reading = read_upload(
        "name,'=x,_row,_errors,_codes,_raw\r\n'+1 415,''a,7,bad,invalid,\r\n'-5,b',8,bad,invalid,\r\n"
    )
    assert reading.is_errors_file
    assert reading.columns == ("name", "=x")
    assert reading.items == {1: {"name": "+1 415", "=x": "'a"}, 2: {"name": "-5", "=x": "b'"}}


def test_the_columns_that_an_errors_file_adds_do_not_count_as_the_upload_s(read_upload, refusal_of):
    own = ",_row,_errors,_codes,_raw\n"
    assert read_upload(f"a,b,c{own}", "x.csv", max_columns=3).columns == ("a", "b", "c")
    assert "4 columns" in refusal_of(f"a,b,c,d{own}", "x.csv", max_columns=3).message
    assert "5 columns" in refusal_of("a,b,c,_d,_errors\n", "x.csv", max_columns=4).message


def test_another_file_keeps_apostrophes_and_columns_with_underscores(read_upload):
    reading = read_upload("name,_note\n'=x,''y\n")
    assert not reading.is_errors_file
    assert reading.items == {1: {"name": "'=x", "_note": "''y"}}


def test_chunks_have_about_the_size_asked_for_and_carry_their_unreadable_rows(read_upload):
    body = "".join(f"{row},{row}\n" if row % 10 != 1 else f"{row}\n" for row in range(1, 1001))
    reading = read_upload("a,b\n" + body, chunk_rows=100, block_bytes=1000)
    assert [len(chunk.rows) for chunk in reading.chunks] == [100] * 9
    assert sorted(reading.raws) == list(range(1, 1001, 10))
    rows_in_order = [
        sorted([*chunk.rows.to_pylist(), *chunk.unreadable["row"].to_pylist()]) for chunk in reading.chunks
    ]
    assert list(chain.from_iterable(rows_in_order)) == list(range(1, 1001))


def test_unreadable_rows_alone_make_chunks_too(read_upload):
    reading = read_upload("a,b\n" + "x\n" * 1000, chunk_rows=100, block_bytes=100)
    assert len(reading.raws) == 1000
    assert max(chunk.unreadable.num_rows for chunk in reading.chunks) < 200


def test_a_payload_can_be_read_again(tmp_path):
    from batch_pipeline.payloads.model import ReadLimits
    from batch_pipeline.payloads.reader import open_payload
    from batch_pipeline.settings import Settings

    path = tmp_path / "x.csv"
    path.write_text("a,b\n1,2\n")
    payload = open_payload(path, name="x.csv", limits=ReadLimits.from_settings(Settings()))
    assert [chunk.columns["b"].to_pylist() for chunk in payload.chunks()] == [["2"]]
    assert [chunk.columns["b"].to_pylist() for chunk in payload.chunks()] == [["2"]]
