"""Phone numbers: which are valid, and their canonical form, E.164.

The rule is that of `phonenumbers` (parse with a default region, is_valid_number), on texts that hold nothing but
digits, one + and punctuation: the library would skip words, turn letters into digits and drop extensions, and what
is stored must equal what was meant. So ``555-0100 x12``, ``1-800-FLOWERS`` and ``call 415 555 0100`` are invalid.
"""

import re
from functools import lru_cache

import phonenumbers
import pyarrow as pa

from batch_pipeline.records.values.phone_patterns import accepts_e164
from batch_pipeline.records.values.slow_path import CACHED_VALUES, Canonical, decide_distinct

# Digits of any script, as the library takes them; the punctuation it knows, without ~, x and #, which may begin
# an extension, and *, which it drops. RFC 3966's "tel:" may come first, but none of its parameters.
_DASHES = r"\-\u2010-\u2015\u2212\uff0d"
_SPELLED_IN_DIGITS = re.compile(rf"(?:tel:)?[\s(\[]*[+\uff0b]?[\d\s().\[\]/{_DASHES}]+", re.IGNORECASE)


def canonical_phones(texts: pa.StringArray, region: str) -> Canonical:
    """Canonical numbers: E.164 (``+14155550100``), unchanged when given again.

    Args:
        texts: numbers in international form (``+``, or the region's international prefix) or national form.
        region: ISO 3166 code of two capital letters; its national forms are understood, those of others are not.

    Raises:
        ValueError: the region is none that phone numbers are known for.
    """
    if region not in phonenumbers.SUPPORTED_REGIONS:
        raise ValueError(f"{region!r} is not a region with phone numbers: give a code like US")
    return Canonical(
        decide_distinct(
            texts,
            accepts_e164(texts),
            lambda rest: pa.array([_canonical_phone(text, region) for text in rest.to_pylist()], pa.string()),
        )
    )


@lru_cache(maxsize=CACHED_VALUES)
def _canonical_phone(text: str, region: str) -> str | None:
    if _SPELLED_IN_DIGITS.fullmatch(text) is None:
        return None
    canonical = _e164(text, region)
    # Some numbers come out of the library in a form that it reads as another number: these mean nothing definite.
    return canonical if canonical is not None and _e164(canonical, region) == canonical else None


def _e164(text: str, region: str) -> str | None:
    """What the library makes of the text, or None where it is no valid number or has an extension."""
    try:
        number = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        return None
    if number.extension or not phonenumbers.is_valid_number(number):
        return None
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
