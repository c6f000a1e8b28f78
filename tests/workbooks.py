"""Workbooks for tests: by openpyxl, as other programs write them, and by hand where every byte matters."""

import io
import re
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

import openpyxl

_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
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
) -> bytes:
    """A workbook of this XML within ``sheetData``, ``sst`` and ``styleSheet``; `head` comes before the sheet's root."""
    kinds = {"rId1": "worksheet", "rId2": "sharedStrings", "rId3": "styles", "rId4": "chartsheet", "rId5": "worksheet"}
    targets = ("worksheets/sheet1.xml", "sharedStrings.xml", "/xl/styles.xml", "chart.xml", "worksheets/sheet2.xml")
    relations = "".join(
        f'<Relationship Id="{name}" Type="{_RELATIONS}/{kind}" Target="{target}"/>'
        for (name, kind), target in zip(kinds.items(), targets, strict=True)
    )
    other = '<row r="1"><c r="A1" t="inlineStr"><is><t>other</t></is></c></row>'
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{_PACKAGE}/content-types"/>',
        "xl/workbook.xml": f'<workbook xmlns="{_MAIN}" xmlns:r="{_RELATIONS}"><sheets>{sheets}</sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{_PACKAGE}/relationships">{relations}</Relationships>',
        "xl/worksheets/sheet1.xml": f'{head}<worksheet xmlns="{_MAIN}"><sheetData>{rows}</sheetData></worksheet>',
        "xl/worksheets/sheet2.xml": f'<worksheet xmlns="{_MAIN}"><sheetData>{other}</sheetData></worksheet>',
    }
    if strings is not None:
        parts["xl/sharedStrings.xml"] = f'<sst xmlns="{_MAIN}">{strings}</sst>'
    if styles is not None:
        parts["xl/styles.xml"] = f'<styleSheet xmlns="{_MAIN}">{styles}</styleSheet>'
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in parts.items():
            if name not in leave_out:
                archive.writestr(name, text)
    return file.getvalue()


def excel_text(text: str) -> str:
    """A text as Excel writes it into XML: what XML can't hold, or would change, is escaped."""
    text = re.sub(r"_(?=x[0-9A-Fa-f]{4}_)", "_x005F_", text)
    text = re.sub("[\x00-\x08\x0b-\x1f\ufffe\uffff]", lambda found: f"_x{ord(found[0]):04X}_", text)
    return f'<t xml:space="preserve">{escape(text)}</t>'
