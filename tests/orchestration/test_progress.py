"""A run that takes long says in its events how far it is, in words and as metadata."""

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from batch_runs import Row, arrived, as_csv, new_organization
from dagster import DagsterEventType, DagsterInstance
from waiting import eventually

from batch_pipeline.batches.model import Action, Starter
from batch_pipeline.orchestration import run_page
from batch_pipeline.orchestration.execute import execute_batch
from batch_pipeline.orchestration.reconciling import cancel_batch
from batch_pipeline.phases import attempt, chunk_threads, parse, planning, writing
from batch_pipeline.system import System

PATIENCE_SECONDS = 60.0
PEOPLE: list[Row] = [{"external_id": f"crm-{number}", "name": f"Person {number}"} for number in range(250)]


@pytest.fixture(scope="module")
def system_settings() -> dict[str, str]:
    return {"BATCH_CHUNK_ROWS": "50", "BATCH_DATABASE_WRITERS": "1"}


def told(instance: DagsterInstance, run_id: str | None) -> list[tuple[str, str, dict[str, object]]]:
    """The op, message and metadata of each event that tells of progress, in order."""
    assert run_id is not None
    records = instance.get_records_for_run(run_id, of_type=DagsterEventType.ENGINE_EVENT).records
    events = [record.event_log_entry.dagster_event for record in records]
    return [
        (str(event.step_key), str(event.message), {k: v.value for k, v in event.engine_event_data.metadata.items()})
        for event in events
        if event is not None and "phase" in event.engine_event_data.metadata
    ]


def test_each_phase_reports_its_progress(
    module_system: System, module_instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_page, "EVENT_SECONDS", 0.0)
    monkeypatch.setattr(planning, "MANY_ITEMS", 100)
    monkeypatch.setattr(chunk_threads, "WATCH_SECONDS", 0.01)
    monkeypatch.setattr(parse, "ADVANCE_SECONDS", 0.0)
    with psycopg.connect(module_system.database_url) as connection:  # each chunk takes it a while to write
        connection.execute(
            "CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN PERFORM pg_sleep(0.1); RETURN NULL; END $$"
        )
        connection.execute(
            "CREATE TRIGGER linger AFTER INSERT OR DELETE ON contacts FOR EACH STATEMENT EXECUTE FUNCTION linger()"
        )
    organization_id = new_organization(module_system)
    before: list[Row] = [{"external_id": f"old-{number}", "name": "Old"} for number in range(200)]
    for content, action in ((before, Action.merge), (PEOPLE, Action.overwrite)):
        batch = arrived(module_system, organization_id, as_csv(content), action=action, delete_limit="none")
        batch = execute_batch(module_system, module_instance, batch)
        assert batch.status == "completed", batch.reason

    events = told(module_instance, batch.run_id)

    assert {op: metadata["phase"] for op, _, metadata in events} == {
        "parse": "parsing",
        "validate": "validation",
        "process": "processing",
        "cleanup": "cleanup",
    }
    assert any(
        "planning what happens to each of the 250 rows" in message for op, message, _ in events if op == "validate"
    )
    shown = {op: [metadata for each, _, metadata in events if each == op and "rows" in metadata] for op, _, _ in events}
    assert [(metadata["chunk"], metadata["rows"]) for metadata in shown["parse"]] == [
        (str(number), 50 * number) for number in range(1, 5)
    ]
    for op, chunks, rows in (("validate", 5, 250), ("process", 5, 250), ("cleanup", 4, 200)):
        assert shown[op], op
        for metadata in shown[op]:
            chunk = int(str(metadata["chunk"]).removesuffix(f" of {chunks}"))
            assert (metadata["rows"], metadata["of rows"]) == (50 * chunk, rows)
            assert {type(metadata[name]) for name in ("rows per second", "seconds left")} == {int}


def test_writing_artifacts_has_progress_and_seconds_of_its_own(
    module_system: System, module_instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_page, "EVENT_SECONDS", 0.0)
    monkeypatch.setattr(attempt, "MANY_ITEMS", 100)
    rows: list[Row] = [*PEOPLE, {"external_id": "bad", "name": ""}]
    batch = arrived(module_system, new_organization(module_system), as_csv(rows), save_result=True)
    batch = execute_batch(module_system, module_instance, batch)
    assert (batch.status, batch.stats.rejected) == ("completed", 1)

    written = [(each.files, each.done, each.total) for each in batch.facts.artifacts]
    assert written == [("errors.csv, errors.json", 251, 251), ("result.json", 251, 251)]
    assert all(each.seconds is not None and each.seconds > 0 for each in batch.facts.artifacts)
    steps = [
        (op, metadata["step"], metadata["rows"], metadata["of rows"])
        for op, _, metadata in told(module_instance, batch.run_id)
        if str(metadata.get("step")).startswith("writing")
    ]
    assert ("cleanup", "writing errors.csv, errors.json", 0, 251) in steps
    assert ("cleanup", "writing result.json", 0, 251) in steps


def test_progress_that_follows_too_soon_is_not_logged(
    module_system: System, module_instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_page, "EVENT_SECONDS", 3600.0)
    batch = arrived(module_system, new_organization(module_system), as_csv(PEOPLE))
    batch = execute_batch(module_system, module_instance, batch)
    assert batch.status == "completed"
    assert told(module_instance, batch.run_id) == []


def test_a_run_logs_that_its_batch_waits_for_its_turn(
    module_system: System, module_instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "LONG_WAIT_SECONDS", 0.0)
    organization_id = new_organization(module_system)
    first = arrived(module_system, organization_id, as_csv(PEOPLE), starter=Starter.launcher)
    second = arrived(module_system, organization_id, as_csv(PEOPLE))

    def waits() -> bool:
        run_id = module_system.ledger.get(second.id).run_id
        return run_id is not None and any("waits for its turn" in event[1] for event in told(module_instance, run_id))

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(execute_batch, module_system, module_instance, second)
        eventually(waits)
        cancel_batch(module_system, module_instance, first.id)
        assert running.result(PATIENCE_SECONDS).status == "completed"
