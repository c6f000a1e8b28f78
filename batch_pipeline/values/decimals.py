"""Decimal numbers as text, never as float: how they are written, and their values, a column at a time.

It reads plain notation (an optional sign, digits, and after a point more digits; ``.5``, but not ``5.``) and the
exponents of JSON numbers. It does not read thousands separators, decimal commas, currency signs and the digits of
other scripts.
"""

import re
from dataclasses import dataclass
from decimal import Context, Decimal
from functools import lru_cache

import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.values.masks import CACHED_VALUES, Mask, as_mask, decide_distinct, matches, replace

# A longer number is a mistake. (A cell can have a megabyte, and no decimal type of Arrow has more digits.)
_MAX_BYTES = 100

_PLAIN = r"^[+-]?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)$"
_WITH_EXPONENT = r"^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?[eE][+-]?[0-9]+$"
_ENDLESS = 1_000  # the digits of so short a text can't balance a larger exponent
_EXACT = Context(prec=_MAX_BYTES)


@dataclass(frozen=True)
class Decimals:
    """Decimal numbers.

    Attributes:
        values: decimal128; null where the text is null or one of the masks is true.
        malformed: where the text is not a decimal number.
        too_precise: where it has too many places.
        too_large: where it has too many digits before the point.
    """

    values: pa.Decimal128Array
    malformed: Mask
    too_precise: Mask
    too_large: Mask


def read_decimals(texts: pa.StringArray, *, whole_digits: int, places: int, zeros_count: bool = False) -> Decimals:
    """The numbers in the texts.

    Args:
        texts: string array.
        whole_digits: the most digits before the point, not counting leading zeros.
        places: the most digits after the point.
        zeros_count: whether zeros at the end count as places.
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
    """The numbers in the shortest plain notation: no zeros at the end, no point without places."""
    texts = numbers.cast(pa.string())
    with_point = matches(texts, r"^[^E]*\.[^E]*$")
    trimmed = pc.ascii_rtrim(pc.ascii_rtrim(texts.filter(pa.array(with_point)), "0"), ".")
    # Arrow writes zero and very small numbers with an exponent.
    return decide_distinct(replace(texts, with_point, trimmed), ~matches(texts, "E"), _written_out)


def _cast(texts: pa.StringArray, whole_digits: int, places: int) -> pa.Decimal128Array:
    """The numbers in plain texts that fit, not counting zeros at both ends."""
    if matches(texts, rf"\.[0-9]{{{places}}}0").any():
        texts = pc.replace_substring_regex(texts, pattern=rf"(\.[0-9]{{{places}}})0+$", replacement=r"\1")
    if matches(texts, rf"^[+-]?0[0-9]{{{whole_digits}}}").any():
        texts = pc.replace_substring_regex(texts, pattern=r"^([+-]?)0+([0-9])", replacement=r"\1\2")
    return texts.cast(pa.decimal128(whole_digits + places, places))


def _written_out(texts: pa.StringArray) -> pa.StringArray:
    return pa.array([_plain_text(text) for text in texts.to_pylist()], pa.string())


@lru_cache(maxsize=CACHED_VALUES)
def _plain_text(text: str) -> str:
    """The number in plain notation. For one too long for that: another that is too large or too precise as well."""
    digits, exponent = re.split("[eE]", text)
    if Decimal(digits) == 0:
        return "0"
    if int(exponent) >= _ENDLESS:
        return f"{'-' if text.startswith('-') else ''}1{'0' * _ENDLESS}"
    if int(exponent) <= -_ENDLESS:
        return f"0.{'0' * _ENDLESS}1"
    return f"{_EXACT.normalize(Decimal(text)):f}"
