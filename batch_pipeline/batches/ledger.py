"""The ledger: the state and the history of every batch, in PostgreSQL.

Every change of a batch's status goes through `transition.change_status`, which checks it against the state machine and
records it with its time and run. An attempt (a Dagster run) may change a batch only while the batch is live and the
attempt is its newest. Otherwise SupersededError is raised, and the attempt must write nothing more.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa

from batch_pipeline.batches.accept import seconds_from_now
from batch_pipeline.batches.locks import CHUNKS
from batch_pipeline.batches.mappings import remember_mapping
from batch_pipeline.batches.model import Action, Batch, IfChanged, Phase, Starter
from batch_pipeline.batches.outbox import write_event
from batch_pipeline.batches.reruns import Reruns, planned_rerun, reopen, requested_rerun
from batch_pipeline.batches.rows import (
    batch_from_row,
    begin_first_attempt,
    change,
    change_live,
    ended_phase,
    get_row,
    is_newest_attempt,
    is_plan_expired,
    processed_items,
    require_files,
    shown_plan,
    superseded,
    take_place,
)
from batch_pipeline.batches.states import AT_REST, FINAL, RERUNNABLE, BatchStatus, Reason, check_transition
from batch_pipeline.batches.tables import attempts, batches, transitions, turns
from batch_pipeline.batches.transition import alert_of_failure, change_status, move_at_once
from batch_pipeline.database import (
    Connection,
    borrowed_for_statements,
    driver_connection,
    single_statements,
    translating_outages,
)
from batch_pipeline.errors import NotFoundError, StateError

_OF_RUN = (
    sa.select(batches)
    .join(attempts, attempts.c.batch_id == batches.c.id)
    .where(attempts.c.run_id == sa.bindparam("run"))
)

# The function gets the number of items processed, counted after the batch can no longer write.
AnyReason = Reason | Callable[[int], Reason]


class Ledger:
    """The batches of one database. Every method is one transaction and raises UnavailableError in an outage."""

    def __init__(self, engine: sa.Engine, reruns: Reruns | None = None) -> None:
        """`reruns`: how often batches that it ends run again by themselves; by default never."""
        self.engine = engine
        self._reruns = reruns or Reruns()
        self._single = single_statements(engine)

    def get(self, batch_id: str, organization_id: str | None = None) -> Batch:
        """The batch. Raises NotFoundError; with `organization_id` also for a batch of another organization."""
        with translating_outages(), self._single.begin() as connection:
            row = get_row(connection, batch_id)
        if organization_id is not None and row.organization_id != organization_id:
            raise NotFoundError("batch_not_found", f"There is no batch {batch_id}.")
        return batch_from_row(row)

    def of_run(self, run_id: str) -> Batch | None:
        """The batch that the Dagster run is an attempt of, or None."""
        with translating_outages(), self._single.begin() as connection:
            row = connection.execute(_OF_RUN, {"run": run_id}).one_or_none()
        return None if row is None else batch_from_row(row)

    def find(
        self,
        *,
        organization_id: str | None = None,
        or_unknown_organization: bool = False,
        resource: str | None = None,
        action: Action | None = None,
        status: Sequence[str] = (),
        since: datetime | None = None,
        limit: int = 100,
        newest_first: bool = True,
    ) -> list[Batch]:
        """At most `limit` batches created at or after `since`, ordered by creation time.

        `or_unknown_organization` adds the failed batches from inbox folders that name no known organization. They are
        for the operator.
        """
        statement = sa.select(batches)
        if organization_id is not None:
            its_own = batches.c.organization_id == organization_id
            unknown = batches.c.organization_id.is_(None)
            statement = statement.where(sa.or_(its_own, unknown) if or_unknown_organization else its_own)
        if resource is not None:
            statement = statement.where(batches.c.resource == resource)
        if action is not None:
            statement = statement.where(batches.c.action == action.value)
        if status:
            statement = statement.where(batches.c.status.in_(list(status)))
        if since is not None:
            statement = statement.where(batches.c.created_at >= since)
        order = (batches.c.created_at, batches.c.id)
        statement = statement.order_by(*(column.desc() if newest_first else column for column in order))
        with translating_outages(), self._single.begin() as connection:
            return [batch_from_row(row) for row in connection.execute(statement.limit(limit))]

    def history(self, batch_id: str) -> list[tuple[str | None, str, datetime, str | None]]:
        """The batch's transitions in order: (before, after, at, run id)."""
        statement = sa.select(transitions).where(transitions.c.batch_id == batch_id)
        with translating_outages(), self._single.begin() as connection:
            rows = connection.execute(statement.order_by(transitions.c.number))
            return [(row.before, row.after, row.at, row.run_id) for row in rows]

    # ---- attempts ----------------------------------------------------------------------------------

    def request_rerun(
        self, batch_id: str, starter: Starter, *, claim_seconds: float | None = None, **changes: Any
    ) -> Batch:
        """Requests another run of a failed or timed-out batch, at a new place in the order of arrival.

        The batch becomes `queued` if it is validated, else `requested`; it no longer runs again by itself.
        `claim_seconds`: seconds that the caller has to launch the run before the sensor does. Raises StateError:
        `not_rerunnable`, `nothing_to_rerun`, `pruned`.
        """
        with translating_outages(), self.engine.begin() as connection:
            batch = batch_from_row(get_row(connection, batch_id, lock=True))
            if batch.status not in RERUNNABLE:
                raise StateError(
                    "not_rerunnable",
                    f"Batch {batch_id} is {batch.status}: only failed or timed_out batches can be retried.",
                )
            if batch.arrival is None:
                raise StateError(
                    "nothing_to_rerun",
                    f"Batch {batch_id} has no payload that can be read: upload the file again to the right folder.",
                )
            require_files(batch)
            values = requested_rerun(connection, batch, starter, claim_seconds=claim_seconds)
            return reopen(connection, batch, values | changes)

    def request_apply(
        self,
        batch_id: str,
        starter: Starter,
        *,
        if_changed: IfChanged = IfChanged.fail,
        digest: str | None = None,
        claim_seconds: float | None = None,
        **changes: Any,
    ) -> Batch:
        """Requests the run that writes a planned batch, at a new place in the order of arrival.

        From now on the batch counts as arrived at this moment: it may overwrite what batches wrote before. `digest`:
        of the plan to apply; None: the plan shown now. `claim_seconds`: as for `request_rerun`.

        Raises NotFoundError, and StateError: `not_planned`, `plan_expired`, or `plan_changed` for another digest than
        that of the plan shown now.
        """
        with translating_outages(), self.engine.begin() as connection:
            batch = batch_from_row(get_row(connection, batch_id, lock=True))
            plan = shown_plan(connection, batch)
            if digest is not None and digest != plan["digest"]:
                raise StateError(
                    "plan_changed",
                    f"Batch {batch_id} shows another plan by now: look at it, then apply it with its digest.",
                )
            place = take_place(connection, batch)
            request = {
                "if_changed": if_changed.value,
                "awaits_run": starter.value,
                "arrival": place,
                "first_arrival": place,
                "launch_claimed_until": None if claim_seconds is None else seconds_from_now(claim_seconds),
            }
            return change_status(connection, batch, BatchStatus.queued, request | changes)

    def begin_attempt(self, batch_id: str, run_id: str, *phases: Phase, awaited: bool = False) -> Batch:
        """Records the run as the batch's newest attempt, unless it is recorded already; `phases` with a first one.

        A failed or timed-out batch becomes `queued` if it is validated, else `requested`. A planned batch becomes
        `requested`: its plan is made anew. A completed batch keeps its status: a re-execution has nothing to do.
        `awaited`: the run is the one that the batch awaited. Raises StateError (`batch_expired`, `pruned`), and
        SupersededError if the run is an older attempt, or is `awaited` and the batch awaits no run any more.
        """
        # A transaction: PostgreSQL executes a statement of a killed process to its end, but commits nothing for it.
        with translating_outages(), self.engine.begin() as connection:
            if (begun := begin_first_attempt(driver_connection(connection), batch_id, run_id, phases)) is not None:
                return batch_from_row(begun)
            batch = batch_from_row(get_row(connection, batch_id, lock=True))
            known = connection.execute(
                sa.select(attempts.c.number).where(attempts.c.run_id == run_id)
            ).scalar_one_or_none()
            if known is not None:
                if batch.run_id != run_id:
                    raise superseded(batch)
                return batch
            if batch.status is BatchStatus.expired:
                raise StateError("batch_expired", f"Batch {batch_id} has expired: create a new batch.")
            if awaited and batch.awaits_run is None:
                raise superseded(batch)
            is_rerun_of_dagster = batch.status in RERUNNABLE
            if is_rerun_of_dagster:
                require_files(batch)
            number = batch.attempts + 1
            connection.execute(sa.insert(attempts).values(run_id=run_id, batch_id=batch_id, number=number))
            changes: dict[str, Any] = {"run_id": run_id, "attempts": number, "awaits_run": None}
            if is_rerun_of_dagster:
                changes |= {"arrival": take_place(connection, batch), "reruns": 0}
            if batch.status is BatchStatus.completed:
                return batch_from_row(change(connection, batch_id, changes))
            return reopen(connection, batch, changes)

    def attempts_at(self, batch_id: str) -> list[str]:
        """The ids of the runs that were attempts at the batch, in order."""
        statement = sa.select(attempts.c.run_id).where(attempts.c.batch_id == batch_id).order_by(attempts.c.number)
        with translating_outages(), self._single.begin() as connection:
            return [str(run_id) for run_id in connection.execute(statement).scalars()]

    def attempt_seconds(self, run_id: str) -> float:
        """Seconds that the attempt has been running, without its waits for the turn, by the database's clock."""
        running = (
            sa.func.extract("epoch", sa.func.clock_timestamp() - attempts.c.started_at) - attempts.c.waited_seconds
        )
        with translating_outages(), self._single.begin() as connection:
            return float(connection.execute(sa.select(running).where(attempts.c.run_id == run_id)).scalar_one())

    def add_waiting(self, run_id: str, seconds: float) -> None:
        """Adds seconds to the time that the attempt has waited for its turn."""
        statement = sa.update(attempts).where(attempts.c.run_id == run_id)
        with translating_outages(), self._single.begin() as connection:
            connection.execute(statement.values(waited_seconds=attempts.c.waited_seconds + seconds))

    def check_live(self, batch_id: str, run_id: str) -> Batch:
        """The batch. Raises SupersededError unless the batch is live and the run is its newest attempt."""
        batch = self.get(batch_id)
        if not is_newest_attempt(batch, run_id) or batch.status in AT_REST:
            raise superseded(batch)
        return batch

    # ---- progress, by the newest attempt ----------------------------------------------------------------------

    def update_phase(self, batch_id: str, run_id: str, *phases: Phase, durably: bool = True, **changes: Any) -> Batch:
        """Stores a phase's progress (and other phases and columns), as `update` does; returns the batch."""
        return self._update(batch_id, run_id, changes, phases, durably=durably)

    def update(self, batch_id: str, run_id: str, *, durably: bool = True, **changes: Any) -> Batch:
        """Stores columns of a live batch; returns it. Raises SupersededError unless the run is its newest attempt.

        With `durably` false the commit does not wait for the server's disk: a crash of the server within the next
        second may lose the change. It is for progress, which a retry makes again.
        """
        return self._update(batch_id, run_id, changes, durably=durably)

    def _update(
        self, batch_id: str, run_id: str, changes: Mapping[str, Any], phases: Sequence[Phase] = (), *, durably: bool
    ) -> Batch:
        with translating_outages(), self._for_statements() as connection:
            row = change_live(connection, batch_id, run_id, changes, phases, durably=durably)
        if row is None:
            raise superseded(self.get(batch_id))
        return batch_from_row(row)

    def transition(
        self, batch_id: str, run_id: str, after: BatchStatus, *phases: Phase, durably: bool = True, **changes: Any
    ) -> Batch:
        """Changes the status of a live batch, and phases with it, for its newest attempt.

        If it has the status already, only the phases and the other columns change. `durably`: see `update`.

        Raises SupersededError if the run is not the newest attempt or the batch has ended, and StateError
        (`illegal_transition`). An ended batch runs again only by `request_rerun` or `begin_attempt`.
        """
        changes = ({"awaits_run": None} if after in AT_REST else {}) | changes
        with translating_outages(), self._for_statements() as connection:
            moved = move_at_once(connection, batch_id, run_id, after, changes, phases=phases, durably=durably)
        if moved is not None:
            return moved
        with translating_outages(), self.engine.begin() as connection:
            batch = batch_from_row(get_row(connection, batch_id, lock=True))
            if not is_newest_attempt(batch, run_id):
                raise superseded(batch)
            if batch.status is not after and batch.status in AT_REST:
                check_transition(batch_id, batch.status, after)
                raise superseded(batch)
            if after is BatchStatus.completed:
                remember_mapping(connection, batch)
            return change_status(connection, batch, after, changes, run_id=run_id, phases=phases)

    def yield_slot(self, batch_id: str, run_id: str) -> None:
        """Requests another run for a queued batch, so that this run can end. The place in the order stays."""
        self.update(batch_id, run_id, awaits_run=Starter.launcher.value)

    def end(self, batch_id: str, status: BatchStatus, reason: AnyReason, **changes: Any) -> Batch:
        """Ends a live batch as failed, timed out or expired, for its owner or an operator.

        Revokes the batch's turn and waits for its running chunks, so that nothing is written afterwards. Changes
        nothing if the batch has ended. Returns the batch.
        """
        with translating_outages(), self.engine.begin() as connection:
            batch = batch_from_row(get_row(connection, batch_id, lock=True))
            return self._end(connection, batch, status, reason, changes)

    def end_attempt(self, batch_id: str, run_id: str, status: BatchStatus, reason: AnyReason) -> Batch:
        """As `end`, for the run itself. Changes nothing if it is not the newest attempt, or has planned it."""
        with translating_outages(), self.engine.begin() as connection:
            batch = batch_from_row(get_row(connection, batch_id, lock=True))
            is_over = not is_newest_attempt(batch, run_id) or batch.status is BatchStatus.planned
            return batch if is_over else self._end(connection, batch, status, reason)

    def end_if_unchanged(self, seen: Batch, status: BatchStatus, reason: AnyReason, **changes: Any) -> Batch:
        """As `end`, for reconciling. Changes nothing if the batch began or requested another run after `seen`."""
        with translating_outages(), self.engine.begin() as connection:
            batch = batch_from_row(get_row(connection, seen.id, lock=True))
            is_outdated = _run_state(batch) != _run_state(seen)
            return batch if is_outdated else self._end(connection, batch, status, reason, changes)

    def expire_plan(self, batch_id: str, reason: Reason) -> Batch:
        """As `end`, for a batch whose plan expired. Changes nothing if the plan was applied or made anew."""
        with translating_outages(), self.engine.begin() as connection:
            batch = batch_from_row(get_row(connection, batch_id, lock=True))
            if batch.status is not BatchStatus.planned or not is_plan_expired(connection, batch):
                return batch
            return self._end(connection, batch, BatchStatus.expired, reason)

    def expire(self, batch_id: str, reason: Reason) -> Batch:
        """As `end`, for a batch whose upload URL expired. Changes nothing if its payload has arrived."""
        with translating_outages(), self.engine.begin() as connection:
            batch = batch_from_row(get_row(connection, batch_id, lock=True))
            return batch if batch.arrival is not None else self._end(connection, batch, BatchStatus.expired, reason)

    def cancel_rerun(self, batch_id: str, reason: AnyReason, **changes: Any) -> Batch:
        """Gives a failed batch that would run again by itself this reason, and it stays failed. Returns the batch.

        Changes nothing if the batch does not run again by itself.
        """
        with translating_outages(), self.engine.begin() as connection:
            batch = batch_from_row(get_row(connection, batch_id, lock=True))
            if batch.next_attempt_at is None:
                return batch
            reason = reason(sum(processed_items(connection, batch_id))) if callable(reason) else reason
            values = {"reason": reason.to_row(), "next_attempt_at": None, **changes}
            cancelled = batch_from_row(change(connection, batch_id, values))
            # Nobody was told while the batch was to run again.
            write_event(connection, cancelled)
            alert_of_failure(connection, batch_id)
            return cancelled

    def add_to_reason(self, batch_id: str, sentence: str) -> None:
        """Appends a sentence to the batch's reason, unless the reason contains it. No reason: changes nothing."""
        with translating_outages(), self.engine.begin() as connection:
            batch = batch_from_row(get_row(connection, batch_id, lock=True))
            if batch.reason is not None and sentence not in batch.reason.message:
                reason = replace(batch.reason, message=f"{batch.reason.message} {sentence}")
                change(connection, batch_id, {"reason": reason.to_row()})

    def _for_statements(self) -> AbstractContextManager[Connection]:
        """A connection on which each statement is a transaction of its own."""
        return borrowed_for_statements(self.engine)

    def _end(
        self,
        connection: sa.Connection,
        batch: Batch,
        status: BatchStatus,
        reason: AnyReason,
        changes: Mapping[str, Any] = MappingProxyType({}),
    ) -> Batch:
        """Ends a batch, whose row the caller has locked. Changes nothing if the batch has ended."""
        if batch.status in FINAL:
            return batch
        check_transition(batch.id, batch.status, status)
        # Waits for running chunks and blocks new ones: each chunk holds this lock in shared mode until it commits.
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(CHUNKS + batch.id, 0))))
        connection.execute(
            sa.update(turns).where(turns.c.holder == batch.id).values(fence=turns.c.fence + 1, holder=None)
        )
        done, failed = processed_items(connection, batch.id)
        reason = reason(done + failed) if callable(reason) else reason
        reason, rerun = planned_rerun(connection, batch, reason, self._reruns)
        now = connection.execute(sa.select(sa.func.extract("epoch", sa.func.clock_timestamp()))).scalar_one()
        phases = [ended_phase(phase, reason.message, float(now), done, failed) for phase in batch.phases]
        values = {"phases": [phase.to_row() for phase in phases], "awaits_run": None, **rerun, **changes}
        return change_status(connection, batch, status, values, run_id=batch.run_id, reason=reason)


def _run_state(batch: Batch) -> tuple[int | None, int, Starter | None]:
    """A value that changes with each requested run and each attempt."""
    return batch.arrival, batch.attempts, batch.awaits_run
