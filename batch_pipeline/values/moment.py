"""Moments: epoch seconds, or ISO 8601 with date, time and offset.

Which moments exist (days of months, hours, offsets) is decided for the usual form of ISO 8601 by calendar
arithmetic on whole columns, and for its other forms by `datetime.fromisoformat`.
"""

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.values.decimals import read_decimals
from batch_pipeline.values.judged import Judged, Refusal, judge, judge_distinct
from batch_pipeline.values.masks import CACHED_VALUES, Mask, as_mask, matches
from batch_pipeline.values.text import first_characters

Microseconds = npt.NDArray[np.int64]

SECOND = 1_000_000
EARLIEST = -62_135_596_800 * SECOND  # 0001-01-01T00:00:00Z
LATEST = 253_402_300_800 * SECOND - 1  # the end of 9999-12-31, the last day with a year of four digits

# The form that the column arithmetic reads: 19 characters of fixed places, then fraction and offset.
_USUAL = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?(?:Z|[+-][0-9]{2}(?::?[0-9]{2})?)$"
_HEAD = 19
_TAIL = r"^(?:\.(?P<fraction>[0-9]+))?(?:Z|(?P<sign>[+-])(?P<hours>[0-9]{2})(?::?(?P<minutes>[0-9]{2}))?)$"
_MAX_OFFSET_HOURS = 15  # as PostgreSQL has it; in use are -12:00 to +14:00

# Other forms of ISO 8601: basic, by weeks, without seconds or with decimal comma, small letters (RFC 3339).
_OTHER = re.compile(
    r"(?P<date>[0-9]{4}(?:-?[0-9]{2}-?[0-9]{2}|-?[Ww][0-9]{2}-?[1-7]))[Tt ]"
    r"(?P<time>[0-9]{2}(?::[0-9]{2}(?::[0-9]{2}(?:[.,](?P<fraction>[0-9]{1,100}))?)?"
    r"|[0-9]{2}(?:[0-9]{2}(?:[.,](?P<basic_fraction>[0-9]{1,100}))?)?))"
    r"(?P<offset>[Zz]|[+-](?:0[0-9]|1[0-5])(?::?[0-5][0-9])?)"
)
_MIDNIGHT = re.compile(r"24:?00(?::?00(?:[.,]0+)?)?")

_EPOCH = r"^[+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?$"
_EPOCH_DIGITS = 12  # more would be too late even for the year 9999
# Digits that a person or program meant as a date of 1900 to 2099 (years, months, days, hours and minutes
# without offset): taken for seconds they would be in 1970, or after the year 5900.
_DATE_IN_DIGITS = (
    r"^(?:19|20)[0-9]{2}(?:(?:0[1-9]|1[0-2])(?:(?:0[1-9]|[12][0-9]|3[01])(?:(?:[01][0-9]|2[0-3])[0-5][0-9])?)?)?$"
)


def canonical_moments(texts: pa.StringArray) -> Judged:
    """Canonical moments: ``2026-01-31T12:30:00.000000Z``, in UTC; PostgreSQL reads them as ``timestamptz``.

    Texts of this form sort by time. Read are whole and decimal epoch seconds, and ISO 8601 with an offset;
    ``24:00`` is the end of its day. `Refusal.FORMAT` where there is no such moment (a date alone, no offset,
    February 30, a leap second), `Refusal.PLACES` where more than microseconds are given, `Refusal.RANGE` outside
    of the years 1 to 9999. The digits of a date (``20260131``) are no epoch seconds, and `Refusal.FORMAT`.
    """
    count = len(texts)
    refused = {reason: np.zeros(count, np.bool_) for reason in (Refusal.FORMAT, Refusal.PLACES, Refusal.RANGE)}
    epoch = matches(texts, _EPOCH) & ~matches(texts, _DATE_IN_DIGITS)
    usual, moments = _usual(texts)
    if epoch.any():
        seconds = read_decimals(texts.filter(pa.array(epoch)), whole_digits=_EPOCH_DIGITS, places=6)
        by_seconds = pc.multiply(seconds.values, pa.scalar(Decimal(SECOND))).cast(pa.int64())
        moments[epoch] = by_seconds.fill_null(0).to_numpy()
        refused[Refusal.FORMAT][epoch] = seconds.malformed
        refused[Refusal.PLACES][epoch] = seconds.too_precise
        refused[Refusal.RANGE][epoch] = seconds.too_large
    read = epoch | usual
    outside = (moments < EARLIEST) | (moments > LATEST)
    refused[Refusal.RANGE] |= outside
    canonical = _written(pa.array(moments, mask=outside | ~read))
    left = as_mask(pc.is_valid(texts)) & ~read
    if left.any():
        others = judge_distinct(texts, left, _decide)
        canonical = pc.coalesce(canonical, others.values)
        for reason, mask in others.refused.items():
            refused[reason] |= mask
    return judge(texts, canonical, refused)


def _written(moments: pa.Int64Array) -> pa.StringArray:
    # Without a zone in its type: Arrow takes thirty times as long to write out a timestamp that has one.
    texts = pc.replace_substring(moments.cast(pa.timestamp("us")).cast(pa.string()), " ", "T")
    return pc.binary_join_element_wise(texts, "Z", "")


def _usual(texts: pa.StringArray) -> tuple[Mask, Microseconds]:
    """Which texts have the usual form and exist, and their microseconds since 1970 in UTC (0 for the others)."""
    usual = matches(texts, _USUAL)
    moments = np.zeros(len(texts), np.int64)
    if not usual.any():
        return usual, moments
    chosen = texts.filter(pa.array(usual))
    local, exists = _local_times(chosen)
    rest, has_offset = _fractions_and_offsets(pc.utf8_slice_codeunits(chosen, _HEAD))
    moments[usual] = local + rest
    usual[usual] = exists & has_offset
    moments[~usual] = 0
    return usual, moments


def _local_times(texts: pa.StringArray) -> tuple[Microseconds, Mask]:
    """Microseconds since 1970 that the first 19 characters say, and whether there is such a time."""
    characters = first_characters(texts, _HEAD)

    def number(start: int, stop: int) -> npt.NDArray[np.int32]:
        value = np.zeros(len(texts), np.int32)
        for place in range(start, stop):
            value = value * 10 + (characters[:, place] - ord("0"))
        return value

    year, month, day = number(0, 4), number(5, 7), number(8, 10)
    hour, minute, second = number(11, 13), number(14, 16), number(17, 19)
    months = ((year - 1970) * 12 + month - 1).astype("datetime64[M]")
    first = months.astype("datetime64[D]").astype(np.int64)
    next_first = (months + 1).astype("datetime64[D]").astype(np.int64)
    exists = (year >= 1) & (month >= 1) & (month <= 12) & (day >= 1) & (day <= next_first - first)
    exists &= (hour <= 23) & (minute <= 59) & (second <= 59)
    days = first + day - 1
    return (((days * 24 + hour) * 60 + minute) * 60 + second) * SECOND, exists


def _fractions_and_offsets(tails: pa.StringArray) -> tuple[Microseconds, Mask]:
    """Microseconds to add for what follows the 19 characters, and whether there is such an offset."""
    encoded = tails.dictionary_encode()  # mostly the same few
    parts = pc.extract_regex(encoded.dictionary, pattern=_TAIL)
    fraction = pc.utf8_rpad(parts.field("fraction"), 6, "0").cast(pa.int64()).to_numpy()
    hours, minutes = (
        pc.utf8_rpad(parts.field(name), 2, "0").cast(pa.int64()).to_numpy() for name in ("hours", "minutes")
    )
    sign = np.where(as_mask(pc.equal(parts.field("sign"), "-")), -1, 1)
    added = fraction - sign * (hours * 60 + minutes) * 60 * SECOND
    indices = encoded.indices.to_numpy()
    return added[indices], ((hours <= _MAX_OFFSET_HOURS) & (minutes <= 59))[indices]


@lru_cache(maxsize=CACHED_VALUES)
def _decide(text: str) -> str | Refusal:
    """Decides on a text that is neither epoch seconds nor an existing moment in the usual form."""
    match = _OTHER.fullmatch(text)
    if match is None:
        return Refusal.FORMAT
    if text.startswith("0000"):
        return Refusal.RANGE
    time = re.split("[.,]", match["time"])[0]
    days = 1 if _MIDNIGHT.fullmatch(match["time"]) else 0
    if days:
        time = f"00{time[2:]}"
    fraction = (match["fraction"] or match["basic_fraction"] or "").rstrip("0")
    try:
        moment = datetime.fromisoformat(f"{match['date'].upper()}T{time}{match['offset'].upper()}")
    except ValueError:
        return Refusal.FORMAT
    if len(fraction) > 6:
        return Refusal.PLACES
    try:
        moment = (moment + timedelta(days=days, microseconds=int(fraction.ljust(6, "0")))).astimezone(UTC)
    except OverflowError:
        return Refusal.RANGE
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
