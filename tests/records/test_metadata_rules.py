"""Metadata: dotted columns and JSON objects make one patch per item, by the same rules."""

import json
from typing import Any

import pytest
from record_samples import Found, check_csv, check_json, errors_of, fields_in, found_in, value_of

from batch_pipeline.records.check import CheckedChunk


def patch_of(checked: CheckedChunk, item: int = 0) -> Any:
    text = value_of(checked, "metadata", item)
    return None if text is None else json.loads(text)


@pytest.mark.parametrize(
    "pairs",
    [
        {"colour": "red"},
        {"a": "1", "b": "2"},
        {"quote": 'she said "no"', 'odd "key"': "x"},
        {"path": "C:\\temp\\n", "back\\slash": "\\"},
        {"lines": "one\ntwo", "tab": "a\tb"},
        {"🚚": "😀", "é": "a\u2028b"},
        {"a.b": "dotted"},
        {"k" * 100: "v" * 500},
        {"🚚" * 100: "🚚" * 500},
        {f"key{n}": "x" for n in range(25)},
        {"a": "null", "b": "{}"},
    ],
)
def test_valid_pairs_become_a_json_patch_from_both_forms(pairs: dict[str, str]) -> None:
    for checked in (
        check_json({"metadata": pairs}),
        check_csv({f"metadata.{key}": [value] for key, value in pairs.items()}),
        check_csv({"metadata": [json.dumps(pairs)]}),
        check_json({f"metadata.{key}": value for key, value in pairs.items()}),
    ):
        assert found_in(checked) == []
        assert patch_of(checked) == pairs


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ({"k" * 101: "x"}, Found("too_long", "metadata")),
        ({"🚚" * 101: "x"}, Found("too_long", "metadata")),
        ({"k": "v" * 501}, Found("too_long", "metadata.k")),
        ({"k": "🚚" * 501}, Found("too_long", "metadata.k")),
        ({"k": "a\x07b"}, Found("invalid_format", "metadata.k")),
        ({"a\x07b": "x"}, Found("invalid_format", "metadata")),
        ({f"key{n}": "x" for n in range(26)}, Found("too_many", "metadata")),
    ],
    ids=["key", "wide key", "value", "wide value", "control in value", "control in key", "26 pairs"],
)
def test_invalid_pairs_reject_the_item_and_give_no_patch(pairs: dict[str, str], expected: Found) -> None:
    for checked in (
        check_json({"metadata": pairs}),
        check_csv({f"metadata.{key}": [value] for key, value in pairs.items()}),
        check_csv({"metadata": [json.dumps(pairs)]}),
    ):
        assert found_in(checked) == [expected]
        assert fields_in(checked.invalid[0]) == {"metadata"}
        assert patch_of(checked) is None


@pytest.mark.parametrize("value", [5, 1.5, True, ["x"], {"a": "b"}], ids=str)
def test_a_value_in_the_object_is_a_text_or_null(value: Any) -> None:
    checked = check_json({"metadata": {"good": "x", "bad": value}}, {"metadata": {"good": "y"}})

    assert found_in(checked) == [Found("invalid_type", "metadata.bad")]
    assert errors_of(checked)[0]["value"] == json.dumps(value, separators=(",", ":"))
    assert [patch_of(checked, item) for item in (0, 1)] == [None, {"good": "y"}]


@pytest.mark.parametrize("depth", [300, 900, 5_000])
def test_a_deeply_nested_cell_is_one_error_of_bounded_length(depth: int) -> None:
    checked = check_csv({"metadata": ['{"a":' + "[" * depth + "]" * depth + "}"]})

    assert [error.code for error in found_in(checked)] == ["invalid_type"]
    assert len(errors_of(checked)[0]["value"]) == 200


@pytest.mark.parametrize("value", [5, True, ["a"], "a=b", "[]"], ids=str)
def test_the_whole_field_is_an_object(value: Any) -> None:
    assert found_in(check_json({"metadata": value})) == [Found("invalid_type", "metadata")]


@pytest.mark.parametrize("cell", ["a=b", "[]", "5", '"x"', "{", '{"a": "b"} x', "null"])
def test_a_cell_of_the_whole_field_holds_a_json_object(cell: str) -> None:
    assert found_in(check_csv({"metadata": [cell]})) == [Found("invalid_type", "metadata")]


@pytest.mark.parametrize("blank", [None, "", "  ", "\n"])
def test_null_or_blank_removes_a_key(blank: str | None) -> None:
    checked = check_json({"metadata": {"old": blank, "new": "x"}}, {"metadata.old": blank, "metadata.new": "y"})

    assert found_in(checked) == []
    assert [patch_of(checked, item) for item in (0, 1)] == [{"old": None, "new": "x"}, {"old": None, "new": "y"}]
    assert checked.cleared.tolist() == [0, 0]


def test_removed_keys_do_not_count_towards_the_maximum_of_pairs() -> None:
    pairs = {**{f"old{n}": None for n in range(40)}, **{f"key{n}": "x" for n in range(25)}}

    checked = check_json({"metadata": pairs})

    assert found_in(checked) == []
    assert patch_of(checked) == pairs


@pytest.mark.parametrize(("blank_clears", "patch"), [(True, {"old": None, "new": "x"}), (False, {"new": "x"})])
def test_a_blank_dotted_cell_follows_the_option(blank_clears: bool, patch: dict[str, str | None]) -> None:
    checked = check_csv({"metadata.old": [" "], "metadata.new": ["x"]}, blank_clears=blank_clears)

    assert patch_of(checked) == patch


def test_an_item_without_metadata_has_no_patch() -> None:
    checked = check_json({"metadata": {"a": "x"}}, {"name": "Bob"}, {"metadata": None}, {"metadata": {}})

    assert [value_of(checked, "metadata", item) for item in (1, 2)] == [None, None]
    assert fields_in(checked.cleared[2]) == {"metadata"}
    assert checked.cleared[[0, 1, 3]].tolist() == [0, 0, 0]


def test_keys_and_values_are_read_as_all_texts_are() -> None:
    checked = check_json({"metadata": {" colour ": " Zoe\u0308\r\n2 "}})

    assert patch_of(checked) == {"colour": "Zo\u00eb\n2"}


def test_pairs_of_both_forms_count_together() -> None:
    item = {"metadata": {f"a{n}": "x" for n in range(20)}, **{f"metadata.b{n}": "x" for n in range(6)}}

    assert found_in(check_json(item)) == [Found("too_many", "metadata")]


def test_errors_are_reported_for_each_item_and_key() -> None:
    checked = check_json(
        {"metadata": {"a": "x" * 501, "b": "fine"}},
        {"metadata": {"a": "fine"}},
        {"metadata": {"b": "y" * 501, "a": "\x07"}},
    )

    assert sorted(found_in(checked, 1)) == [Found("too_long", "metadata.a")]
    assert found_in(checked, 2) == []
    assert sorted(found_in(checked, 3)) == [Found("invalid_format", "metadata.a"), Found("too_long", "metadata.b")]
    assert errors_of(checked, 1)[0]["value"] == "x" * 200
