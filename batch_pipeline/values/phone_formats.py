"""Phone numbers as people write them, a column at a time: national forms and punctuation turned into E.164.

What the library's parser does to a text is followed here only as far as its outcome is certain; every other
text is left to the library. The steps are those of `phonenumberutil.parse` and of its helpers, which are
named.
"""

import re
from functools import cache

import phonenumbers
import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.values.masks import Mask, as_mask, matches, replace
from batch_pipeline.values.phone_patterns import Lengths, Region, accepts_e164

# With punctuation that the parser drops and that no extension begins with. It reads 250 characters at most.
_INTERNATIONAL = r"^\(?\+[0-9 ().\-/]{1,60}$"
_NATIONAL = r"^\(?[0-9][0-9 ().\-/]{1,60}$"
_PUNCTUATION = r"[ ().\-/]+"


def replace_written(texts: pa.StringArray, region: str) -> tuple[pa.StringArray, Mask]:
    """The texts, with those in E.164 whose meaning is certain, and which these are.

    Args:
        texts: string array without nulls.
        region: a region that phonenumbers knows; its national forms are understood.
    """
    digits = pc.replace_substring_regex(texts, pattern=_PUNCTUATION, replacement="")
    national = matches(texts, _NATIONAL)
    numbers = _in_international_form(digits.filter(pa.array(national)), _region(region))
    candidates = replace(digits, national, numbers)
    certain = (national | matches(texts, _INTERNATIONAL)) & accepts_e164(candidates)
    return replace(texts, certain, candidates.filter(pa.array(certain))), certain


def _in_international_form(digits: pa.StringArray, region: Region) -> pa.StringArray:
    """Digits as dialled in the region, turned into + and calling code and number; null if not certain."""
    abroad = matches(digits, f"^(?:{region.metadata.international_prefix or '$'})")
    has_calling_code = _has_calling_code(digits, region) & ~abroad
    national_numbers, is_national = _national_numbers(digits, region)
    return pc.if_else(
        pa.array(has_calling_code),
        pc.binary_join_element_wise("+", digits, ""),
        pc.if_else(
            pa.array(is_national & ~abroad),
            pc.binary_join_element_wise(f"+{region.calling_code}", national_numbers, ""),
            None,
        ),
    )


def _has_calling_code(digits: pa.StringArray, region: Region) -> Mask:
    """Which texts certainly begin with the region's calling code (_maybe_extract_country_code).

    The parser takes it off where the whole is no number of the region and the rest is one. National
    prefixes are taken off the rest as well, at two places, therefore a rest with one is left to the
    library.
    """
    code = str(region.calling_code)
    rest = pc.utf8_slice_codeunits(digits, len(code))
    return (
        matches(digits, f"^{code}")
        & ~region.general.matches_digits(digits)
        & region.general.matches_digits(rest)
        & ~region.prefix_taken(rest)
    )


def _national_numbers(digits: pa.StringArray, region: Region) -> tuple[pa.StringArray, Mask]:
    """The national numbers in texts without calling code, and where it is certain that they are that.

    _maybe_strip_national_prefix_carrier_code keeps a prefix if the whole matches the region's general
    pattern and the rest does not, and `parse` keeps it if the rest has no possible length: here the rest
    must have both.
    """
    general = region.general
    without_code = ~matches(digits, f"^{region.calling_code}") | general.matches(digits, _lengths(digits))
    if not region.prefix:
        return digits, without_code & general.matches(digits, _lengths(digits))
    rest = pc.replace_substring_regex(digits, pattern=f"^(?:{region.prefix})", replacement="", max_replacements=1)
    certain = without_code & general.matches(rest, _lengths(rest))
    if region.metadata.national_prefix_transform_rule:
        certain &= _prefix_stays_simple(digits, region)
    return rest, certain


def _prefix_stays_simple(digits: pa.StringArray, region: Region) -> Mask:
    """In which texts the region's rule for rewriting numbers has nothing to do.

    The rule applies where the last group of the prefix's expression takes part. It doesn't where nothing is
    taken off, or the plain national prefix, provided that this matches without groups.
    """
    prefix = region.metadata.national_prefix or ""
    match = re.match(region.metadata.national_prefix_for_parsing or "", prefix)
    is_plain = match is not None and match.end() == len(prefix) and not any(match.groups())
    taken = pc.extract_regex(digits, pattern=f"^(?P<taken>{region.prefix})").field("taken").fill_null("")
    return as_mask(pc.is_in(taken, value_set=pa.array(["", prefix] if is_plain else [""])))


def _lengths(texts: pa.StringArray) -> Lengths:
    lengths: Lengths = pc.binary_length(texts).to_numpy()
    return lengths


@cache
def _region(code: str) -> Region:
    """The rules of one of the library's regions, of which there are about 250."""
    return Region(phonenumbers.country_code_for_region(code), code)
