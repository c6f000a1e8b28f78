"""Reads, locks and changes rows of the ledger's tables. For `accept`, `transition` and `ledger`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Protocol

import sqlalchemy as sa

from batch_pipeline.batches.facts import BatchFacts
from batch_pipeline.batches.locks import LINE
from batch_pipeline.batches.model import (
    Action,
    Batch,
    IfChanged,
    Mode,
    Phase,
    PhaseName,
    PhaseStatus,
    Starter,
    Via,
)
from batch_pipeline.batches.states import FINAL, LIVE, BatchStatus, Reason
from batch_pipeline.batches.stats import Stats
from batch_pipeline.batches.tables import arrivals, attempts, batches, chunks
from batch_pipeline.database import Connection, fetch_row
from batch_pipeline.errors import NotFoundError, StateError, SupersededError

_PHASE_ORDER = list(PhaseName)
_JSON = batches.c.phases.type

# SQLAlchemy takes longer to make one of these statements than PostgreSQL to execute it, so each is made once.
_BATCH = sa.select(batches).where(batches.c.id == sa.bindparam("batch"))
_LOCKED_BATCH = _BATCH.with_for_update()
# The sequence is asked once the row of the CTE exists, so with the lock held.
_LOCK = sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(sa.bindparam("line", type_=sa.Text), 0))
_LOCKED_LINE = sa.select(_LOCK.label("locked")).cte("line").prefix_with("MATERIALIZED")
_PLACE = sa.select(arrivals.next_value()).select_from(_LOCKED_LINE)


def _with_phases(number: int) -> sa.ColumnElement[Any]:
    """The batch's phases, with so many of `_phase_parameters` in their places."""
    phases: sa.ColumnElement[Any] = batches.c.phases
    for each in range(number):
        path, phase = sa.bindparam(f"path_{each}", type_=sa.ARRAY(sa.Text)), sa.bindparam(f"phase_{each}", type_=_JSON)
        phases = sa.func.jsonb_set(phases, sa.cast(path, sa.ARRAY(sa.Text)), sa.cast(phase, _JSON))
    return phases


@lru_cache(maxsize=2)
def _begin_first_attempt(phases: int) -> sa.Select[Any]:
    begun = (
        sa.update(batches)
        .where(
            batches.c.id == sa.bindparam("batch"),
            batches.c.status == BatchStatus.requested.value,
            batches.c.attempts == 0,
            ~sa.exists().where(attempts.c.run_id == sa.bindparam("run")),
        )
        .values(
            run_id=sa.bindparam("run"),
            attempts=1,
            awaits_run=None,
            phases=_with_phases(phases),
            updated_at=sa.func.clock_timestamp(),
        )
        .returning(batches)
        .cte("begun")
    )
    recorded = sa.insert(attempts).from_select(
        ["run_id", "batch_id", "number"], sa.select(begun.c.run_id, begun.c.id, begun.c.attempts)
    )
    return sa.select(begun).add_cte(recorded.cte("recorded"))


class HasRecordsOf(Protocol):
    """A batch or a new batch: the organization and the resource of its records."""

    @property
    def organization_id(self) -> str | None: ...

    @property
    def resource(self) -> str | None: ...


def take_place(connection: sa.Connection, records: HasRecordsOf) -> int:
    """The next place in the order of arrival. A lock until commit makes places of the same records visible in order."""
    line = f"{LINE}{records.organization_id}/{records.resource}"
    return int(connection.execute(_PLACE, {"line": line}).scalar_one())


def restarted(phase: Phase) -> Phase:
    """The phase for a new attempt: a completed or skipped phase unchanged, any other pending."""
    if phase.status in (PhaseStatus.completed, PhaseStatus.skipped):
        return phase
    return Phase(phase.name, mode=phase.mode)


def processed_items(connection: sa.Connection, batch_id: str) -> tuple[int, int]:
    """Items in finished chunks of phase processing: (written as planned, refused by the database)."""
    written = chunks.c.created + chunks.c.updated + chunks.c.unchanged + chunks.c.deleted
    statement = sa.select(
        sa.func.coalesce(sa.func.sum(written), 0), sa.func.coalesce(sa.func.sum(chunks.c.failed), 0)
    ).where(chunks.c.batch_id == batch_id, chunks.c.phase == PhaseName.processing.value, chunks.c.done_at.is_not(None))
    done, failed = connection.execute(statement).one()
    return int(done), int(failed)


def ended_phase(phase: Phase, reason: str, now: float, done: int, failed: int) -> Phase:
    """A running phase as failed; another one unchanged.

    For processing, `done` and `failed` replace its counts: its chunks decide.
    """
    if phase.status is not PhaseStatus.running:
        return phase
    if phase.name is PhaseName.processing:
        phase = replace(phase, success=done, error=failed)
    return replace(phase, status=PhaseStatus.failed, reason=reason, ended_at=now)


def is_newest_attempt(batch: Batch, run_id: str) -> bool:
    """Whether the run is the batch's newest attempt, and no other is requested: then it may change the batch.

    A cancelled batch may be requested again before its run has seen that it was cancelled.
    """
    return batch.run_id == run_id and batch.awaits_run is None


def superseded(batch: Batch) -> SupersededError:
    """The error for an attempt that must no longer change the batch."""
    if batch.status in FINAL:
        ended = f" ({batch.reason.code})" if batch.reason else ""
        return SupersededError("superseded", f"Batch {batch.id} has already ended: {batch.status}{ended}.")
    if batch.awaits_run is not None:
        return SupersededError("superseded", f"Another run of batch {batch.id} is requested.")
    return SupersededError("superseded", f"A newer run has taken over batch {batch.id}.")


def get_row(connection: sa.Connection, batch_id: str, *, lock: bool = False) -> sa.Row[Any]:
    """The batch's row; with `lock`, locked until commit. Raises NotFoundError (`batch_not_found`)."""
    row = connection.execute(_LOCKED_BATCH if lock else _BATCH, {"batch": batch_id}).one_or_none()
    if row is None:
        raise NotFoundError("batch_not_found", f"There is no batch {batch_id}.")
    return row


def begin_first_attempt(
    connection: Connection, batch_id: str, run_id: str, phases: Sequence[Phase]
) -> dict[str, Any] | None:
    """Records the run as the first attempt at a requested batch, and phases; returns the changed row. One statement.

    None, and nothing is changed, if the batch has another status or had an attempt, or if the run is one already.
    """
    parameters = {"batch": batch_id, "run": run_id, **_phase_parameters(phases)}
    return fetch_row(connection, _begin_first_attempt(len(phases)), parameters)


def shown_plan(connection: sa.Connection, batch: Batch) -> dict[str, Any]:
    """The plan that can be applied. Raises StateError: `not_planned`, `plan_expired`."""
    if batch.status is not BatchStatus.planned or batch.plan is None:
        raise StateError("not_planned", f"Batch {batch.id} is {batch.status}: only planned batches can be applied.")
    if is_plan_expired(connection, batch):
        raise StateError("plan_expired", f"The plan of batch {batch.id} has expired: upload the file again.")
    return batch.plan


def is_plan_expired(connection: sa.Connection, batch: Batch) -> bool:
    """Whether the shown plan can no longer be applied, by the database's clock."""
    now = connection.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
    return batch.plan_expires_at is not None and bool(batch.plan_expires_at <= now)


def require_files(batch: Batch) -> None:
    """Raises StateError (`pruned`) if retention has begun to delete the files that a re-run needs."""
    if batch.pruned_at is not None:
        raise StateError(
            "pruned", f"Batch {batch.id} ended too long ago: retention has deleted its files. Upload the file again."
        )


def change(
    connection: sa.Connection, batch_id: str, values: Mapping[str, Any], phases: Sequence[Phase] = ()
) -> sa.Row[Any]:
    """Changes columns and phases of the batch, and returns the changed row."""
    statement, parameters = changing(batch_id, values, phases)
    return connection.execute(statement, parameters).one()


def change_live(
    connection: Connection,
    batch_id: str,
    run_id: str,
    values: Mapping[str, Any],
    phases: Sequence[Phase] = (),
    *,
    durably: bool,
) -> dict[str, Any] | None:
    """As `change`, in a transaction of its own; None unless the batch is live and the run is its newest attempt.

    With `durably` false the commit does not wait for the server's disk.
    """
    statement, parameters = changing(batch_id, values, phases, is_live=True, durably=durably)
    return fetch_row(connection, statement, parameters | {"run": run_id})


def changing(
    batch_id: str, values: Mapping[str, Any], phases: Sequence[Phase], *, is_live: bool = False, durably: bool = True
) -> tuple[sa.sql.dml.ReturningUpdate[Any], dict[str, Any]]:
    """The statement that changes a batch and returns its row, and its parameters."""
    plain = {name: value for name, value in values.items() if not isinstance(value, sa.ClauseElement)}
    statement = _update(frozenset(plain), phases=len(phases), is_live=is_live, durably=durably)
    parameters: dict[str, Any] = {"batch": batch_id} | {f"new_{name}": value for name, value in plain.items()}
    parameters |= _phase_parameters(phases)
    computed = {name: value for name, value in values.items() if name not in plain}
    return (statement.values(computed) if computed else statement), parameters


def _phase_parameters(phases: Sequence[Phase]) -> dict[str, Any]:
    each = [(str(number), phase) for number, phase in enumerate(phases)]
    paths = {f"path_{number}": [str(_PHASE_ORDER.index(phase.name))] for number, phase in each}
    return paths | {f"phase_{number}": phase.to_row() for number, phase in each}


@lru_cache(maxsize=256)
def _update(columns: frozenset[str], *, phases: int, is_live: bool, durably: bool) -> sa.sql.dml.ReturningUpdate[Any]:
    values: dict[str, Any] = {name: sa.bindparam(f"new_{name}", type_=batches.c[name].type) for name in columns}
    if phases:
        values["phases"] = _with_phases(phases)
    statement = sa.update(batches).where(batches.c.id == sa.bindparam("batch"))
    if is_live:
        is_newest = (batches.c.run_id == sa.bindparam("run"), batches.c.awaits_run.is_(None))
        statement = statement.where(*is_newest, batches.c.status == sa.any_(sa.literal(LIVE, sa.ARRAY(sa.Text))))
    if not durably:  # set while the statement runs, for its own transaction
        statement = statement.where(sa.func.set_config("synchronous_commit", "off", True) == "off")
    return statement.values(updated_at=sa.func.clock_timestamp(), **values).returning(batches)


def batch_from_row(row: sa.Row[Any] | Mapping[str, Any]) -> Batch:
    """Converts a row of `batches`."""
    data = dict(row if isinstance(row, Mapping) else row._mapping)
    del data["source_version"], data["is_pruned"]
    facts = BatchFacts.from_row(data.pop("work"))
    return Batch(
        **{
            **data,
            "action": None if data["action"] is None else Action(data["action"]),
            "status": BatchStatus(data["status"]),
            "mode": Mode(data["mode"]),
            "via": Via(data["via"]),
            "if_changed": None if data["if_changed"] is None else IfChanged(data["if_changed"]),
            "awaits_run": None if data["awaits_run"] is None else Starter(data["awaits_run"]),
            "reason": None if data["reason"] is None else Reason.from_row(data["reason"]),
            "phases": tuple(Phase.from_row(phase) for phase in data["phases"]),
            "stats": Stats.from_json(data["stats"]),
            "facts": facts,
        }
    )
