"""Which batches a command runs again together."""

from datetime import datetime

import sqlalchemy as sa

from batch_pipeline.batches.states import BatchStatus
from batch_pipeline.batches.tables import batches, transitions
from batch_pipeline.database import translating_outages


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
