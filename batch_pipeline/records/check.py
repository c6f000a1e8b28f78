"""Applies a resource's row rules to a chunk of items: typed columns for the database, and every item's errors.

The rules themselves are the pandera schema that `row_schema` builds from the resource's fields.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandera.pandas as pandera
import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.payloads.model import RawChunk
from batch_pipeline.records import errors, rules
from batch_pipeline.records.cells import Cells, ReadingOptions, apply_properties, constant, read_cells
from batch_pipeline.records.fields import Field, KeyedText, RuleContext, Text, refused
from batch_pipeline.records.keyed import read_keyed
from batch_pipeline.records.resource import Resource

REFUSED = ":refused"  # suffix of the flag columns that say which values a field's reading refused


@dataclass(frozen=True)
class CheckedChunk:
    """Items after the row rules.

    Attributes:
        fields: field name -> values to store, typed, null where not given or not valid.
        cleared: int64; bit i set where the item clears the resource's i-th field.
        invalid: int64; bit i set where the i-th field has errors, the highest bit for errors of no one field.
        errors: `ERRORS_SCHEMA`, by row.
    """

    rows: pa.Int64Array
    fields: dict[str, pa.Array]
    cleared: npt.NDArray[np.int64]
    invalid: npt.NDArray[np.int64]
    errors: pa.Table


WHOLE_ITEM_BIT = 62


class RowRules:
    """The row rules of one resource for one batch; `only_ids` for delete, of whose items only the id counts."""

    def __init__(
        self, resource: Resource, options: ReadingOptions, context: RuleContext, *, only_ids: bool = False
    ) -> None:
        self.resource = resource
        self._only_ids = only_ids
        self.options = options
        self.context = context
        self.bits = {field.name: bit for bit, field in enumerate(resource.fields)}
        self._rules = {field.name: field.rules() for field in resource.fields}
        self._refusals = {field.name: field.refusal(context) for field in resource.fields}
        self.schema = row_schema(resource, context)

    def check(self, chunk: RawChunk) -> CheckedChunk:
        """Applies all rules to all items; reports every error of every item."""
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
        values: dict[str, pa.Array] = {}
        cleared = np.zeros(len(chunk.rows), np.int64)
        for field in self.resource.fields:
            if isinstance(field, KeyedText):
                patch, is_cleared = read_keyed(field, cells, len(chunk.rows), found.add)
                if patch is not None:
                    values[field.name] = patch
            elif field.name in cells:
                is_cleared = cells[field.name].cleared
            else:
                continue
            cleared |= _mask(is_cleared).astype(np.int64) << self.bits[field.name]
            if field.required:
                found.add(pc.indices_nonzero(is_cleared), "required", field.name, "can't be cleared", None)
        self._check_scalars(cells, values, found)
        for name, column in values.items():
            wrong = (found.invalid >> self.bits[name]) & 1 == 1
            if wrong.any():
                values[name] = pc.if_else(pa.array(~wrong), column, pa.scalar(None, column.type))
        return CheckedChunk(chunk.rows, values, cleared, found.invalid, errors.combine(found.tables))

    def _complete(self, cells: dict[str, Cells], found: "_Findings") -> None:
        """Makes the cells that the upload gives in other ways: derived ones, and defaults."""
        if self.resource.derive is not None:
            for error in self.resource.derive(cells):
                found.add(error.items, error.code, error.field, error.expectation, None)
        apply_properties(cells, self.options, len(found.rows))

    def _require_ids(self, cells: dict[str, Cells], found: "_Findings") -> None:
        missing = constant(True, len(found.rows)) if "id" not in cells else pc.is_null(cells["id"].values)
        missing = pc.and_(missing, pa.array(found.invalid == 0))
        expectation = "is missing: a delete needs the id of each record"
        found.add(pc.indices_nonzero(missing), "required", "id", expectation, None)

    def _reject_unknown(self, cells: dict[str, Cells], found: "_Findings") -> None:
        """Unknown columns of a flat file refuse it earlier; here they are fields that only some JSON items carry."""
        for name in [name for name in cells if not self.resource.knows(name)]:
            column = cells.pop(name)
            carried = pc.indices_nonzero(pc.is_valid(column.raw))
            expectation = "is no field of this resource: remove or rename it"
            found.add(carried, "unknown_field", name, expectation, column.raw.take(carried))

    def _of_right_kind(self, name: str, cells: Cells, found: "_Findings") -> Cells:
        if cells.kinds is None:
            return cells
        field = self._field_of(name)
        allowed = pa.array([int(kind) for kind in field.kinds], pa.uint8())
        right = pc.fill_null(pc.or_kleene(pc.is_null(cells.kinds), pc.is_in(cells.kinds, allowed)), True)
        wrong = pc.indices_nonzero(pc.invert(right))
        if len(wrong) == 0:
            return cells
        found.add(wrong, "invalid_type", name, field.type_expectation, cells.raw.take(wrong))
        return cells.take_valid(right)

    def _field_of(self, name: str) -> Field:
        for field in self.resource.fields:
            if field.name == name:
                return field
        return Text(name)  # a dotted key of an object, or one of the file's own headers: texts

    def _check_scalars(self, cells: dict[str, Cells], values: dict[str, pa.Array], found: "_Findings") -> None:
        """Reads the scalar fields and lets the pandera schema judge them, all in one frame."""
        columns: dict[str, pa.Array] = {}
        for field in self.resource.fields:
            if field.name not in cells or isinstance(field, KeyedText):
                continue
            given = cells[field.name].values
            value = field.read(given, self.context)
            values[field.name] = value
            if self._rules[field.name]:
                columns[field.name] = value
            if self._refusals[field.name] is not None:
                columns[field.name + REFUSED] = refused(given, value)
        for column, code, items in rules.failures(self.schema, columns):
            name = column.removesuffix(REFUSED)
            raw = cells[name].raw.take(items)
            found.add(items, code, name, self._expectation(name, column, code), raw)

    def _expectation(self, name: str, column: str, code: str) -> str:
        if column != name:
            refusal = self._refusals[name]
            assert refusal is not None  # noqa: S101 - the column exists only where there is one
            return refusal.expectation
        return next(rule.expectation for rule in self._rules[name] if rule.code == code)


class _Findings:
    """Collects the errors of a chunk's items and which fields they are of."""

    def __init__(self, rows: pa.Int64Array, bits: dict[str, int]) -> None:
        self.rows = rows
        self.bits = bits
        self.invalid = np.zeros(len(rows), np.int64)
        self.tables: list[pa.Table] = []

    def add(self, items: pa.Array, code: str, field: str, expectation: str, values: pa.StringArray | None) -> None:
        """One error for each of `items` (positions in the chunk)."""
        if len(items) == 0:
            return
        bit = self.bits.get(field.split(".", 1)[0], WHOLE_ITEM_BIT)
        self.invalid[items.to_numpy()] |= np.int64(1 << bit)
        self.tables.append(
            errors.item_errors(
                rows=self.rows.take(items), code=code, field=field, expectation=expectation, values=values
            )
        )


def row_schema(resource: Resource, context: RuleContext) -> pandera.DataFrameSchema:
    """The row rules of a resource's scalar fields.

    Columns: each field with rules on its text, as Arrow string; `{field}:refused`, Arrow bool, for each field whose
    reading can refuse a text. An upload need not have all of them.
    """
    columns: dict[str, pandera.Column] = {}
    for field in resource.fields:
        checks = [rule.check() for rule in field.rules()]
        if checks:
            columns[field.name] = pandera.Column(rules.TEXT, checks, nullable=True, required=False)
        refusal = field.refusal(context)
        if refusal is not None:
            columns[field.name + REFUSED] = pandera.Column(rules.FLAG, refusal.check(), required=False)
    return pandera.DataFrameSchema(columns, strict=True)


def _mask(booleans: pa.BooleanArray) -> npt.NDArray[np.bool_]:
    return np.asarray(booleans.to_numpy(zero_copy_only=False), dtype=np.bool_)
