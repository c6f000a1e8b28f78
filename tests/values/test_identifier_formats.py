"""The format of identifiers."""

import pyarrow as pa
import pytest

from batch_pipeline.values.identifier import BASE58_ALPHABET, are_record_ids, are_reference_ids

GOOD = "ctct_" + "123456789ABCDEFGHJKLMN"


def test_prefix_and_22_base58_characters_are_a_record_id() -> None:
    texts = pa.array([GOOD, "ctct_" + BASE58_ALPHABET[-22:], None])
    assert are_record_ids(texts, "ctct_").to_pylist() == [True, True, None]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ctct_",
        GOOD[5:],
        GOOD[:-1],
        GOOD + "1",
        GOOD + "\n",
        " " + GOOD,
        GOOD.replace("ctct", "grp"),
        GOOD.upper(),
        "x" + GOOD,
    ]
    + [GOOD[:-1] + character for character in "0OIl-_+é"],
)
def test_anything_else_is_not_a_record_id(text: str) -> None:
    assert are_record_ids(pa.array([text]), "ctct_").to_pylist() == [False]


def test_the_alphabet_has_58_characters_once_each() -> None:
    assert len(BASE58_ALPHABET) == len(set(BASE58_ALPHABET)) == 58


@pytest.mark.parametrize("text", ["loc_1", "loc_a-B_9", "loc_" + "x" * 64])
def test_prefix_and_up_to_64_characters_are_a_reference(text: str) -> None:
    assert are_reference_ids(pa.array([text]), "loc_").to_pylist() == [True]


@pytest.mark.parametrize(
    "text", ["", "loc_", "loc-1", "LOC_1", "item_1", "loc_" + "x" * 65, "loc_a b", "loc_é", "loc_1\n"]
)
def test_anything_else_is_not_a_reference(text: str) -> None:
    assert are_reference_ids(pa.array([text]), "loc_").to_pylist() == [False]


def test_a_missing_reference_stays_missing() -> None:
    assert are_reference_ids(pa.array([None, "loc_1"]), "loc_").to_pylist() == [None, True]
