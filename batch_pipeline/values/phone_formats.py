"""Phone numbers as people write them, a column at a time: national forms and punctuation are turned into E.164.

The steps are those of `phonenumberutil.parse` and its helpers, whose names are given. Only texts with a certain
outcome are converted; the library decides on all others.
"""

import re
from functools import cache

import phonenumbers
import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.values.masks import Mask, as_mask, matches, replace
from batch_pipeline.values.phone_patterns import Lengths, Region, accepts_e164

# With punctuation that the parser drops and that begins no extension. The parser reads up to 250 characters.
_INTERNATIONAL = r"^\(?\+[0-9 ().\-/]{1,60}$"
_NATIONAL = r"^\(?[0-9][0-9 ().\-/]{1,60}$"
_PUNCTUATION = r"[ ().\-/]+"


def replace_written(texts: pa.StringArray, region: str) -> tuple[pa.StringArray, Mask]:
    """The texts with those of certain meaning replaced by E.164, and the mask of these.

    Args:
        texts: string array without nulls.
        region: a region that phonenumbers knows; national forms are read by its rules.
    """
    digits = pc.replace_substring_regex(texts, pattern=_PUNCTUATION, replacement="")
    national = matches(texts, _NATIONAL)
    numbers = _in_international_form(digits.filter(pa.array(national)), _region(region))
    candidates = replace(digits, national, numbers)
    certain = (national | matches(texts, _INTERNATIONAL)) & accepts_e164(candidates)
    return replace(texts, certain, candidates.filter(pa.array(certain))), certain


def _in_international_form(digits: pa.StringArray, region: Region) -> pa.StringArray:
    """E.164 of digits as dialled in the region; null where it is not certain."""
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

    The parser removes the code where the whole is not a number of the region and the rest is one. It also removes
    a national prefix from the rest, in two places; the library decides on a rest that has one.
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
    """The national numbers in texts without calling code, and the mask of the certain ones.

    _maybe_strip_national_prefix_carrier_code keeps a prefix if the whole matches the region's general pattern and
    the rest does not. `parse` keeps it if the rest has an impossible length. Here the rest must match the pattern
    and have a possible length.
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
    """Which texts the region's transform rule leaves unchanged.

    The rule applies where the last group of the prefix's expression matches. It doesn't apply where nothing is
    removed, or only the plain national prefix, if that matches without groups.
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
    """The rules of one of the library's regions (about 250)."""
    return Region(phonenumbers.country_code_for_region(code), code)
