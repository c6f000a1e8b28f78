"""Records in the ledger which batches are pruned. Pruning deletes a batch's files; the ledger keeps its small rows.

Pruning sets `pruned_at` first, and from then on the batch can't run again. It sets `is_pruned` last. After a crash in
between, the next pass finds the batch and continues.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

import sqlalchemy as sa

from batch_pipeline.batches.ids import BATCH_PREFIX
from batch_pipeline.batches.model import Batch
from batch_pipeline.batches.rows import batch_from_row
from batch_pipeline.batches.states import FINAL, LIVE, RERUNNABLE, BatchStatus
from batch_pipeline.batches.tables import attempts, batches
from batch_pipeline.database import translating_outages


def find_prunable(engine: sa.Engine, *, ended_before: datetime, after: str = BATCH_PREFIX, limit: int) -> list[Batch]:
    """At most `limit` batches that ended before `ended_before` and may have files, by id, after the id `after`."""
    statement = (
        sa.select(batches)
        .where(batches.c.id > after, sa.not_(batches.c.is_pruned), _is_due(ended_before))
        .order_by(batches.c.id)
        .limit(limit)
    )
    with translating_outages(), engine.connect() as connection:
        return [batch_from_row(row) for row in connection.execute(statement)]


def begin_pruning(engine: sa.Engine, batch_id: str, *, ended_before: datetime) -> bool:
    """Records that the deletion of the batch's files begins, and hides the files. False if the batch runs again."""
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
    """Records that the batch's files are deleted."""
    with translating_outages(), engine.begin() as connection:
        connection.execute(sa.update(batches).where(batches.c.id == batch_id).values(is_pruned=True))


def find_needed_runs(
    engine: sa.Engine, tagged: Mapping[str, str | None], *, ended_before: datetime | None = None
) -> set[str]:
    """The runs among `tagged` that a batch still needs: Dagster re-executes a run only while its ancestors exist.

    A batch needs all its runs while it is live or can run again and its pruning has not begun.

    Args:
        tagged: run id to the batch id of the run's tag; None for a run without the tag.
        ended_before: for a dry run, counts batches that ended before this time as if their pruning had begun.
    """
    is_needed = sa.and_(
        batches.c.status.in_([*LIVE, *(status.value for status in RERUNNABLE | {BatchStatus.planned})]),
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
    """The ids among `batch_ids` that the ledger has."""
    with translating_outages(), engine.connect() as connection:
        return set(connection.scalars(sa.select(batches.c.id).where(batches.c.id.in_(batch_ids))))


def _is_due(ended_before: datetime) -> sa.ColumnElement[bool]:
    ended = sa.and_(
        batches.c.status.in_([status.value for status in FINAL]),
        batches.c.awaits_run.is_(None),
        batches.c.updated_at < ended_before,
    )
    return sa.or_(batches.c.pruned_at.is_not(None), ended)
