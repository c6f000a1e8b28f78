"""XLSX: what each kind of cell is read as, which rows are none, what is refused or rejected by name."""

import datetime as dt
import io
import zipfile

import openpyxl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from workbooks import by_hand, by_openpyxl, excel_text

from batch_pipeline.payloads.compression import HARMLESS_BYTES
from batch_pipeline.payloads.model import PayloadFormat


@pytest.mark.parametrize(
    ("value", "number_format", "text"),
    [
        pytest.param(4155552671, "General", "4155552671", id="a phone number"),
        pytest.param(4155552671.0, "0", "4155552671", id="an integer kept as float"),
        pytest.param(-5, "General", "-5", id="negative"),
        pytest.param(1.5, "#,##0.00", "1.5", id="decimal"),
        pytest.param(19.989999999999998, "General", "19.99", id="as Excel stores 19.99"),
        pytest.param(0.1 + 0.2, "General", "0.3", id="15 digits"),
        pytest.param(1.2e20, "0.00E+00", "12" + "0" * 19, id="no exponent"),
        pytest.param(0.00001, "General", "0.00001", id="small"),
        pytest.param(0.5, "0%", "0.5", id="percent"),
        pytest.param(501, "00000", "00501", id="leading zeros of its format"),
        pytest.param(True, "General", "true", id="true"),
        pytest.param(False, "General", "false", id="false"),
        pytest.param(dt.date(2024, 1, 31), "yyyy-mm-dd", "2024-01-31T00:00:00Z", id="date"),
        pytest.param(dt.datetime(2024, 1, 31, 7, 5, 9), "dd.mm.yy hh:mm", "2024-01-31T07:05:09Z", id="date and time"),
        pytest.param(dt.datetime(1900, 1, 1), "m/d/yy", "1900-01-01T00:00:00Z", id="the first day"),
        pytest.param(dt.time(7, 5), "h:mm", "07:05:00", id="time of day"),
        pytest.param(dt.timedelta(hours=26, minutes=3), "[h]:mm:ss", "26:03:00", id="duration"),
        pytest.param(45322, '[$-409]mmm "of" yyyy;@', "2024-01-31T00:00:00Z", id="a date by its format alone"),
        pytest.param(5, '0 "days"', "5", id="letters in quotes are no date"),
        pytest.param(" a\n", "@", " a\n", id="text"),
        pytest.param("00501", "@", "00501", id="digits as text"),
        pytest.param("é日😀\u200f", "General", "é日😀\u200f", id="any script"),
    ],
)
def test_a_cell_is_read_as_excel_shows_it_at_full_length(read_upload, value, number_format, text):
    data = by_openpyxl([["a", "b"], ["x", value]], {"B2": number_format})
    reading = read_upload(data, "x.csv")
    assert reading.format == PayloadFormat.XLSX
    assert reading.columns == ("a", "b")
    assert reading.items == {1: {"a": "x", "b": text}}


def test_dates_may_count_from_1904(read_upload):
    rows = [["a"], [dt.datetime(2024, 1, 31)]]
    assert read_upload(by_openpyxl(rows, epoch=openpyxl.utils.datetime.MAC_EPOCH)).items == {
        1: {"a": "2024-01-31T00:00:00Z"}
    }


TABLES = st.integers(1, 4).flatmap(
    lambda width: st.lists(
        st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), min_size=width, max_size=width),
        max_size=8,
    )
)


@given(table=TABLES, shared=st.booleans(), chunk_rows=st.integers(1, 4), has_places=st.booleans())
@settings(max_examples=60)
def test_any_table_of_text_reads_back_the_same(read_upload, *, table, shared, chunk_rows, has_places):
    width = len(table[0]) if table else 2
    strings: list[str] = []
    xml = []
    for number, row in enumerate([[f"c{place}" for place in range(width)], *table], 1):
        cells = []
        for place, text in enumerate(row):
            at = f' r="{"ABCD"[place]}{number}"' if has_places else ""
            if shared:
                cells.append(f'<c{at} t="s"><v>{len(strings)}</v></c>')
                strings.append(f"<si>{excel_text(text)}</si>")
            else:
                cells.append(f'<c{at} t="inlineStr"><is>{excel_text(text)}</is></c>')
        xml.append(f"<row>{''.join(cells)}</row>")
    reading = read_upload(by_hand("".join(xml), strings="".join(strings) if shared else None), chunk_rows=chunk_rows)
    assert reading.columns == tuple(f"c{place}" for place in range(width))
    assert [list(item.values()) for item in reading.items.values()] == [
        row for row in table if any(cell.strip() for cell in row)
    ]
    assert reading.raws == {}


HEADER = '<row><c t="str"><v>a</v></c><c t="str"><v>b</v></c></row>'


@pytest.mark.parametrize(
    ("cells", "fault", "raw"),
    [
        ('<c t="e"><v>#N/A</v></c><c><v>1</v></c>', "column A (a) has the error #N/A", "#N/A,1"),
        ('<c><v>1</v></c><c t="e"><f>1/0</f><v>#DIV/0!</v></c>', "column B (b) has the error #DIV/0!", "1,#DIV/0!"),
        ("<c><v>1</v></c><c><f>A1+1</f></c>", "column B (b) has a formula without its value", "1,="),
        ("<c><v>1</v></c><c><f>A1+1</f><v/></c>", "column B (b) has a formula without its value", "1,="),
        ('<c><v>1</v></c><c/><c t="str"><v>x</v></c>', "the row has 3 cells, the header has 2", "1,,x"),
        ('<c r="AB7"><v>1</v></c>', "the row has 28 cells, the header has 2", "," * 27 + "1"),
        ('<c t="d"><v>2024-13-41</v></c>', "column A (a) is a date, but 2024-13-41 is none", "2024-13-41"),
        ("<c><v>1x</v></c>", "column A (a) is a number, but '1x' is none", "1x"),
        ("<c><v>INF</v></c>", "is a number, but 'INF' is none", "INF"),
        ('<c s="1"><v>1e300</v></c>', "is shown as a date, but 1e300 is none", "1e300"),
        ('<c t="str"><v>' + "x" * 101 + "</v></c>", "BATCH_MAX_CELL_BYTES", "x" * 101),
        ('<c t="str"><v>' + "é" * 60 + "</v></c>", "BATCH_MAX_CELL_BYTES", "é" * 60),
        ('<c t="str"><v>' + "x" * 90 + '</v></c><c t="str"><v>' + "y" * 90 + "</v></c>", "BATCH_MAX_ITEM_BYTES", None),
        ('<c t="str"><v>' + "x" * 9999 + "</v></c>", "BATCH_MAX_ITEM_BYTES", "x" * 150),
    ],
)
def test_a_row_that_can_not_be_read_is_rejected_alone_naming_the_cell(read_upload, cells, fault, raw):
    styles = '<cellXfs><xf numFmtId="0"/><xf numFmtId="14"/></cellXfs>'
    good = "<row><c><v>{}</v></c></row>"
    data = by_hand(f"{HEADER}{good.format(1)}<row>{cells}</row>{good.format(3)}", styles=styles)
    reading = read_upload(data, max_cell_bytes=100, max_item_bytes=150)
    assert reading.items == {1: {"a": "1", "b": ""}, 3: {"a": "3", "b": ""}}
    assert fault in reading.messages[2]
    assert raw is None or reading.raws == {2: raw}


def test_blank_rows_are_no_rows_and_empty_cells_beyond_the_header_none(read_upload):
    blank = '<row/><row><c s="1"/><c/></row><row><c t="str"><v> </v></c></row>'
    row = '<row><c><v>{}</v></c><c t="str"><f>""</f><v></v></c><c/><c t="str"><v> </v></c></row>'
    data = by_hand(f"{blank}{HEADER}{blank}{row.format(1)}{blank}{row.format(2)}{blank}")
    assert read_upload(data).items == {1: {"a": "1", "b": ""}, 2: {"a": "2", "b": ""}}


def test_formulas_count_by_their_stored_value_and_are_never_run(read_upload):
    cells = '<c><f>1+1</f><v>2</v></c><c t="str"><f>HYPERLINK("http://x")</f><v>=cmd|x</v></c>'
    assert read_upload(by_hand(f"{HEADER}<row>{cells}</row>")).items == {1: {"a": "2", "b": "=cmd|x"}}


def test_of_merged_cells_the_first_has_the_value(read_upload):
    book = openpyxl.Workbook()
    for row in (["a", "b"], ["x", "y"], ["z", "w"]):
        book.active.append(row)
    book.active.merge_cells("A2:A3")
    file = io.BytesIO()
    book.save(file)
    assert read_upload(file.getvalue()).items == {1: {"a": "x", "b": "y"}, 2: {"a": "", "b": "w"}}


def test_rich_text_is_joined_and_its_phonetic_text_left_out(read_upload):
    strings = (
        "<si><r><t>東</t></r><r><t xml:space='preserve'>京 </t></r><rPh sb='0' eb='1'><t>トウ</t></rPh></si>"
        "<si><t>a_x000D_b_x005F_x0041_ _xD800_</t></si>"
    )
    rows = '<row><c t="s"><v>0</v></c><c t="s"><v>1</v></c></row>'
    inline = "<row><c t='inlineStr'><is><r><t>x</t></r><rPh><t>y</t></rPh><r><t>z</t></r></is></c></row>"
    reading = read_upload(by_hand(HEADER + rows + inline, strings=strings))
    assert reading.items == {1: {"a": "東京 ", "b": "a\rb_x0041_ _xD800_"}, 2: {"a": "xz", "b": ""}}


@pytest.mark.parametrize(
    ("sheets", "columns"),
    [
        ('<sheet r:id="rId5"/><sheet r:id="rId1"/>', ("other",)),
        ('<sheet r:id="rId5" state="hidden"/><sheet r:id="rId1"/>', ("a", "b")),
        ('<sheet r:id="rId5" state="veryHidden"/>', ("other",)),
        ('<sheet r:id="rId4"/><sheet r:id="rId1"/><sheet r:id="rId5"/>', ("a", "b")),
    ],
)
def test_the_first_visible_sheet_is_read(read_upload, sheets, columns):
    assert read_upload(by_hand(HEADER, sheets=sheets)).columns == columns


def test_elements_may_have_a_prefix(read_upload):
    data = by_hand(
        '<x:row xmlns:x="m"><x:c t="str"><x:v>a</x:v></x:c></x:row><x:row xmlns:x="m"><x:c><x:v>1</x:v></x:c></x:row>'
    )
    assert read_upload(data).items == {1: {"a": "1"}}


def test_an_errors_file_saved_as_a_workbook_is_one(read_upload):
    reading = read_upload(by_openpyxl([["phone", "_row", "_errors"], ["'+1 415", 7, "bad"], ["''x", 8, "bad"]]))
    assert reading.is_errors_file
    assert reading.items == {1: {"phone": "+1 415"}, 2: {"phone": "'x"}}


@pytest.mark.parametrize(
    ("data", "code", "named"),
    [
        pytest.param(by_hand(""), "empty_file", "empty", id="no rows"),
        pytest.param(by_openpyxl([["a", "b", "a"]]), "duplicate_headers", "a", id="duplicate headers"),
        pytest.param(by_openpyxl([["a", None, "b"]]), "unreadable_file", "Column 2", id="a gap in the header"),
        pytest.param(by_openpyxl([["a", "b", "c", "d"]]), "too_large", "BATCH_MAX_COLUMNS", id="columns"),
        pytest.param(by_openpyxl([["a"], [1], [2], [3]]), "too_large", "BATCH_MAX_ITEMS", id="items"),
        pytest.param(by_hand('<row><c t="e"><v>#REF!</v></c></row>'), "unreadable_file", "#REF!", id="error in header"),
        pytest.param(by_hand("<row><c></row>"), "unreadable_file", "mismatched tag", id="bad XML"),
        pytest.param(by_hand('<row><c t="s"><v>5</v></c></row>'), "unreadable_file", "text 5", id="no such text"),
        pytest.param(by_hand('<row><c t="s"><v>x</v></c></row>'), "unreadable_file", "whole number", id="no number"),
        pytest.param(by_hand('<row><c r="ZZZZ1"><v>1</v></c></row>'), "unreadable_file", "ZZZZ1", id="no place"),
        pytest.param(by_hand("<row>" + "<c/>" * 16_385 + "</row>"), "unreadable_file", "more cells", id="wide"),
        pytest.param(by_hand("", leave_out=["xl/worksheets/sheet1.xml"]), "unreadable_file", "missing", id="no part"),
        pytest.param(by_hand("", sheets='<sheet r:id="rId4"/>'), "unreadable_file", "no worksheet", id="no sheet"),
        pytest.param(
            by_hand("", head='<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>'),
            "unreadable_file",
            "document type",
            id="entities",
        ),
        pytest.param(by_openpyxl([["a"], ["x" * 5000]])[:3000], "unreadable_file", "broken", id="cut off"),
    ],
)
def test_a_workbook_is_refused_as_a_whole(refusal_of, data, code, named):
    refusal = refusal_of(data, max_columns=3, max_items=2)
    assert refusal.code == code
    assert named in refusal.message


def _compound(name: str) -> bytes:
    return b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(5000) + name.encode("utf-16-le") + bytes(100)


def _archive(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, "application/vnd.oasis.opendocument.spreadsheet" if name == "mimetype" else "<x/>")
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (_compound("EncryptedPackage"), "password"),
        (_compound("Workbook"), "(XLS)"),
        (_compound("WordDocument"), "Office"),
        (_archive("mimetype", "content.xml"), "OpenDocument"),
        (_archive("[Content_Types].xml", "xl/workbook.bin"), "XLSB"),
        (_archive("[Content_Types].xml", "word/document.xml"), "Word"),
        (_archive("people.csv"), "ZIP archive"),
    ],
)
def test_other_files_of_offices_are_refused_by_name(refusal_of, data, named):
    refusal = refusal_of(data, "x.xlsx")
    assert refusal.code == "unsupported_format"
    assert named in refusal.message


def test_a_compressed_workbook_is_refused(refusal_of):
    import gzip

    refusal = refusal_of(gzip.compress(by_openpyxl([["a"], [1]])), "x.xlsx.gz")
    assert refusal.code == "unsupported_format"
    assert "as it is" in refusal.message


def test_a_zip_bomb_is_refused_before_it_is_read(refusal_of):
    data = by_hand(HEADER + "<row/>" * (HARMLESS_BYTES // 6 + 1))
    refusal = refusal_of(data)
    assert refusal.code == "too_large"
    assert "BATCH_MAX_DECOMPRESSION_RATIO" in refusal.message
    refusal = refusal_of(by_hand(HEADER), max_decompressed_bytes=100)
    assert refusal.code == "too_large"
    assert "BATCH_MAX_DECOMPRESSED_BYTES" in refusal.message
