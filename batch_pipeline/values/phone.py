"""Phone numbers: which are valid, and their canonical form, E.164.

The rule is that of `phonenumbers` (parse with a default region, is_valid_number), on texts that hold
nothing but digits, one + and punctuation. Of other texts the library would skip words, turn letters into
digits and drop extensions, whereas what is stored must equal what was meant: ``415 555 0100 x12``,
``1-800-FLOWERS`` and ``call 415 555 0100`` are invalid.
"""

import re
from functools import lru_cache

import phonenumbers
import pyarrow as pa

from batch_pipeline.values.masks import CACHED_VALUES, Canonical, decide_distinct
from batch_pipeline.values.phone_formats import replace_written
from batch_pipeline.values.phone_patterns import accepts_e164

# Digits of any script, as the library takes them, and the punctuation that it knows, but not ~, x and #,
# which may begin an extension, nor *, which it drops. RFC 3966's "tel:" may come first, but none of its
# parameters.
_DASHES = r"\-\u2010-\u2015\u2212\uff0d"
_SPELLED_IN_DIGITS = re.compile(rf"(?:tel:)?[\s(\[]*[+\uff0b]?[\d\s().\[\]/{_DASHES}]+", re.IGNORECASE)

# The library refuses longer texts. They must not come into the cache: a cell can have a megabyte.
_MAX_CHARACTERS = 250


def canonical_phones(texts: pa.StringArray, region: str) -> Canonical:
    """Canonical numbers: E.164 (``+14155550100``), which stays as it is when given again.

    Args:
        texts: numbers in international form (+, or the region's international prefix) or in national form.
        region: two capital letters of ISO 3166; its national forms are understood, those of others are not.

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
    # Should the library read its own answer as another number, then it is not certain which one is meant.
    return canonical if canonical is not None and _e164(canonical, region) == canonical else None


def _e164(text: str, region: str) -> str | None:
    """What the library makes of the text; None where it is no valid number or has an extension."""
    try:
        number = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        return None
    if number.extension or not phonenumbers.is_valid_number(number):
        return None
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
