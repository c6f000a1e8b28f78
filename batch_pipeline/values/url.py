"""Web addresses: http and https URLs.

The rule is the URL Standard (WHATWG), which browsers follow, as pydantic implements it. The standard repairs many
mistakes, but the text is stored as given. Therefore this kernel also refuses white space and invisible characters,
backslashes, quotes and angle brackets, a missing ``//`` and empty parts of a host name.
"""

import re
import unicodedata
from functools import lru_cache

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import AnyHttpUrl, TypeAdapter, ValidationError

from batch_pipeline.values.judged import Judged, Refusal, judge
from batch_pipeline.values.masks import CACHED_VALUES, as_mask, decide_distinct, matches
from batch_pipeline.values.text import character_lengths

URL_MAX_CHARACTERS = 2_000

# Host names of letters, digits and single hyphens (without Punycode) that end in letters (without IPv4 in all its
# notations), and the characters of RFC 3986.
_PLAIN = (
    r"^https?://(?:[a-zA-Z0-9]+(?:-[a-zA-Z0-9]+)*\.)*[a-zA-Z]+(?::[0-9]{1,4})?"
    r"(?:[/?#][a-zA-Z0-9\-._~:/?#\[\]@!$&'()*+,;=%]*)?$"
)
_GUARD = re.compile(r"""https?://(?P<authority>[^/?#\s\\<>"]+)(?:[/?#][^\s\\<>"]*)?""", re.IGNORECASE)
_LIBRARY = TypeAdapter(AnyHttpUrl)


def canonical_urls(texts: pa.StringArray) -> Judged:
    """URLs as given. `Refusal.TOO_LONG` for more than 2,000 characters, `Refusal.FORMAT` for other texts."""
    too_long = as_mask(pc.greater(character_lengths(texts), URL_MAX_CHARACTERS))
    accepted = matches(texts, _PLAIN)
    urls = decide_distinct(texts, accepted | too_long, _ask_library)
    malformed = as_mask(pc.is_null(urls)) & ~too_long
    return judge(texts, urls, {Refusal.TOO_LONG: too_long, Refusal.FORMAT: malformed})


def _ask_library(texts: pa.StringArray) -> pa.StringArray:
    urls = texts.to_pylist()
    return pa.array([url if valid else None for url, valid in zip(urls, map(_is_url, urls), strict=True)], pa.string())


@lru_cache(maxsize=CACHED_VALUES)
def _is_url(text: str) -> bool:
    match = _GUARD.fullmatch(text)
    if match is None or any(unicodedata.category(character).startswith("C") for character in text):
        return False
    host = match["authority"].rpartition("@")[2]
    if host.startswith(".") or ".." in host:
        return False
    try:
        _LIBRARY.validate_python(text)
    except ValidationError:
        return False
    return True
