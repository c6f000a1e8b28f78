"""References to other records: the texts and operations that an item gives."""

import json
from typing import Any

import pytest
from record_samples import csv_chunk, errors_of, found_in, json_chunk

from batch_pipeline.records.cells import ReadingOptions
from batch_pipeline.records.check import CheckedChunk, RowRules
from batch_pipeline.records.contact import CONTACT
from batch_pipeline.records.fields import RuleContext
from batch_pipeline.records.group import GROUP
from batch_pipeline.records.resource import Resource

RESOURCE_OF = {"groups": CONTACT, "children": GROUP, "primary": GROUP}


def rules(resource: Resource, *, blank_clears: bool = False, **properties: str) -> RowRules:
    options = ReadingOptions(mapping={}, properties=properties, blank_clears=blank_clears)
    return RowRules(resource, options, RuleContext(region="US"))


def check_cells(field: str, cells: dict[str, str], **options: Any) -> CheckedChunk:
    """The item of a flat file with these cells."""
    return rules(RESOURCE_OF[field], **options).check(csv_chunk({name: [cell] for name, cell in cells.items()}))


def check_value(field: str, value: Any) -> CheckedChunk:
    """The item of a JSON file with this value."""
    return rules(RESOURCE_OF[field], blank_clears=True).check(json_chunk([{field: value}]))


def said(checked: CheckedChunk, field: str) -> Any:
    """The staged references, decoded; None where the item says nothing."""
    column = checked.fields.get(field)
    text = None if column is None else column[0].as_py()
    return None if text is None else json.loads(text)


def clears(checked: CheckedChunk, field: str) -> bool:
    bits = {item.name: bit for bit, item in enumerate(RESOURCE_OF[field].fields)}
    return bool(int(checked.cleared[0]) >> bits[field] & 1)


@pytest.mark.parametrize(
    ("cell", "references"),
    [
        ("VIP", ["VIP"]),
        (" VIP ,Staff,, a b ", ["VIP", "Staff", "a b"]),
        ('["VIP","Smith, Inc."]', ["VIP", "Smith, Inc."]),
        ('[ "VIP" , " Staff " ]', ["VIP", "Staff"]),
        (r'["back\\slash","quo\"te","tab\there"]', ["back\\slash", 'quo"te', "tab\there"]),
        ("[]", []),
        ('["", null, "VIP"]', ["VIP"]),
        (",", []),
        ("e\u0301", ["\u00e9"]),
        ("VIP,VIP", ["VIP", "VIP"]),  # which counts once where it is resolved
    ],
)
@pytest.mark.parametrize(("field", "plain"), [("groups", "add"), ("children", "set"), ("primary", "mark")])
def test_a_cell_is_a_list(field: str, plain: str, cell: str, references: list[str]) -> None:
    checked = check_cells(field, {field: cell})
    assert (said(checked, field), found_in(checked)) == ({plain: references}, [])


@pytest.mark.parametrize(
    ("value", "operations"),
    [
        (["VIP", "Staff"], {"add": ["VIP", "Staff"]}),
        ([], {"add": []}),
        ("VIP, Staff", {"add": ["VIP", "Staff"]}),
        ({"add": ["VIP"]}, {"add": ["VIP"]}),
        ({"set": []}, {"set": []}),
        ({"set": ["a\\b", 'c"d']}, {"set": ["a\\b", 'c"d']}),
        ({"add": ["VIP"], "remove": ["Staff", "x"]}, {"add": ["VIP"], "remove": ["Staff", "x"]}),
        ({"add": "VIP, Staff", "remove": None, "set": None}, {"add": ["VIP", "Staff"]}),
        ({"set": ""}, None),
        ({}, None),
    ],
)
def test_json_gives_a_list_or_an_object_of_lists(value: Any, operations: Any) -> None:
    checked = check_value("groups", value)
    assert (said(checked, "groups"), found_in(checked), clears(checked, "groups")) == (operations, [], False)


def test_dotted_headers_name_the_operations() -> None:
    checked = check_cells("groups", {"groups.add": "VIP,Staff", "groups.remove": '["Old"]', "groups.set": ""})
    assert (said(checked, "groups"), found_in(checked)) == ({"add": ["VIP", "Staff"], "remove": ["Old"]}, [])
    assert GROUP.knows("children")
    assert not any(CONTACT.knows(header) for header in ("groups.put", "groups.", "groups.0", "groups.add.0"))
    assert not any(GROUP.knows(header) for header in ("children.add", "children.set", "primary.mark"))


@pytest.mark.parametrize(
    ("cells", "is_cleared"),
    [
        ({"groups": ""}, True),
        ({"groups.set": ""}, True),
        ({"groups.add": "", "groups.remove": ""}, False),  # there is nothing that these could clear
        ({"groups.set": "", "groups.add": "VIP"}, True),
        ({"groups": "VIP"}, False),
    ],
)
def test_a_blank_cell_clears_if_blank_cells_is_clear(cells: dict[str, str], is_cleared: bool) -> None:
    assert clears(check_cells("groups", cells, blank_clears=True), "groups") is is_cleared
    kept = check_cells("groups", cells)
    assert not clears(kept, "groups")
    assert found_in(kept) == []


@pytest.mark.parametrize("field", RESOURCE_OF)
def test_null_clears(field: str) -> None:
    checked = check_value(field, None)
    assert (said(checked, field), clears(checked, field), found_in(checked)) == (None, True, [])


@pytest.mark.parametrize(
    ("field", "value", "errors", "shown"),
    [
        ("groups", 5, [("invalid_type", "groups")], "5"),
        ("groups", [1], [("invalid_type", "groups")], "1"),
        ("children", ["a", ["b"], {"c": 1}], [("invalid_type", "children")] * 2, '["b"]'),
        ("children", {"set": ["a"]}, [("invalid_type", "children")], '{"set":["a"]}'),
        ("groups", {"add": [True]}, [("invalid_type", "groups")], "true"),
        ("groups", {"put": ["a"]}, [("unknown_field", "groups.put")], '["a"]'),
        ("groups", {"add": ["a"], "put": None}, [("unknown_field", "groups.put")], "null"),
        ("groups", {"add": ["a"], "set": ["b"]}, [("conflict", "groups")], None),
        ("groups", {"remove": ["a"], "set": []}, [("conflict", "groups")], None),
        ("primary", ["a\u0007b"], [("invalid_format", "primary")], "a\u0007b"),
    ],
)
def test_a_value_that_is_not_a_list_of_references_is_rejected(
    field: str, value: Any, errors: list[tuple[str, str]], shown: str | None
) -> None:
    checked = check_value(field, value)
    assert [tuple(error) for error in found_in(checked)] == errors
    assert errors_of(checked)[0]["value"] == shown
    assert said(checked, field) is None


@pytest.mark.parametrize("cell", ['["VIP"', "[VIP]", '["VIP"] or so'])
def test_a_cell_that_begins_as_an_array_must_be_one(cell: str) -> None:
    checked = check_cells("children", {"children": cell})
    assert [tuple(error) for error in found_in(checked)] == [("invalid_type", "children")]


def test_properties_give_references_to_items_without_any() -> None:
    chunk = csv_chunk(
        {"groups": ["", "Staff", "", ""], "groups.set": ["", "", "Old", ""], "groups.add": ["", "", "", "x"]}
    )
    checked = rules(CONTACT, groups="VIP, New").check(chunk)
    assert checked.errors.num_rows == 0
    assert [json.loads(text) for text in checked.fields["groups"].to_pylist()] == [
        {"add": ["VIP", "New"]},
        {"add": ["Staff"]},
        {"set": ["Old"]},
        {"add": ["x"]},
    ]
    assert CONTACT.takes_default("groups")
    assert not CONTACT.takes_default("groups.add")


def test_an_item_uses_one_cell_or_dotted_headers() -> None:
    checked = check_cells("groups", {"groups": "VIP", "groups.remove": "Staff"})
    assert [tuple(error) for error in found_in(checked)] == [("conflict", "groups")]


def test_dotted_headers_of_json_take_lists_too() -> None:
    item = {"groups.add": ["a"], "groups.remove": 5, "groups.set": {"add": ["b"]}}
    checked = rules(CONTACT, blank_clears=True).check(json_chunk([item]))
    assert [tuple(error) for error in found_in(checked)] == [
        ("invalid_type", "groups.remove"),
        ("invalid_type", "groups.set"),
    ]


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("ann@xn--bcher-kva.example", "ann@b\u00fccher.example"),
        ("Ann:::x:::ann@XN--bcher-kva.example", "Ann:::x:::ann@b\u00fccher.example"),
        ("no address@xn--", "no address@xn--"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
    ],
)
def test_an_email_address_is_normalized_like_that_of_a_contact(text: str, read: str) -> None:
    assert said(check_value("children", ["a", text]), "children") == {"set": ["a", read]}
    assert said(check_value("groups", [text]), "groups") == {"add": [text]}


def test_each_item_has_its_own_references() -> None:
    """Every form beside every other, in one chunk."""
    values: list[Any] = [
        ["a"],
        {"set": ["b", "c"]},
        None,
        {"remove": ["d"], "add": ["e"]},
        {},
        ["f\\"],
        "g,h",
        {"add": []},
    ]
    items = [{"groups": value} for value in values] + [{"name": "none"}]
    checked = rules(CONTACT, blank_clears=True).check(json_chunk(items))
    assert [None if text is None else json.loads(text) for text in checked.fields["groups"].to_pylist()] == [
        {"add": ["a"]},
        {"set": ["b", "c"]},
        None,
        {"remove": ["d"], "add": ["e"]},
        None,
        {"add": ["f\\"]},
        {"add": ["g", "h"]},
        {"add": []},
        None,
    ]
