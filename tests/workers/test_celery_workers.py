"""Runs on Celery workers: many batches, large ones on several, killed workers, a Redis that restarts or forgets.

The system and each worker take seconds to start. So all tests share them, in an order in which few workers start anew.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from batch_runs import Row, arrived, as_csv, contacts, new_organization, reasons, records
from change_logs import logged
from crew import PROCESSES, Crew, Worker
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter
from dagster._core.launcher import WorkerStatus
from examples import examples
from large_batches import (
    ITEMS,
    contact_rows,
    group_rows,
    large_batch,
    left_behind,
    run_alone,
    very_slow_rows,
    writers_of,
)
from passing_time import age_runs, eventually_reconciled
from waiting import eventually

from batch_pipeline.batches.locks import TURN
from batch_pipeline.batches.model import Batch, Starter
from batch_pipeline.batches.states import FINAL, BatchStatus
from batch_pipeline.orchestration import tags
from batch_pipeline.orchestration.celery_app import tasks_in_broker
from batch_pipeline.orchestration.celery_launcher import CeleryLauncher
from batch_pipeline.orchestration.instance import open_instance
from batch_pipeline.orchestration.reconciling import cancel_batch
from batch_pipeline.system import System

pytestmark = pytest.mark.timeout(900)
MANY = examples(18, thorough=200)  # 200 take two minutes on two idle cores
ORGANIZATIONS = 5


def sent(system: System, organization: str, number: int = 0, **options: object) -> Batch:
    """A batch that changes the contact of all batches and creates one of its own."""
    rows = [{"external_id": "shared", "name": f"Batch {number}"}, {"external_id": f"own-{number}", "name": "Own"}]
    return arrived(system, organization, as_csv(rows), starter=Starter.launcher, **options)


def run_of_id(instance: DagsterInstance, run_id: str) -> DagsterRun:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run


def run_of(instance: DagsterInstance, batch: Batch) -> DagsterRun:
    return run_of_id(instance, batch.run_id or "")


@contextmanager
def turn_held(system: System, organization: str) -> Iterator[None]:
    """The organization's batches of contacts wait for their turn."""
    with psycopg.connect(system.database_url, autocommit=True) as connection:
        name = f"{TURN}{organization}/contact"
        connection.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", (name,))
        yield


def waiting_in_a_worker(crew: Crew, organization: str) -> Batch:
    batch = sent(crew.system, organization)
    return eventually(lambda: (now := crew.batch(batch)).status is BatchStatus.queued and now)


def gave_way(system: System, batch_ids: set[str]) -> set[str]:
    """Those of which a run ended to free its slot for a batch before them that had no run."""
    with open_instance() as instance:
        return {
            batch_id
            for batch_id in batch_ids
            for run_id in system.ledger.attempts_at(batch_id)
            if "gave_way" in str(instance.get_records_for_run(run_id).records)
        }


def worker_of(crew: Crew, batch: Batch) -> Worker:
    return next(worker for worker in crew.workers if worker.is_executing(batch.run_id))


def has_ended(crew: Crew, batch: Batch) -> Batch | None:
    """The batch, once it has ended and does not run again by itself."""
    now = crew.batch(batch)
    return now if now.status in FINAL and now.next_attempt_at is None else None


def test_a_batch_on_several_workers_leaves_what_it_leaves_on_one(crew: Crew) -> None:
    system = crew.system
    alone, together = new_organization(system), new_organization(system)
    crew.have(2)
    members: list[Row] = [{"external_id": f"m-{place}", "name": f"Member {place}"} for place in range(50)]
    for organization in (alone, together):
        run_alone(system, organization, members)
    for resource, rows in (
        ("contact", contact_rows(version=1)),
        ("contact", contact_rows(version=2)),
        ("group", group_rows()),
    ):
        sent_batch = large_batch(system, together, rows, resource, slow_seconds=0.06)
        batch = eventually(lambda sent_batch=sent_batch: has_ended(crew, sent_batch))
        one = run_alone(system, alone, rows, resource)
        assert (batch.status, batch.reason) == (one.status, one.reason) == (BatchStatus.completed, None)
        assert left_behind(system, batch, f"{resource}s") == left_behind(system, one, f"{resource}s")
        assert len(writers_of(system, batch)) > 1 == len(writers_of(system, one))
        assert batch.attempts == 1


def test_many_batches_survive_killed_workers_and_restarts_of_redis_and_the_daemon(crew: Crew) -> None:
    system = crew.system
    organizations = [new_organization(system) for _ in range(ORGANIZATIONS)]
    batches = [sent(system, organizations[number % ORGANIZATIONS], number) for number in range(MANY)]
    first, _ = crew.have(2)

    def ended() -> int:
        return crew.count(batches, *FINAL)

    eventually(lambda: ended() >= MANY // 6)
    lost = eventually(lambda: crew.stopped_in_the_middle(first))
    first.kill()
    crew.have(2)
    crew.redis.kill()
    crew.redis.start()
    eventually(lambda: ended() >= MANY // 2)
    crew.restart_daemon()

    eventually(  # by the daemon's own time
        lambda: all((now := crew.batch(batch)).status in FINAL or now.attempts > batch.attempts for batch in lost),
        seconds=60.0,
    )
    eventually(
        lambda: crew.count(batches, BatchStatus.completed) == MANY,
        seconds=60.0 + 4.0 * MANY,
    )
    failures = {reason for batch in batches for reason in reasons(system, batch)}
    assert failures <= {"worker_lost", "never_started"}  # it may be killed before its first step
    repeated = {batch.id for batch in batches if crew.batch(batch).attempts > 1}
    not_lost = repeated - {batch.id for batch in lost}
    assert gave_way(system, not_lost) == not_lost
    for organization in organizations:
        own = [crew.batch(batch) for batch in batches if batch.organization_id == organization]
        stored = {row["external_id"]: row["id"] for row in contacts(system, organization)}
        assert set(stored) == {
            "shared",
            *(f"own-{batches.index(batch)}" for batch in batches if batch.organization_id == organization),
        }
        changes = [
            row for row in logged(system, organization, "contact_changes") if row["record_id"] == stored["shared"]
        ]
        wrote = [row["batch_id"] for row in changes]
        assert len(wrote) == len(set(wrote))
        # The log has no entry for the creation. A re-run, also of a batch that was killed before its first attempt,
        # arrives anew, and leaves what a newer batch has written.
        disturbed = repeated | {batch.id for batch in own if batch.arrival != batch.first_arrival}
        in_turn = [batch.id for batch in sorted(own, key=lambda batch: batch.arrival or 0) if batch.id not in disturbed]
        undisturbed = [batch_id for batch_id in wrote if batch_id not in disturbed]
        assert undisturbed in (in_turn, in_turn[1:])


def in_the_middle(crew: Crew, rows: list[Row], *, processes: int) -> Batch:
    """A batch that so many processes are writing; no chunk or few of them are done."""
    system = crew.system
    batch = large_batch(system, new_organization(system), rows, slow_seconds=0.15)
    return eventually(lambda: len(writers_of(system, batch)) >= processes and crew.batch(batch))


def test_a_killed_helper_and_then_the_killed_worker_of_the_run_lose_and_double_nothing(crew: Crew) -> None:
    system = crew.system
    crew.have(2)
    begun = in_the_middle(crew, contact_rows(version=1), processes=3)
    owner, helper = sorted(crew.workers, key=lambda worker: not worker.is_executing(begun.run_id))
    assert f"Helps batch {begun.id} with processing" in helper.log.read_text()
    helper.kill()
    done = crew.batch(begun).phases[2].processed
    eventually(lambda: crew.batch(begun).phases[2].processed > done)
    assert crew.batch(begun).status is BatchStatus.processing
    owner.kill()
    crew.have(2)
    with open_instance() as instance:
        batch = eventually_reconciled(instance, lambda: has_ended(crew, begun))
    assert (batch.status, batch.attempts) == (BatchStatus.completed, 2)
    one = run_alone(system, new_organization(system), contact_rows(version=1))
    assert left_behind(system, batch, "contacts") == left_behind(system, one, "contacts")


def test_a_run_is_healthy_for_other_processes_until_its_worker_dies(crew: Crew) -> None:
    organization = new_organization(crew.system)
    crew.have(2)
    with turn_held(crew.system, organization), open_instance() as instance:
        batch = waiting_in_a_worker(crew, organization)
        run = run_of(instance, batch)
        launcher = CeleryLauncher.of(instance)
        assert launcher.check_run_worker_health(run).status is WorkerStatus.RUNNING
        worker_of(crew, batch).kill()
        assert launcher.check_run_worker_health(run).status is WorkerStatus.FAILED
        eventually_reconciled(instance, lambda: reasons(crew.system, batch) == ["worker_lost"])


@pytest.mark.parametrize("by", ["UI", "us"])
def test_a_cancelled_run_ends_in_its_worker_as_canceled(crew: Crew, by: str) -> None:
    organization = new_organization(crew.system)
    crew.have(1)
    with turn_held(crew.system, organization), open_instance() as instance:
        batch = waiting_in_a_worker(crew, organization)
        run = run_of(instance, batch)
        if by == "UI":
            assert crew.terminate(run.run_id) == "TerminateRunSuccess"
        else:
            cancel_batch(crew.system, instance, batch.id)
        eventually(lambda: run_of(instance, batch).status is DagsterRunStatus.CANCELED, seconds=20.0)
    ended = crew.batch(batch)
    assert ended.reason is not None
    assert (ended.status, ended.reason.code) == (BatchStatus.failed, "cancelled")


def test_a_worker_that_is_stopped_ends_its_batch_first_and_a_second_signal_cancels_it(crew: Crew) -> None:
    finished, cancelled = (new_organization(crew.system) for _ in range(2))
    crew.have(1)
    with turn_held(crew.system, finished):
        batch = waiting_in_a_worker(crew, finished)
        worker = worker_of(crew, batch)
        worker.process.send_signal(signal.SIGTERM)
        eventually(lambda: "A second signal cancels them" in worker.log.read_text())
    assert worker.process.wait(60.0) == 0
    assert crew.batch(batch).status is BatchStatus.completed
    crew.have(1)
    with turn_held(crew.system, cancelled):
        batch = waiting_in_a_worker(crew, cancelled)
        worker = worker_of(crew, batch)
        for _ in range(2):
            worker.process.send_signal(signal.SIGTERM)
            eventually(lambda: "A second signal cancels them" in worker.log.read_text())
        assert worker.process.wait(60.0) == 0
    ended = crew.batch(batch)
    assert ended.reason is not None
    assert ended.reason.code == "cancelled"


def waits_for_a_worker(instance: DagsterInstance, batch: Batch) -> DagsterRun | None:
    runs = instance.get_runs(RunsFilter(tags={tags.BATCH_ID: batch.id}, statuses=[DagsterRunStatus.STARTING]))
    return runs[0] if runs else None


def test_a_task_that_redis_could_not_take_or_forgot_is_sent_again_and_that_of_a_cancelled_run_does_nothing(
    crew: Crew,
) -> None:
    crew.stop()
    crew.redis.kill()
    system = crew.system
    batch = sent(system, new_organization(system))
    with open_instance() as instance:
        run = eventually(lambda: waits_for_a_worker(instance, batch))
        waits = "The broker can't be reached"
        eventually(lambda: any(waits in (event.message or "") for event in instance.all_logs(run.run_id)))
        age_runs(system.database_url, DagsterRunStatus.STARTING)
        crew.redis.start()
        broker = CeleryLauncher.of(instance).celery
        eventually_reconciled(instance, lambda: run.run_id in tasks_in_broker(broker))
        crew.redis.forget_everything()
        eventually_reconciled(instance, lambda: run.run_id in tasks_in_broker(broker))

        cancelled = sent(system, new_organization(system))
        cancelled_run = eventually(lambda: waits_for_a_worker(instance, cancelled))
        cancel_batch(system, instance, cancelled.id)
        assert run_of_id(instance, cancelled_run.run_id).status is DagsterRunStatus.CANCELED
        assert crew.batch(cancelled).status is BatchStatus.failed
    (worker,) = crew.have(1)
    ended = eventually(lambda: (now := crew.batch(batch)).status in FINAL and now)
    assert (ended.status, ended.attempts) == (BatchStatus.completed, 1)
    eventually(lambda: f"[{cancelled_run.run_id}] succeeded" in worker.log.read_text())
    assert crew.batch(cancelled).attempts == 0


def test_helpers_leave_for_a_run_that_waits_come_back_and_stop_with_a_cancelled_batch(crew: Crew) -> None:
    worker = crew.only_one()
    begun = in_the_middle(crew, very_slow_rows(), processes=PROCESSES)
    helps, leaves = f"Helps batch {begun.id} with processing", f"Leaves batch {begun.id}"
    small = large_batch(crew.system, new_organization(crew.system), contact_rows(version=1)[:3])
    assert eventually(lambda: has_ended(crew, small)).status is BatchStatus.completed
    assert crew.batch(begun).status is BatchStatus.processing
    log = worker.log.read_text()
    assert leaves in log
    eventually(lambda: worker.log.read_text().count(helps) > log.count(leaves))
    with open_instance() as instance:
        cancelled = cancel_batch(crew.system, instance, begun.id)
    assert cancelled.reason is not None
    assert cancelled.reason.code == "cancelled"
    eventually(lambda: f"Helps batch {begun.id} no more" in worker.log.read_text(), seconds=20.0)
    written = records(crew.system, str(begun.organization_id), "contacts")
    assert len(written) == crew.batch(begun).phases[2].success < ITEMS
