"""XLSX: workbooks and other files that are refused as a whole, and errors files saved as workbooks."""

import io
import zipfile

import pytest
from workbooks import HEADER, by_hand, by_openpyxl

from batch_pipeline.payloads.compression import HARMLESS_BYTES


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
