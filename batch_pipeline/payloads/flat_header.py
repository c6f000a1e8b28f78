"""The header of a flat upload (CSV, Parquet, XLSX): its names, and whether it is an errors file of an earlier batch.

Which columns an errors file adds to those of the upload, and the guard before its cells, is defined here for its
writer and its readers alike.
"""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.errors import RefusedError
from batch_pipeline.payloads.model import ReadLimits

ROW, ERRORS, CODES, RAW = "_row", "_errors", "_codes", "_raw"
OWN_COLUMNS = frozenset({ROW, ERRORS, CODES, RAW})


@dataclass(frozen=True)
class FlatHeader:
    """What the header says about the rows after it.

    Attributes:
        names: every column, in the file's order, trimmed and NFC.
        kept: the positions of the columns that carry data: all, but for the ``_`` columns of an errors file.
        is_errors_file: there is a ``_row`` column; cells then carry one protecting apostrophe.
    """

    names: tuple[str, ...]
    kept: tuple[int, ...]
    is_errors_file: bool

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns that carry data."""
        return tuple(self.names[position] for position in self.kept)

    def unguarded(self, cells: pa.StringArray) -> pa.StringArray:
        """Takes off the one apostrophe that an errors file puts before a cell that a spreadsheet might run."""
        if not self.is_errors_file:
            return cells
        guarded = pc.starts_with(cells, "'")
        if not pc.any(guarded).as_py():
            return cells
        return pc.if_else(guarded, pc.utf8_slice_codeunits(cells, 1), cells)


def check_header(cells: Sequence[str], limits: ReadLimits) -> FlatHeader:
    """The header of these cells.

    Raises RefusedError: ``unreadable_file`` (a nameless column), ``duplicate_headers`` (naming them), ``too_large``
    (too many columns, those that an errors file adds to an upload's not counted).
    """
    names = tuple(unicodedata.normalize("NFC", cell.strip()) for cell in cells)
    is_errors_file = ROW in names
    if is_errors_file:
        names = tuple(name.removeprefix("'") for name in names)
    count = sum(name not in OWN_COLUMNS for name in names) if is_errors_file else len(names)
    if count > limits.max_columns:
        raise RefusedError(
            "too_large",
            f"The header has {count:,} columns, more than the {limits.max_columns:,} that a file may "
            "have (setting BATCH_MAX_COLUMNS).",
        )
    for position, name in enumerate(names, 1):
        if not name:
            raise RefusedError(
                "unreadable_file",
                f"Column {position} of {len(names)} has no name in the header: name it or remove the column.",
            )
    repeated = [name for name, times in Counter(names).items() if times > 1]
    if repeated:
        raise RefusedError(
            "duplicate_headers",
            f"The header names these columns more than once: {', '.join(repeated)}. Keep one of each.",
        )
    kept = tuple(position for position, name in enumerate(names) if not (is_errors_file and name.startswith("_")))
    return FlatHeader(names, kept, is_errors_file)
