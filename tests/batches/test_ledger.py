"""The ledger: one state machine, attempts that supersede each other, and payloads that arrive once."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise, product
from typing import Any

import pytest
from batch_runs import accepted
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from batch_pipeline.batches.accept import ArrivedPayload, attach_payload, release_source
from batch_pipeline.batches.ledger import Ledger
from batch_pipeline.batches.model import Batch, IfChanged, PhaseName, PhaseStatus, Starter
from batch_pipeline.batches.reruns import DEATHS_AT_ONE_PLACE, TRANSIENT_CODES, Reruns, request_due_reruns
from batch_pipeline.batches.states import AT_REST, FINAL, RERUNNABLE, TRANSITIONS, BatchStatus, Reason, check_transition
from batch_pipeline.database import create_engine
from batch_pipeline.errors import NotFoundError, StateError, SupersededError

WHY = Reason("test", "The test says so.")
RERUNS = 2


@pytest.fixture(scope="module")
def ledger(module_database_url: str) -> Iterator[Ledger]:
    engine = create_engine(module_database_url)
    yield Ledger(engine)
    engine.dispose()


def _create(ledger: Ledger, **values: Any) -> Batch:
    return accepted(ledger.engine, "default", **values)


def _arrived(ledger: Ledger) -> Batch:
    return _create(ledger, key="k")


def _attach(ledger: Ledger, batch: Batch, key: str = "k") -> Batch:
    return attach_payload(ledger.engine, batch.id, ArrivedPayload(key, saved=True, starter=Starter.launcher))


def _put(ledger: Ledger, batch: Batch, status: BatchStatus) -> None:
    """The batch in any state, past the state machine."""
    with ledger.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE batches SET status = %s WHERE id = %s", (status.value, batch.id))


# ---- the state machine -----------------------------------------------------------------------------------------


def test_only_a_rerun_leaves_a_final_status() -> None:
    for status in FINAL - RERUNNABLE:
        assert TRANSITIONS[status] == frozenset()
    for status in RERUNNABLE:
        assert TRANSITIONS[status] == {BatchStatus.requested, BatchStatus.queued}


@pytest.mark.parametrize(("before", "after"), list(product(BatchStatus, BatchStatus)))
def test_each_step_between_two_statuses_is_recorded_or_an_error(
    ledger: Ledger, before: BatchStatus, after: BatchStatus
) -> None:
    batch = ledger.begin_attempt(_arrived(ledger).id, f"run {before} {after}")
    _put(ledger, batch, before)
    history = ledger.history(batch.id)
    if before is after:
        assert ledger.transition(batch.id, str(batch.run_id), after).status == before
        assert ledger.history(batch.id) == history
    elif before in RERUNNABLE | {BatchStatus.planned} and after in TRANSITIONS[before]:
        # The way of a re-run or an apply: it begins with a new attempt. The old one can't revive its batch.
        with pytest.raises(SupersededError):
            ledger.transition(batch.id, str(batch.run_id), after)
        assert (ledger.get(batch.id).status, ledger.history(batch.id)) == (before, history)
    elif after in TRANSITIONS[before]:
        assert ledger.transition(batch.id, str(batch.run_id), after).status == after
        ((was, is_now, at, run_id),) = ledger.history(batch.id)[len(history) :]
        assert (was, is_now, run_id) == (before.value, after.value, batch.run_id)
        assert abs(datetime.now(UTC) - at) < timedelta(minutes=1)
    else:
        with pytest.raises(StateError) as caught:
            ledger.transition(batch.id, str(batch.run_id), after)
        assert caught.value.code == "illegal_transition"
        assert (ledger.get(batch.id).status, ledger.history(batch.id)) == (before, history)


# ---- making, and arriving --------------------------------------------------------------------------------------


def test_one_object_version_is_one_batch_until_it_is_released(ledger: Ledger) -> None:
    first = _create(ledger, source_version="v1")
    assert _create(ledger, source_version="v1") == first
    assert ledger.history(first.id) == [(None, "requested", ledger.history(first.id)[0][2], None)]
    release_source(ledger.engine, first.id)
    assert _create(ledger, source_version="v1").id != first.id


def test_concurrent_records_of_one_object_version_make_one_batch(ledger: Ledger) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: _create(ledger, source_version="v2").id, range(8)))
    assert len(set(made)) == 1


def test_a_payload_arrives_once(ledger: Ledger) -> None:
    batch = _create(ledger)
    with ThreadPoolExecutor(4) as pool:
        arrivals = list(
            pool.map(
                lambda n: _attach(ledger, batch, f"k{n}"),
                range(4),
            )
        )
    assert len({(found.arrival, found.arrived_at, found.upload_key) for found in arrivals}) == 1
    assert arrivals[0].arrival is not None


def test_batches_are_ordered_by_the_arrival_of_their_payloads(ledger: Ledger) -> None:
    later, sooner = _create(ledger), _create(ledger)
    for batch in (sooner, later):
        _attach(ledger, batch)
    assert (ledger.get(sooner.id).arrival or 0) < (ledger.get(later.id).arrival or 0)


def test_a_batch_is_found_by_its_own_organization_only(ledger: Ledger) -> None:
    batch = _create(ledger)
    assert ledger.get(batch.id, "default") == batch
    for wrong in ((batch.id, "other"), ("batch_none", None)):
        with pytest.raises(NotFoundError):
            ledger.get(*wrong)


# ---- attempts --------------------------------------------------------------------------------------------------


def test_a_run_begins_one_attempt_for_all_its_ops(ledger: Ledger) -> None:
    batch = _arrived(ledger)
    begun = ledger.begin_attempt(batch.id, "once")
    assert (begun.attempts, begun.run_id, begun.awaits_run) == (1, "once", None)
    assert ledger.begin_attempt(batch.id, "once") == begun


def test_the_later_of_two_concurrent_runs_gets_the_batch(ledger: Ledger) -> None:
    batch = _arrived(ledger)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda run: ledger.begin_attempt(batch.id, run), ("left", "right")))
    now = ledger.get(batch.id)
    assert now.attempts == 2
    older = {"left": "right", "right": "left"}[str(now.run_id)]
    assert ledger.check_live(batch.id, str(now.run_id)) == now
    for refused in (
        lambda: ledger.begin_attempt(batch.id, older),
        lambda: ledger.check_live(batch.id, older),
        lambda: ledger.update(batch.id, older, checksum="x"),
        lambda: ledger.update_phase(batch.id, older, now.phases[0]),
        lambda: ledger.transition(batch.id, older, BatchStatus.queued),
    ):
        with pytest.raises(SupersededError):
            refused()
    assert ledger.end_attempt(batch.id, older, BatchStatus.failed, WHY) == now
    assert ledger.get(batch.id) == now


def test_an_attempt_changes_nothing_after_the_end_of_its_batch(ledger: Ledger) -> None:
    batch = ledger.begin_attempt(_arrived(ledger).id, "ended")
    ended = ledger.end(batch.id, BatchStatus.failed, WHY)
    with pytest.raises(SupersededError):
        ledger.update(batch.id, "ended", checksum="x")
    with pytest.raises(SupersededError):
        ledger.check_live(batch.id, "ended")
    with pytest.raises(StateError):
        ledger.transition(batch.id, "ended", BatchStatus.processing)
    assert ledger.end(batch.id, BatchStatus.timed_out, WHY) == ended == ledger.get(batch.id)


def test_a_validated_batch_of_a_lost_attempt_is_queued_by_the_next_attempt(ledger: Ledger) -> None:
    batch = ledger.begin_attempt(_arrived(ledger).id, "lost")
    with ledger.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE batches SET phases = jsonb_set(phases, '{1,status}', '\"completed\"') WHERE id = %s", (batch.id,)
        )
    assert ledger.begin_attempt(batch.id, "found").status == "queued"
    assert ledger.history(batch.id)[-1][:2] == ("requested", "queued")


@pytest.mark.parametrize(("validation", "status"), [("running", "requested"), ("completed", "queued")])
def test_a_requested_rerun_sets_the_status_at_once(ledger: Ledger, validation: str, status: str) -> None:
    batch = ledger.begin_attempt(_arrived(ledger).id, f"first {validation}")
    phase = replace(batch.phase(PhaseName.validation), status=PhaseStatus(validation))
    ledger.update_phase(batch.id, str(batch.run_id), phase)
    ledger.end(batch.id, BatchStatus.failed, WHY)
    again = ledger.request_rerun(batch.id, Starter.launcher)
    assert (again.status, again.reason, again.awaits_run) == (status, None, Starter.launcher)
    assert {phase.status for phase in again.phases} <= {PhaseStatus.pending, PhaseStatus.completed}
    assert ledger.history(batch.id)[-1][:2] == ("failed", status)


def test_ending_a_batch_revokes_its_turn(ledger: Ledger) -> None:
    batch = ledger.begin_attempt(_arrived(ledger).id, "holder")
    with ledger.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO turns (organization_id, resource, fence, holder) VALUES ('default', 'contact', 7, %s)",
            (batch.id,),
        )
    ledger.end(batch.id, BatchStatus.failed, WHY)
    with ledger.engine.connect() as connection:
        row = connection.exec_driver_sql("SELECT fence, holder FROM turns").one()
    assert tuple(row) == (8, None)


def _retried(ledger: Ledger, batch: Batch) -> None:
    ledger.begin_attempt(batch.id, f"{batch.id}/0")
    ledger.end(batch.id, BatchStatus.failed, WHY)
    ledger.request_rerun(batch.id, Starter.launcher)


def _gave_way(ledger: Ledger, batch: Batch) -> None:
    ledger.begin_attempt(batch.id, f"{batch.id}/0")
    ledger.yield_slot(batch.id, f"{batch.id}/0")


def _begun(ledger: Ledger, batch: Batch) -> None:
    ledger.begin_attempt(batch.id, f"{batch.id}/0")


@pytest.mark.parametrize("go_on", [_retried, _gave_way, _begun])
@pytest.mark.parametrize("is_rerun", [False, True])
def test_reconciling_ends_a_batch_only_while_it_awaits_the_run_it_saw(
    ledger: Ledger, go_on: Callable[[Ledger, Batch], None], is_rerun: bool
) -> None:
    seen = _create(ledger, key="k", starter=Starter.launcher)
    if is_rerun:
        ledger.end(seen.id, BatchStatus.failed, WHY)
        seen = ledger.request_rerun(seen.id, Starter.launcher)
    go_on(ledger, seen)
    now, history = ledger.get(seen.id), ledger.history(seen.id)
    assert ledger.end_if_unchanged(seen, BatchStatus.failed, WHY) == now == ledger.get(seen.id)
    assert ledger.history(seen.id) == history
    ended = ledger.end_if_unchanged(now, BatchStatus.failed, WHY)
    assert (ended.status, ended.awaits_run) == ("failed", None)


# ---- any sequence ----------------------------------------------------------------------------------------------


class AnySequence(RuleBasedStateMachine):
    """Whatever is asked of one batch in whatever order, its history is a path of the state machine."""

    ledger: Ledger

    def __init__(self) -> None:
        super().__init__()
        self.batch = _create(self.ledger)
        self.runs = 0
        self.reruns = 0  # automatic ones since somebody last requested a run
        self.deaths: dict[str, set[str]] = defaultdict(set)  # runs whose worker was lost, by phase

    @property
    def now(self) -> Batch:
        return self.ledger.get(self.batch.id)

    @rule()
    def arrive(self) -> None:
        _attach(self.ledger, self.batch)

    @rule()
    def begin(self) -> None:
        before = self.now
        run_id = f"{self.batch.id}/{self.runs}"
        self.runs += 1
        try:
            after = self.ledger.begin_attempt(self.batch.id, run_id)
        except StateError:
            assert before.status == "expired"
            assert self.now == before
        else:
            assert (after.attempts, after.run_id) == (before.attempts + 1, run_id)
            self.reruns = 0 if before.status in RERUNNABLE else self.reruns
            assert after.status == "completed" or after.status not in FINAL
            assert not any(phase.status in ("running", "failed") for phase in after.phases)

    @precondition(lambda self: self.now.run_id is not None)
    @rule(after=st.sampled_from(sorted(BatchStatus)))
    def move(self, after: BatchStatus) -> None:
        before = self.now
        try:
            check_transition(before.id, before.status, after)
        except StateError:
            allowed = before.status == after
        else:
            allowed = before.status not in AT_REST
        plan: dict[str, Any] = {"plan": {"digest": "0" * 64}} if after is BatchStatus.planned else {}
        try:
            self.ledger.transition(before.id, str(before.run_id), after, **plan)
        except (StateError, SupersededError):
            assert not allowed
            assert self.now == before
        else:
            assert allowed
            assert self.now.status == after

    @precondition(lambda self: self.now.run_id is not None)
    @rule(name=st.sampled_from(sorted(PhaseName)), status=st.sampled_from(sorted(PhaseStatus)))
    def progress(self, name: PhaseName, status: PhaseStatus) -> None:
        before = self.now
        phase = replace(before.phase(name), status=status, success=1)
        try:
            self.ledger.update_phase(before.id, str(before.run_id), phase)
        except SupersededError:
            assert before.status in AT_REST
            assert self.now == before
        else:
            assert self.now.phase(name) == phase

    @rule(status=st.sampled_from([BatchStatus.failed, BatchStatus.timed_out, BatchStatus.expired]))
    def end(self, status: BatchStatus) -> None:
        before = self.now
        try:
            after = self.ledger.end(before.id, status, WHY)
        except StateError:
            assert status not in TRANSITIONS[before.status]
            return
        assert after.status == (before.status if before.status in FINAL else status)
        assert after.awaits_run is None
        assert not any(phase.status == "running" for phase in after.phases) or before.status in FINAL

    @rule(code=st.sampled_from(sorted(TRANSIENT_CODES)))
    def lose(self, code: str) -> None:
        before = self.now
        phase = next((phase.name for phase in before.phases if phase.status == "running"), None)
        after = self.ledger.end(before.id, BatchStatus.failed, Reason(code, "It was lost."))
        if before.status in FINAL:
            assert after == before
            return
        too_many_deaths = False
        if code == "worker_lost" and phase is not None and before.arrival is not None:
            self.deaths[phase].add(str(before.run_id))
            too_many_deaths = len(self.deaths[phase]) >= DEATHS_AT_ONE_PLACE
        runs_again = before.arrival is not None and self.reruns < RERUNS and not too_many_deaths
        assert (after.next_attempt_at is not None) == runs_again
        assert after.reason is not None
        assert ("does not run again" in after.reason.message) == too_many_deaths

    @rule()
    def let_the_pause_pass(self) -> None:
        before = self.now
        with self.ledger.engine.begin() as connection:
            due = "UPDATE batches SET next_attempt_at = now() WHERE id = %s AND next_attempt_at IS NOT NULL"
            connection.exec_driver_sql(due, (before.id,))
        requested = [batch for batch in request_due_reruns(self.ledger.engine, 10) if batch.id == before.id]
        if before.next_attempt_at is None:
            assert requested == []
            assert self.now == before
            return
        assert requested == [self.now]
        self.reruns += 1
        assert (self.now.awaits_run, self.now.reruns, self.now.next_attempt_at) == ("launcher", self.reruns, None)
        assert self.now.status in TRANSITIONS[before.status]
        assert (self.now.arrival or 0) > (before.arrival or 0)

    @rule()
    def give_up(self) -> None:
        before = self.now
        after = self.ledger.cancel_rerun(before.id, WHY)
        if before.next_attempt_at is None:
            assert after == before == self.now
        else:
            assert (after.status, after.reason, after.next_attempt_at) == ("failed", WHY, None)

    @rule(if_changed=st.sampled_from(sorted(IfChanged)))
    def apply(self, if_changed: IfChanged) -> None:
        before = self.now
        try:
            after = self.ledger.request_apply(before.id, Starter.launcher, if_changed=if_changed)
        except StateError:
            assert before.status is not BatchStatus.planned
            assert self.now == before
        else:
            assert (before.status, after.status) == ("planned", "queued")
            assert (after.awaits_run, after.if_changed, after.first_arrival) == ("launcher", if_changed, after.arrival)
            assert (after.arrival or 0) > (before.arrival or 0)
            assert after.arrived_at == before.arrived_at  # new ids are made of it

    @rule()
    def ask_for_rerun(self) -> None:
        before = self.now
        try:
            after = self.ledger.request_rerun(before.id, Starter.launcher)
        except StateError:
            assert before.status not in RERUNNABLE or before.arrival is None
        else:
            assert (after.awaits_run, after.reason) == ("launcher", None)
            self.reruns = 0
            assert after.status in TRANSITIONS[before.status]
            assert not any(phase.status in ("running", "failed") for phase in after.phases)
            assert (after.arrival or 0) > (before.arrival or 0)
            assert after.arrived_at == before.arrived_at  # new ids are made of it

    @invariant()
    def history_is_a_path_to_where_it_is(self) -> None:
        history = self.ledger.history(self.batch.id)
        assert history[0][:2] == (None, "requested")
        assert history[-1][1] == self.now.status
        for earlier, later in pairwise(history):
            assert later[0] == earlier[1]
            assert later[1] in TRANSITIONS[BatchStatus(earlier[1])]
            assert later[2] >= earlier[2]

    @invariant()
    def a_reason_is_given_for_every_bad_end(self) -> None:
        now = self.now
        assert now.reason is None or now.status in FINAL

    @invariant()
    def only_a_failed_batch_runs_again_by_itself(self) -> None:
        now = self.now
        if now.next_attempt_at is not None:
            assert (now.status, now.awaits_run) == ("failed", None)
            assert now.reason is not None
            assert now.reason.code in TRANSIENT_CODES
        assert now.reruns == self.reruns <= RERUNS


def test_any_sequence_of_calls_follows_the_state_machine(ledger: Ledger) -> None:
    reruns = Reruns(RERUNS, pause_seconds=3600)  # a rule lets it pass
    machine = type("AnySequenceHere", (AnySequence,), {"ledger": Ledger(ledger.engine, reruns)})
    run_state_machine_as_test(
        machine,
        settings=settings(max_examples=20, stateful_step_count=20, suppress_health_check=list(HealthCheck)),
    )
