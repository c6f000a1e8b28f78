"""What Dagster shows of batches beside their run pages: assets, their checks, and the list of runs."""

from typing import Any

import psycopg
import pytest
from batch_runs import arrived, as_csv, insert_contacts, run_of
from dagster import (
    AssetKey,
    DagsterEventType,
    DagsterInstance,
    DagsterRunStatus,
    ReexecutionOptions,
    execute_job,
    reconstructable,
)
from launches import all_batches, batch_job, launchpad, tick

from batch_pipeline.batches.model import Action, Batch
from batch_pipeline.batches.states import BatchStatus
from batch_pipeline.definitions import defs
from batch_pipeline.local.samples import launchpad_sample
from batch_pipeline.orchestration import tags
from batch_pipeline.orchestration.checks import FRESH, NO_UNEXPECTED_DELETES, REJECTED_ROWS, report_freshness
from batch_pipeline.orchestration.definitions import build_defs
from batch_pipeline.orchestration.execute import execute_batch
from batch_pipeline.orchestration.reconciling import reconcile
from batch_pipeline.orchestration.retention import prune
from batch_pipeline.settings import load_settings
from batch_pipeline.storage import keys
from batch_pipeline.system import System


@pytest.fixture(scope="module")
def system_settings() -> dict[str, str]:
    return {
        "BATCH_FRESH_HOURS": '{"default/contact": 24, "acme/contact": 1}',
        "BATCH_REJECTED_SHARE": "0.25",
        "BATCH_API_URL": "https://api.example.com/",
    }


def run(system: System, instance: DagsterInstance, payload: bytes, **options: Any) -> Batch:
    return execute_batch(system, instance, arrived(system, "default", payload, **options))


def checks(instance: DagsterInstance, batch: Batch) -> dict[str, tuple[bool, str]]:
    """The checks that the batch's newest run evaluated: name -> passed, description."""
    kind = DagsterEventType.ASSET_CHECK_EVALUATION
    events = [
        record.event_log_entry.get_dagster_event().asset_check_evaluation_data
        for record in instance.get_records_for_run(str(batch.run_id), of_type=kind).records
    ]
    assert all(event.asset_key == AssetKey("contacts") and event.severity.value == "WARN" for event in events)
    return {event.check_name: (event.passed, str(event.description)) for event in events}


def shown_tags(instance: DagsterInstance, batch: Batch) -> dict[str, str]:
    """The tags that the list of runs shows."""
    run = instance.get_run_by_id(str(batch.run_id))
    assert run is not None
    return {name: value for name, value in run.tags.items() if not name.startswith((".dagster/", "dagster/"))}


def test_a_completed_batch_is_told_apart_counted_and_judged(system: System, instance: DagsterInstance) -> None:
    rows = [{"external_id": str(number), "name": "Ada", "email": "ada@example.com"} for number in range(3)]
    few = run(system, instance, as_csv(rows), name="few.csv")
    many = run(system, instance, as_csv([{**row, "email": "none"} for row in rows[:1]] + rows[1:]), name="many.csv")
    assert (few.stats.rejected, many.stats.rejected) == (0, 1)
    assert checks(instance, few)[REJECTED_ROWS] == (True, "0 of 3 items were rejected (0.0%); the limit is 25.0%.")
    assert checks(instance, many)[REJECTED_ROWS] == (False, "1 of 3 items were rejected (33.3%); the limit is 25.0%.")
    assert NO_UNEXPECTED_DELETES not in checks(instance, many)  # a merge deletes nothing
    assert shown_tags(instance, many) == {
        tags.BATCH_ID: many.id,
        tags.ORGANIZATION: "default",
        tags.RESOURCE: "contact",
        tags.ACTION: "merge",
        tags.NAME: "many.csv",
        tags.OUTCOME: "2 unchanged, 1 rejected",
    }
    event = instance.get_latest_materialization_event(AssetKey("contacts"))
    assert event is not None
    assert event.asset_materialization is not None
    metadata = event.asset_materialization.metadata
    assert next(iter(metadata)) == "outcome"
    assert (metadata["dagster/row_count"].value, metadata["rejected"].value) == (3, 1)
    assert metadata["open the errors file"].value == f"https://api.example.com/v1/batches/{many.id}/errors.csv"
    assert metadata["retry the rejected items"].value == (
        "/locations/batch_pipeline/jobs/retry_rejected_job/playground/setup"
        f"?config=ops:+{{retry_rejected:+{{config:+{{batch:+{many.id}}}}}}}"
    )


def test_a_failed_batch_is_in_the_plots_and_its_outcome_comes_first(system: System, instance: DagsterInstance) -> None:
    failed = run(system, instance, as_csv([{"email": "none"}, {"email": "neither"}]))
    assert failed.reason is not None
    assert failed.reason.code == "no_valid_items"
    assert shown_tags(instance, failed)[tags.OUTCOME] == "failed: no_valid_items"
    assert checks(instance, failed)[REJECTED_ROWS][0] is False
    (seen,) = instance.fetch_observations(AssetKey("contacts"), limit=2).records
    assert seen.asset_observation is not None
    metadata = seen.asset_observation.metadata
    assert (metadata["items"].value, metadata["rejected"].value) == (2, 2)
    (step,) = instance.get_records_for_run(str(failed.run_id), of_type=DagsterEventType.STEP_FAILURE).records
    data = step.event_log_entry.get_dagster_event().step_failure_data
    assert data.user_failure_data is not None
    names = list(data.user_failure_data.metadata)
    assert names[0] == "outcome"
    assert names.index("open the errors file") > 0

    unreadable = run(system, instance, b"\x00\x01\x02", name="people.bin")
    assert unreadable.status == "failed"
    assert checks(instance, unreadable) == {}  # no item was read
    assert len(instance.fetch_observations(AssetKey("contacts"), limit=5).records) == 2


def test_deletions_of_most_records_are_unexpected(system: System, instance: DagsterInstance) -> None:
    insert_contacts(
        system,
        "default",
        *({"id": f"ctct_{n:022}", "external_id": str(n), "name": "Ada"} for n in range(502)),
    )
    one = as_csv([{"external_id": "1", "name": "Ada"}])
    refused = run(system, instance, one, action=Action.overwrite)
    assert refused.reason is not None
    assert refused.reason.code == "delete_limit_exceeded"
    assert checks(instance, refused)[NO_UNEXPECTED_DELETES][0] is False
    allowed = run(system, instance, one, action=Action.overwrite, delete_limit="none")
    assert (allowed.status, allowed.stats.overwritten) == ("completed", 501)
    passed, description = checks(instance, allowed)[NO_UNEXPECTED_DELETES]
    assert (passed, "501 of 502 records" in description) == (False, True)
    usual = run(system, instance, as_csv([{"external_id": "2", "name": "Eve"}]), action=Action.overwrite)
    assert (usual.stats.overwritten, checks(instance, usual)[NO_UNEXPECTED_DELETES][0]) == (1, True)


def test_a_file_that_does_not_come_in_time_is_noticed_once(system: System, instance: DagsterInstance) -> None:
    def evaluations() -> list[str]:
        return [f"{found.passed} {found.description}" for found in report_freshness(system, instance)]

    assert evaluations() == ["False Late: acme, default."]
    assert evaluations() == []
    batch = run(system, instance, b"name\nAda\n")
    assert checks(instance, batch)[FRESH] == (False, "Late: acme.")
    assert evaluations() == []  # as the run has recorded
    with pytest.raises(Exception, match="BATCH_FRESH_HOURS: acme/person names no resource"):
        build_defs(settings=load_settings().model_copy(update={"fresh_hours": {"acme/person": 1.0}}))


def test_the_ui_evaluates_the_checks_of_the_newest_batch(system: System, instance: DagsterInstance) -> None:
    everything = build_defs().resolve_implicit_global_asset_job_def()
    assert everything.execute_in_process(instance=instance).success
    run(system, instance, as_csv([{"name": "Ada"}, {"email": "none"}]))
    result = everything.execute_in_process(instance=instance)
    found = {(each.asset_key.to_user_string(), each.check_name): each for each in result.get_asset_check_evaluations()}
    assert len(found) == 11  # two of each resource, and one for files that must come
    assert found["contacts", REJECTED_ROWS].passed is False
    assert found["groups", REJECTED_ROWS].description == "There is no batch to judge yet."


def test_retention_deletes_what_checks_have_left_with_their_runs(system: System, instance: DagsterInstance) -> None:
    old, new = (run(system, instance, b"name\nAda\n") for _ in range(2))

    def evaluations() -> set[str]:
        with psycopg.connect(system.database_url) as connection:
            return {run_id for (run_id,) in connection.execute("SELECT run_id FROM dagster.asset_check_executions")}

    assert evaluations() == {old.run_id, new.run_id}
    with psycopg.connect(system.database_url) as connection:
        connection.execute(
            "UPDATE dagster.runs SET create_timestamp = now() - interval '31 days' WHERE run_id = %s", (old.run_id,)
        )
    assert prune(system, instance).runs == 1
    assert evaluations() == {new.run_id}


def test_each_attempt_at_a_batch_has_its_own_outcome_in_the_list(system: System, instance: DagsterInstance) -> None:
    with psycopg.connect(system.database_url) as connection:
        connection.execute("ALTER TABLE contacts RENAME TO hidden")
    failed = run(system, instance, b"name\nAda\n")
    with psycopg.connect(system.database_url) as connection:
        connection.execute("ALTER TABLE hidden RENAME TO contacts")
    options = ReexecutionOptions.from_failure(str(failed.run_id), instance)
    assert execute_job(reconstructable(batch_job), instance, reexecution_options=options).success
    assert shown_tags(instance, failed)[tags.OUTCOME] == "failed: internal_error"
    done = system.ledger.get(failed.id)
    assert done.attempts == 2
    assert shown_tags(instance, done)[tags.OUTCOME] == "1 created"


def test_a_refused_file_of_the_inbox_is_in_the_list_with_its_name(system: System, instance: DagsterInstance) -> None:
    system.store.write("uploads/default/shipment/delete/parcels.csv", b"id\n1\n")
    assert tick(instance) == []
    (refused,) = all_batches(system)
    (run,) = instance.get_runs()
    assert run.tags[tags.BATCH_ID] == refused.id
    assert (run.tags[tags.NAME], run.tags[tags.OUTCOME]) == ("parcels.csv", "failed: action_not_available")


def test_a_batch_whose_worker_is_lost_has_its_outcome_in_the_list(system: System, instance: DagsterInstance) -> None:
    batch = arrived(system, "default", b"name\nAda\n")
    lost = run_of(instance, batch, DagsterRunStatus.STARTED)
    system.ledger.begin_attempt(batch.id, lost.run_id)
    (ended,) = reconcile(system, instance)
    assert ended.status is BatchStatus.failed
    assert shown_tags(instance, ended)[tags.OUTCOME] == "failed: worker_lost"


def test_the_launchpads_first_config_runs_on_the_sample(system: System, instance: DagsterInstance) -> None:
    job = batch_job()
    assert job.run_config is not None
    config = job.run_config["ops"]["parse"]["config"]
    assert not launchpad(instance, **config).success  # without the sample, which `up` puts there
    system.store.write(keys.SAMPLE, launchpad_sample())
    assert launchpad(instance, **config).success
    (batch,) = all_batches(system)
    assert (batch.stats.created, batch.stats.rejected) == (8, 2)


def test_each_asset_has_an_owner_a_group_and_its_lineage_and_tables_have_their_columns(system: System) -> None:
    specs = {spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs()}
    assert all(spec.owners == ["team:operations"] and spec.description for spec in specs.values())
    inbox = specs.pop("inbox")
    assert inbox.group_name == "intake"
    with system.engine.connect() as connection:
        for table, spec in specs.items():
            assert spec.group_name == "records"
            assert [dependency.asset_key for dependency in spec.deps] == [AssetKey("inbox")]
            schema = spec.metadata["dagster/column_schema"]
            stored = connection.exec_driver_sql(
                "SELECT column_name FROM information_schema.columns WHERE table_name = %s AND table_schema = 'public'",
                (table,),
            ).scalars()
            assert {column.name for column in schema.columns} <= set(stored)
            assert all(column.description for column in schema.columns)
