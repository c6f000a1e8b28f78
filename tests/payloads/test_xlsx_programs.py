"""XLSX: workbooks of different programs are read alike, and as calamine reads them."""

import datetime as dt
import io
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pytest
import python_calamine
import xlsxwriter
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from workbooks import HEADER, MAIN, STYLES, by_hand, by_openpyxl, relations_to


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
@settings(max_examples=examples(40, thorough=200))
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
