"""Any sequence of calls keeps the ledger within its state machine."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from batch_runs import accepted
from examples import examples
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from batch_pipeline.batches.accept import ArrivedPayload, attach_payload
from batch_pipeline.batches.ledger import Ledger
from batch_pipeline.batches.model import Batch, IfChanged, PhaseName, PhaseStatus, Starter
from batch_pipeline.batches.reruns import DEATHS_AT_ONE_PLACE, TRANSIENT_CODES, Reruns, request_due_reruns
from batch_pipeline.batches.states import AT_REST, FINAL, RERUNNABLE, TRANSITIONS, BatchStatus, Reason, check_transition
from batch_pipeline.database import create_engine
from batch_pipeline.errors import StateError, SupersededError

WHY = Reason("test", "The test says so.")
RERUNS = 2


@pytest.fixture(scope="module")
def ledger(module_database_url: str) -> Iterator[Ledger]:
    engine = create_engine(module_database_url)
    yield Ledger(engine)
    engine.dispose()


class AnySequence(RuleBasedStateMachine):
    """Whatever is asked of one batch in whatever order, its history is a path of the state machine."""

    ledger: Ledger

    def __init__(self) -> None:
        super().__init__()
        self.batch = accepted(self.ledger.engine, "default")
        self.runs = 0
        self.reruns = 0  # automatic ones since somebody last requested a run
        self.deaths: dict[str, set[str]] = defaultdict(set)  # runs whose worker was lost, by phase

    @property
    def now(self) -> Batch:
        return self.ledger.get(self.batch.id)

    @rule()
    def arrive(self) -> None:
        attach_payload(self.ledger.engine, self.batch.id, ArrivedPayload("k", saved=True, starter=Starter.launcher))

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
        allowed &= before.awaits_run is None  # else another run is requested
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
            assert before.status in AT_REST or before.awaits_run is not None
            assert self.now == before
        else:
            assert before.awaits_run is None
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
        settings=settings(
            max_examples=examples(10, thorough=200), stateful_step_count=20, suppress_health_check=list(HealthCheck)
        ),
    )
