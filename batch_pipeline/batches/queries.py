"""Queries over many batches: what waits for a run, a file or its worker, and what can run again."""

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa

from batch_pipeline.batches.accept import seconds_from_now
from batch_pipeline.batches.model import Batch, Starter
from batch_pipeline.batches.rows import batch_from_row
from batch_pipeline.batches.states import LIVE, BatchStatus
from batch_pipeline.batches.tables import attempts, batches, organizations, transitions
from batch_pipeline.database import translating_outages


def awaiting_launch(engine: sa.Engine, limit: int, *, per_organization: int | None = None) -> list[Batch]:
    """Accepted batches that the launcher is to start: organizations in turn, each in the order of arrival.

    At most `limit`, and so many of an organization that those of others are never far behind in Dagster's queue.
    Where more organizations wait than `limit`, which ones come differs from call to call.
    Not those whose launch somebody has claimed and is at.
    """
    place = sa.func.row_number().over(partition_by=batches.c.organization_id, order_by=batches.c.arrival)
    waiting = (
        sa.select(batches.c.id, place.label("place"))
        .where(
            batches.c.awaits_run == Starter.launcher.value,
            sa.func.coalesce(batches.c.launch_claimed_until < sa.func.clock_timestamp(), True),
        )
        .subquery()
    )
    first = sa.select(waiting)
    if per_organization is not None:
        first = first.where(waiting.c.place <= per_organization)
    chosen = first.order_by(waiting.c.place, sa.func.random()).limit(limit).subquery()
    statement = sa.select(batches).join(chosen, chosen.c.id == batches.c.id)
    with translating_outages(), engine.connect() as connection:
        rows = connection.execute(statement.order_by(chosen.c.place, batches.c.arrival))
        return [batch_from_row(row) for row in rows]


def newest_by_organization(engine: sa.Engine) -> dict[str, datetime]:
    """When each organization that has batches last had one created."""
    newest = (
        sa.select(sa.func.max(batches.c.created_at))
        .where(batches.c.organization_id == organizations.c.id)
        .scalar_subquery()
    )
    with translating_outages(), engine.connect() as connection:
        rows = connection.execute(sa.select(organizations.c.id, newest.label("at")))
        return {row.id: row.at for row in rows if row.at is not None}


def awaiting_since(engine: sa.Engine, seconds: float, starter: Starter) -> list[Batch]:
    """Batches that have awaited the start of a run, by this starter, for longer than so many seconds."""
    statement = sa.select(batches).where(
        batches.c.awaits_run == starter.value,
        batches.c.updated_at < seconds_from_now(-seconds),
    )
    with translating_outages(), engine.connect() as connection:
        return [batch_from_row(row) for row in connection.execute(statement)]


def without_payload(engine: sa.Engine, seconds: float) -> list[Batch]:
    """Batches that have neither a payload nor an upload URL, and are older than this.

    None is made any more; earlier releases recorded a batch before its payload, and could die in between.
    """
    statement = sa.select(batches).where(
        batches.c.status == BatchStatus.requested.value,
        batches.c.arrival.is_(None),
        batches.c.upload_expires_at.is_(None),
        batches.c.created_at < seconds_from_now(-seconds),
    )
    with translating_outages(), engine.connect() as connection:
        return [batch_from_row(row) for row in connection.execute(statement)]


def longest_awaiting(engine: sa.Engine, starter: Starter) -> datetime | None:
    """Since when the batch that has awaited a run of this starter longest does so; None where none awaits one."""
    statement = sa.select(sa.func.min(batches.c.updated_at)).where(batches.c.awaits_run == starter.value)
    with translating_outages(), engine.connect() as connection:
        since: datetime | None = connection.execute(statement).scalar_one()
    return since


def awaiting_among(engine: sa.Engine, batch_ids: Sequence[str], starter: Starter) -> list[Batch]:
    """Of these batches, those that await a run of this starter. Ids of no batch are passed over."""
    statement = sa.select(batches).where(batches.c.id.in_(batch_ids), batches.c.awaits_run == starter.value)
    with translating_outages(), engine.connect() as connection:
        return [batch_from_row(row) for row in connection.execute(statement)]


def runs_without_attempt(engine: sa.Engine, run_ids: Sequence[str]) -> list[str]:
    """Of these runs, those that are no attempt at any batch."""
    statement = sa.select(attempts.c.run_id).where(attempts.c.run_id.in_(run_ids))
    with translating_outages(), engine.connect() as connection:
        begun = set(connection.execute(statement).scalars())
    return [run_id for run_id in run_ids if run_id not in begun]


def has_upload_urls(engine: sa.Engine, *, until_seconds_ago: float) -> bool:
    """Whether any batch awaits its file, or has an upload URL that is good, or was so many seconds ago."""
    recent = sa.select(batches.c.id).where(batches.c.upload_expires_at > seconds_from_now(-until_seconds_ago))
    awaiting = sa.select(batches.c.id).where(
        batches.c.status == BatchStatus.requested.value,
        batches.c.arrival.is_(None),
        batches.c.upload_expires_at.is_not(None),
    )
    with translating_outages(), engine.connect() as connection:
        return bool(connection.execute(sa.select(sa.or_(recent.exists(), awaiting.exists()))).scalar_one())


def overdue_uploads(engine: sa.Engine, limit: int) -> list[Batch]:
    """At most `limit` batches that still await their file although its upload URL has run out.

    Where there are more, which ones come differs from call to call: none that can't be ended keeps others back.
    """
    statement = sa.select(batches).where(
        batches.c.status == BatchStatus.requested.value,
        batches.c.arrival.is_(None),
        batches.c.upload_expires_at < sa.func.clock_timestamp(),
    )
    with translating_outages(), engine.connect() as connection:
        rows = connection.execute(statement.order_by(sa.func.random()).limit(limit))
        return [batch_from_row(row) for row in rows]


def running_batches(engine: sa.Engine) -> list[Batch]:
    """Batches that an attempt is to be at work on: what reconciling looks after."""
    statement = sa.select(batches).where(
        batches.c.status.in_(LIVE), batches.c.run_id.is_not(None), batches.c.awaits_run.is_(None)
    )
    with translating_outages(), engine.connect() as connection:
        return [batch_from_row(row) for row in connection.execute(statement.order_by(batches.c.arrival))]


def count_awaiting(engine: sa.Engine, organization_id: str) -> int:
    """How many of the organization's batches await a run from the launcher."""
    statement = sa.select(sa.func.count()).where(
        batches.c.organization_id == organization_id, batches.c.awaits_run == Starter.launcher.value
    )
    with translating_outages(), engine.connect() as connection:
        return connection.execute(statement).scalar_one()


def find_rerunnable(
    engine: sa.Engine,
    *,
    organization_id: str,
    status: BatchStatus,
    resource: str | None = None,
    since: datetime | None = None,
) -> list[str]:
    """Ids of the organization's batches of that status which can be run again, in the order their payloads arrived.

    That order lets newer data come last. Left out are batches that never had a payload or whose files retention has
    taken, and those that await a run already. `since` keeps those that came to the status at that moment or later.
    """
    statement = sa.select(batches.c.id).where(
        batches.c.organization_id == organization_id,
        batches.c.status == status.value,
        batches.c.arrival.is_not(None),
        batches.c.awaits_run.is_(None),
        batches.c.pruned_at.is_(None),
    )
    if resource is not None:
        statement = statement.where(batches.c.resource == resource)
    if since is not None:
        ended = sa.select(transitions.c.batch_id).where(transitions.c.after == status.value, transitions.c.at >= since)
        statement = statement.where(batches.c.id.in_(ended))
    with translating_outages(), engine.connect() as connection:
        return list(connection.execute(statement.order_by(batches.c.first_arrival)).scalars())
