"""Cancelled and overdue work stops at the next chunk, and a retry processes the rest."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import psycopg
import pytest
from batch_runs import arrived, as_csv, awaiting_upload, contacts, new_organization
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from psycopg import sql

from batch_pipeline.batches.ledger import Ledger
from batch_pipeline.batches.locks import Ownership, take_turn
from batch_pipeline.batches.model import Batch, Starter
from batch_pipeline.batches.queries import awaiting_launch
from batch_pipeline.definitions import defs
from batch_pipeline.errors import StateError
from batch_pipeline.loading.chunks import Chunk, ChunkOutcome, ChunkWriter
from batch_pipeline.orchestration import tags
from batch_pipeline.orchestration.execute import execute_batch
from batch_pipeline.orchestration.reconciling import OVERDUE_SECONDS, cancel_batch, reconcile
from batch_pipeline.orchestration.requested_runs import run_config_of, run_tags_of
from batch_pipeline.storage import keys
from batch_pipeline.system import System

WAIT_SECONDS = 60.0  # for what comes at once on a machine that isn't overloaded
ROWS = 40
CHUNK_ROWS = 10
WRITERS = 2
PEOPLE = as_csv([{"external_id": f"x{number}", "name": f"Person {number}"} for number in range(ROWS)])


@pytest.fixture(scope="module")
def system_settings() -> dict[str, str]:
    return {"BATCH_CHUNK_ROWS": str(CHUNK_ROWS), "BATCH_DATABASE_WRITERS": str(WRITERS)}


def _code(batch: Batch) -> tuple[str, str | None]:
    return batch.status, batch.reason and batch.reason.code


def _retried(system: System, instance: DagsterInstance, batch: Batch) -> Batch:
    return execute_batch(system, instance, system.ledger.request_rerun(batch.id, Starter.caller))


def _run(instance: DagsterInstance, batch: Batch, status: DagsterRunStatus) -> DagsterRun:
    origin = RemoteJobOrigin(RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("here"), "all"), tags.JOB_NAME)
    return instance.create_run_for_job(
        defs.resolve_job_def(tags.JOB_NAME),
        run_config=run_config_of(batch),
        tags=run_tags_of(batch),
        status=status,
        remote_job_origin=origin,  # without one, no run can be queued
    )


def _status(instance: DagsterInstance, batch: Batch) -> DagsterRunStatus:
    """How the batch's newest run stands in Dagster."""
    run = instance.get_run_by_id(str(batch.run_id))
    assert run is not None
    return run.status


@contextmanager
def _turn_taken(system: System, batch: Batch) -> Iterator[None]:
    """The batch that is first in line holds the turn and does nothing."""
    with take_turn(system.engine, batch, check=lambda: None, may_yield=False):
        yield


# ---- cancelling ------------------------------------------------------------------------------------------------


def test_a_batch_cancelled_while_its_run_is_queued_never_starts(system: System, instance: DagsterInstance) -> None:
    batch = arrived(system, new_organization(system), PEOPLE, starter=Starter.launcher)
    run = _run(instance, batch, DagsterRunStatus.QUEUED)
    cancelled = cancel_batch(system, instance, batch.id)
    assert (*_code(cancelled), cancelled.awaits_run) == ("failed", "cancelled", None)
    found = instance.get_run_by_id(run.run_id)
    assert found is not None
    assert found.status is DagsterRunStatus.CANCELED
    assert awaiting_launch(system.engine, 10) == []
    assert reconcile(system, instance) == []
    done = _retried(system, instance, batch)
    assert (done.status, done.stats.created) == ("completed", ROWS)


def test_a_batch_cancelled_before_its_callers_run_begins_stays_cancelled(
    system: System, instance: DagsterInstance
) -> None:
    batch = arrived(system, new_organization(system), PEOPLE)
    cancelled = cancel_batch(system, instance, batch.id)
    assert execute_batch(system, instance, batch) == cancelled  # the caller has read the batch before
    assert (*_code(cancelled), cancelled.attempts) == ("failed", "cancelled", 0)
    (run,) = instance.get_runs(RunsFilter(tags={tags.BATCH_ID: batch.id}))
    assert run.status is DagsterRunStatus.CANCELED


def test_a_batch_cancelled_while_it_waits_for_its_turn_writes_nothing(
    system: System, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    organization_id = new_organization(system)
    first = arrived(system, organization_id, PEOPLE)
    batch = arrived(system, organization_id, PEOPLE)
    waits = _checks_while_waiting(monkeypatch, batch)
    with ThreadPoolExecutor(1) as pool, _turn_taken(system, first):
        running = pool.submit(execute_batch, system, instance, batch)
        assert waits.wait(WAIT_SECONDS)
        assert system.ledger.get(batch.id).status == "queued"
        cancelled = cancel_batch(system, instance, batch.id)
        assert running.result(WAIT_SECONDS) == cancelled
    assert cancelled.reason is not None
    assert _code(cancelled) == ("failed", "cancelled")
    assert _status(instance, cancelled) is DagsterRunStatus.CANCELED
    assert "after 0 items" in cancelled.reason.message
    assert contacts(system, organization_id) == []
    assert execute_batch(system, instance, first).stats.created == ROWS
    done = _retried(system, instance, batch)
    assert (done.status, done.stats.unchanged) == ("completed", ROWS)


def _checks_while_waiting(monkeypatch: pytest.MonkeyPatch, batch: Batch) -> threading.Event:
    """Set once the batch, being queued, has looked whether it may still wait."""
    looked = threading.Event()
    check_live = Ledger.check_live

    def noted(ledger: Ledger, batch_id: str, run_id: str) -> Batch:
        found = check_live(ledger, batch_id, run_id)
        if batch_id == batch.id and found.status == "queued":
            looked.set()
        return found

    monkeypatch.setattr(Ledger, "check_live", noted)
    return looked


def test_a_cancelled_running_batch_stops_at_its_next_chunk_and_reports_its_progress(
    system: System, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both writers are held up before a later chunk, one chunk is done and known to be."""
    organization_id = new_organization(system)
    batch = arrived(system, organization_id, PEOPLE)
    reached, go_on = threading.Semaphore(0), threading.Event()
    write = ChunkWriter.write

    def held(writer: ChunkWriter, chunk: Chunk) -> ChunkOutcome | None:
        if chunk.number > 0:
            reached.release()
            assert go_on.wait(WAIT_SECONDS)
        return write(writer, chunk)

    monkeypatch.setattr(ChunkWriter, "write", held)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(execute_batch, system, instance, batch)
        try:
            for _ in range(WRITERS):
                assert reached.acquire(timeout=WAIT_SECONDS)
            while system.ledger.get(batch.id).phases[2].processed < CHUNK_ROWS:
                assert not running.done()
            cancelled = cancel_batch(system, instance, batch.id)
        finally:
            go_on.set()
        assert running.result(WAIT_SECONDS) == cancelled
    assert cancelled.reason is not None
    assert _code(cancelled) == ("failed", "cancelled")
    assert _status(instance, cancelled) is DagsterRunStatus.CANCELED
    assert f"after {CHUNK_ROWS} items" in cancelled.reason.message
    assert (cancelled.phases[2].status, cancelled.phases[2].processed) == ("failed", CHUNK_ROWS)
    assert len(contacts(system, organization_id)) == CHUNK_ROWS
    done = _retried(system, instance, batch)
    assert (done.status, done.stats.created, done.attempts) == ("completed", ROWS, 2)


@pytest.mark.parametrize(
    ("its_own", "status"),
    [({tags.RUN_KEY: "its run"}, DagsterRunStatus.CANCELED), ({}, DagsterRunStatus.FAILURE)],
    ids=["asked for by a sensor", "launched by a person"],
)
def test_a_run_that_was_starting_when_its_batch_was_cancelled_does_nothing(
    system: System, instance: DagsterInstance, its_own: dict[str, str], status: DagsterRunStatus
) -> None:
    organization_id = new_organization(system)
    batch = arrived(system, organization_id, PEOPLE, starter=Starter.launcher)
    cancelled = cancel_batch(system, instance, batch.id)
    result = defs.resolve_job_def(tags.JOB_NAME).execute_in_process(
        run_config=run_config_of(batch), tags=run_tags_of(batch) | its_own, instance=instance, raise_on_error=False
    )
    run = instance.get_run_by_id(result.run_id)
    assert run is not None
    assert run.status is status
    assert system.ledger.get(batch.id) == cancelled
    assert contacts(system, organization_id) == []


def test_a_batch_that_has_ended_can_not_be_cancelled(system: System, instance: DagsterInstance) -> None:
    done = execute_batch(system, instance, arrived(system, new_organization(system), PEOPLE))
    with pytest.raises(StateError) as raised:
        cancel_batch(system, instance, done.id)
    assert raised.value.code == "not_cancellable"
    assert system.ledger.get(done.id) == done


def test_a_retry_that_awaits_its_run_can_be_cancelled(system: System, instance: DagsterInstance) -> None:
    batch = arrived(system, new_organization(system), PEOPLE)
    cancel_batch(system, instance, batch.id)
    system.ledger.request_rerun(batch.id, Starter.launcher)
    run = _run(instance, batch, DagsterRunStatus.QUEUED)
    cancelled = cancel_batch(system, instance, batch.id)
    assert (*_code(cancelled), cancelled.awaits_run) == ("failed", "cancelled", None)
    found = instance.get_run_by_id(run.run_id)
    assert found is not None
    assert found.status is DagsterRunStatus.CANCELED


# ---- time ------------------------------------------------------------------------------------------------------


def _slow_down(system: System, table: sql.Identifier) -> None:
    """Each new row of the table takes the database half a second to write."""
    with psycopg.connect(system.database_url) as connection:
        connection.execute(
            "CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN PERFORM pg_sleep(0.5); RETURN new; END $$"
        )
        connection.execute(
            sql.SQL("CREATE TRIGGER linger BEFORE INSERT ON {} FOR EACH ROW EXECUTE FUNCTION linger()").format(table)
        )


def _hurry(system: System) -> None:
    with psycopg.connect(system.database_url) as connection:
        connection.execute("DROP TRIGGER linger ON contacts")


@pytest.mark.timeout(120)
def test_a_batch_over_its_time_out_ends_its_writers_and_a_retry_completes_it(
    system: System, instance: DagsterInstance
) -> None:
    organization_id = new_organization(system)
    _slow_down(system, sql.Identifier("contacts"))
    batch = execute_batch(system, instance, arrived(system, organization_id, PEOPLE, timeout_seconds=3))
    assert _code(batch) == ("timed_out", "timed_out")
    assert batch.phases[2].status == "failed"
    with psycopg.connect(system.database_url) as connection:
        writing = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state <> 'idle'"
            " AND pid <> pg_backend_pid() AND query LIKE '%contacts%'"
        ).fetchone()
    assert writing == (0,)
    assert len(contacts(system, organization_id)) == batch.phases[2].processed < ROWS
    assert reconcile(system, instance) == []
    _hurry(system)
    done = _retried(system, instance, batch)
    assert (done.status, done.stats.created, done.attempts) == ("completed", ROWS, 2)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("mode", ["SHARE", "ACCESS EXCLUSIVE"], ids=["writing", "planning"])
def test_a_batch_blocked_by_the_lock_of_another_session_times_out(
    system: System, instance: DagsterInstance, mode: str
) -> None:
    organization_id = new_organization(system)
    batch = arrived(system, organization_id, PEOPLE, timeout_seconds=2)
    with psycopg.connect(system.database_url) as connection:
        connection.execute(sql.SQL("LOCK TABLE contacts IN {} MODE").format(sql.SQL(mode)))
        timed_out = execute_batch(system, instance, batch)
    assert _code(timed_out) == ("timed_out", "timed_out")
    assert contacts(system, organization_id) == []
    assert _retried(system, instance, batch).stats.created == ROWS


@pytest.mark.timeout(120)
def test_a_batch_that_still_sends_its_items_to_the_database_times_out(
    system: System, instance: DagsterInstance
) -> None:
    """The server closes the connection while the attempt writes to it."""
    _slow_down(system, sql.Identifier("staging", "shared_items_contact"))
    large = as_csv([{"name": f"Person {number}", "notes": "\N{GRINNING FACE}" * 5000} for number in range(200)])
    # One COPY of 4 MB: more than the buffers between client and server hold.
    whole = replace(system, settings=system.settings.model_copy(update={"chunk_rows": 1000}))
    batch = execute_batch(whole, instance, arrived(whole, new_organization(whole), large, timeout_seconds=4))
    assert _code(batch) == ("timed_out", "timed_out")
    assert batch.phases[1].status == "failed"


@pytest.mark.timeout(120)
def test_waiting_for_the_turn_does_not_count_as_running_time(
    system: System, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits until the whole of its time is over, had it counted."""
    organization_id = new_organization(system)
    first = arrived(system, organization_id, as_csv([{"name": "First"}]))
    batch = arrived(system, organization_id, PEOPLE, timeout_seconds=4)
    waits = _checks_while_waiting(monkeypatch, batch)
    with ThreadPoolExecutor(1) as pool:
        with _turn_taken(system, first):
            running = pool.submit(execute_batch, system, instance, batch)
            assert waits.wait(WAIT_SECONDS)
            with psycopg.connect(system.database_url) as connection:
                connection.execute(
                    "SELECT pg_sleep(greatest(4.5 - extract(epoch FROM clock_timestamp() - started_at), 0))"
                    " FROM batch_attempts WHERE batch_id = %s",
                    (batch.id,),
                )
            assert reconcile(system, instance) == []
        cancel_batch(system, instance, first.id)
        done = running.result(WAIT_SECONDS)
    assert (done.status, done.stats.created) == ("completed", ROWS)
    with psycopg.connect(system.database_url) as connection:
        row = connection.execute("SELECT waited_seconds > 1 FROM batch_attempts WHERE run_id = %s", (done.run_id,))
        assert row.fetchone() == (True,)


@pytest.mark.parametrize("waited_seconds", [0.0, 5000.0])
def test_reconciling_ends_an_overdue_attempt_that_does_not_stop(
    system: System, instance: DagsterInstance, waited_seconds: float
) -> None:
    batch = arrived(system, new_organization(system), PEOPLE, timeout_seconds=100)
    run = _run(instance, batch, DagsterRunStatus.STARTED)
    with Ownership(system.engine) as ownership:
        ownership.take(batch.id)
        system.ledger.begin_attempt(batch.id, run.run_id)
        system.ledger.add_waiting(run.run_id, waited_seconds)
        with psycopg.connect(system.database_url) as connection:
            connection.execute(
                "UPDATE batch_attempts SET started_at = started_at - make_interval(secs => %s) WHERE run_id = %s",
                (100 + OVERDUE_SECONDS + 1, run.run_id),
            )
        ended = reconcile(system, instance)
    assert [_code(found) for found in ended] == ([] if waited_seconds else [("timed_out", "timed_out")])


# ---- uploads that are awaited --------------------------------------------------------------------------------------


def test_a_file_that_arrived_before_the_cancellation_is_kept_for_a_retry(
    system: System, instance: DagsterInstance
) -> None:
    batch = awaiting_upload(system, new_organization(system))
    system.store.write(keys.requested(batch.id), PEOPLE)
    cancelled = cancel_batch(system, instance, batch.id)
    assert _code(cancelled) == ("failed", "cancelled")
    assert "Retry the batch to process the rest" in str(cancelled.reason)
    done = execute_batch(system, instance, system.ledger.request_rerun(batch.id, Starter.caller))
    assert (done.status, done.stats.created) == ("completed", ROWS)


def test_a_batch_cancelled_before_its_file_arrived_can_not_be_retried(
    system: System, instance: DagsterInstance
) -> None:
    batch = awaiting_upload(system, new_organization(system))
    cancelled = cancel_batch(system, instance, batch.id)
    assert _code(cancelled) == ("failed", "cancelled")
    assert "create a new batch" in str(cancelled.reason)
    with pytest.raises(StateError, match="has no payload"):
        system.ledger.request_rerun(batch.id, Starter.caller)
