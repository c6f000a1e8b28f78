"""The options of a batch: defaults, bounds, and one sentence that names each wrong one."""

import json
from typing import Any

import pytest
from hypothesis import given as given_any
from hypothesis import strategies as st

from batch_pipeline.batches.model import BlankCells, DuplicateHandling, UnknownColumns
from batch_pipeline.batches.options import OPTION_NAMES, BatchOptions, label_from_file_name, parse_options
from batch_pipeline.errors import RefusedError

LIMITS = ("delete_limit", "reject_limit")


def test_no_options_are_the_defaults_of_the_specification() -> None:
    options = parse_options({})

    assert options == BatchOptions()
    assert set(OPTION_NAMES) == {
        "name",
        "duplicate_handling",
        "properties",
        "column_mapping",
        "blank_cells",
        "default_region",
        "save_upload",
        "save_result",
        "delete_limit",
        "reject_limit",
        "allow_empty",
        "timeout_seconds",
        "plan_only",
        "unknown_columns",
    }
    assert options.duplicate_handling is DuplicateHandling.ignore_all
    assert options.save_upload
    assert not options.save_result
    assert not options.allow_empty
    assert not options.plan_only
    for name in ("name", "blank_cells", "default_region", "delete_limit", "timeout_seconds"):
        assert getattr(options, name) is None
    assert options.reject_limit == "none"
    assert options.properties == options.column_mapping == {}


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("name", "abc", "abc"),
        ("name", "x" * 127, "x" * 127),
        ("duplicate_handling", "use_last", DuplicateHandling.use_last),
        ("properties", {"notes": "x"}, {"notes": "x"}),
        ("column_mapping", {"name": "Full name", "email": "E-Mail"}, {"name": "Full name", "email": "E-Mail"}),
        ("column_mapping", "remembered", "remembered"),
        ("unknown_columns", "ignore", UnknownColumns.ignore),
        ("blank_cells", "clear", BlankCells.clear),
        ("default_region", "DE", "DE"),
        ("save_upload", False, False),
        *(
            (name, given, value)
            for name in LIMITS
            for given, value in (
                (500, "500"),
                (500.0, "500"),
                ("500", "500"),
                (0, "0"),
                ("10%", "10%"),
                (" 12.5 % ", "12.5%"),
                ("100%", "100%"),
                ("None", "none"),
            )
        ),
        ("delete_limit", None, None),
        ("reject_limit", None, "none"),
        ("timeout_seconds", 1, 1),
        ("timeout_seconds", 604_800, 604_800),
    ],
)
def test_a_valid_option_is_read(name: str, given: Any, value: Any) -> None:
    assert getattr(parse_options({name: given}), name) == value


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("name", "ab"),
        ("name", "x" * 128),
        ("name", 5),
        ("duplicate_handling", "keep"),
        ("properties", "notes=x"),
        ("properties", {"notes": None}),
        ("properties", ["notes"]),
        ("column_mapping", {"name": "a", "email": "a"}),
        ("column_mapping", {"name": 5}),
        ("column_mapping", "name=a"),
        ("column_mapping", ["remembered"]),
        ("unknown_columns", "drop"),
        ("blank_cells", "drop"),
        ("default_region", "de"),
        ("default_region", "XX"),
        ("default_region", "Germany"),
        ("save_upload", "perhaps"),
        ("save_result", None),
        *((name, given) for name in LIMITS for given in ("-1", "many", "101%", "100.1%", 1.5, True, "", [])),
        ("allow_empty", "x"),
        ("timeout_seconds", 0),
        ("timeout_seconds", -1),
        ("timeout_seconds", 604_801),
        ("timeout_seconds", "soon"),
        ("timeout_seconds", 1.5),
        ("colour", "red"),
        ("properties", {"notes": "a\x00b"}),
        ("column_mapping", {"name": "a\x00b"}),
        ("name", "abc\x00"),
        ("properties", {"a\x00b": "notes"}),
        ("properties", {"notes": "a\ud800b"}),
        ("properties", {"\udfff": "notes"}),
        ("column_mapping", {"name": "\ud800"}),
        ("column_mapping", {"\ud800": "name"}),
    ],
)
def test_a_wrong_option_is_named(name: str, given: Any) -> None:
    message = _refusal({name: given})

    assert f"{name}" in message


def test_every_wrong_option_is_named_at_once() -> None:
    message = _refusal(
        {"name": "x", "timeout_seconds": 0, "colour": "red", "delete_limit": "many", "reject_limit": 1.5}
    )

    for name in ("name: ", "timeout_seconds: ", "colour: ", *(f"{limit}: must be a count (500)" for limit in LIMITS)):
        assert name in message


def test_the_first_of_many_wrong_options_are_named_and_the_others_counted() -> None:
    message = _refusal({f"option {number}": 1 for number in range(1_000)})

    assert "option 9: " in message
    assert "option 10: " not in message
    assert "and 990 more" in message


TEXTS = st.text(st.characters(), max_size=400)  # halves of surrogate pairs, NUL and line ends among them
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


@given_any(
    st.dictionaries(
        st.sampled_from(OPTION_NAMES) | TEXTS, VALUES | st.dictionaries(TEXTS, TEXTS, max_size=3), max_size=5
    )
)
def test_the_ledger_can_store_any_options_or_their_errors(data: dict[str, Any]) -> None:
    try:
        stored = json.dumps(parse_options(data).model_dump(mode="json"), ensure_ascii=False)
    except RefusedError as error:
        stored = error.message
        assert stored.isprintable()
        assert len(stored) < 5_000
    assert stored.encode()
    assert "\\u0000" not in stored


@pytest.mark.parametrize("name", [*LIMITS, "properties", "name", "timeout_seconds", "colour"])
def test_a_deeply_nested_value_is_named(name: str) -> None:
    nested: Any = []
    for _ in range(20_000):
        nested = [nested]

    assert f"{name}: " in _refusal({name: nested})
    assert "properties.notes: " in _refusal({"properties": {"notes": nested}})


def test_the_error_of_an_unknown_option_lists_the_known_ones() -> None:
    message = _refusal({"duplicates": "use_last"})

    assert all(name in message for name in OPTION_NAMES)


@pytest.mark.parametrize("data", [None, [], "name", 5, [{"name": "abc"}]])
def test_options_are_one_object(data: Any) -> None:
    assert "one JSON object" in _refusal(data)


@pytest.mark.parametrize(
    ("file_name", "label"),
    [
        ("contacts.csv", "contacts.csv"),
        (" contacts.csv ", "contacts.csv"),
        ("x" * 200, "x" * 127),
        ("ab", "ab_"),
        ("a", "a__"),
        ("", "___"),
    ],
)
def test_a_label_from_a_file_name_fits(file_name: str, label: str) -> None:
    assert label_from_file_name(file_name) == label
    assert parse_options({"name": label}).name == label


def _refusal(data: Any) -> str:
    with pytest.raises(RefusedError) as caught:
        parse_options(data)
    assert caught.value.code == "invalid_options"
    assert "\n" not in caught.value.message
    assert "\x00" not in caught.value.message
    return caught.value.message
