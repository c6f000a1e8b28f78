"""Objects of named texts (`metadata`): dotted columns and JSON objects become one JSON patch for each item.

All pairs are in one long table (item int64, key string, value string), so both forms have the same rules.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import orjson
import pandera.pandas as pandera
import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.payloads.model import CellKind
from batch_pipeline.records import rules
from batch_pipeline.records.cells import AddErrors, Cells, constant
from batch_pipeline.records.fields import RuleContext, Text
from batch_pipeline.records.json_text import grouped, json_values
from batch_pipeline.records.nested import Nested
from batch_pipeline.records.rules import Rule
from batch_pipeline.records.scalars import of_kinds
from batch_pipeline.values.text import clean_texts


@dataclass(frozen=True)
class KeyedText(Nested):
    """An object of named texts, merged key by key: `metadata`.

    Flat files give its keys as dotted headers (`metadata.colour`). A null value removes a key.
    """

    max_pairs: int = 25
    max_key_length: int = 100
    max_value_length: int = 500

    merges_by_key: ClassVar[bool] = True
    kinds: ClassVar[frozenset[CellKind]] = frozenset({CellKind.OBJECT})
    type_expectation: ClassVar[str] = "must be an object of names and texts"

    @property
    def initial(self) -> str:
        """No pairs."""
        return "{}"

    def key_of(self, header: str) -> str | None:
        """The key that a dotted header names; None if the header belongs to another field."""
        prefix = f"{self.name}."
        return header.removeprefix(prefix) if header.startswith(prefix) and header != prefix else None

    def takes_default(self, header: str) -> bool:
        """One key of it."""
        return self.key_of(header) is not None

    def key_rules(self) -> tuple[Rule, ...]:
        """Rules on each key."""
        return (rules.at_most(self.max_key_length), rules.no_control_characters())

    def value_rules(self) -> tuple[Rule, ...]:
        """Rules on each value."""
        return (rules.at_most(self.max_value_length), rules.no_control_characters())

    def assemble(
        self,
        cells: Mapping[str, Cells],
        values: Mapping[str, pa.Array],
        count: int,
        context: RuleContext,
        add_errors: AddErrors,
    ) -> tuple[pa.StringArray | None, pa.BooleanArray]:
        """The field's patch for each item: a null value removes a key."""
        del values, context
        return _read_keyed(self, cells, count, add_errors)


def _read_keyed(
    field: KeyedText, cells: Mapping[str, Cells], count: int, add_errors: AddErrors
) -> tuple[pa.StringArray | None, pa.BooleanArray]:
    pairs = [
        _column_pairs(key, of_kinds(Text(name), name, cells[name], add_errors))
        for name in cells
        if (key := field.key_of(name)) is not None
    ]
    cleared = constant(False, count)
    if field.name in cells:
        whole = cells[field.name]
        cleared = whole.cleared
        pairs.append(_object_pairs(field, whole, add_errors))
    if not pairs:
        return None, cleared
    table = pa.concat_tables(pairs)
    _check(field, table, add_errors)
    return _patches(table, count), cleared


def _pairs(items: pa.Array, keys: pa.Array, values: pa.Array) -> pa.Table:
    return pa.table({"item": items.cast(pa.int64()), "key": keys.cast(pa.string()), "value": values.cast(pa.string())})


def _column_pairs(key: str, cells: Cells) -> pa.Table:
    """The pairs of one dotted column; a cleared cell is a pair with a null value."""
    given = pc.indices_nonzero(pc.or_(pc.is_valid(cells.values), cells.cleared))
    return _pairs(given, pa.repeat(pa.scalar(key, pa.string()), len(given)), cells.values.take(given))


def _object_pairs(field: KeyedText, cells: Cells, add_errors: AddErrors) -> pa.Table:
    """The pairs of items that give the field as one JSON object."""
    given = pc.indices_nonzero(pc.is_valid(cells.values))
    items: list[int] = []
    keys: list[str] = []
    values: list[str | None] = []
    not_objects: list[int] = []
    wrong: dict[str, dict[int, str]] = {}
    for item, text in zip(given.to_pylist(), cells.values.take(given).to_pylist(), strict=True):
        try:
            pairs = orjson.loads(text)
        except orjson.JSONDecodeError:
            pairs = None  # a flat file's cell may hold anything
        if not isinstance(pairs, dict):
            not_objects.append(item)
            continue
        for key, value in pairs.items():
            if value is None or isinstance(value, str):
                items.append(item)
                keys.append(key)
                values.append(value or None)
            else:
                wrong.setdefault(key, {})[item] = _json_text(value, otherwise=text)
    bad = pa.array(not_objects, pa.int64())
    add_errors(bad, "invalid_type", field.name, field.type_expectation, cells.raw.take(bad))
    for key, places in wrong.items():
        shown = pa.array(places.values(), pa.string())
        add_errors(pa.array(places, pa.int64()), "invalid_type", f"{field.name}.{key}", "must be a text", shown)
    cleaned = clean_texts(pa.array(values, pa.string()))
    cleaned = pc.if_else(pc.equal(cleaned, ""), pa.scalar(None, pa.string()), cleaned)
    return _pairs(pa.array(items, pa.int64()), clean_texts(pa.array(keys, pa.string())), cleaned)


def _json_text(value: Any, *, otherwise: str) -> str:
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:  # orjson reads deeper nesting than it writes
        return otherwise


def pair_schema(field: KeyedText) -> pandera.DataFrameSchema:
    """The rules of a keyed field's pairs; columns `key` and `value`, Arrow strings."""
    return pandera.DataFrameSchema(
        {
            "key": pandera.Column(rules.TEXT, [rule.check() for rule in field.key_rules()]),
            "value": pandera.Column(rules.TEXT, [rule.check() for rule in field.value_rules()], nullable=True),
        },
        strict=True,
    )


def _check(field: KeyedText, table: pa.Table, add_errors: AddErrors) -> None:
    columns = {name: table[name].combine_chunks() for name in ("key", "value")}
    expectations = {
        "key": {rule.code: rule.expectation for rule in field.key_rules()},
        "value": {rule.code: rule.expectation for rule in field.value_rules()},
    }
    items = table["item"].combine_chunks()
    for column, code, places in rules.failures(pair_schema(field), columns):
        expectation = expectations[column][code]
        if column == "key":
            expectation = f"(a name in it) {expectation}"
            add_errors(items.take(places), code, field.name, expectation, columns["key"].take(places))
            continue
        by_key = columns["key"].take(places)
        for key in pc.unique(by_key).to_pylist():
            here = places.filter(pc.equal(by_key, key))
            add_errors(items.take(here), code, f"{field.name}.{key}", expectation, columns["value"].take(here))
    given = table.filter(pc.is_valid(table["value"]))
    per_item = given.group_by("item").aggregate([("key", "count_distinct")])
    too_many = per_item.filter(pc.greater(per_item["key_count_distinct"], field.max_pairs))
    add_errors(
        too_many["item"].combine_chunks(),
        "too_many",
        field.name,
        f"has more than {field.max_pairs} pairs",
        None,
    )


def _patches(table: pa.Table, count: int) -> pa.StringArray:
    """One JSON object for each item. Of pairs with the same key PostgreSQL's jsonb keeps the last."""
    if table.num_rows == 0:
        return pa.nulls(count, pa.string())
    order = np.argsort(table["item"].to_numpy(), kind="stable")
    table = table.take(pa.array(order)).combine_chunks()
    keys, values = (json_values(table[name].combine_chunks()) for name in ("key", "value"))
    members = pc.binary_join_element_wise(keys, pc.fill_null(values, "null"), ": ")
    return grouped(table["item"].to_numpy(), members, count, "{", "}")
