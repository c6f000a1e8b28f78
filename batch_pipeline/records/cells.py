"""From the columns of an upload to the cells of a record's fields: cleaned text, and what an empty one means.

What belongs here is how values are read for every field and format alike; what a value may be is for `fields`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.payloads.model import CellKind, RawChunk
from batch_pipeline.values.text import clean_texts

# Called with (items, code, field, expectation, values); items are positions in the chunk. Instead of one field for all,
# each item may have its own path within the same field.
AddErrors = Callable[[pa.Array, str, str | pa.StringArray, str, pa.StringArray | None], None]


@dataclass(frozen=True)
class Cells:
    """One column's cells, aligned with the items of a chunk.

    Attributes:
        values: string; cleaned text, null where the item gives no value.
        cleared: bool; true where the item asks to clear the field.
        kinds: uint8 of `CellKind`, null where there is no value; None where all values are text.
        raw: string; the text as uploaded, for messages.
    """

    values: pa.StringArray
    cleared: pa.BooleanArray
    kinds: pa.UInt8Array | None
    raw: pa.StringArray

    def take_valid(self, valid: pa.BooleanArray) -> "Cells":
        """The same with values only where `valid`."""
        return Cells(pc.if_else(valid, self.values, pa.scalar(None, pa.string())), self.cleared, self.kinds, self.raw)

    def take(self, items: pa.IntegerArray) -> "Cells":
        """The cells of some items, in their order."""
        kinds = None if self.kinds is None else self.kinds.take(items)
        return Cells(self.values.take(items), self.cleared.take(items), kinds, self.raw.take(items))

    def all_kinds(self) -> pa.UInt8Array:
        """The kinds, also where all are texts."""
        if self.kinds is not None:
            return self.kinds
        text, none = pa.scalar(int(CellKind.TEXT), pa.uint8()), pa.scalar(None, pa.uint8())
        return pc.if_else(pc.is_valid(self.values), text, none)


@dataclass(frozen=True)
class ReadingOptions:
    """What of a batch's options and payload decides how its cells are read.

    Attributes:
        mapping: upload column -> field name, for mapped columns only.
        properties: field name -> default text.
        blank_clears: whether an empty text clears the field; otherwise it leaves the field as it is.
    """

    mapping: Mapping[str, str]
    properties: Mapping[str, str]
    blank_clears: bool

    def field_of(self, column: str) -> str:
        """The name under which an upload's column is known."""
        return self.mapping.get(column, column)


def read_cells(chunk: RawChunk, options: ReadingOptions, add_errors: AddErrors) -> dict[str, Cells]:
    """The chunk's cells by field name (dotted for nested ones), as the upload gives them.

    JSON items may carry a mapped field under either of its names, which a flat file's header is refused for.
    """
    cells: dict[str, Cells] = {}
    for column, text in chunk.columns.items():
        name = options.field_of(column)
        read = column_cells(text, chunk.kinds.get(column), blank_clears=options.blank_clears)
        if name in cells:
            both = pc.indices_nonzero(pc.and_(pc.is_valid(cells[name].raw), pc.is_valid(read.raw)))
            add_errors(both, "conflict", name, "is given twice, column_mapping naming another field for it", None)
            read = either(cells[name], read)
        cells[name] = read
    return cells


def apply_properties(cells: dict[str, Cells], options: ReadingOptions, count: int) -> None:
    """Gives the default values to the items that do not define the field or leave it blank, in place."""
    for field_name, default in options.properties.items():
        text = clean_texts(pa.array([default], pa.string()))[0].as_py()
        if text:  # a blank default is none: an empty text is a missing value everywhere
            cells[field_name] = _with_default(cells.get(field_name), text, count)


def either(first: Cells, second: Cells) -> Cells:
    """The cells of the first where it is carried, else of the second."""
    carried = pc.is_valid(first.raw)
    kinds = None
    if first.kinds is not None or second.kinds is not None:
        kinds = pc.if_else(carried, first.all_kinds(), second.all_kinds())
    return Cells(
        pc.if_else(carried, first.values, second.values),
        pc.if_else(carried, first.cleared, second.cleared),
        kinds,
        pc.if_else(carried, first.raw, second.raw),
    )


def column_cells(raw: pa.StringArray, kinds: pa.UInt8Array | None, *, blank_clears: bool) -> Cells:
    """The cells of a column of texts as uploaded (`RawChunk.columns` and `kinds`)."""
    cleaned = clean_texts(raw)
    is_blank = pc.equal(cleaned, "")
    if kinds is not None:
        is_text = pc.equal(kinds, int(CellKind.TEXT))
        is_null = pc.equal(kinds, int(CellKind.NULL))
        is_blank = pc.or_(is_null, pc.and_(is_text, is_blank))
        kinds = pc.if_else(is_blank, pa.scalar(None, pa.uint8()), kinds)
    is_blank = pc.fill_null(is_blank, False)
    values = pc.if_else(is_blank, pa.scalar(None, pa.string()), cleaned)
    cleared = is_blank if blank_clears else constant(False, len(raw))
    return Cells(values, cleared, kinds, raw)


def _with_default(cells: Cells | None, default: str, count: int) -> Cells:
    column = pa.repeat(pa.scalar(default, pa.string()), count)
    if cells is None:
        return Cells(column, constant(False, count), None, column)
    missing = pc.is_null(cells.values)
    kinds = cells.kinds
    if kinds is not None:
        kinds = pc.if_else(missing, pa.scalar(int(CellKind.TEXT), pa.uint8()), kinds)
    return Cells(
        pc.if_else(missing, column, cells.values),
        pc.and_(cells.cleared, pc.invert(missing)),
        kinds,
        pc.if_else(missing, column, cells.raw),
    )


def constant(value: bool, count: int) -> pa.BooleanArray:
    """A boolean column of one value."""
    return pa.repeat(pa.scalar(value), count)
