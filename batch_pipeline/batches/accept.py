"""The one way in: every batch is accepted here, whoever makes it (API, inbox, command line, Launchpad, rejected items).

One transaction records the batch, its payload with its place in the order of arrival, and the keys that make it unique:
the caller's idempotency key, or the object version that it was taken from. So there is no batch that waits for a
payload which nobody will bring, and no payload that is taken in twice.
"""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from batch_pipeline.batches.model import Action, Batch, Mode, Starter, Stats, Via, Work, initial_phases
from batch_pipeline.batches.options import BatchOptions
from batch_pipeline.batches.rows import batch_from_row, change, get_row, record, take_place
from batch_pipeline.batches.states import FINAL, LIVE, BatchStatus, Reason
from batch_pipeline.batches.tables import batches, idempotency_keys
from batch_pipeline.database import translating_outages
from batch_pipeline.errors import BusyError, StateError

IDEMPOTENCY_SECONDS = 24 * 3600  # how long a caller's idempotency key refers to its batch
CLAIM_SECONDS = 20  # seconds that the API has to launch the run before the sensor does


@dataclass(frozen=True)
class NewBatch:
    """What is known of a batch when it is accepted. None is unknown: an inbox folder may name no known resource.

    `source_version` identifies the object that the batch was taken from: while it is recorded, no other batch has it.
    """

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
    """A payload in storage.

    Attributes:
        key: where it lies.
        saved: whether it is kept for download.
        starter: who starts its run.
        claim_seconds: how long the sensor leaves the launch to the caller.
    """

    key: str
    saved: bool
    starter: Starter
    claim_seconds: float | None = None


class Accepted(NamedTuple):
    """The batch, and whether it is new: an idempotency key or a source version may have one already."""

    batch: Batch
    is_new: bool


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
    refused: Reason | None = None,
    idempotency: IdempotencyKey | None = None,
    only_if_turn_is_free: bool = False,
) -> Accepted:
    """Records the batch, or finds the one that has its idempotency key or source version.

    A batch without a payload awaits its file. One that is `refused` is recorded as failed: it never runs, and its
    payload is kept for its sender.

    Raises StateError (`idempotency_conflict`) for a key that was used with another body and, with
    `only_if_turn_is_free`, BusyError (`resource_busy`) if another batch of the same records is live; otherwise every
    batch of these records that arrives later comes after this one. Nothing is recorded if it raises.
    """
    with translating_outages(), engine.begin() as connection:
        if idempotency is not None:
            holder = _take(connection, idempotency, new)
            if holder != new.id:
                return Accepted(batch_from_row(get_row(connection, holder)), is_new=False)
        row = new.to_row()
        if payload is not None:
            row |= {"upload_key": payload.key, "has_upload_file": payload.saved}
        if refused is not None:
            row |= {"status": BatchStatus.failed.value, "reason": asdict(refused)}
        elif payload is not None:
            place = take_place(connection, new)
            if only_if_turn_is_free and _is_any_live(connection, new.organization_id, new.resource):
                raise BusyError("resource_busy", "Other batches of the same records are being processed.")
            row |= _arrival(payload, place)
        statement = insert(batches).values(row).on_conflict_do_nothing(index_elements=["source_version"])
        made = connection.execute(statement.returning(batches)).one_or_none()
        if made is None:
            earlier = sa.select(batches).where(batches.c.source_version == new.source_version)
            return Accepted(batch_from_row(connection.execute(earlier).one()), is_new=False)
        record(connection, new.id, None, BatchStatus.requested)
        if refused is not None:
            record(connection, new.id, BatchStatus.requested, BatchStatus.failed, reason=refused)
        return Accepted(batch_from_row(made), is_new=True)


def _arrival(payload: ArrivedPayload, place: int) -> dict[str, Any]:
    claim = payload.claim_seconds
    return {
        "arrival": place,
        "first_arrival": place,
        "arrived_at": sa.func.clock_timestamp(),
        "awaits_run": payload.starter.value,
        "launch_claimed_until": None if claim is None else seconds_from_now(claim),
    }


def attach_payload(engine: sa.Engine, batch_id: str, payload: ArrivedPayload) -> Batch:
    """Gives a batch that awaits its file this payload, and a place in the order of arrival; it now awaits its run.

    A batch that has its payload, or that has ended, stays as it is. Returns the batch. Raises NotFoundError.
    """
    with translating_outages(), engine.begin() as connection:
        batch = batch_from_row(get_row(connection, batch_id, lock=True))
        if batch.arrival is not None or batch.status in FINAL:
            return batch
        values = _arrival(payload, take_place(connection, batch))
        values |= {"upload_key": payload.key, "has_upload_file": payload.saved}
        return batch_from_row(change(connection, batch_id, values))


def release_source(engine: sa.Engine, batch_id: str) -> None:
    """Forgets the object version that the batch was taken from: a later object is another one, however alike."""
    statement = sa.update(batches).where(batches.c.id == batch_id).values(source_version=None)
    with translating_outages(), engine.begin() as connection:
        connection.execute(statement)


def find_accepted(engine: sa.Engine, organization_id: str, idempotency: IdempotencyKey) -> Batch | None:
    """The batch that the key stands for. Raises StateError (`idempotency_conflict`) for a key with another body."""
    with translating_outages(), engine.connect() as connection:
        holder = _holder(connection, organization_id, idempotency)
        return None if holder is None else batch_from_row(get_row(connection, holder))


def is_turn_free(engine: sa.Engine, organization_id: str, resource: str) -> bool:
    """Whether no batch of these records is live: a cheap look before `accept` decides."""
    with translating_outages(), engine.connect() as connection:
        return not _is_any_live(connection, organization_id, resource)


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


def _is_any_live(connection: sa.Connection, organization_id: str | None, resource: str | None) -> bool:
    live = sa.select(batches.c.id).where(
        batches.c.organization_id == organization_id,
        batches.c.resource == resource,
        batches.c.arrival.is_not(None),
        batches.c.status.in_(LIVE),
    )
    return bool(connection.execute(sa.select(live.exists())).scalar_one())


def seconds_from_now(seconds: float) -> sa.ColumnElement[Any]:
    """The time by the database's clock, so many seconds from now."""
    return sa.func.clock_timestamp() + sa.func.make_interval(0, 0, 0, 0, 0, 0, seconds)
