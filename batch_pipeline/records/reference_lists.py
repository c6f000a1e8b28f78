"""From the cells of a field of references to the staged value: an object of lists of texts for each item.

All lists are in one long table, and then all references in another, so a cell (`a,b` or `["a","b"]`), JSON and dotted
headers have the same rules. Columns of both tables: item int64, operation int64 (place in `_OPERATIONS`), text string.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
import pandera.pandas as pandera
import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.payloads.model import CellKind
from batch_pipeline.records import rules
from batch_pipeline.records.cells import AddErrors, Cells, constant
from batch_pipeline.records.json_text import escaped
from batch_pipeline.records.links import ADD, MARK, QUALIFIER, REMOVE, SET, ReferenceField, Target
from batch_pipeline.values.email import canonical_emails
from batch_pipeline.values.masks import matches, replace
from batch_pipeline.values.text import clean_texts

SET_WITH_OTHERS = "has set together with add or remove: set alone says which there are to be"

_OPERATIONS = (ADD, REMOVE, SET, MARK)

# JSON arrays of texts, without escapes, and without blanks between the texts: as the readers write them.
_TEXT = r'"[^"\\\x00-\x1f]*"'
_PLAIN_ARRAY = rf"^\[{_TEXT}(?:,{_TEXT})*\]$"
_ARRAY_OF_ONE = rf'^\{{"(?P<operation>[a-z]+)":(?P<list>\[(?:{_TEXT}(?:,{_TEXT})*)?\])\}}$'


def read_references(
    field: ReferenceField, cells: Mapping[str, Cells], count: int, add_errors: AddErrors
) -> tuple[pa.StringArray | None, pa.BooleanArray]:
    """The staged value of each item (string, a JSON object), and the items that remove all links first (bool).

    The value is null if the item does not give the field. Instead of a column of nulls only, None is returned.
    """
    given: list[pa.Table] = []
    cleared = constant(False, count)
    for name, column in cells.items():
        operation = field.key_of(name)
        if name == field.name:
            cleared = pc.or_(cleared, column.cleared)
            given.append(_whole(field, column, add_errors))
        elif operation is not None:
            if operation == SET:
                cleared = pc.or_(cleared, column.cleared)
            items = pc.indices_nonzero(pc.is_valid(column.values))
            given.append(_lists(items, operation, column.values.take(items)))
    if not given:
        return None, cleared
    lists = pa.concat_tables(given).combine_chunks()
    _refuse_set_with_others(field, lists, add_errors)
    elements = _elements(field, lists, add_errors)
    _check(field, elements, add_errors)
    return _staged(lists, elements, count), cleared


def _lists(items: pa.Array, operation: str | pa.Array, texts: pa.Array) -> pa.Table:
    if isinstance(operation, str):
        operation = pa.repeat(pa.scalar(operation, pa.string()), len(items))
    codes = pc.index_in(operation, pa.array(_OPERATIONS, pa.string()))
    return pa.table({"item": items.cast(pa.int64()), "operation": codes.cast(pa.int64()), "text": texts})


def _whole(field: ReferenceField, column: Cells, add_errors: AddErrors) -> pa.Table:
    """The lists of items that give the field as one cell: a list, or an object of lists."""
    items = pc.indices_nonzero(pc.is_valid(column.values))
    texts = column.values.take(items)
    is_object = matches(texts, r"^\{") if CellKind.OBJECT in field.kinds else np.zeros(len(texts), np.bool_)
    is_list = pa.array(~is_object)
    found = [_lists(items.filter(is_list), field.plain, texts.filter(is_list))]
    if is_object.any():
        is_simple = is_object & matches(texts, _ARRAY_OF_ONE)
        parts = pc.extract_regex(texts.filter(pa.array(is_simple)), pattern=_ARRAY_OF_ONE)
        operations, lists = parts.field("operation"), parts.field("list")
        known = pc.is_in(operations, value_set=pa.array(field.operations, pa.string()))
        simple_items = items.filter(pa.array(is_simple))
        found.append(_lists(simple_items.filter(known), operations.filter(known), lists.filter(known)))
        is_simple[is_simple] = np.asarray(known)
        rest = pa.array(is_object & ~is_simple)
        found.append(_objects(field, items.filter(rest), texts.filter(rest), column, add_errors))
    return pa.concat_tables(found)


def _objects(field: ReferenceField, items: pa.Array, texts: pa.Array, column: Cells, add_errors: AddErrors) -> pa.Table:
    """The lists of objects that `_ARRAY_OF_ONE` does not match."""
    found: list[tuple[int, str, str]] = []
    unknown: dict[str, list[tuple[int, str]]] = {}
    wrong: list[int] = []
    for item, text in zip(items.to_pylist(), texts.to_pylist(), strict=True):
        try:
            lists = orjson.loads(text)
        except orjson.JSONDecodeError:  # a flat file's cell may hold anything
            wrong.append(item)
            continue
        for operation, value in lists.items():
            if operation not in field.operations:
                unknown.setdefault(operation, []).append((item, _json_text(value, otherwise=text)))
            elif value is not None and value != "":  # null and "" are missing values; an empty list is not
                shown = value if isinstance(value, str) else _json_text(value, otherwise=text)
                found.append((item, operation, shown))
    refused = pa.array(wrong, pa.int64())
    add_errors(refused, "invalid_type", field.name, field.type_expectation, column.raw.take(refused))
    for operation, places in unknown.items():
        at, shown = pa.array([item for item, _ in places], pa.int64()), pa.array([text for _, text in places])
        expectation = f"is not known: {field.name} has {', '.join(field.operations)}"
        add_errors(at, "unknown_field", f"{field.name}.{operation}", expectation, shown)
    return _lists(
        pa.array([item for item, _, _ in found], pa.int64()),
        pa.array([operation for _, operation, _ in found], pa.string()),
        pa.array([text for _, _, text in found], pa.string()),
    )


def _json_text(value: Any, *, otherwise: str) -> str:
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:  # orjson reads deeper nesting than it writes
        return otherwise


def _refuse_set_with_others(field: ReferenceField, lists: pa.Table, add_errors: AddErrors) -> None:
    is_set = lists["operation"].to_numpy() == _OPERATIONS.index(SET)
    items = lists["item"].to_numpy()
    both = np.intersect1d(items[is_set], items[~is_set])
    add_errors(pa.array(both), "conflict", field.name, SET_WITH_OTHERS, None)


def _elements(field: ReferenceField, lists: pa.Table, add_errors: AddErrors) -> pa.Table:
    """The single references, in the order of the lists."""
    texts = lists["text"].combine_chunks()
    is_array = matches(texts, r"^\[")
    is_plain = is_array & matches(texts, _PLAIN_ARRAY)
    found = [
        _split(lists.filter(pa.array(~is_array)), ","),
        _split(_unwrapped(lists.filter(pa.array(is_plain))), '","'),
    ]
    if (is_array & ~is_plain).any():
        found.append(_arrays(field, lists.filter(pa.array(is_array & ~is_plain)), add_errors))
    elements = pa.concat_tables(found).combine_chunks()
    cleaned = clean_texts(elements["text"].combine_chunks())
    elements = elements.set_column(2, "text", _canonical(field.target, cleaned))
    return elements.filter(pc.not_equal(elements["text"], ""))


def _unwrapped(lists: pa.Table) -> pa.Table:
    """Arrays without their brackets and outer quotes."""
    return lists.set_column(2, "text", pc.utf8_slice_codeunits(lists["text"], 2, -2))


def _split(lists: pa.Table, separator: str) -> pa.Table:
    parts = pc.split_pattern(lists["text"].combine_chunks(), separator)
    parents = pc.list_parent_indices(parts)
    return pa.table(
        {
            "item": lists["item"].combine_chunks().take(parents),
            "operation": lists["operation"].combine_chunks().take(parents),
            "text": parts.flatten(),
        }
    )


def _arrays(field: ReferenceField, lists: pa.Table, add_errors: AddErrors) -> pa.Table:
    """The elements of arrays that `_PLAIN_ARRAY` does not match."""
    items: list[int] = []
    operations: list[int] = []
    texts: list[str] = []
    wrong: list[tuple[int, str]] = []
    for item, operation, text in zip(*(lists[name].to_pylist() for name in lists.column_names), strict=True):
        try:
            elements = orjson.loads(text)
        except orjson.JSONDecodeError:
            wrong.append((item, text))
            continue
        for element in elements:
            if isinstance(element, str):
                items.append(item)
                operations.append(operation)
                texts.append(element)
            elif element is not None:
                wrong.append((item, _json_text(element, otherwise=text)))
    shown = pa.array([text for _, text in wrong], pa.string())
    at = pa.array([item for item, _ in wrong], pa.int64())
    add_errors(at, "invalid_type", field.name, field.type_expectation, shown)
    return pa.table([items, operations, pa.array(texts, pa.string())], schema=lists.schema)


def _canonical(target: Target, texts: pa.StringArray) -> pa.StringArray:
    """Email addresses with an encoded international domain (`xn--`) in the form that records have."""
    if not target.fold_case:
        return texts
    is_encoded = matches(texts, r"(?i)@(?:.*\.)?xn--")
    if not is_encoded.any():
        return texts
    encoded = texts.filter(pa.array(is_encoded))
    names = pc.replace_substring_regex(encoded, pattern=rf"^((?s:.*){QUALIFIER})?(?s:.*)$", replacement=r"\1")
    addresses = pc.replace_substring_regex(encoded, pattern=rf"^(?s:.*){QUALIFIER}", replacement="")
    decoded = pc.coalesce(canonical_emails(addresses).values, addresses)
    return replace(texts, is_encoded, pc.binary_join_element_wise(names, decoded, ""))


def element_schema(field: ReferenceField) -> pandera.DataFrameSchema:
    """The rules of a field's single references; column `text`, Arrow string."""
    return pandera.DataFrameSchema(
        {"text": pandera.Column(rules.TEXT, [rule.check() for rule in field.element_rules()])}, strict=True
    )


def _check(field: ReferenceField, elements: pa.Table, add_errors: AddErrors) -> None:
    expectations = {rule.code: rule.expectation for rule in field.element_rules()}
    texts, items = elements["text"].combine_chunks(), elements["item"].combine_chunks()
    for _, code, places in rules.failures(element_schema(field), {"text": texts}):
        add_errors(items.take(places), code, field.name, expectations[code], texts.take(places))


def _staged(lists: pa.Table, elements: pa.Table, count: int) -> pa.StringArray:
    """One JSON object for each item: every operation that the item gives, with its references or an empty list."""
    if lists.num_rows == 0:
        return pa.nulls(count, pa.string())
    width = len(_OPERATIONS)

    def places(table: pa.Table) -> Any:
        return table["item"].to_numpy() * width + table["operation"].to_numpy()

    of_elements = places(elements)
    order = np.argsort(of_elements, kind="stable")
    of_lists = np.unique(places(lists))
    quoted = pc.binary_join_element_wise('"', escaped(elements["text"].combine_chunks().take(pa.array(order))), '"', "")
    bounds = np.append(np.searchsorted(of_elements[order], of_lists), len(order)).astype(np.int32)
    names = pa.array([f'"{operation}": [' for operation in _OPERATIONS]).take(pa.array(of_lists % width))
    members = pc.binary_join_element_wise(
        names, pc.binary_join(pa.ListArray.from_arrays(pa.array(bounds), quoted), ", "), "]", ""
    )
    items, starts = np.unique(of_lists // width, return_index=True)
    bounds = np.append(starts, len(of_lists)).astype(np.int32)
    objects = pc.binary_join(pa.ListArray.from_arrays(pa.array(bounds), members), ", ")
    objects = pc.binary_join_element_wise("{", objects, "}", "")
    at = np.full(count, -1, np.int64)
    at[items] = np.arange(len(items))
    return objects.take(pa.array(at, mask=at < 0))
