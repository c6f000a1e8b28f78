"""E-mail addresses: examples of the rule, and agreement of the fast check with the library."""

import email_validator
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_pipeline.values.email import canonical_emails
from batch_pipeline.values.text import clean_texts


def canonical(*texts: str | None) -> list[str | None]:
    return canonical_emails(pa.array(texts, pa.string())).values.to_pylist()


def by_library(text: str) -> str | None:
    try:
        address = email_validator.validate_email(text, check_deliverability=False)
    except email_validator.EmailNotValidError:
        return None
    return text.rpartition("@")[0] + "@" + address.domain


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [
        ("ada@example.com", "ada@example.com"),
        ("Ada.Lovelace@Example.COM", "Ada.Lovelace@example.com"),
        ("INFO@Example.com", "INFO@example.com"),
        ("a+tag_!#$%&'*/=?^`{|}~-@x.io", "a+tag_!#$%&'*/=?^`{|}~-@x.io"),
        ("1@2.3.de", "1@2.3.de"),
        ("a@a-b.c-d.org", "a@a-b.c-d.org"),
        ("jürgen@example.de", "jürgen@example.de"),
        ("a@Bücher.example", "a@bücher.example"),
        ("a@xn--bcher-kva.example", "a@bücher.example"),
        ("a@例え。jp", "a@例え.jp"),
        ("a@example.xn--p1ai", "a@example.рф"),
        (f"{'a' * 65}@example.com", f"{'a' * 65}@example.com"),
        (f"a@{'b' * 63}.com", f"a@{'b' * 63}.com"),
        ("a@my-test.com", "a@my-test.com"),
        ("a@latest", None),
        ("a@contest.com", "a@contest.com"),
    ],
)
def test_a_valid_address_keeps_its_local_part_and_gets_a_lower_case_domain(
    given_text: str, expected: str | None
) -> None:
    assert canonical(given_text) == [expected]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ada",
        "@example.com",
        "ada@",
        "ada@@example.com",
        "ada@example",
        "ada@example.c0m1",
        "ada@-example.com",
        "ada@example-.com",
        "ada@ab--cd.com",
        "ada@exa mple.com",
        "ada lovelace@example.com",
        ".ada@example.com",
        "ada.@example.com",
        "a..da@example.com",
        "ada@example..com",
        "ada@.example.com",
        "ada@example.com.",
        "ada@exam_ple.com",
        "ada@example.com\n",
        "ada@exa\nmple.com",
        "a\x00da@example.com",
        "ada,bob@example.com",
        "ada@example.com, bob@example.com",
        "Ada <ada@example.com>",
        "<ada@example.com>",
        '"ada lovelace"@example.com',
        "ada@[192.0.2.1]",
        "ada@192.0.2.1",
        "ada@localhost",
        "ada@mail.LOCALHOST",
        "ada@example.test",
        "ada@printer.Local",
        "ada@x.onion",
        "ada@1.in-addr.arpa",
        "ada@example.invalid",
        "ada@xn--.com",
        "ada@xn--a.com",
        f"a@{'b' * 64}.com",
        f"{'a' * 250}@example.com",
        "ada\uff20example.com",
    ],
)
def test_an_invalid_address_becomes_null(text: str) -> None:
    column = pa.array([text, "ok@example.com", None])
    result = canonical_emails(column)
    assert result.values.to_pylist() == [None, "ok@example.com", None]
    assert result.invalid(column).to_pylist() == [True, False, False]


def test_plain_addresses_are_accepted_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        pytest.fail("the library was asked")

    monkeypatch.setattr(email_validator, "validate_email", refuse)
    assert canonical("plain.1@sub.example.com", "Plain.2@Sub.Example.com", None) == [
        "plain.1@sub.example.com",
        "Plain.2@sub.example.com",
        None,
    ]


def test_a_special_use_domain_allowed_in_the_library_is_allowed_here(monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = [name for name in email_validator.SPECIAL_USE_DOMAIN_NAMES if name != "onion"]
    monkeypatch.setattr(email_validator, "SPECIAL_USE_DOMAIN_NAMES", allowed)
    assert canonical("only-where-allowed@hidden.onion") == ["only-where-allowed@hidden.onion"]


def test_any_overlong_text_is_invalid() -> None:
    assert canonical("a" * 1_000_000 + "@example.com") == [None]


def test_a_slice_of_a_column_gives_the_slice_of_the_result() -> None:
    column = pa.array(["X@A.com", None, "bad", "y@B.com", "z@ü.de"])
    assert canonical_emails(column.slice(1, 4)).values.to_pylist() == [None, None, "y@b.com", "z@ü.de"]


@pytest.mark.parametrize("texts", [[], [None], [None, None]])
def test_columns_without_values_stay_as_they_are(texts: list[None]) -> None:
    assert canonical(*texts) == texts


# Pieces on both sides of the grammar's borders, so that combinations are often just valid or just invalid.
_ATOMS = "a Z9 info _ + ' {|}~ . .. - ( , : ü"
_LOCAL_PIECES = [*_ATOMS.split(), '"', "\\", " ", "\u0308", "\u200d", "\u00a0"]
_SHORT_LABELS = "a B 0 1 a-b a--b -a a- ab--c a_b xn--bcher-kva XN--BCHER-KVA xn--a bücher ß faß ﬃ א 例え ŀ ⒈"
_LABELS = [*_SHORT_LABELS.split(), "b" * 20, "b" * 63, "b" * 64, "", "\u212a", "\u200d"]
_NAMES = "com COM c c1 1c 123 test TEST te\u017ft local loKal arpa onion invalid localhost example xn--p1ai рф"
_TOP_LEVELS = [*_NAMES.split(), "com.", "co-m", "com\n", "[127.0.0.1]"]
_local_pieces = st.sampled_from(_LOCAL_PIECES) | st.text(max_size=3)
_labels = st.sampled_from(_LABELS) | st.text(max_size=3)
_top_levels = st.sampled_from(_TOP_LEVELS)
_separators = st.sampled_from([".", ".", ".", ".", "。", "..", "-"])


@st.composite
def addresses(draw: st.DrawFn) -> str:
    local = "".join(draw(st.lists(_local_pieces, max_size=4)))
    labels = draw(st.lists(st.tuples(_labels, _separators), max_size=5))
    at = draw(st.sampled_from(["@", "@", "@", "@", "@", "@@", "", "\uff20"]))
    return local + at + "".join(label + separator for label, separator in labels) + draw(_top_levels)


def cleaned(texts: list[str]) -> list[str]:
    """Texts as the kernel gets them: clean."""
    column = pa.array([text.encode("utf-8", "ignore").decode() for text in texts], pa.string())
    values: list[str] = clean_texts(column).to_pylist()
    return values


@given(st.lists(addresses() | st.emails(), min_size=1, max_size=30))
def test_every_address_is_judged_as_the_library_does(texts: list[str]) -> None:
    texts = cleaned(texts)
    assert canonical(*texts) == [by_library(text) for text in texts]


@given(st.lists(addresses() | st.emails(), min_size=1, max_size=30))
def test_the_canonical_form_of_a_canonical_form_is_itself(texts: list[str]) -> None:
    once = [text for text in canonical(*cleaned(texts)) if text is not None]
    assert canonical(*once) == once
    assert cleaned(once) == once


@given(st.integers(1, 80), st.integers(1, 80), st.integers(1, 70), st.booleans())
def test_lengths_are_judged_as_the_library_does(local: int, label: int, second: int, upper: bool) -> None:
    text = f"{'a' * local}@{'b' * label}.{'c' * second}.com"
    text = text.upper() if upper else text
    assert canonical(text) == [by_library(text)]
