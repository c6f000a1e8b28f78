"""Accepts batches: the only way in for the API, the inbox, the command line, the Launchpad, rejected items and undos.

One transaction records the batch, its payload, its place in the order of arrival and its unique keys: the caller's
idempotency key and the version of the source object. A crash therefore leaves no batch without its payload, and no
payload becomes two batches.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql.dml import ReturningInsert

from batch_pipeline.batches.facts import BatchFacts
from batch_pipeline.batches.model import Action, Batch, Mode, Starter, Via, initial_phases
from batch_pipeline.batches.options import BatchOptions
from batch_pipeline.batches.rows import batch_from_row, change, get_row, take_place
from batch_pipeline.batches.states import FINAL, LIVE, BatchStatus, Reason
from batch_pipeline.batches.stats import Stats
from batch_pipeline.batches.tables import batches, idempotency_keys
from batch_pipeline.batches.transition import change_status, record_transition
from batch_pipeline.batches.undoable import require_undoable
from batch_pipeline.database import driver_connection, fetch_row, single_statements, translating_outages
from batch_pipeline.errors import BusyError, StateError

IDEMPOTENCY_SECONDS = 24 * 3600  # how long a caller's idempotency key refers to its batch
CLAIM_SECONDS = 20  # seconds that the API has to launch the run before the sensor does


def seconds_from_now(seconds: float | sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """A time on the database's clock: `seconds` from now, in the past if negative; null for null."""
    return sa.func.clock_timestamp() + sa.func.make_interval(0, 0, 0, 0, 0, 0, seconds)


@dataclass(frozen=True)
class NewBatch:
    """A batch to accept. Organization, resource and action are None if an inbox folder names none that exists.

    `source_version` identifies the version of the source object. It is unique among the batches that record one.
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
    undo_of: str | None = None
    upload_expires_at: datetime | None = None
    updated_by: str = "system"

    def to_row(self) -> dict[str, Any]:
        """The columns of the new row in `batches`; those of its payload are of one that has not arrived."""
        return {
            "upload_key": None,
            "has_upload_file": False,
            "id": self.id,
            "organization_id": self.organization_id,
            "name": self.name,
            "resource": self.resource,
            "action": None if self.action is None else self.action.value,
            "mode": self.mode.value,
            "via": self.via.value,
            "status": BatchStatus.requested.value,
            "options": self.options.model_dump(mode="json"),
            "phases": [phase.to_row() for phase in initial_phases(self.mode, self.via, self.action)],
            "stats": Stats().to_json(),
            "work": BatchFacts().to_row(),
            "source_key": self.source_key,
            "source_version": self.source_version,
            "retry_of": self.retry_of,
            "undo_of": self.undo_of,
            "upload_expires_at": self.upload_expires_at,
            "updated_by": self.updated_by,
        }


def _inserting(**values: Any) -> ReturningInsert[Any]:
    """The statement that inserts `NewBatch.to_row`, with these values; nothing if its source version has a batch."""
    names = NewBatch("", None, None, None, "", BatchOptions()).to_row()
    given = {name: sa.bindparam(f"new_{name}", type_=batches.c[name].type) for name in names}
    made = insert(batches).values(given | values).on_conflict_do_nothing(index_elements=["source_version"])
    return made.returning(batches)


# SQLAlchemy takes longer to make one of these statements than PostgreSQL to execute it, so each is made once.
_PLACE = sa.bindparam("place", type_=sa.BigInteger)
_INSERT = _inserting()
_INSERT_ARRIVED = _inserting(
    arrival=_PLACE,
    first_arrival=_PLACE,
    awaits_run=sa.bindparam("starter", type_=sa.Text),
    arrived_at=sa.func.clock_timestamp(),
    launch_claimed_until=seconds_from_now(sa.bindparam("claim_seconds", type_=sa.Double)),
)


@dataclass(frozen=True)
class ArrivedPayload:
    """A payload in storage.

    Attributes:
        key: key of the object in storage.
        saved: whether the object is kept for download.
        starter: who starts the batch's run.
        claim_seconds: seconds that the caller has to launch the run before the sensor does; None: no claim.
    """

    key: str
    saved: bool
    starter: Starter
    claim_seconds: float | None = None


@dataclass(frozen=True)
class UndoRequest:
    """What an undo has instead of a payload.

    Attributes:
        starter: who starts the batch's run.
        kept_days: days that the log of changes is kept.
        claim_seconds: as for `ArrivedPayload`.
    """

    starter: Starter
    kept_days: int
    claim_seconds: float | None = None


class Accepted(NamedTuple):
    """The batch; `is_new` is False if its idempotency key or source version already had a batch."""

    batch: Batch
    is_new: bool


@dataclass(frozen=True)
class IdempotencyKey:
    """The key that a caller chose for a request, and the SHA-256 of the request's body."""

    key: str
    body_hash: bytes


def accept(
    engine: sa.Engine,
    new: NewBatch,
    *,
    payload: ArrivedPayload | None = None,
    undo: UndoRequest | None = None,
    refused: Reason | None = None,
    idempotency: IdempotencyKey | None = None,
    only_if_turn_is_free: bool = False,
) -> Accepted:
    """Records the batch, or returns the existing batch with its idempotency key or source version.

    A batch without a payload waits for its file; an undo (`undo`, and `NewBatch.undo_of`) needs none. A batch with
    `refused` is recorded as failed: it never runs, and its payload is kept for the sender. Batches of the same records
    that arrive later run later.

    Raises StateError (`idempotency_conflict`) if the key was used with another body, and for an undo as
    `require_undoable` does. With `only_if_turn_is_free`,
    raises BusyError (`resource_busy`) if another batch of the same records is live. If it raises, it records nothing.
    """
    with translating_outages(), engine.begin() as connection:
        if idempotency is not None:
            holder = _claim_key(connection, idempotency, new)
            if holder != new.id:
                return Accepted(batch_from_row(get_row(connection, holder)), is_new=False)
        row = new.to_row()
        arrival: dict[str, Any] = {}
        if payload is not None:
            row |= {"upload_key": payload.key, "has_upload_file": payload.saved}
        if refused is None and payload is not None:
            place = take_place(connection, new)
            if only_if_turn_is_free and _is_any_live(connection, new.organization_id, new.resource):
                raise BusyError("resource_busy", "Other batches of the same records are being processed.")
            arrival = _arrival(payload, place)
        elif undo is not None:
            require_undoable(connection, str(new.undo_of), kept_days=undo.kept_days)
            arrival = _arrival(undo, take_place(connection, new))
        given = {f"new_{name}": value for name, value in row.items()}
        made = fetch_row(driver_connection(connection), _INSERT_ARRIVED if arrival else _INSERT, given | arrival)
        if made is None:
            earlier = sa.select(batches).where(batches.c.source_version == new.source_version)
            return Accepted(batch_from_row(connection.execute(earlier).one()), is_new=False)
        record_transition(connection, new.id, None, BatchStatus.requested)
        batch = batch_from_row(made)
        if refused is not None:
            batch = change_status(connection, batch, BatchStatus.failed, reason=refused)
        return Accepted(batch, is_new=True)


def _arrival(payload: ArrivedPayload | UndoRequest, place: int) -> dict[str, Any]:
    """The parameters of `_INSERT_ARRIVED` beside the batch's."""
    return {"place": place, "starter": payload.starter.value, "claim_seconds": payload.claim_seconds}


def attach_payload(engine: sa.Engine, batch_id: str, payload: ArrivedPayload) -> Batch:
    """Records the payload of a batch that awaits its file, with a place in the order of arrival, and requests its run.

    Changes nothing if the batch has a payload or has ended. Returns the batch. Raises NotFoundError.
    """
    with translating_outages(), engine.begin() as connection:
        batch = batch_from_row(get_row(connection, batch_id, lock=True))
        if batch.arrival is not None or batch.status in FINAL:
            return batch
        place = take_place(connection, batch)
        values: dict[str, Any] = {"arrival": place, "first_arrival": place, "awaits_run": payload.starter.value}
        values |= {"upload_key": payload.key, "has_upload_file": payload.saved, "arrived_at": sa.func.clock_timestamp()}
        if payload.claim_seconds is not None:
            values["launch_claimed_until"] = seconds_from_now(payload.claim_seconds)
        return batch_from_row(change(connection, batch_id, values))


def release_source(engine: sa.Engine, batch_id: str) -> None:
    """Clears the batch's source version, so that a later object with an equal version becomes a new batch."""
    statement = sa.update(batches).where(batches.c.id == batch_id).values(source_version=None)
    with translating_outages(), engine.begin() as connection:
        connection.execute(statement)


def find_accepted(engine: sa.Engine, organization_id: str, idempotency: IdempotencyKey) -> Batch | None:
    """The batch of the key, or None. Raises StateError (`idempotency_conflict`) if the key came with another body."""
    with translating_outages(), engine.begin() as connection:
        holder = _find_key_holder(connection, organization_id, idempotency)
        return None if holder is None else batch_from_row(get_row(connection, holder))


def is_turn_free(engine: sa.Engine, organization_id: str, resource: str) -> bool:
    """Whether no batch of these records is live. A cheap check before `accept`, which decides."""
    with translating_outages(), single_statements(engine).begin() as connection:
        return not _is_any_live(connection, organization_id, resource)


def forget_old_keys(engine: sa.Engine) -> int:
    """Deletes idempotency keys older than `IDEMPOTENCY_SECONDS`; returns how many."""
    statement = sa.delete(idempotency_keys).where(
        idempotency_keys.c.created_at < seconds_from_now(-IDEMPOTENCY_SECONDS)
    )
    with translating_outages(), engine.begin() as connection:
        return connection.execute(statement).rowcount


def release_claim(engine: sa.Engine, batch_id: str) -> None:
    """Releases the caller's claim on the launch of the batch's run, so that the sensor launches it."""
    statement = sa.update(batches).where(batches.c.id == batch_id).values(launch_claimed_until=None)
    with translating_outages(), engine.begin() as connection:
        connection.execute(statement)


def _claim_key(connection: sa.Connection, idempotency: IdempotencyKey, new: NewBatch) -> str:
    """Records the key for the new batch unless another batch has it; returns the id of the key's batch."""
    values = {
        "organization_id": new.organization_id,
        "key": idempotency.key,
        "body_hash": idempotency.body_hash,
        "batch_id": new.id,
        "created_at": sa.func.clock_timestamp(),
    }
    # Waits for a concurrent transaction with the same key.
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
    if (claimed := connection.execute(statement).scalar_one_or_none()) is not None:
        return str(claimed)
    holder = _find_key_holder(connection, str(new.organization_id), idempotency)
    # None only if the key expired between the two statements; the caller's next request claims it.
    if holder is None:
        raise StateError("idempotency_conflict", "The Idempotency-Key has just expired: send the request again.")
    return holder


def _find_key_holder(connection: sa.Connection, organization_id: str, idempotency: IdempotencyKey) -> str | None:
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
        # A batch that only makes a plan blocks nobody.
        sa.or_(batches.c.if_changed.is_not(None), batches.c.options["plan_only"].astext.is_distinct_from("true")),
    )
    return bool(connection.execute(sa.select(live.exists())).scalar_one())
