"""`undo_job`: launched in the Launchpad, requested by the sensor, re-executed; and uploads that ask for an undo."""

from typing import Any

import psycopg
import pytest
from batch_runs import arrived, as_csv, contacts
from dagster import (
    DagsterInstance,
    DagsterInvalidConfigError,
    ExecuteInProcessResult,
    JobDefinition,
    ReexecutionOptions,
    execute_job,
    reconstructable,
    validate_run_config,
)
from launches import all_batches, launchpad, tick

from batch_pipeline.batches.model import Batch, Starter
from batch_pipeline.batches.options import UndoOptions
from batch_pipeline.definitions import defs
from batch_pipeline.intake.undoing import request_undo
from batch_pipeline.orchestration import tags
from batch_pipeline.orchestration.execute import execute_batch
from batch_pipeline.system import System


def undo_job() -> JobDefinition:
    return defs.resolve_job_def(tags.UNDO_JOB_NAME)


def launch_undo(instance: DagsterInstance, **config: Any) -> ExecuteInProcessResult:
    """A run from the Launchpad."""
    return undo_job().execute_in_process(
        run_config={"ops": {tags.UNDO: {"config": config}}}, instance=instance, raise_on_error=False
    )


@pytest.fixture
def done(system: System, instance: DagsterInstance) -> Batch:
    """A batch that created a contact."""
    return execute_batch(system, instance, arrived(system, "default", as_csv([{"external_id": "a", "name": "Ann"}])))


def test_the_launchpad_undoes_a_batch(system: System, instance: DagsterInstance, done: Batch) -> None:
    result = launch_undo(instance, batch=done.id)
    assert result.success
    undo = all_batches(system)[-1]
    assert (undo.undo_of, undo.status, undo.run_id, undo.updated_by) == (
        done.id,
        "completed",
        result.run_id,
        "launchpad",
    )
    assert contacts(system, "default") == []
    run = instance.get_run_by_id(result.run_id)
    assert run is not None
    assert (run.tags[tags.BATCH_ID], run.tags[tags.ACTION]) == (undo.id, "undo")


def test_a_planned_undo_is_applied_by_apply_job(system: System, instance: DagsterInstance, done: Batch) -> None:
    assert launch_undo(instance, batch=done.id, plan_only=True).success
    planned = all_batches(system)[-1]
    assert (planned.status, len(contacts(system, "default"))) == ("planned", 1)
    result = defs.resolve_job_def(tags.APPLY_JOB_NAME).execute_in_process(
        run_config={"ops": {tags.APPLY: {"config": {"batch": planned.id}}}}, instance=instance
    )
    assert result.success
    assert (system.ledger.get(planned.id).stats.deleted, contacts(system, "default")) == (1, [])


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ({"batch": "batch_2Nq8XW6vCkT1aBcDeFgHiJ"}, "batch_not_found"),
        ({"delete_limit": "few"}, "invalid_options"),
    ],
)
def test_an_undo_that_is_refused_makes_no_batch(
    system: System, instance: DagsterInstance, done: Batch, config: dict[str, str], code: str
) -> None:
    result = launch_undo(instance, **{"batch": done.id, **config})
    event = result.failure_data_for_node(tags.UNDO)
    assert event is not None
    assert event.user_failure_data is not None
    assert event.user_failure_data.metadata["code"].value == code
    assert [batch.id for batch in all_batches(system)] == [done.id]


def test_the_sensor_requests_the_run_of_an_undo(system: System, instance: DagsterInstance, done: Batch) -> None:
    undo = request_undo(system, done.id, starter=Starter.launcher, options=UndoOptions(delete_limit="10"))
    (request,) = tick(instance)
    assert request.job_name == tags.UNDO_JOB_NAME
    assert request.run_config == {
        "ops": {tags.UNDO: {"config": {"batch": done.id, "delete_limit": "10", "plan_only": False}}}
    }
    result = undo_job().execute_in_process(run_config=request.run_config, tags=dict(request.tags), instance=instance)
    assert result.success
    assert (system.ledger.get(undo.id).status, len(all_batches(system))) == ("completed", 2)


@pytest.mark.parametrize("from_failure", [False, True])
def test_a_failed_undo_that_is_re_executed_is_the_same_batch(
    system: System, instance: DagsterInstance, done: Batch, from_failure: bool
) -> None:
    with psycopg.connect(system.database_url) as connection:
        connection.execute("ALTER TABLE contacts RENAME TO hidden")
    assert not launch_undo(instance, batch=done.id).success
    with psycopg.connect(system.database_url) as connection:
        connection.execute("ALTER TABLE hidden RENAME TO contacts")
    failed = all_batches(system)[-1]
    assert failed.status == "failed"
    run_id = str(failed.run_id)
    options = ReexecutionOptions.from_failure(run_id, instance) if from_failure else ReexecutionOptions(run_id)
    assert execute_job(reconstructable(undo_job), instance, reexecution_options=options).success
    after = system.ledger.get(failed.id)
    assert (after.status, after.attempts, after.stats.deleted) == ("completed", 2, 1)
    assert len(all_batches(system)) == 2


def test_no_upload_can_be_an_undo(system: System, instance: DagsterInstance) -> None:
    system.store.write("uploads/default/contact/undo/people.csv", b"name\nAda\n")
    assert tick(instance) == []
    (refused,) = all_batches(system)
    assert refused.reason is not None
    assert (refused.status, refused.action, refused.reason.code) == ("failed", None, "unknown_folder")
    system.store.write("elsewhere/people.csv", b"name\nAda\n")
    config = {"organization": "default", "resource": "contact", "action": "undo", "file": "elsewhere/people.csv"}
    with pytest.raises(DagsterInvalidConfigError):
        validate_run_config(defs.resolve_job_def(tags.JOB_NAME), {"ops": {tags.PARSE: {"config": config}}})
    with pytest.raises(DagsterInvalidConfigError):
        launchpad(instance, file="elsewhere/people.csv", action="undo")
