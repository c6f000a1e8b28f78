"""Default values (`properties`) and the mapping of columns."""

import json
from typing import Any

import pytest
from record_samples import Found, check_csv, check_json, fields_in, found_in, value_of


@pytest.mark.parametrize("blank_clears", [True, False])
def test_a_default_fills_only_blank_cells(blank_clears: bool) -> None:
    checked = check_csv({"notes": ["own", "", " "]}, properties={"notes": " default "}, blank_clears=blank_clears)

    assert checked.fields["notes"].to_pylist() == ["own", "default", "default"]
    assert checked.cleared.tolist() == [0, 0, 0]


def test_a_default_fills_a_field_that_the_file_does_not_have() -> None:
    checked = check_csv({"name": ["a", "b"]}, properties={"notes": "default", "is_primary": "yes"})

    assert checked.fields["notes"].to_pylist() == ["default", "default"]
    assert checked.fields["is_primary"].to_pylist() == [True, True]


def test_a_default_fills_absent_null_and_blank_fields_of_json_items() -> None:
    checked = check_json(
        {"is_primary": False}, {}, {"is_primary": None}, {"is_primary": ""}, properties={"is_primary": "true"}
    )

    assert checked.fields["is_primary"].to_pylist() == [False, True, True, True]
    assert checked.cleared.tolist() == [0, 0, 0, 0]


def test_a_default_does_not_hide_a_wrong_value() -> None:
    checked = check_json({"notes": 5}, {"email": "nobody"}, properties={"notes": "default", "email": "a@example.com"})

    assert found_in(checked, 1) == [Found("invalid_type", "notes")]
    assert found_in(checked, 2) == [Found("invalid_format", "email")]
    assert value_of(checked, "notes", 0) is None


def test_a_default_saves_a_required_field_from_being_cleared() -> None:
    checked = check_json({"name": None}, {"first_name": "", "last_name": ""}, properties={"name": "Unknown"})

    assert found_in(checked, 1) == found_in(checked, 2) == []
    assert checked.fields["name"].to_pylist() == ["Unknown", "Unknown"]


def test_the_parts_of_a_name_override_a_default_name() -> None:
    checked = check_csv({"first_name": ["Ann", ""]}, properties={"name": "Unknown"})

    assert checked.fields["name"].to_pylist() == ["Ann", "Unknown"]


def test_a_default_obeys_the_rules_of_its_field() -> None:
    checked = check_csv({"email": ["a@example.com", ""]}, properties={"email": "nobody"})

    assert [found_in(checked, row) for row in (1, 2)] == [[], [Found("invalid_format", "email")]]


@pytest.mark.parametrize("blank", ["", "  ", "\n"])
def test_a_blank_default_is_none(blank: str) -> None:
    checked = check_csv({"notes": ["", "own"]}, properties={"notes": blank, "address": blank}, blank_clears=True)

    assert checked.fields["notes"].to_pylist() == [None, "own"]
    assert value_of(checked, "address") is None
    assert fields_in(checked.cleared[0]) == {"notes"}


def test_a_default_of_one_metadata_key_leaves_the_others_alone() -> None:
    checked = check_json(
        {"metadata": {"colour": "red"}},
        {"metadata": {"size": "M"}},
        {"name": "Bob"},
        {"metadata": None},
        properties={"metadata.colour": "blue"},
    )

    assert [json.loads(text) for text in checked.fields["metadata"].to_pylist()] == [
        {"colour": "red"},
        {"colour": "blue", "size": "M"},
        {"colour": "blue"},
        {"colour": "blue"},
    ]


def test_a_mapped_column_is_the_field() -> None:
    checked = check_csv(
        {"Full name": ["Ann"], "E-Mail": ["nobody"], "Farbe": ["rot"]},
        mapping={"Full name": "name", "E-Mail": "email", "Farbe": "metadata.colour"},
    )

    assert value_of(checked, "name") == "Ann"
    assert found_in(checked) == [Found("invalid_format", "email")]
    assert json.loads(value_of(checked, "metadata")) == {"colour": "rot"}


def test_a_mapped_column_may_feed_a_header_of_its_own_kind() -> None:
    checked = check_csv({"Vorname": ["Ann"], "last_name": ["Lee"]}, mapping={"Vorname": "first_name"})

    assert value_of(checked, "name") == "Ann Lee"


@pytest.mark.parametrize("item", [{"Full name": 5}, {"Full name": "x" * 256}, {"Full name": None}])
def test_errors_of_a_mapped_column_name_the_field(item: dict[str, Any]) -> None:
    checked = check_json(item, mapping={"Full name": "name"})

    assert [error.field for error in found_in(checked)] == ["name"]
    assert fields_in(checked.invalid[0]) == {"name"}


def test_json_items_may_use_either_name_of_a_mapped_field_but_not_both() -> None:
    checked = check_json(
        {"Full name": "Ann"}, {"name": "Bob"}, {"Full name": "Eve", "name": "Eva"}, mapping={"Full name": "name"}
    )

    assert checked.fields["name"].to_pylist() == ["Ann", "Bob", None]
    assert [found_in(checked, row) for row in (1, 2, 3)] == [[], [], [Found("conflict", "name")]]
