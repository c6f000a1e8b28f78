"""Rules of a contact's alternate names, emails, phones and addresses, in every form in which they can be given."""

import json
from typing import Any

import pytest
from record_samples import Found, check_csv, check_json, fields_in, found_in, value_of


@pytest.mark.parametrize(
    ("item", "stored"),
    [
        ({"alternate_names": ["A", " B ", None, ""]}, ["A", "B"]),
        ({"alternate_names": "A, B,,C"}, ["A", "B", "C"]),
        ({"alternate_names": '["A, the first", "B\\"s"]'}, ["A, the first", 'B"s']),
        ({"alternate_names.1": "B", "alternate_names.0": "A", "alternate_names.9": ""}, ["A", "B"]),
        ({"alternate_names": ["A", "A"]}, ["A", "A"]),
        ({"alternate_names": []}, []),
        ({"alternate_names": ["n"] * 5}, ["n"] * 5),
        ({"alternate_emails": {"work": "W@Example.COM", "social": None}}, {"work": "W@example.com", "social": None}),
        ({"alternate_emails.education": "e@example.com"}, {"education": "e@example.com"}),
        ({"alternate_phones": {"home": "(415) 555-0132", "mobile": ""}}, {"home": "+14155550132", "mobile": None}),
        ({"alternate_addresses": {"home": "1 Main St", "home_line2": "2nd"}},
         {"home": "1 Main St", "home_line2": "2nd"}),
    ],
)  # fmt: skip
def test_valid_alternates_are_stored(item: dict[str, Any], stored: Any) -> None:
    checked = check_json(item)

    assert found_in(checked) == []
    (field,) = checked.fields
    assert json.loads(value_of(checked, field)) == stored


@pytest.mark.parametrize(
    ("item", "code", "named"),
    [
        ({"alternate_names": ["n"] * 6}, "too_many", "alternate_names"),
        ({"alternate_names": "1,2,3,4,5,6"}, "too_many", "alternate_names"),
        ({"alternate_names": ["A", "x" * 256]}, "too_long", "alternate_names.1"),
        ({"alternate_names": ["A", 5]}, "invalid_type", "alternate_names.1"),
        ({"alternate_names": ["a\x07b"]}, "invalid_format", "alternate_names.0"),
        ({"alternate_names": {"0": "A"}}, "invalid_type", "alternate_names"),
        ({"alternate_names": ["A"], "alternate_names.0": "B"}, "conflict", "alternate_names"),
        ({"alternate_emails": {"work": "w"}}, "invalid_format", "alternate_emails.work"),
        ({"alternate_emails": {"home": "h@example.com"}}, "unknown_field", "alternate_emails.home"),
        ({"alternate_emails": ["w@example.com"]}, "invalid_type", "alternate_emails"),
        ({"alternate_phones": {"work": 4155550132}}, "invalid_type", "alternate_phones.work"),
        ({"alternate_phones.mobile": "12"}, "invalid_format", "alternate_phones.mobile"),
        ({"alternate_phones.social": "+14155550132"}, "unknown_field", "alternate_phones.social"),
        ({"alternate_addresses": {"home_line2": "x" * 501}}, "too_long", "alternate_addresses.home_line2"),
        ({"alternate_addresses": {"line2": "x"}}, "unknown_field", "alternate_addresses.line2"),
    ],
)
def test_a_wrong_value_is_named_with_its_path(item: dict[str, Any], code: str, named: str) -> None:
    checked = check_json(item, {"name": "Ann"})

    assert found_in(checked) == [Found(code, named)]
    assert found_in(checked, row=2) == []
    assert fields_in(checked.invalid[0]) <= {named.split(".", maxsplit=1)[0]}


def test_a_long_list_costs_one_error_and_no_more() -> None:
    checked = check_csv({"alternate_names": [",".join("x" * 3000), json.dumps(["x"] * 3000)]})

    assert [error["code"] for error in checked.errors.to_pylist()] == ["too_many", "too_many"]
