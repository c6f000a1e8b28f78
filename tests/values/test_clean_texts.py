"""How every text is read: trimming, NFC, line ends, control characters, lengths."""

import unicodedata

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_pipeline.values.text import (
    character_lengths,
    clean_texts,
    first_characters,
    has_control_characters,
)

texts_of_any_kind = st.text(
    st.sampled_from("a \t\r\n\u00a0\u3000\u2001é\u0065\u0301Å\u212b\x00\x85가\u1100\u1161;\u037e")
    | st.characters(codec="utf-8")
)


def clean(*texts: str | None) -> list[str | None]:
    return clean_texts(pa.array(texts, pa.string())).to_pylist()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("  two  words\t", "two  words"),
        ("\u00a0\u3000\u2003x\u2028\ufeff", "x\u2028\ufeff"),
        (" \n ", ""),
        ("", ""),
        ("a\r\nb", "a\nb"),
        ("a\rb", "a\nb"),
        ("a\r\r\nb\n\rc", "a\n\nb\n\nc"),
        ("e\u0301", "\u00e9"),
        ("\u212b", "\u00c5"),
        ("\u1100\u1161", "\uac00"),
        ("ﬁ²", "ﬁ²"),
        ("a\x00b", "a\x00b"),
        ("x\u0301 \r", "x\u0301"),
    ],
)
def test_texts_are_trimmed_and_normalized_and_nothing_else(text: str, expected: str) -> None:
    assert clean(text, None, "other") == [expected, None, "other"]


@given(st.lists(texts_of_any_kind | st.none()))
def test_cleaning_agrees_with_the_rules_text_by_text(texts: list[str | None]) -> None:
    expected = [
        None if text is None else unicodedata.normalize("NFC", text.strip().replace("\r\n", "\n").replace("\r", "\n"))
        for text in texts
    ]
    assert clean(*texts) == expected


@given(st.lists(texts_of_any_kind | st.none()))
def test_cleaning_what_is_clean_changes_nothing(texts: list[str | None]) -> None:
    once = clean(*texts)
    assert clean(*once) == once


@given(st.lists(texts_of_any_kind | st.none()), st.integers(0, 3))
def test_control_characters_are_those_of_category_cc_but_tab_and_lf(texts: list[str | None], start: int) -> None:
    found = has_control_characters(pa.array(texts, pa.string()).slice(start))
    assert found.to_pylist() == [
        None if text is None else any(unicodedata.category(c) == "Cc" and c not in "\t\n" for c in text)
        for text in texts[start:]
    ]


@pytest.mark.parametrize("code_point", [*range(0x20), 0x7F, *range(0x80, 0xA0)])
def test_each_control_character_is_found(code_point: int) -> None:
    found = has_control_characters(pa.array(["plain", f"a{chr(code_point)}b", None]))
    assert found.to_pylist() == [False, chr(code_point) not in "\t\n", None]


@pytest.mark.parametrize("text", ["©", "À", "naïve ®", "\u00a0", "\u0100", "日本"])
def test_other_characters_are_not_control_characters(text: str) -> None:
    assert has_control_characters(pa.array([text])).to_pylist() == [False]


def test_lengths_count_code_points() -> None:
    assert character_lengths(pa.array(["", "abc", "äöü", "👍🏽", None])).to_pylist() == [0, 3, 3, 2, None]


def test_a_slice_is_cleaned_by_its_own_values() -> None:
    column = pa.array(["a\rb", " x ", "e\u0301", None])
    assert clean_texts(column.slice(1, 1)).to_pylist() == ["x"]
    assert clean_texts(column.slice(2, 2)).to_pylist() == ["é", None]


def test_other_types_than_string_are_refused() -> None:
    with pytest.raises(TypeError, match="expected an array of type string, got large_string"):
        clean_texts(pa.array(["a"], pa.large_string()))


def test_first_characters_are_those_of_each_text() -> None:
    assert first_characters(pa.array(["xx", "abc", "de"]).slice(1), 2).tolist() == [[97, 98], [100, 101]]
    assert first_characters(pa.array([], pa.string()), 2).tolist() == []
