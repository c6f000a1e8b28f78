"""Reconciling finds batches with a run that ended before it began, among many waiting ones."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from batch_runs import arrived, as_csv, new_organization, run_of
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, SkipReason, build_sensor_context

from batch_pipeline.batches.ledger import Ledger
from batch_pipeline.batches.model import Batch, Starter
from batch_pipeline.batches.queries import awaiting_launch, running_batches
from batch_pipeline.batches.states import BatchStatus, Reason
from batch_pipeline.definitions import defs
from batch_pipeline.orchestration.config import run_request_of
from batch_pipeline.orchestration.reconciling import reconcile, reconcile_run
from batch_pipeline.system import System


def _awaiting_launch(system: System) -> Batch:
    return arrived(system, new_organization(system), as_csv([{"name": "Ada"}]), starter=Starter.launcher)


def _end_in_queue(instance: DagsterInstance, batch: Batch, status: DagsterRunStatus) -> DagsterRun:
    """The run that the batch awaits, ended so before it began."""
    run = run_of(instance, batch, DagsterRunStatus.NOT_STARTED)
    if status is DagsterRunStatus.CANCELED:
        instance.report_run_canceled(run)
    else:
        instance.report_run_failed(run)
    return run


@pytest.mark.parametrize(
    ("status", "code"), [(DagsterRunStatus.FAILURE, "never_started"), (DagsterRunStatus.CANCELED, "cancelled")]
)
def test_a_run_that_ends_before_its_first_step_fails_its_batch_and_a_retry_is_another_run(
    system: System, instance: DagsterInstance, status: DagsterRunStatus, code: str
) -> None:
    batch = _awaiting_launch(system)
    first = run_request_of(batch)
    assert reconcile(system, instance) == []  # the launcher may be busy or away
    _end_in_queue(instance, batch, status)
    (ended,) = reconcile(system, instance)
    assert ended.reason is not None
    assert (ended.status, ended.reason.code) == ("failed", code)
    again = system.ledger.request_rerun(batch.id, Starter.launcher)
    assert [waiting.id for waiting in awaiting_launch(system.engine, 10)] == [batch.id]
    # Dagster never again starts a run under a key that it has seen.
    assert run_request_of(again).run_key != first.run_key
    assert reconcile(system, instance) == []


def test_the_end_of_an_older_run_does_not_affect_a_requested_retry(system: System, instance: DagsterInstance) -> None:
    batch = _awaiting_launch(system)
    _end_in_queue(instance, batch, DagsterRunStatus.FAILURE)
    assert len(reconcile(system, instance)) == 1
    again = system.ledger.request_rerun(batch.id, Starter.launcher)
    with psycopg.connect(system.database_url) as connection:
        # Two minutes later, the launcher has been away since.
        connection.execute("UPDATE batches SET updated_at = updated_at - interval '2 min' WHERE id = %s", (batch.id,))
        connection.execute("UPDATE dagster.runs SET create_timestamp = create_timestamp - interval '3 min'")
    assert reconcile(system, instance) == []
    assert system.ledger.get(batch.id).awaits_run is again.awaits_run


@contextmanager
def _asked() -> Iterator[list[int]]:
    """Of each statement that anyone in this process sends by SQLAlchemy, Dagster too, how many rows it led to."""
    rows: list[int] = []

    def note(*event: Any) -> None:
        rows.append(event[1].rowcount)

    sa.event.listen(sa.Engine, "after_cursor_execute", note)
    try:
        yield rows
    finally:
        sa.event.remove(sa.Engine, "after_cursor_execute", note)


@pytest.mark.parametrize("has_position", [True, False])
def test_waiting_batches_do_not_add_to_the_queries_of_a_pass(
    system: System, instance: DagsterInstance, has_position: bool
) -> None:
    waiting, in_vain = _awaiting_launch(system), [_awaiting_launch(system) for _ in range(2)]
    reconcile(system, instance)  # opens connections
    asked: list[list[int]] = []
    for batch, others in zip(in_vain, (0, 3_000), strict=True):
        with psycopg.connect(system.database_url) as connection:
            connection.execute(
                "INSERT INTO batches SELECT (jsonb_populate_record(b, jsonb_build_object('id', b.id || n))).*"
                " FROM batches b, generate_series(1, %s) n WHERE b.id = %s",
                (others, waiting.id),
            )
        since = datetime.now(UTC) if has_position else None
        run = _end_in_queue(instance, batch, DagsterRunStatus.CANCELED)
        with _asked() as rows:
            assert [ended.id for ended in reconcile(system, instance, since=since)] == [batch.id]
        asked.append(rows)
        instance.delete_run(run.run_id)
    assert asked[0] == asked[1]
    assert len(awaiting_launch(system.engine, 10_000)) == 3_001


def test_the_query_for_running_batches_skips_waiting_ones(system: System) -> None:
    waiting = _awaiting_launch(system)
    with psycopg.connect(system.database_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO batches SELECT (jsonb_populate_record(b, jsonb_build_object('id', b.id || n))).*"
            " FROM batches b, generate_series(1, 3000) n WHERE b.id = %s",
            (waiting.id,),
        )
        connection.execute("VACUUM ANALYZE batches")
    plans: list[str] = []

    def explain(connection: sa.Connection, _: Any, statement: str, parameters: Any, *__: Any) -> None:
        if not statement.startswith("EXPLAIN"):
            plans.extend(connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).scalars())

    sa.event.listen(system.engine, "before_cursor_execute", explain)
    assert running_batches(system.engine) == []
    assert any("batches_at_work" in line for line in plans), plans


@pytest.mark.parametrize("zone", [-11, 0, 14])
def test_a_run_cancelled_in_the_queue_during_a_day_without_daemon_fails_its_batch(
    system: System, instance: DagsterInstance, zone: int
) -> None:
    """Whether the sensor knows when it last looked, or has been reset."""
    last_look = datetime.now(timezone(timedelta(hours=zone))) - timedelta(days=1, minutes=1)
    for since in (last_look, None):
        batch = _awaiting_launch(system)
        _end_in_queue(instance, batch, DagsterRunStatus.CANCELED)
        with psycopg.connect(system.database_url) as connection:
            connection.execute("UPDATE batches SET updated_at = updated_at - interval '1 day'")
            connection.execute("UPDATE dagster.runs SET update_timestamp = update_timestamp - interval '1 day'")
        (ended,) = reconcile(system, instance, since=since)
        assert ended.id == batch.id
        assert ended.reason is not None
        assert ended.reason.code == "cancelled"


def test_the_sensor_finds_runs_that_become_visible_after_their_end_time(
    system: System, instance: DagsterInstance
) -> None:
    cursor, codes = None, []
    for minutes_ago in (0, 3):
        batch = _awaiting_launch(system)
        _end_in_queue(instance, batch, DagsterRunStatus.FAILURE)
        with psycopg.connect(system.database_url) as connection:
            connection.execute(
                "UPDATE dagster.runs SET update_timestamp = update_timestamp - make_interval(mins => %s)",
                (minutes_ago,),
            )
        with build_sensor_context(instance=instance, cursor=cursor) as tick:
            said = defs.get_sensor_def("reconcile_sensor")(tick)
            assert isinstance(said, SkipReason)
            codes.append(said.skip_message == f"{batch.id}: never_started")
            cursor = tick.cursor
            assert cursor is not None
            assert timedelta() <= datetime.now(UTC) - datetime.fromisoformat(cursor) < timedelta(hours=1)
    assert codes == [True, True]


@pytest.mark.parametrize("status", [DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED])
@pytest.mark.parametrize("has_begun", [True, False])
def test_reconciling_one_run_does_not_affect_others(
    system: System, instance: DagsterInstance, status: DagsterRunStatus, has_begun: bool
) -> None:
    batch, other = _awaiting_launch(system), _awaiting_launch(system)
    _end_in_queue(instance, other, status)
    run = _end_in_queue(instance, batch, status)
    if has_begun:
        system.ledger.begin_attempt(batch.id, run.run_id)
    (ended,) = reconcile_run(system, instance, run)
    before_and_after = {
        (True, DagsterRunStatus.FAILURE): "worker_lost",
        (False, DagsterRunStatus.FAILURE): "never_started",
    }
    assert ended.id == batch.id
    assert ended.reason is not None
    assert ended.reason.code == before_and_after.get((has_begun, status), "cancelled")
    assert reconcile_run(system, instance, run) == []
    again = system.ledger.request_rerun(batch.id, Starter.launcher)
    assert reconcile_run(system, instance, run) == []
    assert system.ledger.get(batch.id) == again
    assert system.ledger.get(other.id) == other


@pytest.mark.parametrize("way", ["retried", "gave_way", "begun"])
def test_a_batch_that_continues_during_reconciling_keeps_its_requested_run(
    system: System, instance: DagsterInstance, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on between reconciling's look at it and its word to the ledger."""
    batch = _awaiting_launch(system)
    if way == "begun":
        with psycopg.connect(system.database_url) as connection:
            connection.execute("UPDATE batches SET awaits_run = 'caller' WHERE id = %s", (batch.id,))
            connection.execute("UPDATE batches SET updated_at = updated_at - interval '2 min'")
    else:
        _end_in_queue(instance, batch, DagsterRunStatus.CANCELED)
    end, went_on = Ledger.end_if_unchanged, list[Batch]()

    def go_on_then_end(ledger: Ledger, seen: Batch, *arguments: Any) -> Batch:
        if not went_on:
            run = run_of(instance, batch, DagsterRunStatus.STARTED)
            ledger.begin_attempt(seen.id, run.run_id)
            if way == "retried":
                ledger.end_attempt(seen.id, run.run_id, BatchStatus.failed, Reason("no_valid_items", "Nothing."))
                ledger.request_rerun(seen.id, Starter.launcher)
            elif way == "gave_way":
                ledger.yield_slot(seen.id, run.run_id)
            went_on.append(ledger.get(seen.id))
        return end(ledger, seen, *arguments)

    monkeypatch.setattr(Ledger, "end_if_unchanged", go_on_then_end)
    assert reconcile(system, instance) == []
    assert went_on == [system.ledger.get(batch.id)]
    assert went_on[0].awaits_run is (None if way == "begun" else Starter.launcher)
    assert went_on[0].status == "requested"
