"""Which phone numbers in E.164 are valid, a column at a time, by the metadata of `phonenumbers`.

Here the library's algorithm for numbers that begin with + is laid out over columns: `E164Check.accepts` accepts only
texts that `phonenumbers.parse` takes, that `is_valid_number` calls valid, and that `format_number` gives back
unchanged. Its patterns are the library's, run by RE2 instead of `re`: they use no look-around, so both engines find
the same matches; a pattern that RE2 can't compile leaves its calling code to the library.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt
import phonenumbers
import pyarrow as pa
import pyarrow.compute as pc
from phonenumbers import PhoneMetadata

from batch_pipeline.records.values.slow_path import Mask, as_mask, matches

Lengths = npt.NDArray[np.int64]

# Three digits tell every calling code, none being the beginning of another; seven and more can be valid at all.
_E164 = r"^\+[1-9][0-9]{6,16}$"
_CALLING_CODE_DIGITS = 3

# The kinds of number whose patterns make a number valid (phonenumberutil._number_type_helper).
_NUMBER_TYPES = (
    "fixed_line",
    "mobile",
    "toll_free",
    "premium_rate",
    "shared_cost",
    "voip",
    "personal_number",
    "pager",
    "uan",
    "voicemail",
)


@dataclass(frozen=True)
class Pattern:
    """National numbers of certain lengths (all, where there are none) that match a pattern as a whole."""

    expression: str
    lengths: tuple[int, ...]

    def matches(self, texts: pa.StringArray, lengths: Lengths, lead: str = "") -> Mask:
        """Which texts are ``lead`` (a regular expression) and such a number; ``lengths`` are of the number alone."""
        mask = matches(texts, f"^{lead}(?:{self.expression})$")
        return mask & np.isin(lengths, self.lengths) if self.lengths else mask


@dataclass(frozen=True)
class Region:
    """The rules of a region, or of a calling code without one ("001"), as the library has them."""

    calling_code: int
    code: str

    @cached_property
    def metadata(self) -> PhoneMetadata:
        """The library's metadata, which it loads on first use."""
        return PhoneMetadata.metadata_for_region_or_calling_code(self.calling_code, self.code)

    @cached_property
    def general(self) -> Pattern:
        """What every number of the region has in common."""
        description = self.metadata.general_desc
        return Pattern(description.national_number_pattern, tuple(description.possible_length))

    @cached_property
    def types(self) -> tuple[Pattern, ...]:
        """The number types' patterns, those of equal lengths joined into one."""
        joined: dict[tuple[int, ...], list[str]] = {}
        for name in _NUMBER_TYPES:
            if name == "mobile" and self.metadata.same_mobile_and_fixed_line_pattern:
                continue
            description = getattr(self.metadata, name)
            if description is not None and description.national_number_pattern:
                joined.setdefault(tuple(description.possible_length), []).append(
                    description.national_number_pattern
                )
        return tuple(Pattern("|".join(expressions), lengths) for lengths, expressions in joined.items())

    def has_numbers(self, texts: pa.StringArray, lengths: Lengths) -> Mask:
        """Which E.164 texts of this calling code are numbers of the region."""
        lead = rf"\+{self.calling_code}"
        typed = np.zeros(len(texts), np.bool_)
        for pattern in self.types:
            typed |= pattern.matches(texts, lengths, lead)
        return typed & self.general.matches(texts, lengths, lead)

    def strips_prefix(self, texts: pa.StringArray, lead: str = "") -> Mask:
        """Of which texts, each ``lead`` and a number, the library might take a national prefix or carrier code off."""
        prefix = self.metadata.national_prefix_for_parsing
        if not prefix:
            return np.zeros(len(texts), np.bool_)
        if re.fullmatch(prefix, "") is None:
            return matches(texts, f"^{lead}(?:{prefix})")
        # A pattern that can match nothing (Argentina's) always matches; what counts is whether it takes something.
        # extract_regex wants every group named, hence the inner ones become non-capturing.
        inner = re.sub(r"\((?!\?)", "(?:", prefix)
        taken = pc.extract_regex(texts, pattern=f"^{lead}(?P<taken>{inner})").field("taken")
        return as_mask(pc.not_equal(taken, ""))


@dataclass(frozen=True)
class CallingCode:
    """The regions that share a calling code, in the order in which the library asks them."""

    code: int
    regions: tuple[Region, ...]

    def accepts(self, texts: pa.StringArray) -> Mask:
        """Which of the texts, E.164 numbers of this calling code, are valid and stay as they are."""
        main = self.regions[0]
        lengths = pc.binary_length(texts).to_numpy() - (1 + len(str(self.code)))
        if len(self.regions) == 1:
            valid = main.has_numbers(texts, lengths)
        else:
            valid = self._has_valid_region(texts, lengths)
        # For international numbers, too, the library strips prefixes by the rules of the main region.
        return valid & ~main.strips_prefix(texts, rf"\+{self.code}")

    def _has_valid_region(self, texts: pa.StringArray, lengths: Lengths) -> Mask:
        """phonenumbers.is_valid_number: the first region that claims a number decides on it.

        A region with leading digits claims by these alone, the others claim their valid numbers.
        """
        valid = np.zeros(len(texts), np.bool_)
        unclaimed = np.arange(len(texts))
        for region in self.regions:
            if not len(unclaimed):
                break
            leading_digits = region.metadata.leading_digits
            if leading_digits:
                claimed = matches(texts, rf"^\+{self.code}(?:{leading_digits})")
                claimed_texts = texts.filter(pa.array(claimed))
                valid[unclaimed[claimed]] = region.has_numbers(claimed_texts, lengths[claimed])
            else:
                claimed = region.has_numbers(texts, lengths)
                valid[unclaimed[claimed]] = True
            if claimed.any():
                texts, lengths, unclaimed = (
                    texts.filter(pa.array(~claimed)),
                    lengths[~claimed],
                    unclaimed[~claimed],
                )
        return valid


@lru_cache(maxsize=1)
def _calling_codes() -> dict[int, CallingCode]:
    return {
        code: CallingCode(code, tuple(Region(code, region) for region in regions))
        for code, regions in phonenumbers.COUNTRY_CODE_TO_REGION_CODE.items()
    }


@lru_cache(maxsize=1)
def _calling_code_by_digits() -> npt.NDArray[np.int16]:
    """The calling code that a number with these first three digits has, or 0."""
    table = np.zeros(10**_CALLING_CODE_DIGITS, np.int16)
    for code in phonenumbers.COUNTRY_CODE_TO_REGION_CODE:
        span = 10 ** (_CALLING_CODE_DIGITS - len(str(code)))
        table[code * span : (code + 1) * span] = code
    return table


def accepts_e164(texts: pa.StringArray) -> Mask:
    """Which texts are valid numbers that are in E.164 already. False says nothing: the library has to be asked."""
    accepted = matches(texts, _E164)
    if not accepted.any():
        return accepted
    positions = np.flatnonzero(accepted)
    numbers = texts if len(positions) == len(texts) else texts.filter(pa.array(accepted))
    digits = pc.utf8_slice_codeunits(numbers, 1, 1 + _CALLING_CODE_DIGITS).cast(pa.int16()).to_numpy()
    codes = _calling_code_by_digits()[digits]
    order = np.argsort(codes, kind="stable")
    numbers = numbers.take(pa.array(order))
    for code, start, stop in _runs(codes[order]):
        group = positions[order[start:stop]]
        accepted[group] = code != 0 and _calling_codes()[code].accepts(numbers.slice(start, stop - start))
    return accepted


def _runs(values: npt.NDArray[np.int16]) -> Iterable[tuple[int, int, int]]:
    """Value, start and stop of each run of equal values."""
    starts = np.flatnonzero(np.diff(values, prepend=-1))
    stops = np.append(starts[1:], len(values))
    return zip(values[starts].tolist(), starts.tolist(), stops.tolist(), strict=True)
