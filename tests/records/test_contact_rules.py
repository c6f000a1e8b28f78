"""Each rule of a contact's fields by name: what is valid and how it is stored, what isn't and which error says so."""

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


def test_a_refused_phone_is_told_the_region_that_it_was_read_by() -> None:
    assert "within DE" in errors_of(check_csv({"phone": ["12"]}, region="DE"))[0]["message"]


SCALARS = ("id", "external_id", "name", "email", "phone", "address", "address_line2", "id_number", "notes")


@pytest.mark.parametrize(
    "value", [17, 1.5, True, ["x"], {"x": "y"}], ids=["integer", "float", "bool", "list", "object"]
)
@pytest.mark.parametrize("field", [*SCALARS, "first_name", "last_name", "metadata.colour"])
def test_json_values_of_another_kind_are_no_texts(field: str, value: Any) -> None:
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
def test_other_json_values_are_no_booleans(value: Any) -> None:
    assert found_in(check_json({"is_primary": value})) == [Found("invalid_type", "is_primary")]


def test_kinds_are_judged_item_by_item() -> None:
    checked = check_json({"name": "a"}, {"name": 5}, {}, {"name": None, "email": "a@example.com"}, {"name": "b"})

    assert checked.fields["name"].to_pylist() == ["a", None, None, None, "b"]
    assert [found_in(checked, row) for row in range(1, 6)] == [
        [],
        [Found("invalid_type", "name")],
        [],
        [Found("required", "name")],
        [],
    ]


# ---- unknown fields ---------------------------------------------------------------------------------------------


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
def test_an_unknown_field_is_unknown_whatever_its_value(value: Any) -> None:
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
def test_one_of_them_is_enough(header: str) -> None:
    assert value_of(check_csv({header: ["Ann"]}), "name") == "Ann"


def test_items_of_one_upload_may_use_the_one_way_or_the_other() -> None:
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


def test_clearing_both_parts_clears_the_name_and_one_of_them_does_not() -> None:
    checked = check_json(
        {"first_name": "", "last_name": None}, {"first_name": "", "last_name": "Lee"}, {"email": "a@example.com"}
    )

    assert [found_in(checked, row) for row in (1, 2, 3)] == [[Found("required", "name")], [], []]
    assert checked.fields["name"].to_pylist() == [None, "Lee", None]


def test_a_blank_name_beside_its_parts_clears_nothing() -> None:
    checked = check_json({"name": "", "first_name": "Ann"})

    assert found_in(checked) == []
    assert value_of(checked, "name") == "Ann"


# ---- reports ----------------------------------------------------------------------------------------------------


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
def test_names_too_are_cut_in_reports(item: dict[str, Any]) -> None:
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


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
