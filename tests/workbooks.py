"""Workbooks for tests: by openpyxl, as other programs write them, and by hand where every byte matters."""

import io
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

import openpyxl

MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
# A header of the columns a and b, and styles: plain, a date, a time.
HEADER = '<row><c t="str"><v>a</v></c><c t="str"><v>b</v></c></row>'
STYLES = '<cellXfs><xf numFmtId="0"/><xf numFmtId="14"/><xf numFmtId="20"/></cellXfs>'
_RELATIONS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"


def by_openpyxl(rows: Sequence[Sequence[Any]], formats: Mapping[str, str] | None = None, **options: Any) -> bytes:
    """A workbook of one sheet; `formats` are number formats by cell, `options` attributes of the workbook."""
    book = openpyxl.Workbook()
    for name, value in options.items():
        setattr(book, name, value)
    for row in rows:
        book.active.append(row)
    for cells in book.active.iter_rows():
        for cell in cells:
            if isinstance(cell.value, str):
                cell.data_type = "s"  # also what would be a formula
    for cell, code in (formats or {}).items():
        book.active[cell].number_format = code
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


def by_hand(
    rows: str,
    *,
    strings: str | None = None,
    styles: str | None = None,
    sheets: str = '<sheet name="A" sheetId="1" r:id="rId1"/>',
    leave_out: Sequence[str] = (),
    head: str = "",
    replace: Mapping[str, str | bytes] | None = None,
    rename: Callable[[str], str] = str,
) -> bytes:
    """A workbook of this XML within ``sheetData``, ``sst`` and ``styleSheet``; `head` comes before the sheet's root.

    `replace` holds whole parts by name; `rename` gives the name of each part in the archive.
    """
    relations = relations_to(
        ("rId1", "worksheet", "worksheets/sheet1.xml"),
        ("rId2", "sharedStrings", "sharedStrings.xml"),
        ("rId3", "styles", "/xl/styles.xml"),
        ("rId4", "chartsheet", "chart.xml"),
        ("rId5", "worksheet", "worksheets/sheet2.xml"),
    )
    other = '<row r="1"><c r="A1" t="inlineStr"><is><t>other</t></is></c></row>'
    parts: dict[str, str | bytes] = {
        "[Content_Types].xml": f'<Types xmlns="{_PACKAGE}/content-types"/>',
        "_rels/.rels": relations_to(("rId1", "officeDocument", "xl/workbook.xml")),
        "xl/workbook.xml": f'<workbook xmlns="{MAIN}" xmlns:r="{_RELATIONS}"><sheets>{sheets}</sheets></workbook>',
        "xl/_rels/workbook.xml.rels": relations,
        "xl/worksheets/sheet1.xml": f'{head}<worksheet xmlns="{MAIN}"><sheetData>{rows}</sheetData></worksheet>',
        "xl/worksheets/sheet2.xml": f'<worksheet xmlns="{MAIN}"><sheetData>{other}</sheetData></worksheet>',
    }
    if strings is not None:
        parts["xl/sharedStrings.xml"] = f'<sst xmlns="{MAIN}">{strings}</sst>'
    if styles is not None:
        parts["xl/styles.xml"] = f'<styleSheet xmlns="{MAIN}">{styles}</styleSheet>'
    parts |= replace or {}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in parts.items():
            if name not in leave_out:
                archive.writestr(rename(name), text)
    return file.getvalue()


def relations_to(*relations: tuple[str, str, str]) -> str:
    """A part of relations: identifier, last word of the type, target."""
    elements = "".join(
        f'<Relationship Id="{name}" Type="{_RELATIONS}/{kind}" Target="{target}"/>' for name, kind, target in relations
    )
    return f'<Relationships xmlns="{_PACKAGE}/relationships">{elements}</Relationships>'


def excel_text(text: str) -> str:
    """A text as Excel writes it into XML: what XML can't hold, or would change, is escaped."""
    text = re.sub(r"_(?=x[0-9A-Fa-f]{4}_)", "_x005F_", text)
    text = re.sub("[\x00-\x08\x0b-\x1f\ufffe\uffff]", lambda found: f"_x{ord(found[0]):04X}_", text)
    return f'<t xml:space="preserve">{escape(text)}</t>'
