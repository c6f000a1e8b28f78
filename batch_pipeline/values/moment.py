"""Moments: epoch seconds, or ISO 8601 with date, time and offset.

pandas reads the usual form of ISO 8601, a column at a time. `datetime.fromisoformat` reads its other forms, each
distinct text once.
"""

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.values.decimals import read_decimals
from batch_pipeline.values.judged import Judged, Refusal, judge, judge_distinct
from batch_pipeline.values.masks import CACHED_VALUES, Mask, as_mask, matches

Microseconds = npt.NDArray[np.int64]

SECOND = 1_000_000
EARLIEST = -62_135_596_800 * SECOND  # 0001-01-01T00:00:00Z
LATEST = 253_402_300_800 * SECOND - 1  # the end of 9999-12-31

# PostgreSQL's limit is 15:59; the offsets in use are -12:00 to +14:00.
_OFFSET = r"[+-](?:0[0-9]|1[0-5])(?::?[0-5][0-9])?"
# The form for pandas, which would also read texts without an offset, and nanoseconds.
_USUAL = rf"^[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}[T ][0-9]{{2}}:[0-9]{{2}}:[0-9]{{2}}(?:\.[0-9]{{1,6}})?(?:Z|{_OFFSET})$"

# Other forms of ISO 8601: basic, by weeks, without seconds or with decimal comma, small letters (RFC 3339).
_OTHER = re.compile(
    r"(?P<date>[0-9]{4}(?:-?[0-9]{2}-?[0-9]{2}|-?[Ww][0-9]{2}-?[1-7]))[Tt ]"
    r"(?P<time>[0-9]{2}(?::[0-9]{2}(?::[0-9]{2}(?:[.,](?P<fraction>[0-9]{1,100}))?)?"
    r"|[0-9]{2}(?:[0-9]{2}(?:[.,](?P<basic_fraction>[0-9]{1,100}))?)?))"
    rf"(?P<offset>[Zz]|{_OFFSET})"
)
_MIDNIGHT = re.compile(r"24:?00(?::?00(?:[.,]0+)?)?")

_EPOCH = r"^[+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?$"
_EPOCH_DIGITS = 12  # more are after the year 9999
# Digits of a date of 1900 to 2099 (year, month, day, hour and minute without offset). As epoch seconds they would
# be in 1970, or after the year 5900.
_DATE_IN_DIGITS = (
    r"^(?:19|20)[0-9]{2}(?:(?:0[1-9]|1[0-2])(?:(?:0[1-9]|[12][0-9]|3[01])(?:(?:[01][0-9]|2[0-3])[0-5][0-9])?)?)?$"
)


def canonical_moments(texts: pa.StringArray) -> Judged:
    """Canonical moments: ``2026-01-31T12:30:00.000000Z``, in UTC; PostgreSQL reads them as ``timestamptz``.

    Canonical texts sort by time. The input is whole or decimal epoch seconds, or ISO 8601 with an offset; ``24:00``
    is the end of its day. `Refusal.FORMAT` for other texts (a date alone, no offset, February 30, a leap second) and
    for the digits of a date (``20260131``). `Refusal.PLACES` for more than microseconds. `Refusal.RANGE` outside of
    the years 1 to 9999.
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
    # Arrow takes thirty times as long to format a timestamp with a zone.
    texts = pc.replace_substring(moments.cast(pa.timestamp("us")).cast(pa.string()), " ", "T")
    return pc.binary_join_element_wise(texts, "Z", "")


def _usual(texts: pa.StringArray) -> tuple[Mask, Microseconds]:
    """Which texts are existing moments in the usual form, and their microseconds since 1970 (0 for the others)."""
    # pandas has a year 0.
    usual = matches(texts, _USUAL) & ~as_mask(pc.starts_with(texts, "0000"))
    moments = np.zeros(len(texts), np.int64)
    if usual.any():
        chosen = texts.filter(pa.array(usual)).to_numpy(zero_copy_only=False)
        read = pd.to_datetime(chosen, format="ISO8601", utc=True, errors="coerce").as_unit("us")
        usual[usual] = exists = read.notna()
        moments[usual] = read.asi8[exists]
    return usual, moments


@lru_cache(maxsize=CACHED_VALUES)
def _decide(text: str) -> str | Refusal:
    """The canonical form of a text that is neither epoch seconds nor an existing moment in the usual form."""
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
