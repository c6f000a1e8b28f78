"""XLSX: what each kind of cell is read as, which rows are none, what is refused or rejected by name."""

import datetime as dt
import io

import openpyxl
import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from workbooks import HEADER, STYLES, by_hand, by_openpyxl, excel_text


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
@settings(max_examples=examples(30, thorough=200))
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
