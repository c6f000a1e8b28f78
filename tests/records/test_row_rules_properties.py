"""Whatever stands in an upload, the row rules say something sound about every item."""

import json
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from record_samples import ID, contact_rules, csv_chunk, json_chunk, rules_of

from batch_pipeline.payloads.model import RawChunk
from batch_pipeline.records.check import CheckedChunk, RowRules
from batch_pipeline.records.descriptions import get_resource
from batch_pipeline.records.registry import RESOURCES
from batch_pipeline.records.resource import WHOLE_ITEM_BIT, Resource

TEXTS = (
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    | st.text(" \t\r\n\x00\x07\x85\"\\'{}[]:,@+.0e\u0301🚚", max_size=8)
    | st.sampled_from(
        ["", " ", ID, "ann@example.com", "ANN@EXAMPLE.COM", "+14155550132", "yes", "0", "null", '{"a": "b"}', "x" * 600]
    )
)
ALL = [get_resource(name) for name in RESOURCES]
DOTTED = {
    "contact": ["first_name", "last_name", "alternate_names.1", "alternate_emails.work", "alternate_phones.home"],
    "shipment": ["sender.email", "recipient.phone", "parcels.0.weight", "parcels.3.type", "coordinates.0"],
    "tracker": ["tags.0", "tags.7"],
    "asset": ["attributes.0", "attributes.1"],
}
KNOWN = {
    name: [field.name for field in get_resource(name).fields] + ["metadata.colour", "metadata.a"] + dotted
    for name, dotted in ((name, DOTTED.get(name, [])) for name in RESOURCES)
}
KEYS_OR_TEXTS = TEXTS | st.sampled_from(["email", "work", "name", "weight", "type", "home_line2"])
VALUES = (
    TEXTS
    | st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.lists(TEXTS, max_size=2)
    | st.dictionaries(KEYS_OR_TEXTS, st.none() | TEXTS | st.integers(), max_size=4)
    | st.lists(st.dictionaries(KEYS_OR_TEXTS, st.none() | TEXTS | st.integers(), max_size=3), max_size=3)
)


PLACES = st.integers(0, 5)
# A check costs tens of milliseconds however few the items, so fewer examples say more per second.
FEW = settings(max_examples=examples(20, thorough=200))


def defaults(resource: Resource) -> st.SearchStrategy[dict[str, str]]:
    return st.dictionaries(
        st.sampled_from([name for name in KNOWN[resource.name] if resource.takes_default(name)]), TEXTS, max_size=2
    )


@st.composite
def json_items(draw: st.DrawFn, resource: Resource) -> list[dict[str, Any]]:
    names = st.sampled_from(KNOWN[resource.name]) | TEXTS
    return draw(st.lists(st.dictionaries(names, VALUES, max_size=6), max_size=6))


@st.composite
def flat_columns(draw: st.DrawFn, resource: Resource) -> dict[str, list[str]]:
    count = draw(st.integers(0, 6))
    names = draw(st.lists(st.sampled_from(KNOWN[resource.name]), min_size=1, max_size=5, unique=True))
    return {name: draw(st.lists(TEXTS, min_size=count, max_size=count)) for name in names}


@FEW
@given(data=st.data(), resource=st.sampled_from(ALL), blank_clears=st.booleans(), place=PLACES)
def test_any_texts_in_any_columns_of_a_flat_file(
    data: st.DataObject, resource: Resource, blank_clears: bool, place: int
) -> None:
    columns, properties = data.draw(flat_columns(resource)), data.draw(defaults(resource))
    rules = rules_of(resource, properties=properties, blank_clears=blank_clears)
    chunk = csv_chunk(columns, first_row=7)
    checked = rules.check(chunk)

    _is_sound(resource, checked, chunk)
    _judges_item_alone(rules, chunk, checked, place)


@FEW
@given(data=st.data(), resource=st.sampled_from(ALL), place=PLACES)
def test_any_values_in_any_fields_of_json_items(data: st.DataObject, resource: Resource, place: int) -> None:
    items, properties = data.draw(json_items(resource)), data.draw(defaults(resource))
    rules = rules_of(resource, properties=properties, mapping={"Full name": "external_id"}, blank_clears=True)
    chunk = json_chunk(items, first_row=7)
    checked = rules.check(chunk)

    _is_sound(resource, checked, chunk)
    _judges_item_alone(rules, chunk, checked, place)


def _is_sound(resource: Resource, checked: CheckedChunk, chunk: RawChunk) -> None:
    rows = chunk.rows.to_pylist()
    assert checked.rows.to_pylist() == rows
    told = checked.errors["row"].to_pylist()
    assert told == sorted(told)
    assert set(told) == {row for row, mask in zip(rows, checked.invalid.tolist(), strict=True) if mask}
    for bit, field in enumerate(resource.fields):
        invalid, cleared = (mask >> bit & 1 == 1 for mask in (checked.invalid, checked.cleared))
        named = {error["row"] for error in checked.errors.to_pylist() if error["field"].split(".", 1)[0] == field.name}
        assert {row for row, is_wrong in zip(rows, invalid, strict=True) if is_wrong} == named
        if field.name not in checked.fields:
            continue
        column = checked.fields[field.name]
        assert len(column) == len(rows)
        given_values = column.is_valid().to_numpy(zero_copy_only=False)
        assert not (given_values & invalid).any()
        if not field.merges_by_key:  # such a field can be cleared and get new pairs at once, by a default
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
