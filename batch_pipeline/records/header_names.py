"""Finds the fields that unknown headers of an upload most likely mean. The result is only suggested, never applied.

A header means a field if the two are equal apart from case, accents, blanks and punctuation; else if the header is one
of the field's synonyms; else if it differs from one of these names by a typing error. Where two fields or two headers
compete, nothing is suggested.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping

from rapidfuzz.distance import OSA

from batch_pipeline.records.keyed import KeyedText
from batch_pipeline.records.nested import Nested
from batch_pipeline.records.object_lists import ObjectList
from batch_pipeline.records.objects import KeyedObject
from batch_pipeline.records.resource import Resource

# Longer headers are no names. It also bounds the message that quotes a suggestion.
MOST_CHARACTERS = 60

_NOT_IN_NAMES = re.compile(r"[\W_]+")
_NO_DIGITS = re.compile(r"\D+")

# A value, not a name: a number or a date or time, an e-mail address, a URL, a telephone number.
_VALUE = re.compile(r"[-+(]?[\d][\d\s.,:/()+-]*(?:[TZ][\d:.]*Z?)?|[^@\s]+@[^@\s]+\.[^@\s]+|https?://\S+", re.IGNORECASE)


def plain_name(text: str) -> str:
    """The text without what names differ in by habit: case, accents, blanks and punctuation."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    letters = "".join(character for character in decomposed if not unicodedata.combining(character))
    return _NOT_IN_NAMES.sub("", letters)


def looks_like_value(header: str) -> bool:
    """Whether the header is more likely a value than a name, as in the first row of a file without a header."""
    return _VALUE.fullmatch(header) is not None


def header_names(resource: Resource) -> tuple[str, ...]:
    """The headers that an upload of the resource may have, apart from keys that senders choose and places in lists."""
    names: list[str] = []
    for field in resource.fields:
        names.append(field.name)
        if isinstance(field, Nested):
            names += field.scalars()
    return (*names, *resource.file_headers)


def flat_headers(resource: Resource) -> tuple[str, ...]:
    """As `header_names`, without fields that a cell can give only as a JSON object or a list of them."""
    objects = {field.name for field in resource.fields if isinstance(field, KeyedObject | KeyedText | ObjectList)}
    return tuple(name for name in header_names(resource) if name not in objects)


def suggest_mapping(resource: Resource, unknown: Iterable[str], *, taken: Collection[str]) -> dict[str, str]:
    """A column mapping (field -> header) for those of the unknown headers whose field is certain.

    `taken` are the fields that other columns of the upload give.
    """
    # A suggestion is quoted in messages, to be copied.
    quotable = [header for header in unknown if len(header) <= MOST_CHARACTERS and header.isprintable()]
    left = {header: plain for header in quotable if (plain := plain_name(header))}
    if not left:
        return {}
    names = flat_headers(resource)
    by_name = _by_plain_name((name, name) for name in names)
    by_synonym = _by_plain_name((synonym, name) for name, synonyms in resource.synonyms.items() for synonym in synonyms)
    spellings = {plain: names | by_name.get(plain, set()) for plain, names in by_synonym.items()} | by_name
    ways: tuple[Callable[[str], set[str]], ...] = (
        lambda plain: by_name.get(plain, set()),
        lambda plain: by_synonym.get(plain, set()),
        lambda plain: _nearly(plain, spellings),
    )
    suggested: dict[str, str] = {}
    settled = set(taken)
    for fields_of in ways:
        meant = {header: found for header, plain in left.items() if (found := fields_of(plain))}
        claims: dict[str, list[str]] = defaultdict(list)
        for header, found in meant.items():
            for name in found:
                claims[name].append(header)
        for name, headers in claims.items():
            if name not in settled and len(headers) == 1 and len(meant[headers[0]]) == 1:
                suggested[name] = headers[0]
        settled |= set(claims)
        left = {header: plain for header, plain in left.items() if header not in meant}
    return _without_rivals(resource, suggested, taken)


def nearest(text: str, allowed: Iterable[str]) -> str | None:
    """The one allowed value that the text is apart from its spelling or a typing error; None if it is uncertain."""
    plain = plain_name(text[:MOST_CHARACTERS])
    spellings = _by_plain_name((value, value) for value in allowed)
    found = spellings.get(plain) or _nearly(plain, spellings)
    return next(iter(found)) if len(found) == 1 else None


def _by_plain_name(pairs: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for text, name in pairs:
        found[plain_name(text)].add(name)
    return dict(found)


def _nearly(plain: str, spellings: Mapping[str, set[str]]) -> set[str]:
    """What has a spelling that differs from the text by a typing error: one in 5 letters or more, two in 9 or more.

    Digits must be equal: `address 2` is no typing error for `address`.
    """
    most = 0 if len(plain) < 5 else 1 if len(plain) < 9 else 2
    if most == 0:
        return set()
    return {
        name
        for spelling, names in spellings.items()
        if len(spelling) >= 4
        and _NO_DIGITS.sub("", spelling) == _NO_DIGITS.sub("", plain)
        and OSA.distance(plain, spelling, score_cutoff=most) <= most
        for name in names
    }


def _without_rivals(resource: Resource, suggested: dict[str, str], taken: Collection[str]) -> dict[str, str]:
    """Leaves out a field together with the headers that derive it (`name` and `first_name`) if both are given."""
    rivals: set[str] = set()
    given = {*suggested, *taken}
    for header, name in resource.file_headers.items():
        if header in given and name in given:
            rivals |= {header, name}
    return {name: header for name, header in suggested.items() if name not in rivals}
