"""Rules on a whole contact: unknown fields, the two parts of a name, and cleared fields."""

from typing import Any

import pytest
from record_samples import (
    Found,
    check_csv,
    check_json,
    errors_of,
    fields_in,
    found_in,
    value_of,
)


@pytest.mark.parametrize(
    "field", ["colour", "Name", " name", "contact.name", "metadata.", "alternate", "_row", "", "a\x00b"]
)
def test_a_json_item_with_an_unknown_field_is_rejected_by_its_name(field: str) -> None:
    checked = check_json({"name": "a"}, {"name": "b", field: "x"}, {"name": "c"})

    shown = field.replace("\x00", "\ufffd")
    assert found_in(checked, 2) == [Found("unknown_field", shown)]
    assert errors_of(checked, 2)[0]["value"] == "x"
    assert [mask != 0 for mask in checked.invalid] == [False, True, False]


@pytest.mark.parametrize("value", [None, "", 5, {"a": 1}])
def test_an_unknown_field_with_any_value_is_rejected(value: Any) -> None:
    assert found_in(check_json({"name": "a", "colour": value})) == [Found("unknown_field", "colour")]


# ---- first_name and last_name -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "last", "name"),
    [
        ("Ann", "Lee", "Ann Lee"),
        (" Ann ", "", "Ann"),
        ("", "Lee", "Lee"),
        ("Ann", "van  Lee", "Ann van  Lee"),
        ("", "", None),
    ],
)
def test_first_and_last_name_give_the_name(first: str, last: str, name: str | None) -> None:
    checked = check_csv({"first_name": [first], "last_name": [last]})

    assert found_in(checked) == []
    assert value_of(checked, "name") == name


@pytest.mark.parametrize("header", ["first_name", "last_name"])
def test_the_first_or_the_last_name_is_enough(header: str) -> None:
    assert value_of(check_csv({header: ["Ann"]}), "name") == "Ann"


def test_items_of_one_upload_may_mix_names_and_parts_of_names() -> None:
    checked = check_csv({"first_name": ["Ann", "", "Ann"], "name": ["", "Bob", "Eve"]})

    assert checked.fields["name"].to_pylist() == ["Ann", "Bob", None]
    assert [found_in(checked, row) for row in (1, 2, 3)] == [[], [], [Found("conflict", "name")]]


def test_the_joined_name_obeys_the_rules_of_a_name() -> None:
    checked = check_csv({"first_name": ["x" * 200], "last_name": ["y" * 55]})

    assert found_in(checked) == [Found("too_long", "name")]


# ---- clearing ---------------------------------------------------------------------------------------------------

CLEARABLE = (
    "external_id",
    "email",
    "phone",
    "address",
    "address_line2",
    "id_number",
    "is_primary",
    "notes",
    "metadata",
)


@pytest.mark.parametrize("blank", [None, "", "  ", "\n\u2003"])
@pytest.mark.parametrize("field", CLEARABLE)
def test_null_or_a_blank_text_in_json_clears_the_field(field: str, blank: str | None) -> None:
    checked = check_json({field: blank}, {"name": "other"})

    assert found_in(checked) == []
    assert fields_in(checked.cleared[0]) == {field}
    assert fields_in(checked.cleared[1]) == set()
    assert value_of(checked, field) is None


@pytest.mark.parametrize("field", CLEARABLE)
@pytest.mark.parametrize("blank_clears", [True, False])
def test_a_blank_cell_of_a_flat_file_follows_the_option(field: str, blank_clears: bool) -> None:
    checked = check_csv({field: [" "]}, blank_clears=blank_clears)

    assert found_in(checked) == []
    assert fields_in(checked.cleared[0]) == ({field} if blank_clears else set())
    assert value_of(checked, field) is None


@pytest.mark.parametrize("blank", [None, "", "  "])
def test_clearing_the_name_is_refused(blank: str | None) -> None:
    checked = check_json({"name": blank, "email": "a@example.com"})

    assert found_in(checked) == [Found("required", "name")]
    assert "name" in errors_of(checked)[0]["message"]


def test_clearing_both_parts_clears_the_name_but_clearing_one_does_not() -> None:
    checked = check_json(
        {"first_name": "", "last_name": None}, {"first_name": "", "last_name": "Lee"}, {"email": "a@example.com"}
    )

    assert [found_in(checked, row) for row in (1, 2, 3)] == [[Found("required", "name")], [], []]
    assert checked.fields["name"].to_pylist() == [None, "Lee", None]


def test_a_blank_name_beside_its_parts_clears_nothing() -> None:
    checked = check_json({"name": "", "first_name": "Ann"})

    assert found_in(checked) == []
    assert value_of(checked, "name") == "Ann"
