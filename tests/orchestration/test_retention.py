"""Retention takes what is old of batches that have ended, all of it, and nothing else."""

import dataclasses
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from batch_runs import DagsterRunner, accepted, arrived, new_organization
from dagster import DagsterInstance, ReexecutionOptions, build_sensor_context, execute_job, job, op, reconstructable
from launches import batch_job
from staged_rows import staged_rows

from batch_pipeline.batches import ids
from batch_pipeline.batches.model import Batch, Starter
from batch_pipeline.batches.queries import find_rerunnable
from batch_pipeline.batches.states import BatchStatus
from batch_pipeline.database import borrowed
from batch_pipeline.errors import StateError
from batch_pipeline.loading.change_indexes import find_missing_indexes
from batch_pipeline.orchestration import retention
from batch_pipeline.orchestration.execute import execute_batch
from batch_pipeline.orchestration.retention import prune
from batch_pipeline.orchestration.sensors import retention_sensor
from batch_pipeline.phases.leftovers import Files
from batch_pipeline.storage import keys
from batch_pipeline.system import System

FAR = datetime.now(UTC) + timedelta(days=40)  # by when everything of today is old


@pytest.fixture
def runner(system: System, instance: DagsterInstance) -> Iterator[DagsterRunner]:
    return DagsterRunner(system, new_organization(system), instance)


def _files(system: System, batch: Batch) -> list[str]:
    return [item.key for item in system.store.list(f"{keys.batch_folder(batch.id)}/")]


def _events(system: System) -> int:
    with psycopg.connect(system.database_url) as connection:
        row = connection.execute(
            "SELECT (SELECT count(*) FROM dagster.event_logs WHERE run_id <> '') + (SELECT count(*) FROM dagster.runs)"
        ).fetchone()
    assert row is not None
    return int(row[0])


def _failed(runner: DagsterRunner) -> Batch:
    """A batch that failed after validation had staged its items: it can be run again."""
    batch = runner.csv({"name": "", "email": "x"}, {"name": "", "email": "y"})
    assert batch.reason is not None
    assert batch.reason.code == "no_valid_items"
    return batch


def test_all_files_runs_and_events_of_old_batches_are_deleted_and_the_ledger_stays(runner: DagsterRunner) -> None:
    system = runner.system
    completed = runner.csv({"name": "Ada"}, {"name": "Bob", "email": "x"}, save_result=True)
    failed = _failed(runner)
    waiting = arrived(system, runner.organization_id, b"name\nEve\n", starter=Starter.launcher)
    assert staged_rows(system.database_url)
    assert _events(system) > 0
    count = sum(len(_files(system, batch)) for batch in (completed, failed))

    shown = prune(system, runner.instance, now=FAR, dry_run=True)
    assert (shown.batches, shown.files.number, shown.runs) == (2, count, 2)
    assert shown.files.bytes > 0
    assert prune(system, runner.instance, now=FAR) == shown
    with borrowed(system.engine) as connection:
        assert find_missing_indexes(connection, FAR.date()) == []  # of the days that have ended since

    for batch in (completed, failed):
        pruned = system.ledger.get(batch.id)
        assert (pruned.status, pruned.stats, pruned.reason) == (batch.status, batch.stats, batch.reason)
        assert (pruned.has_upload_file, pruned.has_errors_file, pruned.has_result_file) == (False, False, False)
        assert _files(system, batch) == []
    assert (staged_rows(system.database_url), _events(system)) == ({}, 0)
    assert len(_files(system, waiting)) == 1
    assert execute_batch(system, runner.instance, waiting).status == "completed"
    again = prune(system, runner.instance, now=FAR)
    assert again.batches == 1  # the one that has ended since
    assert [record["name"] for record in runner.contacts()] == ["Ada", "Eve"]


def test_batches_that_are_not_old_stay_and_can_run_again(runner: DagsterRunner) -> None:
    failed = _failed(runner)
    before = _files(runner.system, failed)
    days = runner.system.settings.retention_days
    almost = datetime.now(UTC) + timedelta(days=days, minutes=-5)
    assert prune(runner.system, runner.instance, now=almost).to_json() == {
        "batches": 0,
        "orphans": 0,
        "files": 0,
        "bytes": 0,
        "runs": 0,
        "change_days": 0,
        "webhook_events": 0,
        "more": False,
    }
    assert _files(runner.system, failed) == before
    runner.system.ledger.request_rerun(failed.id, Starter.caller)


def test_a_batch_that_awaits_its_re_run_keeps_its_files(runner: DagsterRunner) -> None:
    failed = _failed(runner)
    runner.system.ledger.request_rerun(failed.id, Starter.launcher)
    assert prune(runner.system, runner.instance, now=FAR).batches == 0
    assert _files(runner.system, failed)


def test_a_pruned_batch_can_not_run_again_and_gives_a_reason(runner: DagsterRunner) -> None:
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
def test_the_next_pass_removes_leftovers_of_a_crash(
    runner: DagsterRunner, monkeypatch: pytest.MonkeyPatch, step: str
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


def test_a_pass_stops_in_time_and_the_next_pass_continues(runner: DagsterRunner) -> None:
    batches = [runner.csv({"name": name}) for name in ("Ada", "Bob")]
    first = prune(runner.system, runner.instance, now=FAR, seconds=0)
    assert (first.batches, first.runs, first.more) == (0, 0, True)
    second = prune(runner.system, runner.instance, now=FAR, seconds=600)
    assert (second.batches, second.runs, second.more) == (2, 2, False)
    assert not any(_files(runner.system, batch) for batch in batches)


def test_runs_can_be_deleted_before_files(runner: DagsterRunner) -> None:
    batch = runner.csv({"name": "Ada"})
    settings = runner.system.settings.model_copy(update={"run_retention_days": 1})
    system = dataclasses.replace(runner.system, settings=settings)
    pruned = prune(system, runner.instance, now=datetime.now(UTC) + timedelta(days=2))
    assert (pruned.batches, pruned.runs) == (0, 1)
    assert runner.system.ledger.get(batch.id).has_upload_file


def test_the_sensor_prunes_and_reports_the_numbers(runner: DagsterRunner) -> None:
    batch = runner.csv({"name": "Ada"})
    with build_sensor_context(instance=runner.instance) as tick:
        assert "Nothing is old enough" in str(retention_sensor(tick))
    with psycopg.connect(runner.system.database_url) as connection:
        connection.execute("UPDATE batches SET updated_at = now() - interval '31 days' WHERE id = %s", (batch.id,))
    with build_sensor_context(instance=runner.instance) as tick:
        assert "of 1 batches and 0 orphaned folders" in str(retention_sensor(tick))
    assert _files(runner.system, batch) == []


def _run_ids(runner: DagsterRunner) -> set[str]:
    return {run.run_id for run in runner.instance.get_runs()}


def _age_runs(runner: DagsterRunner, *run_ids: str | None) -> None:
    """Makes the runs 31 days older."""
    with psycopg.connect(runner.system.database_url) as connection:
        connection.execute(
            "UPDATE dagster.runs SET create_timestamp = create_timestamp - interval '31 days' WHERE run_id = ANY(%s)",
            (list(run_ids),),
        )


def _rename_contacts(runner: DagsterRunner, before: str, after: str) -> None:
    with psycopg.connect(runner.system.database_url) as connection:
        connection.execute(f"ALTER TABLE {before} RENAME TO {after}")


def _reexecute_from_failure(runner: DagsterRunner, batch: Batch) -> bool:
    options = ReexecutionOptions.from_failure(str(runner.system.ledger.get(batch.id).run_id), runner.instance)
    return execute_job(reconstructable(batch_job), runner.instance, reexecution_options=options).success


def test_a_batch_that_keeps_its_files_keeps_its_runs_and_is_re_executed_from_failure(runner: DagsterRunner) -> None:
    _rename_contacts(runner, "contacts", "contacts_away")
    failed = runner.csv({"name": "Ada"})
    assert not _reexecute_from_failure(runner, failed)
    assert not _reexecute_from_failure(runner, failed)
    _rename_contacts(runner, "contacts_away", "contacts")
    runs = _run_ids(runner)
    assert len(runs) == 3
    _age_runs(runner, *runs)

    pruned = prune(runner.system, runner.instance)

    assert (pruned.batches, pruned.runs) == (0, 0)
    assert _reexecute_from_failure(runner, failed)
    assert runner.system.ledger.get(failed.id).status == BatchStatus.completed
    assert [record["name"] for record in runner.contacts()] == ["Ada"]
    shown = prune(runner.system, runner.instance, dry_run=True)
    assert (shown.batches, shown.runs) == (0, 3)  # a completed batch needs them no more
    assert prune(runner.system, runner.instance) == shown
    assert _run_ids(runner) == {runner.system.ledger.get(failed.id).run_id}


def test_runs_that_made_no_attempt_are_kept_with_their_batch(runner: DagsterRunner) -> None:
    failed = _failed(runner)
    with psycopg.connect(runner.system.database_url) as connection:  # its worker died before it could tell the ledger
        connection.execute("DELETE FROM batch_attempts")
    _age_runs(runner, failed.run_id)
    assert prune(runner.system, runner.instance).runs == 0
    assert prune(runner.system, runner.instance, now=FAR).runs == 1


@pytest.mark.parametrize("page", [1, 3])
def test_kept_runs_do_not_hide_runs_that_can_be_deleted(
    runner: DagsterRunner, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    monkeypatch.setattr(retention, "PAGE", page)
    made = [_failed(runner) if kind == "f" else runner.csv({"name": "Ada"}) for kind in "fcffccf"]
    _age_runs(runner, *(batch.run_id for batch in made))

    shown = prune(runner.system, runner.instance, dry_run=True)
    assert prune(runner.system, runner.instance) == shown

    assert (shown.batches, shown.runs, shown.more) == (0, 3, False)
    assert _run_ids(runner) == {batch.run_id for batch in made if batch.status == BatchStatus.failed}


def test_runs_of_other_jobs_are_not_deleted(runner: DagsterRunner) -> None:
    @op
    def nothing() -> None:
        pass

    @job
    def of_somebody_else() -> None:
        nothing()

    others = of_somebody_else.execute_in_process(instance=runner.instance).run_id
    runner.csv({"name": "Ada"})
    assert prune(runner.system, runner.instance, now=FAR).runs == 1
    assert _run_ids(runner) == {others}
    assert runner.instance.all_logs(others)


def test_a_backlog_of_batches_blocks_neither_runs_nor_orphans(
    runner: DagsterRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = [runner.csv({"name": name}) for name in ("Ada", "Bob", "Eve", "Joe", "Kim")]
    _orphan(runner, days=31, now=FAR)
    clock = [0.0]
    remove = retention.remove_files

    def slowly(system: System, batch_id: str) -> Files:
        clock[0] += 10
        return remove(system, batch_id)

    monkeypatch.setattr(retention.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(retention, "remove_files", slowly)

    first = prune(runner.system, runner.instance, now=FAR, seconds=30)
    assert (first.batches, first.runs, first.orphans, first.more) == (2, 5, 1, True)
    second = prune(runner.system, runner.instance, now=FAR, seconds=30)
    assert (second.batches, second.runs, second.orphans, second.more) == (3, 0, 0, False)  # nobody else needs the time
    assert not any(_files(runner.system, batch) for batch in batches)


def _orphan(runner: DagsterRunner, *, days: float, now: datetime) -> str:
    """What a crash leaves between copying a file and telling the ledger; returns the key."""
    with pytest.MonkeyPatch.context() as patch:
        made = int((now - timedelta(days=days)).timestamp() * 1_000_000)
        patch.setattr(ids.time, "time_ns", lambda: made * 1000)
        batch_id = ids.new_batch_id()
    assert ids.made_at(batch_id).timestamp() * 1_000_000 == pytest.approx(made, abs=1)
    key = keys.upload(batch_id, "people.csv", saved=True)
    runner.system.store.write(key, b"name\nAda\n")
    return key


def test_old_files_without_a_batch_are_deleted(runner: DagsterRunner) -> None:
    now = datetime.now(UTC)
    store = runner.system.store
    old = [_orphan(runner, days=days, now=now) for days in (30.1, 31, 400)]
    store.write(f"{old[0]}.more", b"12345")
    recent = [_orphan(runner, days=days, now=now) for days in (0, 1, 29.9)]
    foreign = ["batches/aaa/file", "batches/batch_old/file", "batches/zzz/file", "batches/file"]
    for key in foreign:
        store.write(key, b"x")
    batch = accepted(  # made long ago, ended just now
        runner.system.engine, runner.organization_id, id=_orphan(runner, days=35, now=now).split("/")[1]
    )
    owned = keys.upload(batch.id, "people.csv", saved=True)

    shown = prune(runner.system, runner.instance, dry_run=True)
    assert (shown.batches, shown.orphans, shown.files) == (0, 3, Files(4, 32))
    assert all(store.exists(key) for key in old)
    assert prune(runner.system, runner.instance) == shown

    assert {item.key for item in store.list("batches/")} == {*recent, *foreign, owned}
    assert prune(runner.system, runner.instance).orphans == 0
