"""XLSX: what each kind of cell is read as, which rows are none, what is refused or rejected by name."""

import datetime as dt
import io
import zipfile
from decimal import Decimal
from pathlib import Path

import openpyxl
import pandas as pd
import pytest
import python_calamine
import xlsxwriter
from hypothesis import given, settings
from hypothesis import strategies as st
from workbooks import MAIN, by_hand, by_openpyxl, excel_text, relations_to

from batch_pipeline.payloads.compression import HARMLESS_BYTES


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
    assert reading.format == "xlsx"
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


STYLES = '<cellXfs><xf numFmtId="0"/><xf numFmtId="14"/><xf numFmtId="20"/></cellXfs>'


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ('<c t="b"><v>true</v></c>', "true"),
        ('<c t="b"><v>false</v></c>', "false"),
        ('<c t="b"><v/></c>', ""),
        ('<c s=""><v>1</v></c>', "1"),
        ('<c s="x"><v>1</v></c>', "1"),
        ('<c s="99"><v>1</v></c>', "1"),
        ('<c r="" t=""><v>1</v></c>', "1"),
        ('<c t="s"><v></v></c>', ""),
        ('<c t="s"><v> 1\n</v></c>', "S1"),
        ("<c><is><t>no type</t></is></c>", "no type"),
        ("<c><v> 5\n</v></c>", "5"),
        ("<c><v> </v></c>", ""),
        ("<c><v>+5</v></c>", "5"),
        ("<c><v>-0</v></c>", "0"),
        ("<c><v>-0.0</v></c>", "0"),
        ("<c><v>.5</v></c>", "0.5"),
        ("<c><v>12345678901234567890</v></c>", "12345678901234567890"),
        ('<c t="str"><v>a<![CDATA[<b>]]>&amp;<!-- c --></v></c>', "a<b>&"),
        ('<c><f t="shared" si="0"/><v>3</v></c>', "3"),
        ('<c s="1"><v>59</v></c>', "1900-02-28T00:00:00Z"),
        ('<c s="1"><v>61</v></c>', "1900-03-01T00:00:00Z"),
        ('<c s="1"><v>2958465.5</v></c>', "9999-12-31T12:00:00Z"),
        ('<c t="d"><v>2024-01-31</v></c>', "2024-01-31T00:00:00Z"),
        ('<c t="d"><v>2024-01-31T07:05:09.123456</v></c>', "2024-01-31T07:05:09.123456Z"),
        ('<c t="d"><v>2024-01-31T07:05:09+02:00</v></c>', "2024-01-31T05:05:09Z"),
        ('<c t="d"><v>07:05:09</v></c>', "07:05:09"),
        ('<c t="d"><v>PT26H3M</v></c>', "26:03:00"),
    ],
)
def test_cells_are_read_as_programs_other_than_excel_write_them(read_upload, cell, text):
    data = by_hand(
        f'{HEADER}<row>{cell}<c r="B2"><v>1</v></c></row>',
        strings="<si><t>S0</t></si><si><t>S1</t></si>",
        styles=STYLES,
    )
    reading = read_upload(data)
    assert reading.messages == {}
    assert reading.items == {1: {"a": text, "b": "1"}}


@pytest.mark.parametrize(
    "cell",
    [
        '<c s="1"><v>-5</v></c>',
        '<c s="2"><v>-0.5</v></c>',
        '<c s="1"><v>60</v></c>',
        '<c s="1"><v>2958466</v></c>',
        '<c t="d"><v>2024-02-30</v></c>',
        '<c t="b"><v>yes</v></c>',
        '<c t="b"><v>2</v></c>',
        "<c><v>1_0</v></c>",
        "<c><v>\u0663</v></c>",
        "<c><v>NaN</v></c>",
        "<c><v>0x10</v></c>",
    ],
)
def test_a_value_that_its_kind_of_cell_can_not_have_is_rejected_never_guessed(read_upload, cell):
    reading = read_upload(by_hand(f"{HEADER}<row>{cell}</row>", styles=STYLES))
    assert reading.items == {}
    assert "column A (a) is" in reading.messages[1]


def test_a_cell_without_a_style_has_the_first_one(read_upload):
    data = by_hand(f"{HEADER}<row><c><v>45322</v></c></row>", styles='<cellXfs><xf numFmtId="14"/></cellXfs>')
    assert read_upload(data).items == {1: {"a": "2024-01-31T00:00:00Z", "b": ""}}


def test_a_style_without_a_number_of_a_format_is_a_plain_one(read_upload):
    data = by_hand(f'{HEADER}<row><c s="0"><v>1</v></c></row>', styles='<cellXfs><xf numFmtId=""/></cellXfs>')
    assert read_upload(data).items == {1: {"a": "1", "b": ""}}


def test_day_0_is_a_date_where_days_count_from_1904(read_upload):
    rows = [["a", "b"], [dt.datetime(1904, 1, 1), dt.time(7, 5)]]
    data = by_openpyxl(rows, {"A2": "yyyy-mm-dd", "B2": "h:mm"}, epoch=openpyxl.utils.datetime.MAC_EPOCH)
    assert read_upload(data).items == {1: {"a": "1904-01-01T00:00:00Z", "b": "07:05:00"}}


def _moved(name: str) -> str:
    return name.replace("xl/", "tables/").replace("workbook.xml", "book.xml")


def _linked(sheet: str, strings: str, styles: str) -> dict[str, str]:
    links = (("rId1", "worksheet", sheet), ("rId2", "sharedStrings", strings), ("rId3", "styles", styles))
    return {"xl/_rels/workbook.xml.rels": relations_to(*links)}


def _prefixed(xml: str) -> str:
    return xml.replace("<", "<x:").replace("<x:/", "</x:").replace("xmlns=", "xmlns:x=")


ROWS = f'{HEADER}<row><c t="s"><v>1</v></c><c s="1"><v>45322</v></c></row>'
SHEET = "xl/worksheets/sheet1.xml"
SHEET_XML = f'<worksheet xmlns="{MAIN}"><sheetData>{ROWS}</sheetData></worksheet>'
STRICT = "http://purl.oclc.org/ooxml/"
MANY_RUNS = "".join(f"<r><rPr><b/></rPr><t>{letter}</t></r>" for letter in "S1")


@pytest.mark.parametrize(
    ("options", "calamine_reads_it"),
    [
        pytest.param({}, True, id="as Excel writes it"),
        pytest.param(
            {"replace": _linked("/xl/worksheets/sheet1.xml", "/xl/sharedStrings.xml", "/xl/styles.xml")},
            True,
            id="root",
        ),
        pytest.param(
            {"replace": _linked("xl/worksheets/sheet1.xml", "xl/sharedStrings.xml", "xl/styles.xml")},
            False,
            id="no slash",
        ),
        pytest.param(
            {"replace": _linked("../xl/worksheets/sheet1.xml", "./sharedStrings.xml", "styles.xml")}, False, id="dots"
        ),
        pytest.param(
            {"replace": _linked("worksheets\\sheet1.xml", "\\xl\\sharedStrings.xml", "styles.xml")},
            False,
            id="backslash",
        ),
        pytest.param(
            {"replace": _linked("Worksheets/Sheet1.xml", "sharedstrings.xml", "Styles.xml")}, True, id="letters' case"
        ),
        pytest.param(
            {"replace": _linked("worksheets/sheet%31.xml", "sharedStrings.xml", "styles.xml")}, False, id="percent"
        ),
        pytest.param(
            {"replace": {"xl/_rels/workbook.xml.rels": relations_to(("rId1", "worksheet", "worksheets/sheet1.xml"))}},
            True,
            id="strings and styles without relation",
        ),
        pytest.param({"rename": lambda name: name.replace("/", "\\")}, True, id="names with backslashes"),
        pytest.param({"rename": lambda name: "/" + name}, False, id="names with a slash before"),
        pytest.param({"rename": str.upper}, True, id="names in capitals"),
        pytest.param(
            {
                "rename": _moved,
                "replace": {
                    "_rels/.rels": relations_to(("rId1", "officeDocument", "tables/book.xml")),
                    **_linked("worksheets/sheet1.xml", "sharedStrings.xml", "styles.xml"),
                },
            },
            False,
            id="another folder",
        ),
        pytest.param({"leave_out": ["_rels/.rels"]}, False, id="no relations of the package"),
        pytest.param({"leave_out": ["[Content_Types].xml"]}, True, id="no content types"),
        pytest.param(
            {
                "replace": {
                    "xl/_rels/workbook.xml.rels": _linked("worksheets/sheet1.xml", "sharedStrings.xml", "styles.xml")[
                        "xl/_rels/workbook.xml.rels"
                    ].replace("http://schemas.openxmlformats.org/officeDocument/2006/", STRICT + "officeDocument/"),
                    SHEET: SHEET_XML.replace(MAIN, STRICT + "spreadsheetml/main"),
                }
            },
            True,
            id="strict",
        ),
        pytest.param({"replace": {SHEET: _prefixed(SHEET_XML)}}, True, id="prefixes"),
        pytest.param(
            {"replace": {SHEET: ('<?xml version="1.0" encoding="UTF-16"?>' + SHEET_XML).encode("utf-16")}},
            False,
            id="UTF-16",
        ),
        pytest.param(
            {"sheets": '<sheet xmlns:q="q" q:id="none" name="A" sheetId="1" r:id="rId1"/>'}, True, id="another id"
        ),
        pytest.param(
            {"strings": f'<si/><si>{MANY_RUNS}<rPh sb="0" eb="1"><t>no</t></rPh><phoneticPr fontId="1"/></si>'},
            True,
            id="runs of formatted and phonetic text",
        ),
    ],
)
def test_workbooks_of_any_program_are_read(read_upload, tmp_path, options, calamine_reads_it):
    options = {"strings": "<si><t>S0</t></si><si><t>S1</t></si>", "styles": STYLES, **options}
    data = by_hand(ROWS, **options)
    assert read_upload(data).items == {1: {"a": "S1", "b": "2024-01-31T00:00:00Z"}}
    if calamine_reads_it:
        assert by_calamine(data, tmp_path) == [["a", "b"], ["S1", dt.date(2024, 1, 31)]]


def by_calamine(data: bytes, folder: Path) -> list[list[object]]:
    """The first sheet as python-calamine reads it."""
    path = folder / "calamine.xlsx"
    path.write_bytes(data)
    return python_calamine.CalamineWorkbook.from_path(path).get_sheet_by_index(0).to_python()


def by_xlsxwriter(rows: list[list[object]], formats: dict[type, str], *, shared: bool) -> bytes:
    """A workbook as xlsxwriter writes it, with shared or inline strings."""
    file = io.BytesIO()
    options = {
        "constant_memory": not shared,
        "in_memory": shared,
        "strings_to_formulas": False,
        "strings_to_urls": False,
    }
    with xlsxwriter.Workbook(file, options) as book:
        sheet = book.add_worksheet()
        for number, row in enumerate(rows):
            for place, value in enumerate(row):
                shown = book.add_format({"num_format": formats[type(value)]}) if type(value) in formats else None
                sheet.write(number, place, value, shown)
    return file.getvalue()


FORMATS = {dt.datetime: "yyyy-mm-dd hh:mm:ss", dt.time: "hh:mm:ss", dt.timedelta: "[h]:mm:ss"}
SECONDS = st.integers(1, 86_399)
VALUES = st.one_of(
    st.integers(-(10**15) + 1, 10**15 - 1),
    st.floats(-1e9, 1e9, allow_nan=False).map(lambda number: round(number, 4)),
    st.booleans(),
    st.text(st.characters(exclude_categories=["Cs", "Cc", "Cn"]), min_size=1, max_size=12).filter(
        lambda text: text.strip() and "_x" not in text
    ),
    st.datetimes(dt.datetime(1900, 3, 1), dt.datetime(9999, 12, 30)).map(lambda moment: moment.replace(microsecond=0)),
    SECONDS.map(lambda seconds: (dt.datetime.min + dt.timedelta(seconds=seconds)).time()),
    st.integers(86_400, 10**7).map(lambda seconds: dt.timedelta(seconds=seconds)),
)


def expected_text(value: object) -> str:
    """How a value of a cell is documented to be read."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        text = f"{Decimal(f'{value:.15g}'):f}"
        return "0" if text.rstrip("0.") in ("", "-") else text.rstrip("0").rstrip(".") if "." in text else text
    if isinstance(value, dt.datetime):
        return value.isoformat() + "Z"
    if isinstance(value, dt.date):
        return value.isoformat() + "T00:00:00Z"
    if isinstance(value, dt.timedelta):
        seconds = round(value.total_seconds())
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return str(value)


@given(rows=st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=6), program=st.sampled_from("oxi"))
@settings(max_examples=100, deadline=None)
def test_values_are_read_as_they_were_written_and_as_calamine_reads_them(read_upload, upload_folder, *, rows, program):
    table = [["a", "b"], *map(list, rows)]
    if program == "o":
        formats = {
            f"{'AB'[place]}{number}": FORMATS[type(value)]
            for number, row in enumerate(table, 1)
            for place, value in enumerate(row)
            if type(value) in FORMATS
        }
        data = by_openpyxl(table, formats)
    else:
        data = by_xlsxwriter(table, FORMATS, shared=program == "x")
    reading = read_upload(data)
    expected = [[expected_text(value) for value in row] for row in rows]
    assert reading.messages == {}
    assert [list(item.values()) for item in reading.items.values()] == expected
    assert [[expected_text(value) for value in row] for row in by_calamine(data, upload_folder)[1:]] == expected


def test_a_frame_written_by_pandas_is_read(read_upload):
    frame = pd.DataFrame(
        {"a": [1.5, None], "b": ["x", ""], "c": pd.to_datetime(["2024-01-31 07:05", None]), "d": [True, False]}
    )
    for engine in ("openpyxl", "xlsxwriter"):
        file = io.BytesIO()
        frame.to_excel(file, engine=engine, index=False)
        assert read_upload(file.getvalue()).items == {
            1: {"a": "1.5", "b": "x", "c": "2024-01-31T07:05:00Z", "d": "true"},
            2: {"a": "", "b": "", "c": "", "d": "false"},
        }


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
        pytest.param(
            by_hand('<row><c t="s"><v>x</v></c></row>'), "unreadable_file", "not the number of a text", id="no number"
        ),
        pytest.param(by_hand('<row r="2"><c/></row><row r="1"><c/></row>'), "unreadable_file", "row 1", id="disorder"),
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
