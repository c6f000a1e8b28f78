"""From the columns of an upload to the cells of fields: cleaned texts, and what an empty text means.

Here is what all fields and formats have in common. `fields` decides which values a field accepts.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.payloads.model import CellKind, RawChunk
from batch_pipeline.values.text import clean_texts

# Called with (items, code, field, expectation, values); items are positions in the chunk. `field` is one name for all
# items, or a path within the same field for each item.
AddErrors = Callable[[pa.Array, str, str | pa.StringArray, str, pa.StringArray | None], None]


@dataclass(frozen=True)
class Cells:
    """One column's cells, aligned with the items of a chunk.

    Attributes:
        values: string, the cleaned text; null if the item gives no value.
        cleared: bool, the item clears the field.
        kinds: uint8 of `CellKind`, null if there is no value; None if all values are texts.
        raw: string, the text as uploaded, for messages.
    """

    values: pa.StringArray
    cleared: pa.BooleanArray
    kinds: pa.UInt8Array | None
    raw: pa.StringArray

    def take_valid(self, valid: pa.BooleanArray) -> "Cells":
        """The same cells; values are null where `valid` is false."""
        return Cells(pc.if_else(valid, self.values, pa.scalar(None, pa.string())), self.cleared, self.kinds, self.raw)

    def take(self, items: pa.IntegerArray) -> "Cells":
        """The cells of these items, in this order."""
        kinds = None if self.kinds is None else self.kinds.take(items)
        return Cells(self.values.take(items), self.cleared.take(items), kinds, self.raw.take(items))

    def all_kinds(self) -> pa.UInt8Array:
        """The kinds as a column, even if all values are texts."""
        if self.kinds is not None:
            return self.kinds
        text, none = pa.scalar(int(CellKind.TEXT), pa.uint8()), pa.scalar(None, pa.uint8())
        return pc.if_else(pc.is_valid(self.values), text, none)


@dataclass(frozen=True)
class ReadingOptions:
    """The options of a batch, and facts of its payload, that decide how cells are read.

    Attributes:
        mapping: upload column -> field name, for mapped columns only.
        properties: field name -> default text.
        blank_clears: an empty text clears the field; otherwise the field keeps its value.
        ignores_unknown: columns that the resource does not know are dropped.
    """

    mapping: Mapping[str, str]
    properties: Mapping[str, str]
    blank_clears: bool
    ignores_unknown: bool = False

    def field_of(self, column: str) -> str:
        """The field name of an upload's column."""
        return self.mapping.get(column, column)


def read_cells(chunk: RawChunk, options: ReadingOptions, add_errors: AddErrors) -> dict[str, Cells]:
    """The chunk's cells by field name (dotted for parts of nested fields), as the upload gives them.

    JSON items may use both names of a mapped field, one item the one and another item the other. Flat files with both
    names in the header were refused before.
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


def known_columns(chunk: RawChunk, knows: Callable[[str], bool], mapping: Mapping[str, str]) -> RawChunk:
    """The chunk with only the columns that the resource knows by their own or their mapped name.

    `mapping`: upload column -> field name.
    """
    columns = {name: column for name, column in chunk.columns.items() if knows(mapping.get(name, name))}
    kinds = {name: column for name, column in chunk.kinds.items() if name in columns}
    return RawChunk(chunk.rows, columns, kinds, chunk.unreadable)


def apply_properties(cells: dict[str, Cells], options: ReadingOptions, count: int) -> None:
    """Gives the default values to items that lack the field or leave it blank. Changes `cells`."""
    for field_name, default in options.properties.items():
        text = clean_texts(pa.array([default], pa.string()))[0].as_py()
        if text:  # an empty text is a missing value, also as a default
            cells[field_name] = _with_default(cells.get(field_name), text, count)


def either(first: Cells, second: Cells) -> Cells:
    """For each item the cell of the first column if the item has one, else that of the second."""
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
    """The cells of an uploaded column (`RawChunk.columns` and `kinds`)."""
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
