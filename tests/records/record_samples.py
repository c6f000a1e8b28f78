"""Chunks built by hand, as the readers of CSV and JSON give them, and what the row rules say of them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from batch_pipeline.payloads.model import UNREADABLE_SCHEMA, CellKind, RawChunk
from batch_pipeline.records.cells import ReadingOptions
from batch_pipeline.records.check import CheckedChunk, RowRules
from batch_pipeline.records.contact import CONTACT
from batch_pipeline.records.fields import RuleContext
from batch_pipeline.records.resource import Resource

ID = "ctct_1111111111111111111111"


class Found(NamedTuple):
    """The facts of one error that callers rely on."""

    code: str
    field: str | None


def csv_chunk(columns: Mapping[str, Sequence[str]], *, first_row: int = 1) -> RawChunk:
    """Every item carries every column, all cells are text."""
    count = len(next(iter(columns.values())))
    return RawChunk(
        pa.array(range(first_row, first_row + count), pa.int64()),
        {name: pa.array(list(cells), pa.string()) for name, cells in columns.items()},
        {},
        UNREADABLE_SCHEMA.empty_table(),
    )


def json_chunk(items: Sequence[Mapping[str, Any]], *, first_row: int = 1) -> RawChunk:
    """Items of JSON values; a field has kinds where some carried value of it is no string."""
    names = list(dict.fromkeys(name for item in items for name in item))
    columns, kinds = {}, {}
    for name in names:
        cells = [_cell(item[name]) if name in item else (None, None) for item in items]
        columns[name] = pa.array([text for text, _ in cells], pa.string())
        if any(kind not in (None, CellKind.TEXT) for _, kind in cells):
            kinds[name] = pa.array([None if kind is None else int(kind) for _, kind in cells], pa.uint8())
    rows = pa.array(range(first_row, first_row + len(items)), pa.int64())
    return RawChunk(rows, columns, kinds, UNREADABLE_SCHEMA.empty_table())


def _cell(value: Any) -> tuple[str, CellKind]:
    if isinstance(value, str):
        return value, CellKind.TEXT
    if value is None:
        return "", CellKind.NULL
    kind = {bool: CellKind.BOOLEAN, list: CellKind.ARRAY, dict: CellKind.OBJECT}.get(type(value), CellKind.NUMBER)
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False), kind


def contact_rules(**options: Any) -> RowRules:
    """The row rules of contacts; see `rules_of`."""
    return rules_of(CONTACT, **options)


def rules_of(
    resource: Resource,
    *,
    mapping: Mapping[str, str] | None = None,
    properties: Mapping[str, str] | None = None,
    blank_clears: bool = False,
    region: str = "US",
) -> RowRules:
    """The row rules of a resource; `mapping` is upload column -> field."""
    options = ReadingOptions(mapping=mapping or {}, properties=properties or {}, blank_clears=blank_clears)
    return RowRules(resource, options, RuleContext(region=region))


def check_csv(columns: Mapping[str, Sequence[str]], resource: Resource = CONTACT, **options: Any) -> CheckedChunk:
    return rules_of(resource, **options).check(csv_chunk(columns))


def check_json(*items: Mapping[str, Any], resource: Resource = CONTACT, **options: Any) -> CheckedChunk:
    return rules_of(resource, **{"blank_clears": True, **options}).check(json_chunk(items))


def found_in(checked: CheckedChunk, row: int = 1) -> list[Found]:
    """Code and field of each error of a row, in order."""
    return [Found(error["code"], error["field"]) for error in errors_of(checked, row)]


def errors_of(checked: CheckedChunk, row: int = 1) -> list[dict[str, Any]]:
    return [error for error in checked.errors.to_pylist() if error["row"] == row]


def value_of(checked: CheckedChunk, field: str, item: int = 0) -> Any:
    """The value to store, None where there is none."""
    column = checked.fields.get(field)
    return None if column is None else column[item].as_py()


def fields_in(mask: int, resource: Resource = CONTACT) -> set[str]:
    """The names of the fields whose bits are set."""
    return {field.name for bit, field in enumerate(resource.fields) if int(mask) >> bit & 1}
