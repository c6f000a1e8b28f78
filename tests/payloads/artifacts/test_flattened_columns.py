"""errors.csv of JSON uploads: which dotted columns there are, and that every value stands in exactly one cell."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rejected_samples import Verbatim, json_chunk, one_error_each, read_csv, write_errors

from batch_pipeline.payloads.artifacts import flattened_columns


def cells_of(items: dict[int, dict[str, Any]], **options: int) -> list[dict[str, str]]:
    """The cells of the upload's columns of errors.csv, of each item those that are not empty."""
    chunk = json_chunk(items)
    columns = flattened_columns(list(chunk.columns), [chunk], **options)
    csv_bytes, _ = write_errors([one_error_each(chunk)], columns)
    header, rows = read_csv(csv_bytes)
    own = header.index("_row")
    return [{name: cell for name, cell in zip(header[:own], row[:own], strict=True) if cell} for row in rows]


def test_objects_become_dotted_columns_in_first_seen_order_in_the_place_of_their_field() -> None:
    chunks = [
        json_chunk({1: {"id": "a", "metadata": {"size": "L", "colour": "red"}, "name": "A"}}),
        json_chunk({2: {"name": "B", "sender": {"address": {"city": "X"}, "name": "S"}}}),
        json_chunk({3: {"metadata": {"colour": "blue", "weight": "1"}}}),
    ]
    assert flattened_columns(["id", "metadata", "name", "sender"], chunks) == [
        "id",
        "metadata.size",
        "metadata.colour",
        "metadata.weight",
        "name",
        "sender.address.city",
        "sender.name",
    ]


@pytest.mark.parametrize(
    ("item", "cells"),
    [
        (
            {"m": Verbatim('{"n":1.10,"big":12345678901234567890123,"e":-1E+2}')},
            {"m.n": "1.10", "m.big": "12345678901234567890123", "m.e": "-1E+2"},
        ),
        ({"m": Verbatim('{"l":[1.0,{"a":"ü\\n"},[true,null]]}')}, {"m.l": '[1.0,{"a":"ü\\n"},[true,null]]'}),
        ({"m": {"t": True, "f": False, "n": None, "e": ""}}, {"m.t": "true", "m.f": "false"}),
        ({"m": {}}, {"m": "{}"}),
        ({"m": {"a": {}, "b": []}}, {"m.a": "{}", "m.b": "[]"}),
        ({"m": ["a", {"b": 1}]}, {"m": '["a",{"b":1}]'}),
        ({"m": {"a": "1"}, "m.a": "2"}, {"m": '{"a":"1"}', "m.a": "2"}),
        ({"m": {"a": {"b": "1"}}, "m.a": {"b": "2"}}, {"m": '{"a":{"b":"1"}}', "m.a.b": "2"}),
        ({"m": {"a": {"b": 1}, "a.b": 2}}, {"m": '{"a":{"b":1},"a.b":2}'}),
        ({"m": {"a": "=1+1", "'": "'"}}, {"m.a": "=1+1", "m.'": "'"}),
        ({"m": None}, {}),
    ],
    ids=[
        "numbers",
        "list",
        "constants",
        "empty object",
        "empty within",
        "top-level list",
        "dotted field beside",
        "dotted object beside",
        "same path twice",
        "formula",
        "null",
    ],
)
def test_what_an_item_looks_like_in_errors_csv(item: dict[str, Any], cells: dict[str, str]) -> None:
    assert cells_of({1: item}) == [cells]


def test_a_value_that_is_no_object_keeps_the_fields_own_column() -> None:
    items = {1: {"m": {"a": "1"}}, 2: {"m": "text"}, 3: {"m": None}}
    assert flattened_columns(["m"], [json_chunk(items)]) == ["m", "m.a"]
    assert cells_of(items) == [{"m.a": "1"}, {"m": "text"}, {}]


def test_null_alone_needs_no_column_beside_the_dotted_ones() -> None:
    assert flattened_columns(["m"], [json_chunk({1: {"m": None}, 2: {"m": {"a": "1"}}})]) == ["m.a"]


def test_a_dotted_field_and_an_objects_key_share_a_column() -> None:
    items = {1: {"m": {"a": "1"}}, 2: {"m.a": "2"}}
    assert flattened_columns(["m", "m.a"], [json_chunk(items)]) == ["m.a"]
    assert cells_of(items) == [{"m.a": "1"}, {"m.a": "2"}]


def test_fields_with_too_many_keys_for_a_file_stay_whole_the_widest_first() -> None:
    items = {row: {"wide": {f"key {row}": "x"}, "narrow": {"a": "1", "b": "2"}} for row in range(1, 31)}
    assert flattened_columns(["wide", "narrow"], [json_chunk(items)], max_columns=20) == [
        "wide",
        "narrow.a",
        "narrow.b",
    ]
    assert cells_of(items, max_columns=20)[4] == {"wide": '{"key 5":"x"}', "narrow.a": "1", "narrow.b": "2"}
    assert len(flattened_columns(["wide", "narrow"], [json_chunk(items)], max_columns=36)) == 32
    assert flattened_columns(["wide", "narrow"], [json_chunk(items)], max_columns=0) == ["wide", "narrow"]


KEYS = st.sampled_from(["a", "b", "a.b", "a.b.c", "", ".", "=", "ü", "_row"])
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=4
)  # fmt: skip
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=3))
ITEMS = st.lists(st.dictionaries(KEYS, VALUES, max_size=4), max_size=5)


def _leaves(prefix: str, value: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, member in value.items():
        if isinstance(member, dict) and member:
            yield from _leaves(f"{prefix}.{key}", member)
        else:
            yield f"{prefix}.{key}", member


def _text(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@given(items=ITEMS, max_columns=st.sampled_from([500, 9]), cut=st.integers(0, 5))
def test_every_value_stands_in_exactly_one_cell(items: list[dict[str, Any]], max_columns: int, cut: int) -> None:
    numbered = dict(enumerate(items, 1))
    chunks = [
        json_chunk({row: item for row, item in numbered.items() if (row > cut) == second}) for second in (False, True)
    ]
    fields = list(dict.fromkeys(name for item in items for name in item))
    columns = flattened_columns(fields, chunks, max_columns=max_columns)
    assert len(set(columns)) == len(columns)
    csv_bytes, json_bytes = write_errors(map(one_error_each, chunks), columns)
    header, rows = read_csv(csv_bytes)
    own = header.index("_row")
    assert [entry["item"] for entry in json.loads(json_bytes)] == items
    for item, row in zip(items, rows, strict=True):
        cells = {name: cell for name, cell in zip(header[:own], row[:own], strict=True) if cell}
        for name, value in item.items():
            if name == "_row":
                continue
            if name in cells and cells[name] == _text(value):
                del cells[name]
                continue
            shown = dict(_leaves(name, value)) if isinstance(value, dict) else {name: value}
            assert {path: cells.pop(path, "") for path in shown} == {path: _text(leaf) for path, leaf in shown.items()}
        assert {name for name in cells if not name.startswith("_row.")} == set()
