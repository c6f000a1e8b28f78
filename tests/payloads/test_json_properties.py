"""JSON: properties over open inputs, compared with the standard library's decoder, with tiny blocks."""

import json
from typing import Any

import pytest
from examples import examples
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from batch_pipeline.errors import RefusedError
from batch_pipeline.payloads.model import CellKind

BLOCK_BYTES = st.integers(1, 40) | st.just(1 << 20)
STRINGS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.text('"\\/[]{},: \n\0', max_size=4)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | STRINGS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(STRINGS, inner, max_size=3),
    max_leaves=6,
)
ITEMS = st.lists(st.dictionaries(STRINGS, VALUES, max_size=4), max_size=5)
KINDS = {
    str: CellKind.TEXT,
    type(None): CellKind.NULL,
    int: CellKind.NUMBER,
    float: CellKind.NUMBER,
    bool: CellKind.BOOLEAN,
    list: CellKind.ARRAY,
    dict: CellKind.OBJECT,
}


def as_cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@given(
    items=ITEMS,
    ensure_ascii=st.booleans(),
    indent=st.sampled_from([None, 1]),
    as_lines=st.booleans(),
    block_bytes=BLOCK_BYTES,
    chunk_rows=st.integers(1, 4),
)
@settings(max_examples=examples(60, thorough=500))
def test_any_items_read_back_the_same(read_upload, *, items, ensure_ascii, indent, as_lines, block_bytes, chunk_rows):
    if as_lines:
        data = "".join(json.dumps(item, ensure_ascii=ensure_ascii) + "\n" for item in items)
        assume(items)
    else:
        data = json.dumps(items, ensure_ascii=ensure_ascii, indent=indent)
    name = "x.ndjson" if as_lines else "x.json"
    reading = read_upload(data, name, block_bytes=block_bytes, chunk_rows=chunk_rows)
    assert reading.raws == {}
    expected = {row: {name: as_cell(value) for name, value in item.items()} for row, item in enumerate(items, 1)}
    assert reading.items == expected
    for row, item in enumerate(items, 1):
        for name, kind in reading.kinds[row].items():
            assert kind == KINDS[type(item[name])]
        without_kinds = item.keys() - reading.kinds[row].keys()
        assert all(type(item[name]) is str for name in without_kinds)


JSON_LIKE = st.lists(
    st.sampled_from(
        [*"[]{},:1-0 \n\"\\'/", '"a"', '"b"', '"\\n"', '"\\x"', '"\t"', ".5", "e3", "true", "tru", "null", "NaN"]
    ),
    max_size=14,
).map("".join)


@st.composite
def damaged_documents(draw: st.DrawFn) -> str:
    """The text of an array of items with a few characters taken out, put in or exchanged."""
    text = json.dumps(draw(ITEMS), ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 1])))
    for _ in range(draw(st.integers(1, 2))):
        position = draw(st.integers(1, len(text)))
        removed = draw(st.integers(0, 1))
        put_in = draw(st.sampled_from(["", *'"\\,:[]{}01-.e \n\t']))
        text = text[:position] + put_in + text[position + removed :]
    return text


def decode_strictly(text: str) -> Any:
    def refuse(name: str) -> None:
        raise ValueError(name)

    return json.loads(text, parse_constant=refuse)


@given(JSON_LIKE.map(lambda text: f"[{text}") | damaged_documents(), BLOCK_BYTES)
@settings(max_examples=examples(60, thorough=500))
def test_a_document_is_refused_exactly_if_the_grammar_forbids_it(read_upload, text, block_bytes):
    try:
        items = decode_strictly(text)
    except ValueError:
        with pytest.raises(RefusedError, match=r"line \d+, column \d+: .") as caught:
            read_upload(text, "x.json", block_bytes=block_bytes)
        assert caught.value.code == "unreadable_file"
    else:
        reading = read_upload(text, "x.json", block_bytes=block_bytes)
        assert sorted([*reading.items, *reading.raws]) == list(range(1, len(items) + 1))
        for row, item in reading.items.items():
            assert reading.items[row].keys() == items[row - 1].keys()
            assert isinstance(item, dict)
        for row, raw in reading.raws.items():
            assert decode_strictly(raw) == items[row - 1]
