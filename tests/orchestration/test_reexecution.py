"""Runs that are re-executed in Dagster."""

import psycopg
import pytest
from batch_runs import arrived, contacts
from dagster import (
    DagsterInstance,
    JobExecutionResult,
    ReexecutionOptions,
    execute_job,
    reconstructable,
)
from launches import all_batches, batch_job

from batch_pipeline.batches.model import Batch, Starter
from batch_pipeline.orchestration.execute import execute_batch
from batch_pipeline.system import System


def _reexecute(instance: DagsterInstance, batch: Batch, *, from_failure: bool = False) -> JobExecutionResult:
    """Executes the batch's newest run again, as Dagster's UI does."""
    run_id = str(batch.run_id)
    options = ReexecutionOptions.from_failure(run_id, instance) if from_failure else ReexecutionOptions(run_id)
    return execute_job(reconstructable(batch_job), instance, reexecution_options=options)


def test_executing_a_completed_batch_again_does_nothing_and_succeeds(system: System, instance: DagsterInstance) -> None:
    done = execute_batch(system, instance, arrived(system, "default", b"name\nAda\n"))
    before = contacts(system, "default")
    result = _reexecute(instance, done)
    assert result.success
    after = system.ledger.get(done.id)
    assert (after.status, after.attempts, after.run_id, after.stats) == ("completed", 2, result.run_id, done.stats)
    assert contacts(system, "default") == before


@pytest.mark.parametrize("from_failure", [False, True])
def test_a_failed_batch_that_is_re_executed_in_dagster_is_the_same_batch(
    system: System, instance: DagsterInstance, from_failure: bool
) -> None:
    with psycopg.connect(system.database_url) as connection:
        connection.execute("ALTER TABLE contacts RENAME TO contacts_away")
    failed = execute_batch(system, instance, arrived(system, "default", b"name\nAda\n"))
    assert (failed.status, failed.reason and failed.reason.code) == ("failed", "internal_error")
    with psycopg.connect(system.database_url) as connection:
        connection.execute("ALTER TABLE contacts_away RENAME TO contacts")
    result = _reexecute(instance, failed, from_failure=from_failure)
    assert result.success
    (batch,) = all_batches(system)
    assert (batch.id, batch.status, batch.attempts, batch.run_id) == (failed.id, "completed", 2, result.run_id)
    assert batch.arrival is not None
    assert failed.arrival is not None
    assert batch.arrival > failed.arrival  # it lined up anew


def test_a_re_execution_from_the_failure_of_a_changed_plan_leaves_the_batch_planned(
    system: System, instance: DagsterInstance
) -> None:
    rows = b"external_id,name\na,Ann\n"
    planned = execute_batch(system, instance, arrived(system, "default", rows, plan_only=True))
    execute_batch(system, instance, arrived(system, "default", rows))
    changed = execute_batch(system, instance, system.ledger.request_apply(planned.id, Starter.caller))
    assert changed.status == "planned"

    result = _reexecute(instance, changed, from_failure=True)

    assert not result.success
    after = system.ledger.get(planned.id)
    assert (after.status, after.reason, after.plan) == ("planned", None, changed.plan)
