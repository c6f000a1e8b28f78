"""The ledger: one state machine, attempts that supersede each other, and payloads that arrive once."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest
from batch_runs import accepted

from batch_pipeline.batches.accept import ArrivedPayload, attach_payload, release_source
from batch_pipeline.batches.ledger import Ledger
from batch_pipeline.batches.model import Batch, PhaseName, PhaseStatus, Starter
from batch_pipeline.batches.states import FINAL, RERUNNABLE, TRANSITIONS, BatchStatus, Reason
from batch_pipeline.database import create_engine
from batch_pipeline.errors import NotFoundError, StateError, SupersededError

WHY = Reason("test", "The test says so.")


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


def test_a_cancelled_attempt_that_has_not_seen_it_changes_nothing_once_another_is_requested(ledger: Ledger) -> None:
    batch = ledger.begin_attempt(_arrived(ledger).id, "cancelled")
    ledger.update_phase(batch.id, "cancelled", replace(batch.phase(PhaseName.validation), status=PhaseStatus.completed))
    ledger.end(batch.id, BatchStatus.failed, WHY)
    requested = ledger.request_rerun(batch.id, Starter.launcher)
    for refused in (
        lambda: ledger.check_live(batch.id, "cancelled"),
        lambda: ledger.update(batch.id, "cancelled", checksum="x"),
        lambda: ledger.transition(batch.id, "cancelled", BatchStatus.processing),
    ):
        with pytest.raises(SupersededError, match="is requested"):
            refused()
    assert ledger.end_attempt(batch.id, "cancelled", BatchStatus.failed, WHY) == requested == ledger.get(batch.id)
    assert ledger.begin_attempt(batch.id, "second").attempts == 2


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
