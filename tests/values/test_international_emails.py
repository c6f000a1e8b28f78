"""Internationalised addresses are judged as the library judges them, letter by letter and in combination."""

import sys

import email_validator
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_pipeline.values import email
from batch_pipeline.values.email import canonical_emails
from batch_pipeline.values.text import clean_texts


def by_library(text: str) -> str | None:
    try:
        address = email_validator.validate_email(text, check_deliverability=False)
    except email_validator.EmailNotValidError:
        return None
    return text.rpartition("@")[0] + "@" + address.domain


def test_letters_and_digits_of_any_script_are_judged_as_the_library_does() -> None:
    characters = [chr(code) for code in range(0x80, sys.maxunicode + 1) if chr(code).isalnum()]
    assert len(characters) > 100_000
    words = ["".join(characters[start : start + 9]) for start in range(0, len(characters), 9)]
    texts = clean_texts(pa.array([f"{word}@example.com" for word in words])).to_pylist()
    assert canonical_emails(pa.array(texts)).values.to_pylist() == [by_library(text) for text in texts]
    assert None not in texts


@pytest.mark.parametrize(
    "text",
    ["a@bücher.com", "jürgen.müller@straße.de", "ада@пример.com", "a.b+c@例え.co.jp", "Ωmega@ελλάδα.gr", "é@a-é-b.fr"],
)
def test_common_addresses_are_valid_and_canonical(text: str) -> None:
    assert canonical_emails(pa.array([text])).values.to_pylist() == [text]


def test_a_domain_is_decided_once_for_all_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def validate(text: str, *, check_deliverability: bool) -> email_validator.ValidatedEmail:
        asked.append(text)
        return email_validator.validate_email(text, check_deliverability=check_deliverability)

    monkeypatch.setattr(email, "validate_email", validate)
    texts = [f"ada{number}@once.xn--p1ai" for number in range(1_000)]
    assert canonical_emails(pa.array(texts)).values.to_pylist() == [f"ada{number}@once.рф" for number in range(1_000)]
    assert asked == ["a@once.xn--p1ai"]


_WORDS = (
    "a b1 A ü ß straße münchen ελλάδα пример ПРИМЕР 例え 公司 한국 भारत א1 xn--bcher-kva xn--a ab--c - · ー ŀ \u0131 İ"
)
labels = st.lists(st.sampled_from(_WORDS.split()), min_size=1, max_size=4).map("".join)
domains = st.builds(
    "{}{}{}".format,
    st.lists(labels, min_size=1, max_size=3).map(".".join),
    st.sampled_from([".", ".", ".", "。", ""]),
    st.sampled_from(["com", "COM", "de", "рф", "xn--p1ai", "test", "c1"]),
)
locals_ = st.sampled_from(
    ["ada", "a.b", "Ada+x", "jürgen", "ада", "例", "É", "a..b", ".a", "", '"a b"', "<a", "a b", "\u0301"]
)


@given(st.lists(st.builds("{}@{}".format, locals_, domains), min_size=1, max_size=30))
def test_every_address_is_judged_as_the_library_does(texts: list[str]) -> None:
    texts = clean_texts(pa.array(texts)).to_pylist()
    assert canonical_emails(pa.array(texts)).values.to_pylist() == [by_library(text) for text in texts]


@given(
    st.lists(st.sampled_from("aüя例한\uac01\ud7a3ヺ"), min_size=1, max_size=64).map("".join),
    st.integers(1, 250),
    st.sampled_from(["com", "co.jp", "ü.com"]),
)
def test_lengths_in_unicode_and_punycode_are_judged_as_the_library_does(label: str, local: int, rest: str) -> None:
    texts = [f"{'a' * count}@{label}.{rest}" for count in (1, local)] + [f"{'é' * (local // 2 + 1)}@{label}.{rest}"]
    assert canonical_emails(pa.array(texts)).values.to_pylist() == [by_library(text) for text in texts]
