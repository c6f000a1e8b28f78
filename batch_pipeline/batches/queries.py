"""Queries over many batches: which await a run or a file, which are running, and which can run again."""

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa

from batch_pipeline.batches.accept import seconds_from_now
from batch_pipeline.batches.model import Action, Batch, Starter
from batch_pipeline.batches.rows import batch_from_row
from batch_pipeline.batches.states import LIVE, BatchStatus
from batch_pipeline.batches.tables import attempts, batches, organizations, transitions
from batch_pipeline.database import single_statements, translating_outages


def awaiting_launch(engine: sa.Engine, limit: int, *, per_organization: int | None = None) -> list[Batch]:
    """Batches that await a run from the launcher, without those whose launch the API has claimed.

    At most `limit` batches, and at most `per_organization` of one organization, so that Dagster's first-come queue
    stays fair. Round-robin over organizations, each in the order of arrival. If more organizations wait than `limit`,
    each call picks some at random.
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
    with translating_outages(), single_statements(engine).begin() as connection:
        rows = connection.execute(statement.order_by(chosen.c.place, batches.c.arrival))
        return [batch_from_row(row) for row in rows]


def newest_by_organization(engine: sa.Engine) -> dict[str, datetime]:
    """Creation time of the newest batch of each organization that has batches, by organization id."""
    newest = (
        sa.select(sa.func.max(batches.c.created_at))
        .where(batches.c.organization_id == organizations.c.id)
        .scalar_subquery()
    )
    with translating_outages(), single_statements(engine).begin() as connection:
        rows = connection.execute(sa.select(organizations.c.id, newest.label("at")))
        return {row.id: row.at for row in rows if row.at is not None}


def newest_completed_arrival(engine: sa.Engine, organization_id: str, resource: str) -> datetime | None:
    """The arrival of the newest upload whose batch completed; None if there is none."""
    statement = (
        sa.select(batches.c.arrived_at)
        .where(
            batches.c.organization_id == organization_id,
            batches.c.resource == resource,
            batches.c.status == BatchStatus.completed.value,
            batches.c.undo_of.is_(None),
            batches.c.first_arrival.is_not(None),
        )
        .order_by(batches.c.first_arrival.desc())
        .limit(1)
    )
    with translating_outages(), single_statements(engine).begin() as connection:
        arrived_at: datetime | None = connection.execute(statement).scalar_one_or_none()
    return arrived_at


def newest_ended(engine: sa.Engine, resource: str, *, only_deleting: bool) -> Batch | None:
    """The newest batch of the resource that completed or failed, in any organization; None if there is none.

    `only_deleting`: of those that completed and may have deleted records.
    """
    statement = sa.select(batches).where(batches.c.resource == resource)
    if only_deleting:
        deleting = [action.value for action in Action if action is not Action.merge]
        statement = statement.where(batches.c.status == BatchStatus.completed.value, batches.c.action.in_(deleting))
    else:
        ended = (BatchStatus.completed.value, BatchStatus.failed.value, BatchStatus.timed_out.value)
        statement = statement.where(batches.c.status.in_(ended), batches.c.undo_of.is_(None))
    with translating_outages(), single_statements(engine).begin() as connection:
        row = connection.execute(statement.order_by(batches.c.id.desc()).limit(1)).one_or_none()
    return None if row is None else batch_from_row(row)


def awaiting_since(engine: sa.Engine, seconds: float, starter: Starter) -> list[Batch]:
    """Batches that have awaited a run from this starter for longer than `seconds`."""
    statement = sa.select(batches).where(
        batches.c.awaits_run == starter.value,
        batches.c.updated_at < seconds_from_now(-seconds),
    )
    with translating_outages(), single_statements(engine).begin() as connection:
        return [batch_from_row(row) for row in connection.execute(statement)]


def without_payload(engine: sa.Engine, seconds: float) -> list[Batch]:
    """Batches older than `seconds` that have neither a payload nor an upload URL.

    Earlier releases recorded a batch before its payload, so a crash left such batches. This release creates none.
    """
    statement = sa.select(batches).where(
        batches.c.status == BatchStatus.requested.value,
        batches.c.arrival.is_(None),
        batches.c.upload_expires_at.is_(None),
        batches.c.created_at < seconds_from_now(-seconds),
    )
    with translating_outages(), single_statements(engine).begin() as connection:
        return [batch_from_row(row) for row in connection.execute(statement)]


def longest_awaiting(engine: sa.Engine, starter: Starter) -> datetime | None:
    """When the longest-waiting batch began to await a run from this starter; None if no batch awaits one."""
    statement = sa.select(sa.func.min(batches.c.updated_at)).where(batches.c.awaits_run == starter.value)
    with translating_outages(), single_statements(engine).begin() as connection:
        since: datetime | None = connection.execute(statement).scalar_one()
    return since


def awaiting_among(engine: sa.Engine, batch_ids: Sequence[str], starter: Starter) -> list[Batch]:
    """The batches among `batch_ids` that await a run from this starter. Unknown ids are ignored."""
    statement = sa.select(batches).where(batches.c.id.in_(batch_ids), batches.c.awaits_run == starter.value)
    with translating_outages(), single_statements(engine).begin() as connection:
        return [batch_from_row(row) for row in connection.execute(statement)]


def runs_without_attempt(engine: sa.Engine, run_ids: Sequence[str]) -> list[str]:
    """The runs among `run_ids` that are not recorded as attempts, in the same order."""
    statement = sa.select(attempts.c.run_id).where(attempts.c.run_id.in_(run_ids))
    with translating_outages(), single_statements(engine).begin() as connection:
        begun = set(connection.execute(statement).scalars())
    return [run_id for run_id in run_ids if run_id not in begun]


def has_upload_urls(engine: sa.Engine, *, until_seconds_ago: float) -> bool:
    """Whether a batch awaits its file, or has an upload URL that is valid or expired within `until_seconds_ago`."""
    recent = sa.select(batches.c.id).where(batches.c.upload_expires_at > seconds_from_now(-until_seconds_ago))
    awaiting = sa.select(batches.c.id).where(
        batches.c.status == BatchStatus.requested.value,
        batches.c.arrival.is_(None),
        batches.c.upload_expires_at.is_not(None),
    )
    with translating_outages(), single_statements(engine).begin() as connection:
        return bool(connection.execute(sa.select(sa.or_(recent.exists(), awaiting.exists()))).scalar_one())


def overdue_uploads(engine: sa.Engine, limit: int) -> list[Batch]:
    """At most `limit` batches that still await their file and whose upload URL has expired.

    If there are more, each call picks some at random, so that batches that fail to expire don't block others.
    """
    statement = sa.select(batches).where(
        batches.c.status == BatchStatus.requested.value,
        batches.c.arrival.is_(None),
        batches.c.upload_expires_at < sa.func.clock_timestamp(),
    )
    with translating_outages(), single_statements(engine).begin() as connection:
        rows = connection.execute(statement.order_by(sa.func.random()).limit(limit))
        return [batch_from_row(row) for row in rows]


def expired_plans(engine: sa.Engine) -> list[Batch]:
    """Planned batches whose plan has expired."""
    statement = sa.select(batches).where(
        batches.c.status == BatchStatus.planned.value, batches.c.plan_expires_at <= sa.func.clock_timestamp()
    )
    with translating_outages(), single_statements(engine).begin() as connection:
        return [batch_from_row(row) for row in connection.execute(statement)]


def running_batches(engine: sa.Engine) -> list[Batch]:
    """Live batches that an attempt has begun and that await no other run, in the order of arrival."""
    statement = sa.select(batches).where(
        batches.c.status.in_(LIVE), batches.c.run_id.is_not(None), batches.c.awaits_run.is_(None)
    )
    with translating_outages(), single_statements(engine).begin() as connection:
        return [batch_from_row(row) for row in connection.execute(statement.order_by(batches.c.arrival))]


def count_awaiting(engine: sa.Engine, organization_id: str) -> int:
    """The number of the organization's batches that await a run from the launcher."""
    statement = sa.select(sa.func.count()).where(
        batches.c.organization_id == organization_id, batches.c.awaits_run == Starter.launcher.value
    )
    with translating_outages(), single_statements(engine).begin() as connection:
        return connection.execute(statement).scalar_one()


def find_rerunnable(
    engine: sa.Engine,
    *,
    organization_id: str,
    status: BatchStatus,
    resource: str | None = None,
    since: datetime | None = None,
) -> list[str]:
    """Ids of the organization's batches with this status that can run again, in the order their payloads arrived.

    In that order, newer data are written last. Leaves out batches without a payload, batches whose files retention has
    begun to delete, and batches that await a run. `since`: only batches that reached the status at that time or later.
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
    with translating_outages(), single_statements(engine).begin() as connection:
        return list(connection.execute(statement.order_by(batches.c.first_arrival)).scalars())
