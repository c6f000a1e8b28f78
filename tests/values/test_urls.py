"""Web addresses: examples of the rule, and agreement of the fast check with the library."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from judging import judged
from pydantic import AnyHttpUrl, TypeAdapter, ValidationError

from batch_pipeline.values.judged import Refusal
from batch_pipeline.values.masks import matches
from batch_pipeline.values.text import clean_texts
from batch_pipeline.values.url import _PLAIN, URL_MAX_CHARACTERS, canonical_urls

_LIBRARY = TypeAdapter(AnyHttpUrl)


def library_takes(text: str) -> bool:
    try:
        _LIBRARY.validate_python(text)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize(
    "text",
    [
        "http://example.com",
        "https://labels.example.com/a/b.pdf?size=4x6&copy=[1]#page=2",
        "HTTPS://Example.COM/A",
        "https://example.com:8443/",
        "http://localhost:9000/bucket/label.pdf",
        "http://192.0.2.1/label",
        "http://[2001:db8::1]:80/label",
        "https://user:secret@example.com/x",
        "https://bücher.example/straße",
        "https://xn--bcher-kva.example/",
        "https://例え.jp/荷物?q=1",
        "https://my_bucket.example.com/a",
        "https://example.com/a|b{c}^d",
        "https://example.com/%7Eada/100%",
        "https://example.com./",
        "https://example.com?a=b",
        "https://example.com/" + "a" * (URL_MAX_CHARACTERS - 20),
        "https://example.com/" + "ü" * (URL_MAX_CHARACTERS - 20),
    ],
)
def test_a_url_is_kept_as_given(text: str) -> None:
    assert judged(canonical_urls, text) == [text]


@pytest.mark.parametrize(
    "text",
    [
        *["", "x", "example.com", "www.example.com/a", "//example.com", "http://", "https://", "http:", "https:///a"],
        *["ftp://example.com", "javascript:alert(1)", "data:text/html,x", "mailto:ada@example.com", "file:///etc"],
        *["https:example.com", "https:/example.com", "https:\\\\example.com", "https://example.com\\a", "http://a@"],
        *["https://exa mple.com", "https://example.com/a b", "https://example.com/a\tb", "https://example.com/\n"],
        *["https://example.com/<b>", 'https://example.com/"', "<https://example.com>", "see https://example.com"],
        *["https://example.com/\u202egpj", "https://example.com/a\u200bb", "https://example.com/\x00"],
        *["https://example.com:99999", "https://example.com:port", "https://a..com", "https://.com", "http://a.123"],
        *[
            "https://xn--a.com",
            "https://[::1",
            "https://1.2.3.4.5",
            "https://exa%20mple.com",
            "https://?q",
            "https://#",
        ],
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    assert judged(canonical_urls, text, "http://x.y") == [Refusal.FORMAT, "http://x.y"]


@pytest.mark.parametrize("text", ["https://example.com/" + "a" * (URL_MAX_CHARACTERS - 19), "x" * 1_000_000])
def test_any_overlong_text_is_refused(text: str) -> None:
    assert judged(canonical_urls, text) == [Refusal.TOO_LONG]


@pytest.mark.parametrize("texts", [[], [None], [None, None]])
def test_columns_without_values_stay_as_they_are(texts: list[None]) -> None:
    assert canonical_urls(pa.array(texts, pa.string())).values.to_pylist() == texts


_PIECES = (
    "http https :// :/ : / // . .. - -- @ ? # a A 1 0x7f example com xn--a localhost 1.2 :80 :99999 :00 % %41 [ ]",
    "[::1] _ ~ & = ü 例 \u3002 \u00ad \u200b < \\ | { ' 127.0.0.1 255",
)
pieces = st.sampled_from(" ".join(_PIECES).split())
urls = st.builds(
    lambda scheme, rest: scheme + "".join(rest),
    st.sampled_from(["http://", "https://", "HTTP://", "http:/", ""]),
    st.lists(pieces | st.text(max_size=2), max_size=9),
)


@given(st.lists(urls, min_size=1, max_size=40))
def test_texts_that_the_library_refuses_are_refused(texts: list[str]) -> None:
    column = clean_texts(pa.array([text.encode("utf-8", "ignore").decode() for text in texts], pa.string()))
    for text, verdict in zip(column.to_pylist(), judged(canonical_urls, *column.to_pylist()), strict=True):
        assert verdict in (text, Refusal.FORMAT)
        assert verdict is Refusal.FORMAT or library_takes(text)


labels = st.text("abcXYZ019-", min_size=1, max_size=5)
tails = st.text("aZ09-._~:/?#[]@!$&'()*+,;=%", max_size=12)
plain_urls = st.builds(
    "{}://{}{}{}{}".format,
    st.sampled_from(["http", "https"]),
    st.lists(labels, min_size=1, max_size=4).map(".".join),
    st.sampled_from(["", "", ".com", ".museum"]),
    st.sampled_from(["", "", ":", ":0", ":80", ":8080", ":9999"]),
    st.sampled_from(["", "/", "?", "#"]).flatmap(
        lambda first: tails.map(lambda tail: first + tail) if first else st.just("")
    ),
)


@given(st.lists(plain_urls, min_size=1, max_size=40))
def test_the_library_accepts_all_that_the_fast_check_accepts(texts: list[str]) -> None:
    accepted = matches(pa.array(texts), _PLAIN)
    assert [text for text, taken in zip(texts, accepted, strict=True) if taken and not library_takes(text)] == []


def test_the_fast_check_accepts_the_commonest_urls() -> None:
    texts = ["https://www.ups.com/track?tracknum=1Z999AA10123456784&loc=en_US", "http://localhost:9000/label.pdf"]
    assert matches(pa.array(texts), _PLAIN).all()
