"""Moments: examples of the rule, and agreement with the standard library."""

from datetime import UTC, datetime, timedelta, timezone

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from judging import judged

from batch_pipeline.values.judged import Refusal
from batch_pipeline.values.moment import canonical_moments


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", "1970-01-01T00:00:00.000000Z"),
        ("1700000000", "2023-11-14T22:13:20.000000Z"),
        ("1700000000.25", "2023-11-14T22:13:20.250000Z"),
        ("1.7e9", "2023-11-14T22:13:20.000000Z"),
        ("-1", "1969-12-31T23:59:59.000000Z"),
        ("-62135596800", "0001-01-01T00:00:00.000000Z"),
        ("253402300799.999999", "9999-12-31T23:59:59.999999Z"),
        ("2026-01-31T12:30:00Z", "2026-01-31T12:30:00.000000Z"),
        ("2026-01-31 12:30:00+00", "2026-01-31T12:30:00.000000Z"),
        ("2026-01-31T12:30:00.5+05:30", "2026-01-31T07:00:00.500000Z"),
        ("2026-01-31T12:30:00-0800", "2026-01-31T20:30:00.000000Z"),
        ("2026-01-31T12:30:00-00:00", "2026-01-31T12:30:00.000000Z"),
        ("2026-01-31T12:30:00+15:59", "2026-01-30T20:31:00.000000Z"),
        ("2024-02-29T00:00:00Z", "2024-02-29T00:00:00.000000Z"),
        ("2000-02-29T00:00:00Z", "2000-02-29T00:00:00.000000Z"),
        ("2026-12-31T23:59:59.999999-01:00", "2027-01-01T00:59:59.999999Z"),
        ("2026-01-31T12:30:00.1234560Z", "2026-01-31T12:30:00.123456Z"),
        ("2026-01-31T12:30:00,5Z", "2026-01-31T12:30:00.500000Z"),
        ("2026-01-31t12:30:00z", "2026-01-31T12:30:00.000000Z"),
        ("2026-01-31T12:30Z", "2026-01-31T12:30:00.000000Z"),
        ("20260131T123000Z", "2026-01-31T12:30:00.000000Z"),
        ("2026-W05-6T12:30:00Z", "2026-01-31T12:30:00.000000Z"),
        ("2026-01-31T24:00:00Z", "2026-02-01T00:00:00.000000Z"),
        ("2026-12-31T24:00+01:00", "2026-12-31T23:00:00.000000Z"),
        ("2026-12-31T24:00:00.000Z", "2027-01-01T00:00:00.000000Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000000Z"),
    ],
)
def test_a_moment_is_brought_to_utc(text: str, expected: str) -> None:
    assert judged(canonical_moments, text) == [expected]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        *[
            (text, Refusal.FORMAT)
            for text in [
                *["", "x", "now", "12:30", "31/01/2026", "01/31/2026 12:30", "2026-01-31", "2026-W05-6", "1.2.3"],
                *["2026-01-31T12:30:00", "2026-01-31 12:30", "2026-01-31T12:30:00 Z", "2026-01-31T12:30:00 UTC"],
                *["2026-02-29T00:00:00Z", "1900-02-29T00:00:00Z", "2026-13-01T00:00:00Z", "2026-00-01T00:00:00Z"],
                *["2026-01-00T00:00:00Z", "2026-04-31T00:00:00Z", "2026-01-31T25:00:00Z", "2026-01-31T12:60:00Z"],
                *["2016-12-31T23:59:60Z", "2026-01-31T24:00:01Z", "2026-01-31T24:00:00.1Z", "2026-01-31T24:30Z"],
                *["2026-01-31T12:30:00+16:00", "2026-01-31T12:30:00+01:60", "2026-01-31T12:30:00+1"],
                *["2026-1-31T12:30:00Z", "2026-01-31T12:30.5Z", "+2026-01-31T12:30:00Z", "2026-01-31T12Z"],
                *["\uff12026-01-31T12:30:00Z", "2026-01-31T12:30:00Z\n", "2026-01-31_12:30:00Z", "1,700,000,000"],
                *["2026", "202601", "20260131", "202601311230", "20260131123000x"],
            ]
        ],
        ("1700000000.1234567", Refusal.PLACES),
        ("2026-01-31T12:30:00.1234567Z", Refusal.PLACES),
        *[
            (text, Refusal.RANGE)
            for text in [
                *["1700000000000", "-1700000000000", "253402300800", "-62135596801", "1e400", "20260131123000"],
                *[
                    "0000-06-01T00:00:00Z",
                    "0000-12-31T23:59:59-01:00",
                    "0001-01-01T00:00:00+00:01",
                    "9999-12-31T23:59:59-00:01",
                ],
                *["9999-12-31T24:00:00Z", "0001-01-01T00:00+01:00"],
            ]
        ],
    ],
)
def test_anything_else_is_refused_with_the_reason(text: str, reason: Refusal) -> None:
    assert judged(canonical_moments, text, "0") == [reason, "1970-01-01T00:00:00.000000Z"]


@pytest.mark.parametrize("texts", [[], [None], [None, None]])
def test_columns_without_values_stay_as_they_are(texts: list[None]) -> None:
    assert canonical_moments(pa.array(texts, pa.string())).values.to_pylist() == texts


offsets = st.integers(-15 * 60 - 59, 15 * 60 + 59).map(lambda minutes: timezone(timedelta(minutes=minutes)))
moments = st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29), timezones=offsets)
parts = st.tuples(*(st.integers(0, limit) for limit in (9999, 14, 33, 25, 61, 61)))


def written(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


@given(st.lists(moments))
def test_every_moment_is_read_in_each_of_its_forms(values: list[datetime]) -> None:
    expected = [written(value) for value in values]
    assert judged(canonical_moments, *[value.isoformat() for value in values]) == expected
    assert judged(canonical_moments, *[value.isoformat(" ") for value in values]) == expected
    assert judged(
        canonical_moments, *[value.strftime("%G-W%V-%uT%H:%M:%S.%f%z") for value in values if value.year > 999]
    ) == [written(value) for value in values if value.year > 999]
    seconds = [(value - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) for value in values]
    texts = [f"{'-' if second < 0 else ''}{abs(second) // 10**6}.{abs(second) % 10**6:06}" for second in seconds]
    assert judged(canonical_moments, *texts) == expected
    assert judged(canonical_moments, *expected) == expected


@given(st.lists(parts))
def test_days_and_hours_that_do_not_exist_are_refused_as_the_standard_library_does(
    values: list[tuple[int, int, int, int, int, int]],
) -> None:
    texts = ["{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z".format(*value) for value in values]
    for text, verdict in zip(texts, judged(canonical_moments, *texts), strict=True):
        if text.startswith("0000") or "T24:00:00" in text:
            continue
        try:
            assert verdict == written(datetime.fromisoformat(text))
        except ValueError:
            assert verdict is Refusal.FORMAT
