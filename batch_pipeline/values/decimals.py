"""Decimal numbers as text, never as float: how they are written, and their values, a column at a time.

Read are plain notation (an optional sign, digits, and after a point more digits; ``.5``, but not ``5.``) and
the exponents that JSON numbers may have. Thousands separators, decimal commas, currency signs and the digits of
other scripts are not.
"""

import re
from dataclasses import dataclass
from decimal import Context, Decimal
from functools import lru_cache

import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.values.masks import CACHED_VALUES, Mask, as_mask, decide_distinct, matches, replace

# Nobody means a longer one. (A cell can have a megabyte, and Arrow reads no longer numbers into any decimal type.)
_MAX_BYTES = 100

_PLAIN = r"^[+-]?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)$"
_WITH_EXPONENT = r"^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?[eE][+-]?[0-9]+$"
_ENDLESS = 1_000  # an exponent that the other digits of so short a text can't make up for
_EXACT = Context(prec=_MAX_BYTES)


@dataclass(frozen=True)
class Decimals:
    """Decimal numbers.

    Attributes:
        values: decimal128; null where the text is null or one of the following holds.
        malformed: where the text is no decimal number.
        too_precise: where it has more places than asked for.
        too_large: where it has more digits before the point than asked for.
    """

    values: pa.Decimal128Array
    malformed: Mask
    too_precise: Mask
    too_large: Mask


def read_decimals(texts: pa.StringArray, *, whole_digits: int, places: int, zeros_count: bool = False) -> Decimals:
    """The numbers that are written in the texts.

    Args:
        texts: string array.
        whole_digits: at most so many digits before the point, leading zeros apart.
        places: at most so many digits after the point.
        zeros_count: whether zeros at the end count among the places, or mean nothing.
    """
    short = as_mask(pc.less_equal(pc.binary_length(texts), _MAX_BYTES))
    has_exponent = matches(texts, _WITH_EXPONENT) & short
    if has_exponent.any():
        texts = decide_distinct(texts, ~has_exponent, _written_out)
    plain = matches(texts, _PLAIN) & (short | has_exponent)
    further = "[0-9]" if zeros_count else "[0-9]*[1-9]"
    too_precise = plain & matches(texts, rf"\.[0-9]{{{places}}}{further}")
    too_large = plain & ~too_precise & matches(texts, rf"^[+-]?0*[1-9][0-9]{{{whole_digits}}}")
    fits = pa.array(plain & ~too_precise & ~too_large)
    numbers = pc.if_else(fits, texts, pa.scalar(None, pa.string()))
    malformed = as_mask(pc.is_valid(texts)) & ~plain
    return Decimals(_cast(numbers, whole_digits, places), malformed, too_precise, too_large)


def plain_texts(numbers: pa.Decimal128Array) -> pa.StringArray:
    """The numbers in plain notation, the shortest there is: no zeros at the end, no point without places."""
    texts = numbers.cast(pa.string())
    with_point = matches(texts, r"^[^E]*\.[^E]*$")
    trimmed = pc.ascii_rtrim(pc.ascii_rtrim(texts.filter(pa.array(with_point)), "0"), ".")
    # Arrow writes zero and very small numbers with an exponent.
    return decide_distinct(replace(texts, with_point, trimmed), ~matches(texts, "E"), _written_out)


def _cast(texts: pa.StringArray, whole_digits: int, places: int) -> pa.Decimal128Array:
    """The numbers in plain texts that fit, zeros at both ends apart."""
    if matches(texts, rf"\.[0-9]{{{places}}}0").any():
        texts = pc.replace_substring_regex(texts, pattern=rf"(\.[0-9]{{{places}}})0+$", replacement=r"\1")
    if matches(texts, rf"^[+-]?0[0-9]{{{whole_digits}}}").any():
        texts = pc.replace_substring_regex(texts, pattern=r"^([+-]?)0+([0-9])", replacement=r"\1\2")
    return texts.cast(pa.decimal128(whole_digits + places, places))


def _written_out(texts: pa.StringArray) -> pa.StringArray:
    return pa.array([_plain_text(text) for text in texts.to_pylist()], pa.string())


@lru_cache(maxsize=CACHED_VALUES)
def _plain_text(text: str) -> str:
    """The number in plain notation; one that is too long for that as one that is no less too large or too precise."""
    digits, exponent = re.split("[eE]", text)
    if Decimal(digits) == 0:
        return "0"
    if int(exponent) >= _ENDLESS:
        return f"{'-' if text.startswith('-') else ''}1{'0' * _ENDLESS}"
    if int(exponent) <= -_ENDLESS:
        return f"0.{'0' * _ENDLESS}1"
    return f"{_EXACT.normalize(Decimal(text)):f}"
