"""`retry_rejected_job`: the rejected items of a batch, run again from the Launchpad, re-executed, or refused."""

import psycopg
import pytest
from batch_runs import arrived, as_csv, contacts
from dagster import (
    DagsterInstance,
    ExecuteInProcessResult,
    JobDefinition,
    ReexecutionOptions,
    execute_job,
    reconstructable,
)
from launches import all_batches

from batch_pipeline.batches.model import Action, Batch
from batch_pipeline.definitions import defs
from batch_pipeline.orchestration import tags
from batch_pipeline.orchestration.execute import execute_batch
from batch_pipeline.system import System


def retry_rejected_job() -> JobDefinition:
    return defs.resolve_job_def(tags.RETRY_REJECTED_JOB_NAME)


def launch(instance: DagsterInstance, batch_id: str) -> ExecuteInProcessResult:
    """A run from the Launchpad."""
    return retry_rejected_job().execute_in_process(
        run_config={"ops": {tags.RETRY_REJECTED: {"config": {"batch": batch_id}}}},
        instance=instance,
        raise_on_error=False,
    )


@pytest.fixture
def rejecting(system: System, instance: DagsterInstance) -> Batch:
    """An overwrite that rejected a contact, because two records have its key."""
    with psycopg.connect(system.database_url) as connection:
        for number in (1, 2):
            connection.execute(
                "INSERT INTO contacts (organization_id, id, name, email)"
                " VALUES ('default', %s, 'Eve', 'eve@example.com')",
                (f"ctct_{number:022}",),
            )
    rows = [{"name": "Ada", "email": "ada@example.com"}, {"name": "Eva", "email": "eve@example.com"}]
    return execute_batch(system, instance, arrived(system, "default", as_csv(rows), action=Action.overwrite))


def test_the_launchpad_runs_the_rejected_items_again(
    system: System, instance: DagsterInstance, rejecting: Batch
) -> None:
    assert rejecting.stats.rejected == 1
    with psycopg.connect(system.database_url) as connection:
        connection.execute("DELETE FROM contacts WHERE id = %s", (f"ctct_{2:022}",))
    result = launch(instance, rejecting.id)
    assert result.success
    again = all_batches(system)[-1]
    assert (again.retry_of, again.action, again.status, again.updated_by, again.run_id) == (
        rejecting.id,
        "merge",
        "completed",
        "launchpad",
        result.run_id,
    )
    assert [record["name"] for record in contacts(system, "default")] == ["Ada", "Eva"]
    run = instance.get_run_by_id(result.run_id)
    assert run is not None
    assert (run.tags[tags.BATCH_ID], run.tags[tags.OUTCOME]) == (again.id, "1 updated")


@pytest.mark.parametrize("from_failure", [False, True])
def test_a_failed_retry_that_is_re_executed_is_the_same_batch(
    system: System, instance: DagsterInstance, rejecting: Batch, from_failure: bool
) -> None:
    with psycopg.connect(system.database_url) as connection:
        connection.execute("DELETE FROM contacts WHERE id = %s", (f"ctct_{2:022}",))
        connection.execute("ALTER TABLE contacts RENAME TO hidden")
    assert not launch(instance, rejecting.id).success
    with psycopg.connect(system.database_url) as connection:
        connection.execute("ALTER TABLE hidden RENAME TO contacts")
    failed = all_batches(system)[-1]
    run_id = str(failed.run_id)
    options = ReexecutionOptions.from_failure(run_id, instance) if from_failure else ReexecutionOptions(run_id)
    assert execute_job(reconstructable(retry_rejected_job), instance, reexecution_options=options).success
    after = system.ledger.get(failed.id)
    assert (after.status, after.attempts, after.stats.updated) == ("completed", 2, 1)
    assert len(all_batches(system)) == 2


def test_a_batch_without_rejected_items_is_refused(system: System, instance: DagsterInstance) -> None:
    done = execute_batch(system, instance, arrived(system, "default", b"name\nAda\n"))
    for batch_id, code in ((done.id, "nothing_rejected"), ("batch_PUT_THE_ID_HERE", "batch_not_found")):
        event = launch(instance, batch_id).failure_data_for_node(tags.RETRY_REJECTED)
        assert event is not None
        assert event.user_failure_data is not None
        assert event.user_failure_data.metadata["code"].value == code
    assert all_batches(system) == [done]
