"""The page of a failed run, and the cleaning up after it."""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from batch_runs import DagsterRunner, Row, arrived, as_csv, new_organization
from dagster import (
    DagsterEventType,
    DagsterInstance,
    JobDefinition,
    JobExecutionResult,
    ReexecutionOptions,
    TableMetadataValue,
    execute_job,
    reconstructable,
)

from batch_pipeline.batches.model import Batch, PhaseName, Starter
from batch_pipeline.batches.states import BatchStatus, Reason
from batch_pipeline.definitions import defs
from batch_pipeline.loading.merging import MergeWriter
from batch_pipeline.orchestration import asset_events, run_page, tags
from batch_pipeline.orchestration.execute import execute_batch
from batch_pipeline.orchestration.run_page import what_to_do
from batch_pipeline.orchestration.scratch import remove_abandoned_folders, scratch_folder
from batch_pipeline.system import System

PRIVATE = "Ada Lovelace"


@pytest.fixture(scope="module")
def system_settings() -> dict[str, str]:
    return {"BATCH_CHUNK_ROWS": "50", "BATCH_DATABASE_WRITERS": "1"}


@pytest.fixture
def runner(module_system: System, module_instance: DagsterInstance) -> Iterator[DagsterRunner]:
    return DagsterRunner(module_system, new_organization(module_system), module_instance)


def batch_job() -> JobDefinition:
    return defs.resolve_job_def(tags.JOB_NAME)


def _reexecute(instance: DagsterInstance, batch: Batch) -> JobExecutionResult:
    return execute_job(reconstructable(batch_job), instance, reexecution_options=ReexecutionOptions(str(batch.run_id)))


def _shown(instance: DagsterInstance, batch: Batch) -> dict[str, Any]:
    """The metadata of the op that failed."""
    (record,) = instance.get_records_for_run(str(batch.run_id), of_type=DagsterEventType.STEP_FAILURE).records
    event = record.event_log_entry.dagster_event
    assert event is not None
    data = event.step_failure_data.user_failure_data
    assert data is not None
    return {
        name: [record.data for record in value.records] if isinstance(value, TableMetadataValue) else value.value
        for name, value in data.metadata.items()
    }


def _said(instance: DagsterInstance, batch: Batch) -> str:
    """Every event of the batch's newest run, whole."""
    return "\n".join(map(repr, instance.all_logs(str(batch.run_id))))


def _materializations(instance: DagsterInstance, *run_ids: str) -> list[dict[str, Any]]:
    found = []
    for run_id in run_ids:
        for record in instance.get_records_for_run(run_id, of_type=DagsterEventType.ASSET_MATERIALIZATION).records:
            assert record.asset_materialization is not None
            found.append({name: value.value for name, value in record.asset_materialization.metadata.items()})
    return found


def test_a_run_without_valid_items_shows_their_errors(runner: DagsterRunner) -> None:
    batch = runner.csv({"name": PRIVATE, "email": "nowhere"}, {"name": "Bob", "email": "elsewhere"})
    shown = _shown(runner.instance, batch)
    assert list(shown)[:3] == ["outcome", "code", "what to do"]
    assert (shown["outcome"], shown["code"]) == ("failed: no_valid_items", "no_valid_items")
    assert f"batch-pipeline errors {batch.id}" in shown["what to do"]
    assert {entry["code"]: entry["errors"] for entry in shown["errors by field and code"]} == {"invalid_format": 2}
    assert [entry["row"] for entry in shown["first 50 failures"]] == [1, 2]
    assert str(shown["errors.csv"]).endswith(f"{batch.id}/errors.csv")
    assert (shown["phase"], shown["error"]) == ("validation completed", 2)
    assert shown["seconds"] >= 0
    said = _said(runner.instance, batch)
    assert "nowhere" not in said
    assert PRIVATE not in said


def test_a_refused_header_names_its_unknown_columns_on_the_run_page(runner: DagsterRunner) -> None:
    batch = runner.csv({"name": PRIVATE, "E-Mail": "ada@example.com", "colour": "secret"})
    assert batch.reason is not None
    assert batch.reason.code == "unknown_columns"
    said = _said(runner.instance, batch)
    assert "does not have: E-Mail, colour. Map them (column_mapping): --map email=E-Mail." in said
    assert not any(value in said for value in (PRIVATE, "ada@example.com", "secret"))


def test_the_errors_of_a_completed_batch_are_on_its_page_by_field_and_code_without_values(
    runner: DagsterRunner,
) -> None:
    rows = [{"name": f"{PRIVATE} {n}", "phone": "030 12", "colour": "hidden", "email": "nowhere"} for n in range(7)]
    batch = runner.csv({"name": "Ada", "colour": "hidden"}, *rows, unknown_columns="ignore")
    assert batch.status == "completed"
    (event,) = runner.instance.get_records_for_run(
        str(batch.run_id), of_type=DagsterEventType.STEP_OUTPUT, limit=1, ascending=False
    ).records
    assert event.event_log_entry.dagster_event is not None
    metadata = event.event_log_entry.dagster_event.step_output_data.metadata
    groups = [record.data for record in metadata["errors by field and code"].records]
    assert [(each["field"], each["code"], each["errors"], each["first rows"]) for each in groups] == [
        ("email", "invalid_format", 7, "2, 3, 4, 5, 6"),
        ("phone", "invalid_format", 7, "2, 3, 4, 5, 6"),
    ]
    assert "set default_region" in groups[1]["suggestion"]
    assert "colour (8 with a value)" in metadata["warnings"].value
    said = _said(runner.instance, batch)
    assert not any(value in said for value in (PRIVATE, "030 12", "nowhere", "hidden"))


def test_the_first_row_of_a_file_without_a_header_is_in_no_event(runner: DagsterRunner) -> None:
    batch = runner.bytes(f"{PRIVATE},ada@example.com\nBob,bob@example.com\n".encode())
    assert batch.reason is not None
    assert (batch.status, batch.reason.code) == ("failed", "unknown_columns")
    assert PRIVATE not in batch.reason.message
    said = _said(runner.instance, batch)
    assert "it seems to be data: add a header row" in said
    assert PRIVATE not in said
    assert "ada@example.com" not in said


def test_an_unexpected_error_is_shown_by_type_and_place_without_its_message(
    runner: DagsterRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def parse_wrongly(*_: object) -> None:
        raise ValueError(PRIVATE)

    monkeypatch.setattr("batch_pipeline.phases.parse.parse", parse_wrongly)
    batch = runner.csv({"name": "Bob"})
    assert (batch.status, batch.reason and batch.reason.code) == ("failed", "internal_error")
    said = _said(runner.instance, batch)
    assert "ValueError" in said
    assert "parse_wrongly" in _shown(runner.instance, batch)["places"]
    assert PRIVATE not in said


def test_a_batch_materializes_its_asset_once_even_if_its_run_died(
    runner: DagsterRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    class DiedError(Exception):
        pass

    def dies(*_: object) -> None:
        raise DiedError

    with monkeypatch.context() as patch:
        patch.setattr(asset_events, "materialization", dies)
        batch = runner.csv({"name": "Bob"})
    assert batch.status == "completed"
    first = str(batch.run_id)
    assert _materializations(runner.instance, first) == []
    again = [_reexecute(runner.instance, batch) for _ in range(2)]
    assert all(result.success for result in again)
    (told,) = _materializations(runner.instance, first, *(result.run_id for result in again))
    assert told["created"] == 1


def test_the_speed_of_an_attempt_excludes_earlier_attempts(
    runner: DagsterRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = MergeWriter.apply
    calls = iter(range(1, 100))

    def fail_in_the_third_chunk(self: MergeWriter, *chunk: Any) -> Any:
        if next(calls) == 3:
            raise RuntimeError
        return write(self, *chunk)

    people: list[Row] = [{"name": f"Person {number}"} for number in range(250)]
    batch = arrived(runner.system, runner.organization_id, as_csv(people))
    with monkeypatch.context() as patch:
        patch.setattr(MergeWriter, "apply", fail_in_the_third_chunk)
        failed = execute_batch(runner.system, runner.instance, batch)
    assert failed.status == "failed"
    runner.system.ledger.request_rerun(failed.id, Starter.caller)
    done = execute_batch(runner.system, runner.instance, runner.system.ledger.get(failed.id))
    assert (done.status, done.stats.created) == ("completed", 250)
    phase = done.phase(PhaseName.processing)
    assert (phase.processed, phase.already) == (250, 100)
    assert phase.seconds
    assert run_page.phase_metadata(done, PhaseName.processing)["items per second"].value == int(150 / phase.seconds)
    (told,) = _materializations(runner.instance, str(done.run_id))
    assert told["created"] == 250
    assert {"seconds", "rows per second"} & set(told) == set()


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("gave_way", "Nothing: Dagster starts another run"),
        ("superseded", "Nothing: a newer run has the batch"),
        ("pruned", "Send the upload again"),
        ("database_unavailable", "Nothing: the batch runs again by itself"),
        ("run_failed", "from failure"),
        ("cancelled", "re-execute all"),
        ("unknown_columns", "Correct the upload"),
    ],
)
def test_the_next_step_depends_on_the_reason_of_the_failure(runner: DagsterRunner, code: str, says: str) -> None:
    batch = arrived(runner.system, runner.organization_id, b"name\nAda\n")
    if code not in ("gave_way", "superseded", "pruned"):
        batch = runner.system.ledger.end(
            batch.id, BatchStatus.failed, Reason(code, "So it ended.", is_refusal=code == "unknown_columns")
        )
    assert says in what_to_do(batch, code)


def test_a_run_removes_scratch_folders_of_killed_runs_but_none_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    abandoned, in_use, new, others = (
        tmp_path / name
        for name in ("batch-pipeline-run-1", "batch-pipeline-run-2", "batch-pipeline-run-3", "somebody-elses")
    )
    for folder in (abandoned, in_use, new, others):
        folder.mkdir()
        (folder / "upload").write_bytes(b"name\nAda\n")
    for folder in (abandoned, in_use, others):
        os.utime(folder, (0, 0))
    descriptor = os.open(in_use, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    remove_abandoned_folders()
    with scratch_folder() as scratch:
        assert list(scratch.iterdir()) == []
        assert set(tmp_path.iterdir()) == {in_use, new, others, scratch}
        os.utime(scratch, (0, 0))
        remove_abandoned_folders()
        assert scratch.exists()
    os.close(descriptor)
    assert set(tmp_path.iterdir()) == {in_use, new, others}
