"""Alerts people of batches that failed or timed out, and of a silent daemon: each once, by any number of processes.

The ledger says what has been told. The process that holds the lock of a subject's row sends, and commits what it has
told when an address has accepted the message. If none does, the next pass tells it.
"""

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from batch_pipeline.batches.states import BatchStatus
from batch_pipeline.batches.tables import alerts, batches, transitions
from batch_pipeline.database import translating_outages
from batch_pipeline.errors import BatchError

if TYPE_CHECKING:
    from batch_pipeline.notifications.people import People

logger = logging.getLogger(__name__)

PASS_SECONDS = 5.0
DAEMON_SECONDS = 15.0  # between looks at the heartbeats
GROUP_SECONDS = 60.0  # at most one message about batches in this time
RETRY_SECONDS = 60.0  # pause if no address accepted a message
SILENT_SECONDS = 120.0  # four heartbeats
TOLD_FOR = timedelta(days=1)  # older failures are not told: after the first start, and after a long outage
SHOWN = 10  # batches that a message names

Ages = Callable[[], Mapping[str, float]]


class Alarm:
    """Watches for what people are to be alerted of, in a thread of its own, until it is stopped.

    Args:
        ages: seconds since the last heartbeat of each daemon.
        silent_seconds: age of a heartbeat from which a daemon is silent. A daemon also has this time from the start of
            the alarm, because both may have been stopped.
    """

    def __init__(
        self,
        engine: sa.Engine,
        people: "People",
        ages: Ages,
        *,
        silent_seconds: float = SILENT_SECONDS,
        group_seconds: float = GROUP_SECONDS,
    ) -> None:
        self._engine = engine
        self._people = people
        self._ages = ages
        self._silent_seconds = silent_seconds
        self._group_seconds = group_seconds

    def run(self, stop: threading.Event) -> None:
        """Alerts until `stop` is set. Survives outages of the database."""
        looked_at = time.monotonic()  # at the start, so that daemons have their time
        wait = self._silent_seconds
        while True:
            pause = PASS_SECONDS
            try:
                tell_of_batches(self._engine, self._people, group_seconds=self._group_seconds)
                if time.monotonic() - looked_at >= wait:
                    looked_at, wait = time.monotonic(), DAEMON_SECONDS
                    tell_of_daemons(self._engine, self._people, self._ages(), silent_seconds=self._silent_seconds)
            except NobodyToldError:
                pause = RETRY_SECONDS
            except BatchError as error:
                logger.warning("Alerts wait: %s", error.message)
            except Exception:
                logger.exception("Alerts wait after an unexpected error.")
                pause = RETRY_SECONDS
            if stop.wait(pause):
                return


class NobodyToldError(Exception):
    """No address accepted the message."""


def tell_of_batches(engine: sa.Engine, people: "People", *, group_seconds: float = GROUP_SECONDS) -> int:
    """Tells of the batches that failed or timed out since the last message, all in one; returns how many.

    Tells nothing within `group_seconds` of the last message, or while another process does. A batch that fails again
    after a retry is told again. Raises NobodyToldError.
    """
    now = sa.func.clock_timestamp()
    untold = sa.and_(
        transitions.c.alerted_at.is_(None),
        transitions.c.after.in_([BatchStatus.failed.value, BatchStatus.timed_out.value]),
        transitions.c.at > now - TOLD_FOR,
    )
    with _telling(engine, "batches") as (connection, told_at):
        if connection is None:
            return 0
        if told_at is not None and _now(connection) - told_at < timedelta(seconds=group_seconds):
            return 0
        statement = (
            sa.update(transitions)
            .where(untold, transitions.c.batch_id == batches.c.id)
            .values(alerted_at=now)
            .returning(
                transitions.c.number,
                transitions.c.after,
                sa.func.coalesce(transitions.c.reason["code"].astext, "no reason").label("code"),
                *(batches.c.id, batches.c.organization_id, batches.c.resource, batches.c.action),
            )
        )
        found = sorted(connection.execute(statement).all(), key=lambda row: row.number)
        if not found:
            return 0
        counts = Counter(str(row.after) for row in found)
        title = ", ".join(f"{count:,} {_batches(count)} {_ENDED[status]}" for status, count in sorted(counts.items()))
        lines = [_line(row) for row in found[:SHOWN]]
        if len(found) > SHOWN:
            lines.append(f"and {len(found) - SHOWN:,} more: batch-pipeline list --all-organizations --status failed")
        _tell(connection, people, "batches", title, lines)
    return len(found)


def tell_of_daemons(
    engine: sa.Engine, people: "People", ages: Mapping[str, float], *, silent_seconds: float = SILENT_SECONDS
) -> bool:
    """Tells once of daemons that have become silent; again only if one was heard since. Returns whether it told.

    Raises NobodyToldError.
    """
    silent = {daemon: age for daemon, age in ages.items() if age > silent_seconds}
    if not silent:
        return False
    with _telling(engine, "daemons") as (connection, told_at):
        if connection is None:
            return False
        newest = min(silent.values())
        if told_at is not None and (math.isinf(newest) or _now(connection) - timedelta(seconds=newest) <= told_at):
            return False
        lines = [
            f"{daemon}: {'never heard' if math.isinf(age) else f'no heartbeat for {age:,.0f} s'}"
            for daemon, age in sorted(silent.items())
        ]
        lines.append("New batches of files wait until `dagster-daemon run` is running again.")
        _tell(connection, people, "daemons", "Dagster's daemon is silent", lines)
    return True


_ENDED = {BatchStatus.failed.value: "failed", BatchStatus.timed_out.value: "timed out"}


def _now(connection: sa.Connection) -> datetime:
    found: datetime = connection.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
    return found


def _batches(count: int) -> str:
    return "batch" if count == 1 else "batches"


def _line(row: sa.Row[Any]) -> str:
    """A batch, without its name and without the sentence of its reason, which may contain customers' values."""
    what = " ".join(part for part in (row.resource, row.action) if part) or "unknown folder"
    return f"{row.id}: {what} of {row.organization_id or 'no organization'}: {_ENDED[row.after]}, {row.code}"


@contextmanager
def _telling(engine: sa.Engine, subject: str) -> Iterator[tuple[sa.Connection | None, datetime | None]]:
    """A transaction that holds the subject's lock, and when people were last told of it.

    No connection if another process holds the lock.
    """
    with translating_outages():
        with engine.begin() as connection:
            connection.execute(insert(alerts).values(subject=subject).on_conflict_do_nothing())
        with engine.begin() as connection:
            locked = sa.select(alerts.c.told_at).where(alerts.c.subject == subject).with_for_update(skip_locked=True)
            row = connection.execute(locked).one_or_none()
            yield (None, None) if row is None else (connection, row.told_at)


def _tell(connection: sa.Connection, people: "People", subject: str, title: str, lines: list[str]) -> None:
    """Sends the message and records that it is told. Raises NobodyToldError."""
    if not people.tell(f"batch_pipeline: {title}", lines):
        raise NobodyToldError
    connection.execute(sa.update(alerts).where(alerts.c.subject == subject).values(told_at=sa.func.clock_timestamp()))
