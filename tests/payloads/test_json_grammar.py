"""JSON exactly by RFC 8259: all that its grammar allows is accepted, all that it doesn't is refused at the right place.

Compared with a recogniser that is written from the grammar alone (`rfc8259`), on texts made from the grammar.
"""

import json
import re

import pytest
from examples import examples
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rfc8259 import ARRAYS, BLANK, NUMBERS, VALUES, Recogniser

from batch_pipeline.errors import RefusedError

BLOCK_BYTES = st.integers(1, 40) | st.just(1 << 20)
# What is put in: parts of the grammar, and what resembles them in other languages.
INSERTED = st.sampled_from(
    [
        *[
            "",
            *"\"\\,:[]{}01-+.eE \n\t\r/x#'",
            "\u00a0",
            "\ufeff",
            "\u2028",
            "\x1b",
            "\x7f",
            "\u0663",
            "NaN",
            "-",
            "00",
        ],
        *["Infinity", "1.", ".5", "1e", "0x1", "tru", "TRUE", "//", "/**/", "\\x", "\\u12", "\\U0001", "undefined"],
        *["'a'", ",,", "1_000", "\\'"],
    ]
)


@st.composite
def damaged_arrays(draw: st.DrawFn) -> str:
    text = draw(ARRAYS)
    for _ in range(draw(st.integers(1, 2))):
        position = draw(st.integers(0, len(text)))
        text = text[:position] + draw(INSERTED) + text[position + draw(st.integers(0, 2)) :]
    return text


def place(text: str, message: str) -> int:
    """The offset that a message names by line and column."""
    found = re.search(r"line (\d+), column (\d+):", message)
    assert found is not None, message
    lines = text.split("\n")
    return sum(len(line) + 1 for line in lines[: int(found[1]) - 1]) + int(found[2]) - 1


LIMITS = st.integers(1, 30) | st.just(1 << 20)


def item_sizes(text: str) -> list[int]:
    """The size of each item of an array, in bytes, as far as the standard library can decode them."""
    decoder, sizes = json.JSONDecoder(parse_constant=refuse_constant), []
    position = text.index("[") + 1
    while True:
        position += len(text[position:]) - len(text[position:].lstrip(BLANK + ","))
        try:
            _, end = decoder.raw_decode(text, position)
        except ValueError:
            return sizes
        sizes.append(len(text[position:end].encode()))
        position = end


def refuse_constant(name: str) -> None:
    raise ValueError(name)


@given(text=ARRAYS, block_bytes=BLOCK_BYTES, max_item_bytes=LIMITS)
@example(text="[{},10.5]", block_bytes=7, max_item_bytes=4)
@example(text="[{},10e+5]", block_bytes=8, max_item_bytes=5)
@settings(max_examples=examples(40, thorough=500))
def test_whatever_the_grammar_allows_is_accepted(read_upload, text, block_bytes, max_item_bytes):
    assert Recogniser(text).accepts()
    sizes = item_sizes(text)
    if max(sizes, default=0) > max_item_bytes:
        with pytest.raises(RefusedError, match="BATCH_MAX_ITEM_BYTES"):
            read_upload(text, "x.json", block_bytes=block_bytes, max_item_bytes=max_item_bytes)
    else:
        reading = read_upload(text, "x.json", block_bytes=block_bytes, max_item_bytes=max_item_bytes)
        assert sorted([*reading.items, *reading.raws]) == list(range(1, len(sizes) + 1))


@given(text=damaged_arrays(), block_bytes=BLOCK_BYTES, max_item_bytes=LIMITS)
@settings(max_examples=examples(40, thorough=500))
def test_whatever_the_grammar_forbids_is_refused_where_it_is_broken(read_upload, text, block_bytes, max_item_bytes):
    expected = Recogniser(text)
    is_array = text.lstrip(" \t\n\r\ufeff").startswith("[") and not text.lstrip(" \t\n\r").startswith("\ufeff")
    if not is_array:
        return  # recognised as another format
    accepted = expected.accepts()
    refusal = None
    try:
        read_upload(text, "x.json", block_bytes=block_bytes, max_item_bytes=max_item_bytes)
    except RefusedError as error:
        refusal = error
    if refusal is not None and refusal.code == "too_large":
        assert "BATCH_MAX_ITEM_BYTES" in refusal.message
        where = place(text, refusal.message)
        assert len(text[where : expected.furthest].encode()) > max_item_bytes
        return
    assert (refusal is None) == accepted
    if refusal is not None:
        assert refusal.code == "unreadable_file"
        assert expected.token <= place(text, refusal.message) <= expected.furthest


@given(text=damaged_arrays(), max_item_bytes=LIMITS)
@settings(max_examples=examples(30, thorough=500))
def test_the_size_of_blocks_changes_nothing(read_upload, text, max_item_bytes):
    outcomes = []
    for block_bytes in (1, 3, 16, 1 << 20):
        try:
            reading = read_upload(text, "x.json", block_bytes=block_bytes, max_item_bytes=max_item_bytes)
            outcomes.append((reading.items, reading.raws, reading.messages))
        except RefusedError as error:
            outcomes.append((error.code, error.message))
    assert all(outcome == outcomes[0] for outcome in outcomes)


def is_one_value(line: str) -> bool:
    """Whether the grammar makes one value of a line: nothing else may stand both after a colon and in an array."""
    return Recogniser(f'[{{"x":{line}}}]').accepts() and Recogniser(f"[{line}]").accepts()


LINES = VALUES.map(lambda text: re.sub(r"[\r\n]", " ", text)) | NUMBERS


@given(lines=st.lists(LINES, min_size=1, max_size=4), data=st.data())
@settings(max_examples=examples(40, thorough=500))
def test_each_line_is_judged_by_the_same_grammar(read_upload, lines, data):
    damaged = data.draw(st.integers(0, len(lines) - 1))
    position = data.draw(st.integers(0, len(lines[damaged])))
    inserted = data.draw(INSERTED.filter(lambda text: "\n" not in text and "\r" not in text))
    lines[damaged] = lines[damaged][:position] + inserted + lines[damaged][position:]
    reading = read_upload("\n".join(['{"first":1}', *lines, '{"last":1}']), "x.ndjson")
    rows = ['{"first":1}', *(line for line in lines if line.strip(" \t")), '{"last":1}']
    assert sorted([*reading.items, *reading.raws]) == list(range(1, len(rows) + 1))
    for number, line in enumerate(rows, 1):
        is_valid = is_one_value(line)
        message = reading.messages.get(number, "")
        assert ("not valid JSON" not in message) == is_valid, (line, message)
