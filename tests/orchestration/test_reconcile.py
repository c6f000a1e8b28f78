"""Ledger and Dagster are made to agree when a run's process, or Dagster's record of it, is gone."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait

import psycopg
import pytest
from batch_runs import accepted, arrived, as_csv, contacts, new_organization, run_of
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus
from driving import run_attempt
from waiting import eventually

from batch_pipeline.batches.locks import Ownership, run_owner, run_task
from batch_pipeline.batches.model import Batch, Starter
from batch_pipeline.batches.queries import running_batches
from batch_pipeline.batches.states import BatchStatus, Reason
from batch_pipeline.definitions import defs
from batch_pipeline.errors import SupersededError
from batch_pipeline.intake.inbox import take_in
from batch_pipeline.loading.chunks import Chunk, ChunkOutcome, ChunkWriter
from batch_pipeline.orchestration import tags
from batch_pipeline.orchestration.execute import execute_batch
from batch_pipeline.orchestration.reconciling import reconcile
from batch_pipeline.system import System

WAIT_SECONDS = 60.0  # for what comes at once on a machine that isn't overloaded


@pytest.fixture(scope="module")
def system_settings() -> dict[str, str]:
    return {"BATCH_CHUNK_ROWS": "10", "BATCH_DATABASE_WRITERS": "1"}


@pytest.fixture
def waiting(system: System) -> Batch:
    """A batch that awaits its caller's run."""
    return arrived(system, new_organization(system), as_csv([{"name": "Ada"}]))


def _status(instance: DagsterInstance, run: DagsterRun) -> DagsterRunStatus:
    found = instance.get_run_by_id(run.run_id)
    assert found is not None
    return found.status


def _a_while_ago(system: System, batch: Batch) -> None:
    """As if the batch had awaited its run for two minutes already."""
    with psycopg.connect(system.database_url) as connection:
        connection.execute("UPDATE batches SET updated_at = updated_at - interval '2 min' WHERE id = %s", (batch.id,))


def test_reconciling_ignores_a_batch_with_a_live_owner(
    system: System, instance: DagsterInstance, waiting: Batch
) -> None:
    run = run_of(instance, waiting, DagsterRunStatus.STARTED)
    with Ownership(system.engine) as ownership:
        ownership.take(waiting.id)
        begun = system.ledger.begin_attempt(waiting.id, run.run_id)
        assert reconcile(system, instance) == []
        assert system.ledger.get(waiting.id) == begun
    assert [batch.id for batch in reconcile(system, instance)] == [waiting.id]


@pytest.mark.parametrize(
    "ending",
    [
        (DagsterRunStatus.STARTED, "worker_lost", DagsterRunStatus.FAILURE),
        (DagsterRunStatus.FAILURE, "worker_lost", DagsterRunStatus.FAILURE),
        (DagsterRunStatus.CANCELED, "cancelled", DagsterRunStatus.CANCELED),
        (DagsterRunStatus.CANCELING, "cancelled", DagsterRunStatus.CANCELED),
    ],
)
def test_reconciling_ends_a_batch_without_a_worker_and_its_run(
    system: System,
    instance: DagsterInstance,
    waiting: Batch,
    ending: tuple[DagsterRunStatus, str, DagsterRunStatus],
) -> None:
    before, code, after = ending
    run = run_of(instance, waiting, before)
    system.ledger.begin_attempt(waiting.id, run.run_id)
    (ended,) = reconcile(system, instance)
    assert ended.status == "failed"
    assert ended.reason is not None
    assert ended.reason.code == code
    found = instance.get_run_by_id(run.run_id)
    assert found is not None
    assert found.status is after
    assert reconcile(system, instance) == []


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (DagsterRunStatus.CANCELED, "cancelled"),
        (DagsterRunStatus.CANCELING, "cancelled"),
        (DagsterRunStatus.FAILURE, "run_failed"),
        (None, "run_deleted"),
    ],
)
def test_a_batch_of_a_run_that_ended_only_in_dagster_ends_and_its_worker_can_not_write(
    system: System, instance: DagsterInstance, waiting: Batch, status: DagsterRunStatus | None, code: str
) -> None:
    """In Dagster's UI a run can be marked canceled without being terminated, or deleted while it goes on."""
    run = run_of(instance, waiting, status or DagsterRunStatus.STARTED)
    if status is None:
        instance.delete_run(run.run_id)
    with Ownership(system.engine) as ownership:
        ownership.take(waiting.id)
        system.ledger.begin_attempt(waiting.id, run.run_id)
        (ended,) = reconcile(system, instance)
        assert ended.reason is not None
        assert (ended.status, ended.reason.code) == ("failed", code)
        with pytest.raises(SupersededError):
            system.ledger.check_live(waiting.id, run.run_id)
        assert reconcile(system, instance) == []
    done = execute_batch(system, instance, system.ledger.request_rerun(waiting.id, Starter.caller))
    assert (done.status, done.attempts) == ("completed", 2)


@pytest.mark.parametrize("way", ["canceled", "deleted"])
def test_a_run_that_ended_only_in_dagster_stops_at_its_next_chunk(
    system: System, instance: DagsterInstance, held_chunk: "HeldChunk", way: str
) -> None:
    organization_id = new_organization(system)
    batch = arrived(system, organization_id, as_csv([{"external_id": f"x{n}", "name": "slow"} for n in range(40)]))
    held_chunk.batch_id = batch.id
    with ThreadPoolExecutor(1) as other:
        running = other.submit(execute_batch, system, instance, batch)
        assert held_chunk.reached.wait(WAIT_SECONDS)
        run = instance.get_run_by_id(str(system.ledger.get(batch.id).run_id))
        assert run is not None
        if way == "canceled":
            instance.report_run_canceled(run)
        else:
            instance.delete_run(run.run_id)
        (ended,) = reconcile(system, instance)
        held_chunk.go_on.set()
        if way == "canceled":
            assert running.result(WAIT_SECONDS) == ended
        else:  # Dagster itself has no words for a run that it no longer knows
            assert wait([running], WAIT_SECONDS).done
    assert ended.reason is not None
    assert ended.reason.code == {"canceled": "cancelled", "deleted": "run_deleted"}[way]
    assert system.ledger.get(batch.id) == ended
    assert len(contacts(system, organization_id)) == 10
    held_chunk.batch_id = ""
    done = execute_batch(system, instance, system.ledger.request_rerun(batch.id, Starter.caller))
    assert (done.status, done.stats.created) == ("completed", 40)


@pytest.mark.parametrize(
    ("status", "before", "after"),
    [
        ("completed", DagsterRunStatus.STARTED, DagsterRunStatus.SUCCESS),
        ("failed", DagsterRunStatus.STARTED, DagsterRunStatus.FAILURE),
        ("failed", DagsterRunStatus.CANCELING, DagsterRunStatus.CANCELED),
        ("cancelled", DagsterRunStatus.STARTED, DagsterRunStatus.CANCELED),
    ],
)
def test_a_run_that_died_after_the_end_of_its_batch_ends_like_the_batch(
    system: System,
    instance: DagsterInstance,
    *,
    waiting: Batch,
    status: str,
    before: DagsterRunStatus,
    after: DagsterRunStatus,
) -> None:
    run = run_of(instance, waiting, before)
    with Ownership(system.engine) as ownership:
        ownership.take(waiting.id)
        system.ledger.begin_attempt(waiting.id, run.run_id)
        if status == "completed":
            for place in (BatchStatus.queued, BatchStatus.processing, BatchStatus.completed):
                system.ledger.transition(waiting.id, run.run_id, place)
        else:
            code = "cancelled" if status == "cancelled" else "no_valid_items"
            system.ledger.end(waiting.id, BatchStatus.failed, Reason(code, "It ended."))
        ended = system.ledger.get(waiting.id)
        assert reconcile(system, instance) == []
        assert _status(instance, run) is before  # its process may be about to say so
    assert reconcile(system, instance) == []
    assert _status(instance, run) is after
    assert system.ledger.get(waiting.id) == ended
    found = instance.get_run_by_id(run.run_id)
    assert found is not None
    assert (tags.OUTCOME in found.tags) is (status == "completed")


def test_the_run_of_a_superseded_attempt_ends_in_dagster(
    system: System, instance: DagsterInstance, waiting: Batch
) -> None:
    first, second = (run_of(instance, waiting, DagsterRunStatus.STARTED) for _ in range(2))
    for run in (first, second):
        system.ledger.begin_attempt(waiting.id, run.run_id)
    assert [batch.run_id for batch in reconcile(system, instance)] == [second.run_id]
    assert [_status(instance, run) for run in (first, second)] == [DagsterRunStatus.FAILURE] * 2


def test_reconciling_ignores_a_batch_that_requests_another_run_meanwhile(
    system: System, instance: DagsterInstance, waiting: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gives way, and its run ends, just after reconciling has listed it."""
    run = run_of(instance, waiting, DagsterRunStatus.STARTED)
    system.ledger.begin_attempt(waiting.id, run.run_id)
    listed = running_batches(system.engine)
    monkeypatch.setattr("batch_pipeline.orchestration.reconciling.running_batches", lambda _: listed)
    system.ledger.yield_slot(waiting.id, run.run_id)
    assert reconcile(system, instance) == []
    instance.report_run_failed(run)
    with Ownership(system.engine) as ownership:
        ownership.take(waiting.id)
        assert reconcile(system, instance) == []
    now = system.ledger.get(waiting.id)
    assert (now.status, now.awaits_run) == ("requested", Starter.launcher)


def test_a_batch_with_a_deleted_run_fails_and_can_be_retried(
    system: System, instance: DagsterInstance, waiting: Batch
) -> None:
    run = run_of(instance, waiting, DagsterRunStatus.STARTED)
    system.ledger.begin_attempt(waiting.id, run.run_id)
    instance.delete_run(run.run_id)
    (ended,) = reconcile(system, instance)
    assert ended.reason is not None
    assert ended.reason.code == "run_deleted"
    done = execute_batch(system, instance, system.ledger.request_rerun(waiting.id, Starter.caller))
    assert (done.status, done.attempts) == ("completed", 2)


def test_a_batch_fails_and_can_be_retried_if_its_caller_never_began_the_run(
    system: System, instance: DagsterInstance, waiting: Batch
) -> None:
    assert reconcile(system, instance) == []  # its caller may be about to
    _a_while_ago(system, waiting)
    (ended,) = reconcile(system, instance)
    assert ended.reason is not None
    assert (ended.status, ended.reason.code, ended.awaits_run) == ("failed", "never_started", None)
    done = execute_batch(system, instance, system.ledger.request_rerun(waiting.id, Starter.caller))
    assert done.status == "completed"


def test_reconciling_ends_a_retry_that_never_began(system: System, instance: DagsterInstance, waiting: Batch) -> None:
    _a_while_ago(system, waiting)
    (failed,) = reconcile(system, instance)
    _a_while_ago(system, system.ledger.request_rerun(waiting.id, Starter.caller))
    (withdrawn,) = reconcile(system, instance)
    assert (withdrawn.status, withdrawn.reason, withdrawn.awaits_run) == ("failed", failed.reason, None)
    assert reconcile(system, instance) == []


@pytest.fixture
def held_chunk(monkeypatch: pytest.MonkeyPatch) -> Iterator["HeldChunk"]:
    held = HeldChunk()
    write = ChunkWriter.write

    def wait_then_write(writer: ChunkWriter, chunk: Chunk) -> ChunkOutcome | None:
        if (writer._turn.batch_id, chunk.number) == (held.batch_id, 1):
            held.reached.set()
            assert held.go_on.wait(WAIT_SECONDS)
        return write(writer, chunk)

    monkeypatch.setattr(ChunkWriter, "write", wait_then_write)
    yield held
    held.go_on.set()


class HeldChunk:
    """Holds up a batch before its second chunk."""

    def __init__(self) -> None:
        self.batch_id = ""
        self.reached = threading.Event()
        self.go_on = threading.Event()


def test_a_run_presumed_dead_writes_nothing_after_its_successor(
    system: System, instance: DagsterInstance, held_chunk: HeldChunk
) -> None:
    """Its connections with the locks are lost, so it seems dead, but it goes on."""
    organization_id = new_organization(system)
    slow = arrived(
        system, organization_id, as_csv([{"external_id": f"x{n}", "name": "slow", "notes": "slow"} for n in range(30)])
    )
    held_chunk.batch_id = slow.id
    with ThreadPoolExecutor(1) as other:
        running = other.submit(execute_batch, system, instance, slow)
        assert held_chunk.reached.wait(WAIT_SECONDS)
        with psycopg.connect(system.database_url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND database ="
                " (SELECT oid FROM pg_database WHERE datname = current_database())"
            )
        ended = eventually(lambda: reconcile(system, instance))
        assert [(batch.id, batch.reason and batch.reason.code) for batch in ended] == [(slow.id, "worker_lost")]
        # Without Dagster: two of its runs in one process can block each other, by its configuration of logging.
        newer = as_csv([{"external_id": f"x{n}", "name": "next"} for n in range(30)])
        successor = run_attempt(system, arrived(system, organization_id, newer))
        assert successor.status == "completed"
        assert (successor.stats.created, successor.stats.updated) == (20, 10)
        after_successor = contacts(system, organization_id)
        held_chunk.go_on.set()
        late = running.result(WAIT_SECONDS)
    assert late.reason is not None
    assert (late.status, late.reason.code) == ("failed", "worker_lost")
    assert contacts(system, organization_id) == after_successor
    assert {record["name"] for record in after_successor} == {"next"}


# ---- runs that died before their first step, and batches of earlier releases ---------------------------------------


def _started_a_while_ago(system: System, run: DagsterRun) -> None:
    with psycopg.connect(system.database_url) as connection:
        connection.execute(
            "UPDATE dagster.runs SET update_timestamp = update_timestamp - interval '3 min' WHERE run_id = %s",
            (run.run_id,),
        )


@pytest.mark.parametrize("status", [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING])
@pytest.mark.parametrize("starter", list(Starter))
def test_reconciling_ends_a_run_that_died_before_its_first_step_and_its_batch(
    system: System, instance: DagsterInstance, status: DagsterRunStatus, starter: Starter
) -> None:
    batch = arrived(system, new_organization(system), as_csv([{"name": "Ada"}]), starter=starter)
    run = run_of(instance, batch, status)
    assert reconcile(system, instance) == []
    _started_a_while_ago(system, run)
    (ended,) = reconcile(system, instance)
    was_cancelled = status is DagsterRunStatus.CANCELING
    assert ended.reason is not None
    assert (ended.id, ended.status, ended.reason.code) == (
        batch.id,
        "failed",
        "cancelled" if was_cancelled else "never_started",
    )
    assert _status(instance, run) is (DagsterRunStatus.CANCELED if was_cancelled else DagsterRunStatus.FAILURE)
    assert reconcile(system, instance) == []
    done = execute_batch(system, instance, system.ledger.request_rerun(batch.id, Starter.caller))
    assert (done.status, done.attempts) == ("completed", 1)


@pytest.mark.parametrize("holder", ["run", "task", "batch"])
def test_reconciling_ignores_an_owned_run_before_its_first_step(
    system: System, instance: DagsterInstance, waiting: Batch, holder: str
) -> None:
    run = run_of(instance, waiting, DagsterRunStatus.STARTED)
    _started_a_while_ago(system, run)
    with Ownership(system.engine) as ownership:
        names = {"run": run_owner(run.run_id), "task": run_task(run.run_id), "batch": waiting.id}
        ownership.take(names[holder])
        assert reconcile(system, instance) == []
    assert _status(instance, run) is DagsterRunStatus.STARTED
    assert len(reconcile(system, instance)) == 1


def test_reconciling_ends_a_run_that_died_before_it_had_a_batch(system: System, instance: DagsterInstance) -> None:
    config = {"resource": "contact", "action": "merge", "file": "incoming/people.csv"}
    run = instance.create_run_for_job(
        defs.resolve_job_def(tags.JOB_NAME),
        run_config={"ops": {"parse": {"config": config}}},
        status=DagsterRunStatus.STARTED,
    )
    _started_a_while_ago(system, run)
    assert reconcile(system, instance) == []
    assert _status(instance, run) is DagsterRunStatus.FAILURE


def test_a_batch_left_without_payload_by_an_earlier_release_ends_and_its_file_is_taken_in(
    system: System, instance: DagsterInstance
) -> None:
    """That release recorded a batch, then its payload; a process could die in between."""
    organization_id = new_organization(system)
    key = f"uploads/{organization_id}/contact/merge/people.csv"
    system.store.write(key, b"name\nAda\n")
    version = f"{key}@{system.store.stat(key).version}"
    left = accepted(system.engine, organization_id, source_key=key, source_version=version)
    assert take_in(system, limit=10) == []
    assert system.store.exists(key)
    with psycopg.connect(system.database_url) as connection:
        connection.execute("UPDATE batches SET created_at = created_at - interval '2 min' WHERE id = %s", (left.id,))
    assert [(batch.id, batch.status) for batch in reconcile(system, instance)] == [(left.id, "failed")]
    (taken,) = take_in(system, limit=10)
    assert taken.id != left.id
    assert execute_batch(system, instance, _for_caller(system, taken)).stats.created == 1
    assert not system.store.exists(key)


def _for_caller(system: System, batch: Batch) -> Batch:
    """The batch, to be run by this process instead of by Dagster's launcher."""
    with psycopg.connect(system.database_url) as connection:
        connection.execute("UPDATE batches SET awaits_run = 'caller' WHERE id = %s", (batch.id,))
    return system.ledger.get(batch.id)
