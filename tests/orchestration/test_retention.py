"""Retention takes what is old of batches that have ended, all of it, and nothing else."""

import dataclasses
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from batch_runs import Runner, arrived, new_organization
from dagster import DagsterInstance, build_sensor_context

from batch_pipeline.batches.model import Batch, Starter
from batch_pipeline.batches.rerunnable import find_rerunnable
from batch_pipeline.batches.states import BatchStatus
from batch_pipeline.errors import StateError
from batch_pipeline.orchestration.execute import execute_batch
from batch_pipeline.orchestration.retention import prune
from batch_pipeline.orchestration.retention_sensor import build_retention_sensor
from batch_pipeline.storage import keys
from batch_pipeline.system import System

FAR = datetime.now(UTC) + timedelta(days=40)  # by when everything of today is old


@pytest.fixture
def runner(system: System, instance: DagsterInstance) -> Iterator[Runner]:
    return Runner(system, instance, new_organization(system))


def _files(system: System, batch: Batch) -> list[str]:
    return [item.key for item in system.store.list(f"{keys.batch_folder(batch.id)}/")]


def _staging_tables(system: System) -> int:
    with psycopg.connect(system.database_url) as connection:
        row = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'staging'").fetchone()
    assert row is not None
    return int(row[0])


def _events(system: System) -> int:
    with psycopg.connect(system.database_url) as connection:
        row = connection.execute(
            "SELECT (SELECT count(*) FROM dagster.event_logs WHERE run_id <> '') + (SELECT count(*) FROM dagster.runs)"
        ).fetchone()
    assert row is not None
    return int(row[0])


def _failed(runner: Runner) -> Batch:
    """A batch that failed after validation had staged its items: it can be run again."""
    batch = runner.csv({"name": "", "email": "x"}, {"name": "", "email": "y"})
    assert batch.reason is not None
    assert batch.reason.code == "no_valid_items"
    return batch


def test_all_files_runs_and_events_of_old_batches_go_and_the_ledger_stays(runner: Runner) -> None:
    system = runner.system
    completed = runner.csv({"name": "Ada"}, {"name": "Bob", "email": "x"}, save_result=True)
    failed = _failed(runner)
    waiting = arrived(system, runner.organization_id, b"name\nEve\n", starter=Starter.launcher)
    assert _staging_tables(system) > 0
    assert _events(system) > 0
    count = sum(len(_files(system, batch)) for batch in (completed, failed))

    shown = prune(system, runner.instance, now=FAR, dry_run=True)
    assert (shown.batches, shown.files.number, shown.runs) == (2, count, 2)
    assert shown.files.bytes > 0
    assert prune(system, runner.instance, now=FAR) == shown

    for batch in (completed, failed):
        pruned = system.ledger.get(batch.id)
        assert (pruned.status, pruned.stats, pruned.reason) == (batch.status, batch.stats, batch.reason)
        assert (pruned.has_upload_file, pruned.has_errors_file, pruned.has_result_file) == (False, False, False)
        assert _files(system, batch) == []
    assert (_staging_tables(system), _events(system)) == (0, 0)
    assert len(_files(system, waiting)) == 1
    assert execute_batch(system, runner.instance, waiting).status == "completed"
    again = prune(system, runner.instance, now=FAR)
    assert again.batches == 1  # the one that has ended since
    assert [record["name"] for record in runner.contacts()] == ["Ada", "Eve"]


def test_what_is_not_old_stays_and_can_be_run_again(runner: Runner) -> None:
    failed = _failed(runner)
    before = _files(runner.system, failed)
    days = runner.system.settings.retention_days
    almost = datetime.now(UTC) + timedelta(days=days, minutes=-5)
    assert prune(runner.system, runner.instance, now=almost).to_json() == {
        "batches": 0,
        "files": 0,
        "bytes": 0,
        "runs": 0,
        "more": False,
    }
    assert _files(runner.system, failed) == before
    runner.system.ledger.request_rerun(failed.id, Starter.caller)


def test_a_batch_that_awaits_its_re_run_keeps_its_files(runner: Runner) -> None:
    failed = _failed(runner)
    runner.system.ledger.request_rerun(failed.id, Starter.launcher)
    assert prune(runner.system, runner.instance, now=FAR).batches == 0
    assert _files(runner.system, failed)


def test_a_pruned_batch_is_not_run_again_and_says_why(runner: Runner) -> None:
    failed = _failed(runner)
    prune(runner.system, runner.instance, now=FAR)
    with pytest.raises(StateError, match="too long ago") as refused:
        runner.system.ledger.request_rerun(failed.id, Starter.caller)
    assert refused.value.code == "pruned"
    with pytest.raises(StateError, match="too long ago"):
        runner.system.ledger.begin_attempt(failed.id, "a-run-launched-by-hand")
    assert runner.system.ledger.get(failed.id).status == BatchStatus.failed
    assert (
        find_rerunnable(runner.system.engine, organization_id=runner.organization_id, status=BatchStatus.failed) == []
    )


@pytest.mark.parametrize("step", ["remove_files", "finish_pruning"])
def test_what_a_crash_leaves_is_removed_by_the_next_pass(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    batch = runner.csv({"name": "Ada"})

    class CrashError(Exception):
        pass

    def dies(*_: object, **__: object) -> None:
        raise CrashError

    with monkeypatch.context() as patch:
        patch.setattr(f"batch_pipeline.orchestration.retention.{step}", dies)
        with pytest.raises(CrashError):
            prune(runner.system, runner.instance, now=FAR)
    assert not runner.system.ledger.get(batch.id).has_upload_file
    assert prune(runner.system, runner.instance, now=datetime.now(UTC)).batches == 1
    assert _files(runner.system, batch) == []
    assert prune(runner.system, runner.instance, now=FAR).batches == 0


def test_a_pass_stops_in_time_and_the_next_one_goes_on(runner: Runner) -> None:
    batches = [runner.csv({"name": name}) for name in ("Ada", "Bob")]
    first = prune(runner.system, runner.instance, now=FAR, seconds=0)
    assert (first.batches, first.runs, first.more) == (0, 0, True)
    second = prune(runner.system, runner.instance, now=FAR, seconds=600)
    assert (second.batches, second.runs, second.more) == (2, 2, False)
    assert not any(_files(runner.system, batch) for batch in batches)


def test_runs_may_go_sooner_than_files(runner: Runner) -> None:
    batch = runner.csv({"name": "Ada"})
    settings = runner.system.settings.model_copy(update={"run_retention_days": 1})
    system = dataclasses.replace(runner.system, settings=settings)
    pruned = prune(system, runner.instance, now=datetime.now(UTC) + timedelta(days=2))
    assert (pruned.batches, pruned.runs) == (0, 1)
    assert runner.system.ledger.get(batch.id).has_upload_file


def test_the_sensor_prunes_and_says_what(runner: Runner) -> None:
    batch = runner.csv({"name": "Ada"})
    sensor = build_retention_sensor()
    with build_sensor_context(instance=runner.instance) as tick:
        assert "Nothing is old enough" in str(sensor(tick))
    with psycopg.connect(runner.system.database_url) as connection:
        connection.execute("UPDATE batches SET updated_at = now() - interval '31 days' WHERE id = %s", (batch.id,))
    with build_sensor_context(instance=runner.instance) as tick:
        assert "1 batches lost their" in str(sensor(tick))
    assert _files(runner.system, batch) == []
