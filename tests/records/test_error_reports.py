"""The errors of an item: all of them, in bounded length, with field, value and remedy."""

from typing import Any

import pytest
from record_samples import (
    Found,
    check_csv,
    check_json,
    errors_of,
    fields_in,
    found_in,
)

WIDE = "🚚"  # one code point, four bytes, two UTF-16 units


def test_every_error_of_an_item_is_reported() -> None:
    checked = check_json(
        {"name": "fine"},
        {
            "id": "x",
            "name": "\x07" * 300,
            "email": "nobody",
            "phone": 5,
            "is_primary": "maybe",
            "colour": "red",
            "notes": "n" * 5_001,
            "metadata": {"a": 1, "b": "x" * 501},
        },
    )

    assert found_in(checked, 1) == []
    assert sorted(found_in(checked, 2)) == sorted(
        [
            Found("id_malformed", "id"),
            Found("too_long", "name"),
            Found("invalid_format", "name"),
            Found("invalid_format", "email"),
            Found("invalid_type", "phone"),
            Found("invalid_type", "is_primary"),
            Found("unknown_field", "colour"),
            Found("too_long", "notes"),
            Found("invalid_type", "metadata.a"),
            Found("too_long", "metadata.b"),
        ]
    )
    assert fields_in(checked.invalid[1]) == {"id", "name", "email", "phone", "is_primary", "notes", "metadata"}
    assert [column[1].as_py() for column in checked.fields.values()] == [None] * len(checked.fields)


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ({"email": "nobody"}, ["email", '"nobody"', "name@example.com"]),
        ({"phone": "12"}, ["phone", '"12"', "+14155550132"]),
        ({"is_primary": "maybe"}, ["is_primary", '"maybe"', "true or false"]),
        ({"id": "17"}, ["id", '"17"', "ctct_"]),
        ({"name": "x" * 256}, ["name", "xxx", "255"]),
        ({"notes": "x" * 5_001}, ["notes", "xxx", "5,000"]),
        ({"notes": "a\x07"}, ["notes", "a\x07", "tab and line feed"]),
        ({"name": 5}, ["name", '"5"', "text"]),
        ({"colour": "red"}, ["colour", '"red"', "remove or rename"]),
        ({"metadata": ["x"]}, ["metadata", '["x"]', "object"]),
        ({"metadata": {"a": 1}}, ["metadata.a", '"1"', "text"]),
        ({"metadata": {"a": "x" * 501}}, ["metadata.a", "xxx", "500"]),
        ({"metadata": {"k" * 101: "x"}}, ["metadata", "kkk", "100"]),
    ],
)
def test_a_message_names_the_field_the_value_and_what_would_be_right(item: dict[str, Any], words: list[str]) -> None:
    (error,) = errors_of(check_json(item))

    for word in words:
        assert word in error["message"]


@pytest.mark.parametrize("field", ["notes", "name", "email", "id", "is_primary", "colour"])
def test_a_value_is_cut_at_200_characters(field: str) -> None:
    text = WIDE * 6_000
    (error,) = errors_of(check_json({field: text}))

    assert error["value"] == WIDE * 200
    assert f'"{WIDE * 200}"' in error["message"]
    assert WIDE * 201 not in error["message"]


def test_the_value_is_shown_as_uploaded() -> None:
    (error,) = errors_of(check_csv({"email": ["  Nobody\u0308 "]}))

    assert error["value"] == "  Nobody\u0308 "


@pytest.mark.parametrize(
    "item",
    [{"q" * 1_000_000: "x"}, {"metadata": {"q" * 1_000_000: 1}}, {"metadata": {"q" * 1_000_000: "x" * 501}}],
    ids=["field", "key of a wrong value", "key that is too long"],
)
def test_long_names_are_cut_in_reports(item: dict[str, Any]) -> None:
    for error in errors_of(check_json(item)):
        assert len(error["field"]) <= 300
        assert len(error["message"]) <= 700


@pytest.mark.parametrize(
    "item",
    [
        {"name": "a\x00b"},
        {"email": "\x00"},
        {"a\x00b": "x"},
        {"metadata": {"a\x00b": "x"}},
        {"metadata": {"a": "\x00"}},
    ],
)
def test_reports_hold_no_nul_which_postgresql_cannot_store(item: dict[str, str]) -> None:
    errors = errors_of(check_json(item))

    assert errors
    for error in errors:
        assert "\x00" not in f"{error['field']}{error['message']}{error['value']}"
