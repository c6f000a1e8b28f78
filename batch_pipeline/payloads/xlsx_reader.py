"""XLSX uploads: the first visible sheet of a workbook as a flat file, its first row that is not blank being the header.

Read as a stream of XML: libraries that read whole sheets take memory that grows with them, and those that stream are an
order of magnitude slower. What is intricate, number formats and Excel's calendar, is openpyxl's.
"""

import zipfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from batch_pipeline.errors import RefusedError
from batch_pipeline.payloads.chunking import Piece, Unreadable, check_item_count, cut_text, rechunk
from batch_pipeline.payloads.flat_header import FlatHeader, check_header
from batch_pipeline.payloads.flat_rows import row_text, size_fault, width_fault
from batch_pipeline.payloads.model import Payload, PayloadFormat, RawChunk, ReadLimits
from batch_pipeline.payloads.xlsx_cells import CellReader
from batch_pipeline.payloads.xlsx_package import Check, broken, read_workbook, refusing_what_is_broken, xml_blocks
from batch_pipeline.payloads.xlsx_sheet import SheetParser, SheetRow, column_name
from batch_pipeline.payloads.xlsx_strings import SharedStrings


class XlsxPayload(Payload):
    """A workbook's first visible sheet. Blank rows are no rows; cells under no header must be empty."""

    format = PayloadFormat.XLSX

    def __init__(self, path: Path, limits: ReadLimits, *, check: Check) -> None:
        self._path = path
        self._limits = limits
        self._workbook = read_workbook(path, limits)
        with refusing_what_is_broken(), zipfile.ZipFile(path) as archive:
            self._strings = SharedStrings.read(
                archive, self._workbook.strings, path, max_bytes=limits.max_item_bytes, check=check
            )
        self._header = self._read_header()
        self.columns = self._header.columns
        self.is_errors_file = self._header.is_errors_file

    def chunks(self) -> Iterator[RawChunk]:
        """See `Payload.chunks`."""
        return rechunk(self._pieces(), columns=self.columns, chunk_rows=self._limits.chunk_rows)

    def _rows(self) -> Iterator[list[SheetRow]]:
        """The rows that are not blank, header included, as they end in blocks of the file."""
        reader = CellReader(self._workbook, self._strings)
        parser = SheetParser(reader, max_cell_characters=self._limits.max_item_bytes)
        with refusing_what_is_broken(), zipfile.ZipFile(self._path) as archive:
            for block in xml_blocks(archive, self._workbook.sheet):
                yield parser.feed(block)

    def _read_header(self) -> FlatHeader:
        row = next((rows[0] for rows in self._rows() if rows), None)
        if row is None:
            raise RefusedError("empty_file", "The workbook's first sheet is empty: send one with a header.")
        if row.fault is not None:
            raise broken(f"the header's cell in column {column_name(row.fault[0])} {row.fault[1]}")
        named = [column for column, text in row.cells.items() if text.strip()]
        return check_header([row.cells.get(column, "") for column in range(max(named) + 1)], self._limits)

    def _pieces(self) -> Iterator[Piece]:
        row_number = 0
        is_header = True
        for rows in self._rows():
            data = rows
            if is_header and rows:
                data = rows[1:]
                is_header = False
            unreadable = Unreadable()
            good: list[dict[int, str]] = []
            numbers: list[int] = []
            for row in data:
                row_number += 1
                fault = self._fault(row)
                if fault is None:
                    good.append(row.cells)
                    numbers.append(row_number)
                else:
                    unreadable.add(row_number, self._raw(row), fault)
            check_item_count(row_number, self._limits)
            if data:
                cells = [pa.array([row.get(column, "") for row in good], pa.string()) for column in self._header.kept]
                columns = dict(zip(self.columns, map(self._header.unguarded, cells), strict=True))
                yield Piece(pa.array(numbers, pa.int64()), columns, unreadable)

    def _fault(self, row: SheetRow) -> str | None:
        """What makes the row unreadable, if anything does."""
        names, limits = self._header.names, self._limits
        if row.fault is not None:
            column, what = row.fault
            name = f" ({names[column]})" if column < len(names) else ""
            return f"the cell in column {column_name(column)}{name} {what}"
        if max(row.cells) >= len(names):
            last = max(column for column, text in row.cells.items() if text.strip())
            if last >= len(names):
                return width_fault(last + 1, len(names))
        characters = sum(map(len, row.cells.values()))
        if 4 * characters > min(limits.max_cell_bytes, limits.max_item_bytes):
            sizes = [len(text.encode()) for text in row.cells.values()]
            if sum(sizes) > limits.max_item_bytes:
                return size_fault(limits, item=True)
            if max(sizes) > limits.max_cell_bytes:
                return size_fault(limits, item=False)
        return None

    def _raw(self, row: SheetRow) -> str:
        cells = (row.cells.get(column, "") for column in range(max(row.cells) + 1))
        return cut_text(row_text(cells, self._limits).encode(), self._limits.max_item_bytes)
