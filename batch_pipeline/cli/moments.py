"""Points in time as operators write them on the command line."""

import re
from datetime import UTC, datetime, timedelta

import typer

_AGO = re.compile(r"(\d{1,6})([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_EPOCH = re.compile(r"\d{10}(\.\d+)?")  # seconds since 1970, from 2001 to 2286: shorter numbers are years or mistakes


def parse_moment(text: str) -> datetime:
    """The past time that the text names; local time if it has no offset. Raises typer.BadParameter.

    Forms: ISO date or date and time, epoch seconds, or an age: 90s, 5m, 2h, 3d, 1w.
    """
    moment = _moment(text.strip())
    if moment is None:
        raise typer.BadParameter(
            f"{text!r} is not a time: write 2026-03-31, 2026-03-31T14:00, epoch seconds, or 2h, 3d."
        )
    if moment > datetime.now(UTC):
        raise typer.BadParameter(f"{text!r} is in the future: name a time in the past.")
    return moment


def _moment(text: str) -> datetime | None:
    try:
        if ago := _AGO.fullmatch(text):
            return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        if _EPOCH.fullmatch(text):
            return datetime.fromtimestamp(float(text), UTC)
        return datetime.fromisoformat(text).astimezone() if "-" in text else None
    except (ValueError, OverflowError, OSError):
        return None
