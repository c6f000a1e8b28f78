"""Accepting a batch: one transaction makes its row, its place in line and its idempotency key, or nothing at all."""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from batch_pipeline.batches.model import Action, Batch, Mode, Starter, Stats, Via, Work, initial_phases
from batch_pipeline.batches.options import BatchOptions
from batch_pipeline.batches.rows import batch_from_row, get_row, next_place, record
from batch_pipeline.batches.states import LIVE, BatchStatus
from batch_pipeline.batches.tables import batches, idempotency_keys
from batch_pipeline.database import translating_outages
from batch_pipeline.errors import StateError

# How long a caller's idempotency key stands for its batch.
IDEMPOTENCY_SECONDS = 24 * 3600
# Until then a launch that its caller has begun is his; then the sensor may ask for the run as well.
CLAIM_SECONDS = 20


@dataclass(frozen=True)
class NewBatch:
    """A batch to be recorded as `requested`; what is None stays unknown."""

    id: str
    organization_id: str | None
    resource: str | None
    action: Action | None
    name: str
    options: BatchOptions
    mode: Mode = Mode.mixed
    via: Via = Via.file
    source_key: str | None = None
    source_version: str | None = None
    retry_of: str | None = None
    upload_expires_at: datetime | None = None
    updated_by: str = "system"

    def to_row(self) -> dict[str, Any]:
        """The columns of its row."""
        return {
            "id": self.id,
            "organization_id": self.organization_id,
            "name": self.name,
            "resource": self.resource,
            "action": None if self.action is None else self.action.value,
            "mode": self.mode.value,
            "via": self.via.value,
            "status": BatchStatus.requested.value,
            "options": self.options.model_dump(mode="json"),
            "phases": [phase.to_row() for phase in initial_phases(self.mode, self.via)],
            "stats": asdict(Stats()),
            "work": Work().to_row(),
            "source_key": self.source_key,
            "source_version": self.source_version,
            "retry_of": self.retry_of,
            "upload_expires_at": self.upload_expires_at,
            "updated_by": self.updated_by,
        }


@dataclass(frozen=True)
class ArrivedPayload:
    """Where a payload lies in storage, whether it is kept there for download, and who is to start its run."""

    key: str
    saved: bool
    starter: Starter


@dataclass(frozen=True)
class IdempotencyKey:
    """A caller's own key of a request, and the SHA-256 of the request's body."""

    key: str
    body_hash: bytes


def accept(
    engine: sa.Engine,
    new: NewBatch,
    *,
    payload: ArrivedPayload | None = None,
    idempotency: IdempotencyKey | None = None,
    only_if_turn_is_free: bool = False,
) -> tuple[Batch, bool] | None:
    """Records the batch; returns it and True. Where its idempotency key is taken, the batch that took it, and False.

    With `only_if_turn_is_free` nothing is recorded, and None returned, where another batch of the same records is
    live; if it is recorded, every batch that arrives later comes after it. A run that the launcher is to start is
    claimed by the caller for a while. Raises StateError (`idempotency_conflict`) for a key with another body.
    """
    with translating_outages(), engine.connect() as connection, connection.begin() as transaction:
        if idempotency is not None:
            holder = _take(connection, idempotency, new)
            if holder != new.id:
                return batch_from_row(get_row(connection, holder)), False
        row = new.to_row()
        if payload is not None:
            place = next_place(connection, new)
            if only_if_turn_is_free and not _is_turn_free(connection, new):
                transaction.rollback()
                return None
            row |= {
                "upload_key": payload.key,
                "has_upload_file": payload.saved,
                "arrival": place,
                "first_arrival": place,
                "arrived_at": sa.func.clock_timestamp(),
                "awaits_run": payload.starter.value,
            }
            if payload.starter is Starter.launcher:
                row["launch_claimed_until"] = seconds_from_now(CLAIM_SECONDS)
        made = connection.execute(sa.insert(batches).values(row).returning(batches)).one()
        record(connection, new.id, None, BatchStatus.requested)
        return batch_from_row(made), True


def find_accepted(engine: sa.Engine, organization_id: str, idempotency: IdempotencyKey) -> Batch | None:
    """The batch that the key stands for. Raises StateError (`idempotency_conflict`) for a key with another body."""
    with translating_outages(), engine.connect() as connection:
        holder = _holder(connection, organization_id, idempotency)
        return None if holder is None else batch_from_row(get_row(connection, holder))


def is_turn_free(engine: sa.Engine, organization_id: str, resource: str) -> bool:
    """Whether no batch of these records is live; what `accept` decides, asked for cheaply beforehand."""
    with translating_outages(), engine.connect() as connection:
        return _is_live_one_missing(connection, organization_id, resource)


def forget_old_keys(engine: sa.Engine) -> int:
    """Removes idempotency keys that no longer stand for anything; returns how many."""
    statement = sa.delete(idempotency_keys).where(
        idempotency_keys.c.created_at < seconds_from_now(-IDEMPOTENCY_SECONDS)
    )
    with translating_outages(), engine.begin() as connection:
        return connection.execute(statement).rowcount


def release_claim(engine: sa.Engine, batch_id: str) -> None:
    """Leaves the launch of the batch's run to the sensor."""
    statement = sa.update(batches).where(batches.c.id == batch_id).values(launch_claimed_until=None)
    with translating_outages(), engine.begin() as connection:
        connection.execute(statement)


def _take(connection: sa.Connection, idempotency: IdempotencyKey, new: NewBatch) -> str:
    """The id of the batch that the key stands for from now on: the new one's, unless it is taken."""
    values = {
        "organization_id": new.organization_id,
        "key": idempotency.key,
        "body_hash": idempotency.body_hash,
        "batch_id": new.id,
        "created_at": sa.func.clock_timestamp(),
    }
    # Waits for a transaction that is just taking the same key.
    statement = (
        insert(idempotency_keys)
        .values(values)
        .on_conflict_do_update(
            index_elements=["organization_id", "key"],
            set_={name: values[name] for name in ("body_hash", "batch_id", "created_at")},
            where=idempotency_keys.c.created_at < seconds_from_now(-IDEMPOTENCY_SECONDS),
        )
        .returning(idempotency_keys.c.batch_id)
    )
    if (taken := connection.execute(statement).scalar_one_or_none()) is not None:
        return str(taken)
    holder = _holder(connection, str(new.organization_id), idempotency)
    # It can only have run out in this very moment; then the caller's next try takes it.
    if holder is None:
        raise StateError("idempotency_conflict", "The Idempotency-Key has just run out: send the request again.")
    return holder


def _holder(connection: sa.Connection, organization_id: str, idempotency: IdempotencyKey) -> str | None:
    found = connection.execute(
        sa.select(idempotency_keys.c.batch_id, idempotency_keys.c.body_hash).where(
            idempotency_keys.c.organization_id == organization_id,
            idempotency_keys.c.key == idempotency.key,
            idempotency_keys.c.created_at >= seconds_from_now(-IDEMPOTENCY_SECONDS),
        )
    ).one_or_none()
    if found is None:
        return None
    if bytes(found.body_hash) != idempotency.body_hash:
        raise StateError(
            "idempotency_conflict",
            "The Idempotency-Key was used with another body within 24 hours: use a new key for a new request.",
        )
    return str(found.batch_id)


def _is_turn_free(connection: sa.Connection, new: NewBatch) -> bool:
    return _is_live_one_missing(connection, str(new.organization_id), str(new.resource))


def _is_live_one_missing(connection: sa.Connection, organization_id: str, resource: str) -> bool:
    live = sa.select(batches.c.id).where(
        batches.c.organization_id == organization_id,
        batches.c.resource == resource,
        batches.c.arrival.is_not(None),
        batches.c.status.in_(LIVE),
    )
    return not connection.execute(sa.select(live.exists())).scalar_one()


def seconds_from_now(seconds: float) -> sa.ColumnElement[Any]:
    """The time by the database's clock, so many seconds from now."""
    return sa.func.clock_timestamp() + sa.func.make_interval(0, 0, 0, 0, 0, 0, seconds)
