"""Applies a resource's row rules to a chunk of items: typed columns for the database, and every item's errors.

`ScalarRules` builds the rules, a pandera schema, from the resource's fields.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.payloads.model import RawChunk
from batch_pipeline.records import errors
from batch_pipeline.records.cells import Cells, ReadingOptions, apply_properties, constant, known_columns, read_cells
from batch_pipeline.records.fields import Field, RuleContext, Text
from batch_pipeline.records.nested import Nested
from batch_pipeline.records.resource import WHOLE_ITEM_BIT, Resource
from batch_pipeline.records.scalars import ScalarRules, of_kinds


@dataclass(frozen=True)
class CheckedChunk:
    """Items after the row rules.

    Attributes:
        rows: int64, the places of the items in the upload.
        fields: field name -> values to store, of the field's `arrow_type`; null if not given or not valid.
        cleared: int64, bit i is set if the item clears the resource's i-th field.
        invalid: int64, bit i is set if the i-th field has errors, `WHOLE_ITEM_BIT` for errors of no one field.
        errors: `ERRORS_SCHEMA`, sorted by row.
    """

    rows: pa.Int64Array
    fields: dict[str, pa.Array]
    cleared: npt.NDArray[np.int64]
    invalid: npt.NDArray[np.int64]
    errors: pa.Table


@lru_cache(maxsize=32)
def _scalar_rules(resource: Resource, context: RuleContext) -> ScalarRules:
    """The rules of the resource's scalar fields, kept: making them takes 3 ms, as much as to check 100 contacts."""
    scalars: dict[str, Field] = {field.name: field for field in resource.fields if not isinstance(field, Nested)}
    for field in resource.fields:
        if isinstance(field, Nested):
            scalars |= field.scalars()
    return ScalarRules(scalars, context)


class RowRules:
    """The row rules of one resource for one batch. `only_ids`: the batch is a delete, so only the items' ids count."""

    def __init__(
        self, resource: Resource, options: ReadingOptions, context: RuleContext, *, only_ids: bool = False
    ) -> None:
        self.resource = resource
        self._only_ids = only_ids
        self.options = options
        self.context = context
        self.bits = {field.name: bit for bit, field in enumerate(resource.fields)}
        self._nested = [field for field in resource.fields if isinstance(field, Nested)]
        self._scalars = _scalar_rules(resource, context)
        # Other columns that an upload may have: nested fields as a whole, and the resource's further headers.
        self._others = {field.name: field for field in self._nested} | {
            header: Text(header) for header in resource.file_headers
        }

    def check(self, chunk: RawChunk) -> CheckedChunk:
        """Applies all rules to all items; finds every error of every item."""
        if self.options.ignores_unknown:
            chunk = known_columns(chunk, self.resource.knows, self.options.mapping)
        found = _Findings(chunk.rows, self.bits)
        cells = read_cells(chunk, self.options, found.add)
        self._reject_unknown(cells, found)
        if self._only_ids:
            cells = {name: column for name, column in cells.items() if name == "id"}
        cells = {name: self._of_right_kind(name, column, found) for name, column in cells.items()}
        if self._only_ids:
            self._require_ids(cells, found)
        else:
            self._complete(cells, found)
        values = self._scalars.read(cells, found.add)
        for rule in self.resource.arrow_rules:  # for items with both fields; the plan judges items with one of them
            if rule.field in values and rule.depends_on in values:
                for complaint, items in rule.failures(values[rule.field], values[rule.depends_on]):
                    raw = cells[rule.field].raw.take(items)
                    found.add(items, complaint.code, rule.field, complaint.expectation, raw)
        masks = {name: cells[name].cleared for name in values if name in self.bits}
        for field in self._nested if not self._only_ids else ():
            if field.name in cells or any(field.key_of(name) is not None for name in cells):
                parts, masks[field.name] = field.assemble(cells, values, len(chunk.rows), self.context, found.add)
                if parts is not None:
                    values[field.name] = parts
        cleared = np.zeros(len(chunk.rows), np.int64)
        for name, mask in masks.items():
            cleared |= _flags(mask).astype(np.int64) << self.bits[name]
            if self.resource.field(name).required:
                found.add(pc.indices_nonzero(mask), "required", name, "can't be cleared", None)
        return CheckedChunk(
            chunk.rows, self._without_wrong(values, found), cleared, found.invalid, errors.combine(found.tables)
        )

    def _without_wrong(self, values: dict[str, pa.Array], found: "_Findings") -> dict[str, pa.Array]:
        """The values of the resource's fields; null where the field has errors."""
        columns = {name: column for name, column in values.items() if name in self.bits}
        for name, column in columns.items():
            wrong = (found.invalid >> self.bits[name]) & 1 == 1
            if wrong.any():
                columns[name] = pc.if_else(pa.array(~wrong), column, pa.scalar(None, column.type))
        return columns

    def _complete(self, cells: dict[str, Cells], found: "_Findings") -> None:
        """Adds the cells that no column of the upload gives directly: parts of objects, derived cells, and defaults."""
        count = len(found.rows)
        for field in self._nested:
            field.expand(cells, count, found.add)
        if self.resource.derive is not None:
            for error in self.resource.derive(cells):
                found.add(error.items, error.code, error.field, error.expectation, None)
        apply_properties(cells, self.options, count)

    def _require_ids(self, cells: dict[str, Cells], found: "_Findings") -> None:
        missing = constant(True, len(found.rows)) if "id" not in cells else pc.is_null(cells["id"].values)
        missing = pc.and_(missing, pa.array(found.invalid == 0))
        expectation = "is missing: a delete needs the id of each record"
        found.add(pc.indices_nonzero(missing), "required", "id", expectation, None)

    def _reject_unknown(self, cells: dict[str, Cells], found: "_Findings") -> None:
        """Rejects items with unknown fields. Only JSON gets here: an unknown header refuses a flat file earlier."""
        for name in [name for name in cells if not self.resource.knows(name)]:
            column = cells.pop(name)
            carried = pc.indices_nonzero(pc.is_valid(column.raw))
            expectation = "is not a field of this resource: remove or rename it"
            found.add(carried, "unknown_field", name, expectation, column.raw.take(carried))

    def _of_right_kind(self, name: str, cells: Cells, found: "_Findings") -> Cells:
        field = self._scalars.fields.get(name) or self._others.get(name)
        return cells if field is None else of_kinds(field, name, cells, found.add)  # None: a part of an object or list


class _Findings:
    """Collects the errors of a chunk's items, and the mask of their fields."""

    def __init__(self, rows: pa.Int64Array, bits: dict[str, int]) -> None:
        self.rows = rows
        self.bits = bits
        self.invalid = np.zeros(len(rows), np.int64)
        self.tables: list[pa.Table] = []

    def add(
        self,
        items: pa.Array,
        code: str,
        field: str | pa.StringArray,
        expectation: str,
        values: pa.StringArray | None,
    ) -> None:
        """Adds an error for each of `items` (positions in the chunk); see `AddErrors`."""
        if len(items) == 0:
            return
        name = field if isinstance(field, str) else field[0].as_py()
        bit = self.bits.get(name.split(".", 1)[0], WHOLE_ITEM_BIT)
        self.invalid[items.to_numpy()] |= np.int64(1 << bit)
        self.tables.append(
            errors.item_errors(
                rows=self.rows.take(items), code=code, field=field, expectation=expectation, values=values
            )
        )


def _flags(booleans: pa.BooleanArray) -> npt.NDArray[np.bool_]:
    return np.asarray(booleans.to_numpy(zero_copy_only=False), dtype=np.bool_)
