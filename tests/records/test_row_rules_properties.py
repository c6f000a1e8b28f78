"""Whatever stands in an upload, the row rules say something sound about every item."""

import json
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from record_samples import ID, contact_rules, csv_chunk, json_chunk

from batch_pipeline.payloads.model import RawChunk
from batch_pipeline.records.check import WHOLE_ITEM_BIT, CheckedChunk, RowRules
from batch_pipeline.records.contact import CONTACT

TEXTS = (
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    | st.text(" \t\r\n\x00\x07\x85\"\\'{}[]:,@+.0e\u0301🚚", max_size=8)
    | st.sampled_from(
        ["", " ", ID, "ann@example.com", "ANN@EXAMPLE.COM", "+14155550132", "yes", "0", "null", '{"a": "b"}', "x" * 600]
    )
)
KNOWN = [field.name for field in CONTACT.fields] + ["first_name", "last_name", "metadata.colour", "metadata.a"]
NAMES = st.sampled_from(KNOWN) | TEXTS
VALUES = (
    TEXTS
    | st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.lists(TEXTS, max_size=2)
    | st.dictionaries(TEXTS, st.none() | TEXTS | st.integers(), max_size=4)
)
ITEMS = st.lists(st.dictionaries(NAMES, VALUES, max_size=6), max_size=6)
DEFAULTS = st.dictionaries(st.sampled_from([name for name in KNOWN if "_name" not in name]), TEXTS, max_size=2)


PLACES = st.integers(0, 5)
# A check costs tens of milliseconds however few the items, so fewer examples say more per second.
FEW = settings(max_examples=60, deadline=None)


@st.composite
def flat_columns(draw: st.DrawFn) -> dict[str, list[str]]:
    count = draw(st.integers(0, 6))
    names = draw(st.lists(st.sampled_from(KNOWN), min_size=1, max_size=5, unique=True))
    return {name: draw(st.lists(TEXTS, min_size=count, max_size=count)) for name in names}


@FEW
@given(columns=flat_columns(), defaults=DEFAULTS, blank_clears=st.booleans(), place=PLACES)
def test_any_texts_in_any_columns_of_a_flat_file(
    columns: dict[str, list[str]], defaults: dict[str, str], blank_clears: bool, place: int
) -> None:
    rules = contact_rules(properties=defaults, blank_clears=blank_clears)
    chunk = csv_chunk(columns, first_row=7)
    checked = rules.check(chunk)

    _is_sound(checked, chunk)
    _judges_item_alone(rules, chunk, checked, place)


@FEW
@given(items=ITEMS, defaults=DEFAULTS, place=PLACES)
def test_any_values_in_any_fields_of_json_items(
    items: list[dict[str, Any]], defaults: dict[str, str], place: int
) -> None:
    rules = contact_rules(properties=defaults, mapping={"Full name": "name"}, blank_clears=True)
    chunk = json_chunk(items, first_row=7)
    checked = rules.check(chunk)

    _is_sound(checked, chunk)
    _judges_item_alone(rules, chunk, checked, place)


def _is_sound(checked: CheckedChunk, chunk: RawChunk) -> None:
    rows = chunk.rows.to_pylist()
    assert checked.rows.to_pylist() == rows
    told = checked.errors["row"].to_pylist()
    assert told == sorted(told)
    assert set(told) == {row for row, mask in zip(rows, checked.invalid.tolist(), strict=True) if mask}
    for bit, field in enumerate(CONTACT.fields):
        invalid, cleared = (mask >> bit & 1 == 1 for mask in (checked.invalid, checked.cleared))
        named = {error["row"] for error in checked.errors.to_pylist() if error["field"].split(".", 1)[0] == field.name}
        assert {row for row, is_wrong in zip(rows, invalid, strict=True) if is_wrong} == named
        if field.name not in checked.fields:
            continue
        column = checked.fields[field.name]
        assert len(column) == len(rows)
        given_values = column.is_valid().to_numpy(zero_copy_only=False)
        assert not (given_values & invalid).any()
        if field.name != "metadata":  # metadata can be cleared and get new pairs at once, by a default
            assert not (given_values & cleared).any()
    assert (checked.invalid >= 0).all()
    assert (checked.invalid < 1 << (WHOLE_ITEM_BIT + 1)).all()
    for name in ("code", "message", "field", "value"):
        assert not any("\x00" in text for text in checked.errors[name].to_pylist() if text is not None)


def _judges_item_alone(rules: RowRules, chunk: RawChunk, checked: CheckedChunk, place: int) -> None:
    """The neighbours of an item change nothing about it."""
    if place >= len(chunk.rows):
        return
    one = RawChunk(
        chunk.rows.slice(place, 1),
        {name: column.slice(place, 1) for name, column in chunk.columns.items()},
        {name: column.slice(place, 1) for name, column in chunk.kinds.items()},
        chunk.unreadable,
    )
    alone = rules.check(one)
    row = chunk.rows[place].as_py()
    assert _by_field(alone, row) == _by_field(checked, row)
    assert alone.cleared[0] == checked.cleared[place]
    assert alone.invalid[0] == checked.invalid[place]
    for name, column in checked.fields.items():
        single = alone.fields[name][0].as_py() if name in alone.fields else None
        assert single == column[place].as_py()


def _by_field(checked: CheckedChunk, row: int) -> list[tuple[Any, ...]]:
    return sorted(
        (error["field"], error["code"], error["message"], error["value"] or "")
        for error in checked.errors.to_pylist()
        if error["row"] == row
    )


KEYS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8).map(str.strip).filter(bool)
CLEAN = st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from('\t\n"\\'), max_size=12).map(str.strip)


@FEW
@given(items=st.lists(st.dictionaries(KEYS, CLEAN | st.none(), max_size=6), min_size=1, max_size=6))
def test_metadata_patches_are_json_that_gives_back_the_pairs(items: Sequence[Mapping[str, str | None]]) -> None:
    def normalized(pairs: Mapping[str, str | None]) -> dict[str, str | None]:
        return {
            unicodedata.normalize("NFC", key): unicodedata.normalize("NFC", value) if value else None
            for key, value in pairs.items()
        }

    checked = contact_rules(blank_clears=True).check(json_chunk([{"metadata": pairs} for pairs in items]))

    assert checked.errors.num_rows == 0
    for pairs, patch in zip(items, checked.fields["metadata"].to_pylist(), strict=True):
        assert (json.loads(patch) if patch is not None else {}) == normalized(pairs)
