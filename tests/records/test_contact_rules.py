"""The rule of each field of a contact: the valid values, the stored form, and the error of an invalid value."""

import json
from typing import Any

import pytest
from record_samples import (
    ID,
    Found,
    check_csv,
    check_json,
    errors_of,
    fields_in,
    found_in,
    value_of,
)

from batch_pipeline.records.contact import CONTACT

TEXT_LIMITS = {
    "external_id": 255,
    "name": 255,
    "address": 500,
    "address_line2": 500,
    "id_number": 100,
    "notes": 5_000,
}
WIDE = "🚚"  # one code point, four bytes, two UTF-16 units


def test_a_contact_has_the_fields_of_the_specification() -> None:
    nested = {"metadata", "alternate_names", "alternate_emails", "alternate_phones", "alternate_addresses"}
    assert {field.name for field in CONTACT.fields} == {
        "id",
        "email",
        "phone",
        "groups",
        "is_primary",
        *nested,
        *TEXT_LIMITS,
    }
    assert [field.name for field in CONTACT.fields if field.required] == ["name"]


@pytest.mark.parametrize(
    ("field", "text", "stored"),
    [
        ("id", ID, ID),
        ("id", f"  {ID}\n", ID),
        ("external_id", "A-1 / ß", "A-1 / ß"),
        ("name", " Zoë ", "Zoë"),
        ("name", "Zoe\u0308", "Zo\u00eb"),
        ("name", "a\u00a0", "a"),
        ("name", "a\tb", "a\tb"),
        ("name", "NULL", "NULL"),
        ("notes", "one\r\ntwo\rthree\nfour", "one\ntwo\nthree\nfour"),
        ("notes", "a  b", "a  b"),
        ("email", "Ann@Example.COM", "Ann@example.com"),
        ("email", " ann+tag@example.com ", "ann+tag@example.com"),
        ("phone", "+1 (415) 555-0132", "+14155550132"),
        ("phone", "(415) 555-0132", "+14155550132"),
        ("is_primary", "true", True),
        ("is_primary", "Yes", True),
        ("is_primary", "1", True),
        ("is_primary", "FALSE", False),
        ("is_primary", " no ", False),
        ("is_primary", "0", False),
        ("address", "1 Main St\nSuite 2", "1 Main St\nSuite 2"),
        ("address_line2", "c/o \\N", "c/o \\N"),
        ("id_number", "007", "007"),
    ],
)
def test_a_valid_text_is_stored_in_its_canonical_form(field: str, text: str, stored: Any) -> None:
    from_csv, from_json = check_csv({field: [text]}), check_json({field: text})

    for checked in (from_csv, from_json):
        assert checked.errors.num_rows == 0
        assert checked.invalid.tolist() == [0]
        assert value_of(checked, field) == stored


@pytest.mark.parametrize(
    ("field", "text", "code"),
    [
        ("id", "ctct_", "id_malformed"),
        ("id", ID[:-1], "id_malformed"),
        ("id", ID + "1", "id_malformed"),
        ("id", ID[:-1] + "0", "id_malformed"),
        ("id", ID.upper(), "id_malformed"),
        ("id", "grp_" + ID[5:], "id_malformed"),
        ("id", "17", "id_malformed"),
        ("email", "ann", "invalid_format"),
        ("email", "ann@", "invalid_format"),
        ("email", "ann@localhost", "invalid_format"),
        ("email", "a@b.com, c@d.com", "invalid_format"),
        ("email", "Ann <ann@example.com>", "invalid_format"),
        ("phone", "12", "invalid_format"),
        ("phone", "call me", "invalid_format"),
        ("phone", "+999 1234567", "invalid_format"),
        ("is_primary", "maybe", "invalid_type"),
        ("is_primary", "2", "invalid_type"),
        ("is_primary", "1.0", "invalid_type"),
        *((field, "x" * (limit + 1), "too_long") for field, limit in TEXT_LIMITS.items()),
        *((field, "a\x00b", "invalid_format") for field in TEXT_LIMITS),
        ("notes", "a\x07b", "invalid_format"),
        ("notes", "a\x0bb", "invalid_format"),
        ("notes", "a\x7fb", "invalid_format"),
        ("notes", "a\x85b", "invalid_format"),
    ],
)
def test_an_invalid_text_is_named_with_its_code_and_stored_nowhere(field: str, text: str, code: str) -> None:
    from_csv, from_json = check_csv({field: [text]}), check_json({field: text})

    for checked in (from_csv, from_json):
        assert found_in(checked) == [Found(code, field)]
        assert fields_in(checked.invalid[0]) == {field}
        assert value_of(checked, field) is None


@pytest.mark.parametrize(("field", "limit"), TEXT_LIMITS.items())
def test_the_longest_text_counts_code_points_after_trimming_and_nfc(field: str, limit: int) -> None:
    for text in (WIDE * limit, f"  {'x' * limit}\n", "e\u0301" * limit, "x\r\n" * (limit // 2 - 1) + "xy"):
        assert found_in(check_csv({field: [text]})) == []
    assert found_in(check_csv({field: [WIDE * (limit + 1)]})) == [Found("too_long", field)]


@pytest.mark.parametrize(
    ("region", "phone", "stored"),
    [
        ("DE", "030 901820", "+4930901820"),
        ("GB", "020 7946 0018", "+442079460018"),
        ("DE", "+1 415 555 0132", "+14155550132"),
    ],
)
def test_a_national_number_is_read_by_the_region_of_the_batch(region: str, phone: str, stored: str) -> None:
    assert value_of(check_csv({"phone": [phone]}, region=region), "phone") == stored


def test_the_error_of_a_phone_names_the_region() -> None:
    assert "within DE" in errors_of(check_csv({"phone": ["12"]}, region="DE"))[0]["message"]


SCALARS = ("id", "external_id", "name", "email", "phone", "address", "address_line2", "id_number", "notes")


@pytest.mark.parametrize(
    "value", [17, 1.5, True, ["x"], {"x": "y"}], ids=["integer", "float", "bool", "list", "object"]
)
@pytest.mark.parametrize("field", [*SCALARS, "first_name", "last_name", "metadata.colour"])
def test_json_values_of_other_types_are_not_texts(field: str, value: Any) -> None:
    checked = check_json({field: value})

    assert found_in(checked) == [Found("invalid_type", field)]
    assert errors_of(checked)[0]["value"] == _compact(value)
    assert checked.invalid[0] != 0
    assert all(column[0].as_py() is None for column in checked.fields.values())


@pytest.mark.parametrize(
    ("value", "stored"), [(True, True), (False, False), (1, True), (0, False), ("yes", True), ("0", False)]
)
def test_json_booleans_may_be_true_booleans_numbers_or_words(value: Any, stored: bool) -> None:
    checked = check_json({"is_primary": value})

    assert found_in(checked) == []
    assert value_of(checked, "is_primary") is stored


@pytest.mark.parametrize("value", [2, 1.0, -1, "maybe", ["true"], {}])
def test_other_json_values_are_not_booleans(value: Any) -> None:
    assert found_in(check_json({"is_primary": value})) == [Found("invalid_type", "is_primary")]


def test_types_are_checked_item_by_item() -> None:
    checked = check_json({"name": "a"}, {"name": 5}, {}, {"name": None, "email": "a@example.com"}, {"name": "b"})

    assert checked.fields["name"].to_pylist() == ["a", None, None, None, "b"]
    assert [found_in(checked, row) for row in range(1, 6)] == [
        [],
        [Found("invalid_type", "name")],
        [],
        [Found("required", "name")],
        [],
    ]


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
