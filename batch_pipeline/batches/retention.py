"""Which batches are old enough that their files go. What the ledger knows of them stays for ever: it is small.

Pruning a batch begins with a note in the ledger, from which on it can't be run again, and ends with another, so that
what a crash leaves in between is found by the next one.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

import sqlalchemy as sa

from batch_pipeline.batches.ids import BATCH_PREFIX
from batch_pipeline.batches.model import Batch
from batch_pipeline.batches.rows import batch_from_row
from batch_pipeline.batches.states import FINAL, LIVE, RERUNNABLE
from batch_pipeline.batches.tables import attempts, batches
from batch_pipeline.database import translating_outages


def find_prunable(engine: sa.Engine, *, ended_before: datetime, after: str = BATCH_PREFIX, limit: int) -> list[Batch]:
    """Batches that ended before that moment and still have files, or may have, by id; those after the id `after`."""
    statement = (
        sa.select(batches)
        .where(batches.c.id > after, sa.not_(batches.c.is_pruned), _is_due(ended_before))
        .order_by(batches.c.id)
        .limit(limit)
    )
    with translating_outages(), engine.connect() as connection:
        return [batch_from_row(row) for row in connection.execute(statement)]


def begin_pruning(engine: sa.Engine, batch_id: str, *, ended_before: datetime) -> bool:
    """Notes that the batch's files go, so that nobody is led to them; False where it is being run again meanwhile."""
    statement = (
        sa.update(batches)
        .where(batches.c.id == batch_id, sa.not_(batches.c.is_pruned), _is_due(ended_before))
        .values(
            pruned_at=sa.func.coalesce(batches.c.pruned_at, sa.func.clock_timestamp()),
            has_upload_file=False,
            has_errors_file=False,
            has_result_file=False,
        )
    )
    with translating_outages(), engine.begin() as connection:
        return connection.execute(statement).rowcount == 1


def finish_pruning(engine: sa.Engine, batch_id: str) -> None:
    """Notes that the batch has no files any more."""
    with translating_outages(), engine.begin() as connection:
        connection.execute(sa.update(batches).where(batches.c.id == batch_id).values(is_pruned=True))


def find_needed_runs(
    engine: sa.Engine, tagged: Mapping[str, str | None], *, ended_before: datetime | None = None
) -> set[str]:
    """Those of the runs that a batch may still need: Dagster re-executes one only while it has all those before it.

    Needed are all runs of a batch that is live or can be run again, and whose files have not begun to go; with
    `ended_before` as if those of batches that ended before that moment had.

    Args:
        tagged: the batch that each run id's run is tagged with; a run may have none, or have made no attempt.
    """
    is_needed = sa.and_(
        batches.c.status.in_([*LIVE, *(status.value for status in RERUNNABLE)]),
        batches.c.pruned_at.is_(None),
        sa.true() if ended_before is None else sa.not_(_is_due(ended_before)),
    )
    of_attempts = (
        sa.select(attempts.c.run_id)
        .join(batches, attempts.c.batch_id == batches.c.id)
        .where(attempts.c.run_id.in_(list(tagged)), is_needed)
    )
    named = {batch_id for batch_id in tagged.values() if batch_id is not None}
    of_tags = sa.select(batches.c.id).where(batches.c.id.in_(named), is_needed)
    with translating_outages(), engine.connect() as connection:
        needed = set(connection.scalars(of_attempts))
        needing = set(connection.scalars(of_tags))
    return needed | {run_id for run_id, batch_id in tagged.items() if batch_id in needing}


def known_batches(engine: sa.Engine, batch_ids: Sequence[str]) -> set[str]:
    """Those of the ids that the ledger has a row of."""
    with translating_outages(), engine.connect() as connection:
        return set(connection.scalars(sa.select(batches.c.id).where(batches.c.id.in_(batch_ids))))


def _is_due(ended_before: datetime) -> sa.ColumnElement[bool]:
    ended = sa.and_(
        batches.c.status.in_([status.value for status in FINAL]),
        batches.c.awaits_run.is_(None),
        batches.c.updated_at < ended_before,
    )
    return sa.or_(batches.c.pruned_at.is_not(None), ended)
