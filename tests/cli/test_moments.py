"""Moments as operators write them."""

from datetime import UTC, datetime, timedelta

import pytest

from batch_pipeline.cli.moments import parse_moment


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-03-31", datetime(2026, 3, 31).astimezone()),
        ("2026-03-31T14:30", datetime(2026, 3, 31, 14, 30).astimezone()),
        ("2026-03-31 14:30:05+02:00", datetime(2026, 3, 31, 12, 30, 5, tzinfo=UTC)),
        ("2026-03-31T14:30Z", datetime(2026, 3, 31, 14, 30, tzinfo=UTC)),
        ("1774967405", datetime(2026, 3, 31, 14, 30, 5, tzinfo=UTC)),
    ],
)
def test_dates_times_and_epoch_seconds_are_read(text: str, moment: datetime) -> None:
    assert parse_moment(text) == moment


@pytest.mark.parametrize(
    ("text", "ago"),
    [
        ("90s", timedelta(seconds=90)),
        ("5m", timedelta(minutes=5)),
        ("2h", timedelta(hours=2)),
        ("3d", timedelta(days=3)),
        ("1w", timedelta(weeks=1)),
    ],
)
def test_ages_are_read(text: str, ago: timedelta) -> None:
    before = datetime.now(UTC)
    assert before - ago <= parse_moment(text) <= datetime.now(UTC) - ago
