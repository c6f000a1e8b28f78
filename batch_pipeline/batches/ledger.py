"""The ledger: what every batch is, was and waits for, in PostgreSQL.

All changes of a batch's status go through here, are checked against the state machine and recorded with time and run.
An attempt (a Dagster run) may change a batch only while it is the batch's newest attempt and the batch is live;
otherwise it is told so by SupersededError and must write nothing more.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from batch_pipeline.batches.accept import NewBatch, seconds_from_now
from batch_pipeline.batches.ids import new_batch_id
from batch_pipeline.batches.locks import CHUNKS
from batch_pipeline.batches.model import (
    Action,
    Batch,
    Mode,
    Phase,
    PhaseName,
    PhaseStatus,
    Reason,
    Starter,
    Via,
)
from batch_pipeline.batches.options import BatchOptions
from batch_pipeline.batches.rows import (
    batch_from_row,
    change,
    ended_phase,
    get_row,
    next_place,
    processed_items,
    record,
    require_files,
    restarted,
    superseded,
)
from batch_pipeline.batches.states import FINAL, LIVE, RERUNNABLE, BatchStatus, check_transition
from batch_pipeline.batches.tables import attempts, batches, transitions, turns
from batch_pipeline.database import translating_outages
from batch_pipeline.errors import NotFoundError, StateError, SupersededError

_PHASE_ORDER = list(PhaseName)


class Ledger:
    """The batches of one database. Every method is one transaction and raises UnavailableError in an outage."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        # For single statements: each is a transaction by itself, without round trips for BEGIN and COMMIT.
        self._single = engine.execution_options(isolation_level="AUTOCOMMIT")

    # ---- making and finding ------------------------------------------------------------------------------------

    def create(
        self,
        *,
        organization_id: str | None,
        resource: str | None,
        action: Action | None,
        name: str,
        options: BatchOptions,
        mode: Mode = Mode.mixed,
        via: Via = Via.file,
        batch_id: str | None = None,
        source_key: str | None = None,
        source_version: str | None = None,
        retry_of: str | None = None,
        updated_by: str = "system",
    ) -> tuple[Batch, bool]:
        """Records a new batch as `requested`, or finds the one that has the same `source_version`.

        Returns the batch and whether it is new. The unique `source_version` is what makes intake exactly-once.
        """
        new = NewBatch(
            id=batch_id or new_batch_id(),
            organization_id=organization_id,
            resource=resource,
            action=action,
            name=name,
            options=options,
            mode=mode,
            via=via,
            source_key=source_key,
            source_version=source_version,
            retry_of=retry_of,
            updated_by=updated_by,
        )
        statement = (
            insert(batches)
            .values(new.to_row())
            .on_conflict_do_nothing(index_elements=["source_version"])
            .returning(batches)
        )
        with translating_outages(), self.engine.begin() as connection:
            row = connection.execute(statement).one_or_none()
            if created := row is not None:
                record(connection, new.id, None, BatchStatus.requested)
            else:
                row = connection.execute(sa.select(batches).where(batches.c.source_version == source_version)).one()
        return batch_from_row(row), created

    def get(self, batch_id: str, organization_id: str | None = None) -> Batch:
        """The batch. Raises NotFoundError, also for another organization's batch where one is given."""
        with translating_outages(), self._single.connect() as connection:
            row = connection.execute(sa.select(batches).where(batches.c.id == batch_id)).one_or_none()
        if row is None or (organization_id is not None and row.organization_id != organization_id):
            raise NotFoundError("batch_not_found", f"There is no batch {batch_id}.")
        return batch_from_row(row)

    def of_run(self, run_id: str) -> Batch | None:
        """The batch that the Dagster run is an attempt of, or None."""
        statement = sa.select(batches).join(attempts, attempts.c.batch_id == batches.c.id)
        with translating_outages(), self._single.connect() as connection:
            row = connection.execute(statement.where(attempts.c.run_id == run_id)).one_or_none()
        return None if row is None else batch_from_row(row)

    def find(
        self,
        *,
        organization_id: str | None = None,
        or_unknown_organization: bool = False,
        resource: str | None = None,
        status: Sequence[str] = (),
        limit: int = 100,
        newest_first: bool = True,
    ) -> list[Batch]:
        """Batches by creation time, filtered; `limit` bounds the answer.

        `or_unknown_organization` adds the failed ones of inbox folders that name no organization: for the operator.
        """
        statement = sa.select(batches)
        if organization_id is not None:
            its_own = batches.c.organization_id == organization_id
            unknown = batches.c.organization_id.is_(None)
            statement = statement.where(sa.or_(its_own, unknown) if or_unknown_organization else its_own)
        if resource is not None:
            statement = statement.where(batches.c.resource == resource)
        if status:
            statement = statement.where(batches.c.status.in_(list(status)))
        order = (batches.c.created_at, batches.c.id)
        statement = statement.order_by(*(column.desc() if newest_first else column for column in order))
        with translating_outages(), self._single.connect() as connection:
            return [batch_from_row(row) for row in connection.execute(statement.limit(limit))]

    def history(self, batch_id: str) -> list[tuple[str | None, str, datetime, str | None]]:
        """The batch's transitions in order: (before, after, at, run id)."""
        statement = sa.select(transitions).where(transitions.c.batch_id == batch_id)
        with translating_outages(), self._single.connect() as connection:
            rows = connection.execute(statement.order_by(transitions.c.number))
            return [(row.before, row.after, row.at, row.run_id) for row in rows]

    # ---- payload and attempts ----------------------------------------------------------------------------------

    def payload_arrived(
        self, batch_id: str, *, upload_key: str, saved: bool, starter: Starter, claim_seconds: float | None = None
    ) -> Batch:
        """Notes where the payload lies and gives the batch its place in the order of arrival; it now awaits a run.

        `claim_seconds`: for so long the caller is at launching it, and the sensor leaves it to him. A batch whose
        payload has arrived already, or that is final, stays as it is.
        """
        statement = (
            sa.update(batches)
            .where(batches.c.id == batch_id, batches.c.status.in_(LIVE), batches.c.arrival.is_(None))
            .values(
                upload_key=upload_key,
                has_upload_file=saved,
                arrival=sa.bindparam("place"),
                first_arrival=sa.bindparam("place"),
                arrived_at=sa.func.clock_timestamp(),
                awaits_run=starter.value,
                launch_claimed_until=None if claim_seconds is None else seconds_from_now(claim_seconds),
                updated_at=sa.func.clock_timestamp(),
            )
        )
        with translating_outages(), self.engine.begin() as connection:
            connection.execute(statement, {"place": next_place(connection, get_row(connection, batch_id))})
            return batch_from_row(get_row(connection, batch_id))

    def release_source(self, batch_id: str) -> None:
        """Notes that the batch's object has left the inbox: one that comes later is another, however alike."""
        statement = sa.update(batches).where(batches.c.id == batch_id)
        with translating_outages(), self._single.connect() as connection:
            connection.execute(statement.values(source_version=None))

    def request_rerun(
        self, batch_id: str, starter: Starter, *, claim_seconds: float | None = None, **changes: Any
    ) -> Batch:
        """Lets a failed or timed-out batch await a run, with a new place in the order of arrival.

        `claim_seconds`: for so long the caller is at launching it, and the sensor leaves it to him.
        Raises StateError where the batch is in another state, or expired.
        """
        with translating_outages(), self.engine.begin() as connection:
            batch = batch_from_row(get_row(connection, batch_id, lock=True))
            if BatchStatus(batch.status) not in RERUNNABLE:
                raise StateError(
                    "not_rerunnable",
                    f"Batch {batch_id} is {batch.status}: only failed or timed_out batches can be retried.",
                )
            if batch.arrival is None:
                raise StateError(
                    "nothing_to_rerun",
                    f"Batch {batch_id} never had a payload that could be read: upload it again in the right place.",
                )
            require_files(batch)
            claimed_until = None if claim_seconds is None else seconds_from_now(claim_seconds)
            place = next_place(connection, batch)
            values = {"awaits_run": starter.value, "arrival": place, "launch_claimed_until": claimed_until, **changes}
            return batch_from_row(change(connection, batch_id, values))

    def begin_attempt(self, batch_id: str, run_id: str) -> Batch:
        """Makes the run the batch's newest attempt, unless it is one already.

        A batch that failed or timed out goes back to where its finished phases allow. A completed batch stays as it
        is: its re-execution has nothing to do. Raises StateError for an expired batch and SupersededError where the
        run is an older attempt.
        """
        with translating_outages(), self.engine.begin() as connection:
            row = get_row(connection, batch_id, lock=True)
            batch = batch_from_row(row)
            known = connection.execute(
                sa.select(attempts.c.number).where(attempts.c.run_id == run_id)
            ).scalar_one_or_none()
            if known is not None:
                if batch.run_id != run_id:
                    raise SupersededError("superseded", f"A newer run has taken over batch {batch_id}.")
                return batch
            status = BatchStatus(batch.status)
            if status is BatchStatus.expired:
                raise StateError("batch_expired", f"Batch {batch_id} expired: no file came. Create a new one.")
            if status in RERUNNABLE:
                require_files(batch)
            number = batch.attempts + 1
            connection.execute(sa.insert(attempts).values(run_id=run_id, batch_id=batch_id, number=number))
            changes: dict[str, Any] = {"run_id": run_id, "attempts": number, "awaits_run": None}
            if status is not BatchStatus.completed:
                changes["phases"] = [restarted(phase).to_row() for phase in batch.phases]
                validated = batch.phase(PhaseName.validation).status is PhaseStatus.completed
                place = BatchStatus.queued if validated else BatchStatus.requested
                # Also `requested`: an attempt can be lost between the end of its validation and saying `queued`.
                if status is not place and (status in RERUNNABLE or status is BatchStatus.requested):
                    check_transition(batch_id, status, place)
                    changes |= {"status": place.value, "reason": None, "has_errors_file": False}
                    record(connection, batch_id, status, place, run_id=run_id)
                if status in RERUNNABLE and batch.awaits_run is None:
                    changes["arrival"] = next_place(connection, batch)  # re-executed in Dagster: it lines up anew
            return batch_from_row(change(connection, batch_id, changes))

    def attempts_at(self, batch_id: str) -> list[str]:
        """The ids of the runs that were attempts at the batch, in order."""
        statement = sa.select(attempts.c.run_id).where(attempts.c.batch_id == batch_id).order_by(attempts.c.number)
        with translating_outages(), self._single.connect() as connection:
            return [str(run_id) for run_id in connection.execute(statement).scalars()]

    def attempt_times(self, run_id: str) -> tuple[float, float]:
        """When the attempt began (epoch seconds), and how long it has waited for turns (seconds)."""
        with translating_outages(), self._single.connect() as connection:
            row = connection.execute(sa.select(attempts).where(attempts.c.run_id == run_id)).one()
        return row.started_at.timestamp(), float(row.waited_seconds)

    def add_waiting(self, run_id: str, seconds: float) -> None:
        """Adds to the time that the attempt has waited for turns."""
        statement = sa.update(attempts).where(attempts.c.run_id == run_id)
        with translating_outages(), self._single.connect() as connection:
            connection.execute(statement.values(waited_seconds=attempts.c.waited_seconds + seconds))

    def check_live(self, batch_id: str, run_id: str) -> Batch:
        """The batch as it is. Raises SupersededError unless it is live and the run its newest attempt."""
        batch = self.get(batch_id)
        if batch.run_id != run_id or BatchStatus(batch.status) in FINAL:
            raise superseded(batch)
        return batch

    # ---- progress, by the newest attempt ----------------------------------------------------------------------

    def update_phase(self, batch_id: str, run_id: str, phase: Phase, **changes: Any) -> Batch:
        """Stores a phase's progress (and other columns with it); returns the batch. Raises SupersededError."""
        path = [str(_PHASE_ORDER.index(phase.name))]
        changes["phases"] = sa.func.jsonb_set(
            batches.c.phases, sa.cast(path, sa.ARRAY(sa.Text)), sa.cast(phase.to_row(), batches.c.phases.type)
        )
        return self.update(batch_id, run_id, **changes)

    def update(self, batch_id: str, run_id: str, **changes: Any) -> Batch:
        """Stores columns of a live batch; returns it. Raises SupersededError unless the run is its newest attempt."""
        statement = (
            sa.update(batches)
            .where(batches.c.id == batch_id, batches.c.run_id == run_id, batches.c.status.in_(LIVE))
            .values(updated_at=sa.func.clock_timestamp(), **changes)
            .returning(batches)
        )
        with translating_outages(), self._single.connect() as connection:
            row = connection.execute(statement).one_or_none()
            if row is None:
                raise superseded(batch_from_row(get_row(connection, batch_id)))
        return batch_from_row(row)

    def transition(self, batch_id: str, run_id: str, after: BatchStatus, **changes: Any) -> Batch:
        """Moves a live batch on, by its newest attempt; to the status that it has already is no change.

        Only `begin_attempt` leads out of an end: an attempt whose batch has ended raises SupersededError.
        """
        with translating_outages(), self.engine.begin() as connection:
            batch = batch_from_row(get_row(connection, batch_id, lock=True))
            before = BatchStatus(batch.status)
            if batch.run_id != run_id:
                raise superseded(batch)
            if before is not after:
                check_transition(batch_id, before, after)
                if before in FINAL:
                    raise superseded(batch)
                record(connection, batch_id, before, after, run_id=run_id)
            return batch_from_row(change(connection, batch_id, {"status": after.value, **changes}))

    def yield_slot(self, batch_id: str, run_id: str) -> None:
        """Lets a batch that waits for its turn await another run, so that its run can end. Its place in line stays."""
        self.update(batch_id, run_id, awaits_run=Starter.launcher.value)

    # ---- ends ------------------------------------------------------------------------------------------------

    def end(
        self,
        batch_id: str,
        status: BatchStatus,
        reason: Reason | Callable[[int], Reason],
        *,
        run_id: str | None = None,
        only_if_awaiting_file: bool = False,
        if_still: Batch | None = None,
        **changes: Any,
    ) -> Batch:
        """Ends a live batch as failed, timed out or expired, and takes the turn from it, so that it can't write more.

        The reason may depend on the number of items processed, which is final once the turn has been taken.
        A batch that is final already, or whose newest attempt is not `run_id` (where given), stays as it is; a re-run
        that it awaits is given up where no `run_id` is given. With `only_if_awaiting_file`, one whose payload has
        arrived stays as it is; with `if_still`, one that has begun an attempt, or awaits another run or none, since it
        was read so. Returns the batch as it is afterwards.
        """
        with translating_outages(), self.engine.begin() as connection:
            batch = batch_from_row(get_row(connection, batch_id, lock=True))
            before = BatchStatus(batch.status)
            if if_still is not None and _awaited(batch) != _awaited(if_still):
                return batch
            if before in FINAL or (run_id is not None and batch.run_id != run_id):
                if run_id is None and batch.awaits_run is not None:
                    return batch_from_row(change(connection, batch_id, {"awaits_run": None}))
                return batch
            if only_if_awaiting_file and batch.arrival is not None:
                return batch
            check_transition(batch_id, before, status)
            # Waits for chunks under way, and lets none begin: each shares this lock until it commits.
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(CHUNKS + batch_id, 0))))
            connection.execute(
                sa.update(turns).where(turns.c.holder == batch_id).values(fence=turns.c.fence + 1, holder=None)
            )
            done, failed = processed_items(connection, batch_id)
            reason = reason(done + failed) if callable(reason) else reason
            record(connection, batch_id, before, status, run_id=batch.run_id, reason=reason)
            now = connection.execute(sa.select(sa.func.extract("epoch", sa.func.clock_timestamp()))).scalar_one()
            phases = [
                ended_phase(phase, reason.message, float(now), done, failed)
                if phase.status is PhaseStatus.running
                else phase
                for phase in batch.phases
            ]
            values = {
                "status": status.value,
                "reason": asdict(reason),
                "phases": [phase.to_row() for phase in phases],
                "awaits_run": None,
                **changes,
            }
            return batch_from_row(change(connection, batch_id, values))

    def add_to_reason(self, batch_id: str, sentence: str) -> None:
        """Adds a sentence to the reason of a batch that has ended."""
        with translating_outages(), self.engine.begin() as connection:
            batch = batch_from_row(get_row(connection, batch_id, lock=True))
            if batch.reason is not None and sentence not in batch.reason.message:
                reason = Reason(batch.reason.code, f"{batch.reason.message} {sentence}")
                change(connection, batch_id, {"reason": asdict(reason)})


def _awaited(batch: Batch) -> tuple[int | None, int, Starter | None]:
    """Tells which run the batch awaits or, where it awaits none, which it began last, among all of its runs."""
    return batch.arrival, batch.attempts, batch.awaits_run
