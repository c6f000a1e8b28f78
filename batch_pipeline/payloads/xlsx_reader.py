"""XLSX uploads: the first visible sheet of a workbook as a flat file, its first row that is not blank being the header.

Own code instead of a library because a run has 800 MB, 200 to 300 of them its own. Measured with 1,048,576 rows of 8
columns: this code 175 MB; python-calamine 0.9 742 MB, and 3.2 GB for a sheet of two cells (A1 and CV1048576); the
read-only mode of openpyxl 554 MB, growing with the shared strings, at less than half the speed.
"""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from batch_pipeline.errors import RefusedError
from batch_pipeline.payloads.chunking import Piece, Unreadable, check_item_count, cut_text, rechunk
from batch_pipeline.payloads.flat_header import FlatHeader, check_header
from batch_pipeline.payloads.flat_rows import row_text, size_fault, width_fault
from batch_pipeline.payloads.model import Payload, RawChunk, ReadLimits
from batch_pipeline.payloads.unsupported import open_archive
from batch_pipeline.payloads.xlsx_cells import CellReader, SheetRow
from batch_pipeline.payloads.xlsx_package import Check, check_text_size, read_workbook
from batch_pipeline.payloads.xlsx_sheet import SheetParser, column_name
from batch_pipeline.payloads.xlsx_strings import SharedStrings
from batch_pipeline.payloads.xlsx_xml import broken, refusing_what_is_broken, xml_blocks

# Rows are handed on at this many; fewer make many small arrays.
PIECE_ROWS = 5_000
PIECE_CHARACTERS = 4 << 20


class XlsxPayload(Payload):
    """A workbook's first visible sheet. Blank rows are no rows; cells under no header must be empty."""

    format = "xlsx"

    def __init__(self, path: Path, limits: ReadLimits, *, check: Check) -> None:
        self._path = path
        self._limits = limits
        self._workbook = read_workbook(path, limits)
        with refusing_what_is_broken(), open_archive(path) as archive:
            self._strings = SharedStrings.read(
                archive, self._workbook.strings, path, max_characters=limits.max_item_bytes, check=check
            )
        self._header = self._read_header()
        self.columns = self._header.columns
        self.is_errors_file = self._header.is_errors_file

    def chunks(self) -> Iterator[RawChunk]:
        """See `Payload.chunks`."""
        return rechunk(self._pieces(), columns=self.columns, chunk_rows=self._limits.chunk_rows)

    def _rows(self) -> Iterator[SheetRow]:
        """The rows that are not blank, header included."""
        cells = CellReader(self._workbook, self._strings)
        parser = SheetParser(max_cell_characters=self._limits.max_item_bytes)
        with refusing_what_is_broken(), open_archive(self._path) as archive:
            for block in xml_blocks(archive, self._workbook.sheet):
                for raw in parser.feed(block):
                    row = cells.row(raw, self._limits.max_item_bytes)
                    if row is not None:
                        yield row

    def _read_header(self) -> FlatHeader:
        row = next(self._rows(), None)
        if row is None:
            raise RefusedError("empty_file", "The workbook's first sheet is empty: send one with a header.")
        if row.fault is not None:
            raise broken(f"the header's cell in column {column_name(row.fault[0])} {row.fault[1]}")
        named = [column for column, text in row.cells.items() if text.strip()]
        return check_header([row.cells.get(column, "") for column in range(max(named) + 1)], self._limits)

    def _pieces(self) -> Iterator[Piece]:
        unreadable = Unreadable()
        good: list[dict[int, str]] = []
        numbers: list[int] = []
        total = waiting = 0

        def piece() -> Piece:
            cells = [pa.array([row.get(column, "") for row in good], pa.string()) for column in self._header.kept]
            columns = dict(zip(self.columns, map(self._header.unguarded, cells), strict=True))
            return Piece(pa.array(numbers, pa.int64()), columns, unreadable)

        for number, row in enumerate(self._rows()):
            if number == 0:
                continue  # the header
            check_item_count(number, self._limits)
            total += row.characters
            waiting += row.characters
            check_text_size(total, self._workbook, self._limits)
            fault = self._fault(row)
            if fault is None:
                good.append(row.cells)
                numbers.append(number)
            else:
                unreadable.add(number, self._raw(row), fault)
            if len(good) + len(unreadable.rows) >= PIECE_ROWS or waiting >= PIECE_CHARACTERS:
                yield piece()
                unreadable, good, numbers, waiting = Unreadable(), [], [], 0
        yield piece()

    def _fault(self, row: SheetRow) -> str | None:
        """Why the row is unreadable; None if it is not."""
        names, limits = self._header.names, self._limits
        if row.fault is not None:
            column, what = row.fault
            name = f" ({names[column]})" if column < len(names) else ""
            return f"the cell in column {column_name(column)}{name} {what}"
        if max(row.cells) >= len(names):
            last = max(column for column, text in row.cells.items() if text.strip())
            if last >= len(names):
                return width_fault(last + 1, len(names))
        if 4 * row.characters > min(limits.max_cell_bytes, limits.max_item_bytes):
            sizes = [len(text.encode()) for text in row.cells.values()]
            if row.characters > limits.max_item_bytes or sum(sizes) > limits.max_item_bytes:
                return size_fault(limits, item=True)
            if max(sizes) > limits.max_cell_bytes:
                return size_fault(limits, item=False)
        return None

    def _raw(self, row: SheetRow) -> str:
        cells = (row.cells.get(column, "") for column in range(max(row.cells) + 1))
        return cut_text(row_text(cells, self._limits).encode(), self._limits.max_item_bytes)
