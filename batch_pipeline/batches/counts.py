"""Figures of all batches of the ledger, for monitoring: counts that never go down, waits, and the inbox.

Triggers on `batches` add a row to the table `metric_counts` for each change, in the transaction of the change. A figure
is the sum of its rows, so the time to read it does not depend on the number of batches. `fold_counts` replaces rows by
their sums. Nothing here names an organization.

Metrics in `metric_counts`, with their labels:
    batches: resource, action, status, reason. Batches that reached the status.
    left: status. Batches that left the status, or were deleted.
    rows: resource, outcome. Items of completed batches.
    phase: phase, bucket. Ended phases; `seconds` is their total duration.
    turn_wait: bucket. Moves from `queued` to `processing`; `seconds` is the total wait.
A bucket is one of `BUCKET_SECONDS`, or infinite.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from batch_pipeline.batches.states import BatchStatus
from batch_pipeline.batches.tables import inbox_state
from batch_pipeline.database import Connection, translating_outages

Labels = tuple[str, ...]

# Upper bounds of the histograms' buckets, in seconds, as the database's function `histogram_bucket` has them.
BUCKET_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)

_COUNTS = """
SELECT metric, labels, sum(number)::bigint, sum(seconds)::double precision FROM metric_counts GROUP BY metric, labels
"""
# One statement, so that readers see either the rows or their sums. A second caller at the same time replaces nothing.
_FOLD = """
WITH folded AS (DELETE FROM metric_counts RETURNING metric, labels, number, seconds)
INSERT INTO metric_counts (metric, labels, number, seconds)
SELECT metric, labels, sum(number), sum(seconds) FROM folded GROUP BY metric, labels
"""
_WAITING = "SELECT status, seconds FROM oldest_waiting"
_INBOX = "SELECT files, extract(epoch FROM clock_timestamp() - oldest_at)::double precision FROM inbox_state"
_STAGING = """
SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class
WHERE relnamespace = 'staging'::regnamespace AND relkind = 'r'
"""
# A delivery is due until it is delivered or given up.
_WEBHOOKS = "SELECT count(*) FROM webhook_deliveries WHERE due_at IS NOT NULL"


@dataclass(frozen=True)
class Histogram:
    """Observations, in seconds, by the upper bound of their bucket. The counts are not cumulated."""

    buckets: dict[float, int]
    total_seconds: float


@dataclass(frozen=True)
class LedgerFigures:
    """What the ledger's database shows at one time."""

    batches: dict[Labels, int]  #: batches that reached a status, by resource, action, status and reason code
    rows: dict[Labels, int]  #: items of completed batches, by resource and outcome
    phases: dict[str, Histogram]  #: durations of ended phases, by phase
    turn_waits: Histogram  #: waits between the statuses `queued` and `processing`
    present: dict[str, int]  #: batches that have a status now, by status; every status is a key
    waiting_seconds: dict[str, float]  #: wait of the batch that has waited longest, by status; 0 without one
    inbox_files: int
    inbox_oldest_seconds: float  #: 0 without a file
    staging_bytes: int
    webhook_pending: int  #: deliveries that are neither done nor given up


def read_figures(connection: Connection) -> LedgerFigures:
    """Reads all figures. The time depends on the changes since the last `fold_counts`, not on the number of batches."""
    counts: dict[str, dict[Labels, tuple[int, float]]] = defaultdict(dict)
    for metric, labels, number, seconds in connection.execute(_COUNTS):
        counts[metric][tuple(labels)] = (number, seconds)
    reached: dict[str, int] = defaultdict(int)
    for (_, _, status, _), (number, _) in counts["batches"].items():
        reached[status] += number
    left = {status: number for (status,), (number, _) in counts["left"].items()}
    phases: dict[str, dict[str, tuple[int, float]]] = defaultdict(dict)
    for (phase, bucket), observed in counts["phase"].items():
        phases[phase][bucket] = observed
    inbox = connection.execute(_INBOX).fetchone() or (0, None)
    staging = connection.execute(_STAGING).fetchone()
    webhooks = connection.execute(_WEBHOOKS).fetchone()
    return LedgerFigures(
        batches=_numbers(counts["batches"]),
        rows=_numbers(counts["rows"]),
        phases={phase: _histogram(buckets) for phase, buckets in phases.items()},
        turn_waits=_histogram({bucket: observed for (bucket,), observed in counts["turn_wait"].items()}),
        present={status.value: reached[status] - left.get(status, 0) for status in BatchStatus},
        waiting_seconds={status: _not_negative(seconds) for status, seconds in connection.execute(_WAITING)},
        inbox_files=inbox[0],
        inbox_oldest_seconds=_not_negative(inbox[1]),
        staging_bytes=0 if staging is None else staging[0],
        webhook_pending=0 if webhooks is None else webhooks[0],
    )


def fold_counts(engine: sa.Engine) -> None:
    """Replaces the rows of `metric_counts` by their sums. No figure changes."""
    with translating_outages(), engine.begin() as connection:
        connection.exec_driver_sql(_FOLD)


def record_inbox(engine: sa.Engine, modified_at: Iterable[datetime]) -> None:
    """Records the files that wait in the inbox, given by their times. Writes nothing if nothing has changed."""
    times = list(modified_at)
    statement = insert(inbox_state).values(files=len(times), oldest_at=min(times, default=None))
    new = statement.excluded
    statement = statement.on_conflict_do_update(
        index_elements=["is_only"],
        set_={"files": new.files, "oldest_at": new.oldest_at},
        where=sa.tuple_(inbox_state.c.files, inbox_state.c.oldest_at).is_distinct_from(
            sa.tuple_(new.files, new.oldest_at)
        ),
    )
    with translating_outages(), engine.begin() as connection:
        connection.execute(statement)


def _numbers(counts: dict[Labels, tuple[int, float]]) -> dict[Labels, int]:
    return {labels: number for labels, (number, _) in counts.items()}


def _histogram(buckets: dict[str, tuple[int, float]]) -> Histogram:
    return Histogram(
        {float(bucket): number for bucket, (number, _) in buckets.items()},
        sum(seconds for _, seconds in buckets.values()),
    )


def _not_negative(seconds: float | None) -> float:
    return max(seconds or 0.0, 0.0)
