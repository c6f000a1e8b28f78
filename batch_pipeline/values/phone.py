"""Phone numbers: which are valid, and their canonical form, E.164.

The rule is that of `phonenumbers` (parse with a default region, is_valid_number), on texts of digits, one + and
punctuation. In other texts the library skips words, turns letters into digits and drops extensions, so the stored
number would differ from the given one: ``415 555 0100 x12``, ``1-800-FLOWERS`` and ``call 415 555 0100`` are
invalid.
"""

import re
from functools import lru_cache

import phonenumbers
import pyarrow as pa

from batch_pipeline.values.masks import CACHED_VALUES, Canonical, decide_distinct
from batch_pipeline.values.phone_formats import replace_written
from batch_pipeline.values.phone_patterns import accepts_e164

# Digits of any script and the punctuation, as the library reads them. Without ~, x and #, which can begin an
# extension, and without *, which the library drops. "tel:" of RFC 3966 can come first, but without parameters.
_DASHES = r"\-\u2010-\u2015\u2212\uff0d"
_SPELLED_IN_DIGITS = re.compile(rf"(?:tel:)?[\s(\[]*[+\uff0b]?[\d\s().\[\]/{_DASHES}]+", re.IGNORECASE)

# The library refuses longer texts. They must not get into the cache: a cell can have a megabyte.
_MAX_CHARACTERS = 250


def canonical_phones(texts: pa.StringArray, region: str) -> Canonical:
    """Canonical numbers: E.164 (``+14155550100``). The canonical form of a canonical form is itself.

    Args:
        texts: numbers in international form (+, or the region's international prefix) or in national form.
        region: two capital letters of ISO 3166; national forms are read by the rules of this region.

    Raises:
        ValueError: no phone numbers are known for the region.
    """
    if region not in phonenumbers.SUPPORTED_REGIONS:
        raise ValueError(f"no phone numbers are known for region {region!r}: give a code like US")

    def decide(rest: pa.StringArray) -> pa.StringArray:
        replaced, certain = replace_written(rest, region)
        return decide_distinct(replaced, certain, lambda doubtful: _ask_library(doubtful, region))

    return Canonical(decide_distinct(texts, accepts_e164(texts), decide))


def _ask_library(texts: pa.StringArray, region: str) -> pa.StringArray:
    return pa.array(
        [_canonical_phone(text, region) if len(text) <= _MAX_CHARACTERS else None for text in texts.to_pylist()],
        pa.string(),
    )


@lru_cache(maxsize=CACHED_VALUES)
def _canonical_phone(text: str, region: str) -> str | None:
    if _SPELLED_IN_DIGITS.fullmatch(text) is None:
        return None
    canonical = _e164(text, region)
    # If the library reads its own result as another number, the number is ambiguous.
    return canonical if canonical is not None and _e164(canonical, region) == canonical else None


def _e164(text: str, region: str) -> str | None:
    """The number as the library reads it; None for an invalid number or one with an extension."""
    try:
        number = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        return None
    if number.extension or not phonenumbers.is_valid_number(number):
        return None
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
