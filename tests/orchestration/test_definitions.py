"""The code location as others see it: its names and its Launchpad form."""

from typing import Any

import pytest
from dagster import DefaultSensorStatus, validate_run_config

from batch_pipeline.batches.options import OPTION_NAMES, BatchOptions
from batch_pipeline.definitions import defs
from batch_pipeline.orchestration import tags
from batch_pipeline.orchestration.config import BatchConfig
from batch_pipeline.orchestration.run_logger import LOGGERS
from batch_pipeline.records.registry import RESOURCES


def test_job_sensors_and_assets_have_their_public_names() -> None:
    repository = defs.get_repository_def()
    assert {job.name for job in repository.get_all_jobs() if not job.name.startswith("__")} == {
        "batch_job",
        "apply_job",
        "undo_job",
        "retry_rejected_job",
    }
    assert [node.name for node in defs.resolve_job_def("batch_job").nodes_in_topological_order] == [
        "parse",
        "validate",
        "process",
        "cleanup",
    ]
    sensors = {sensor.name: sensor for sensor in repository.sensor_defs}
    assert set(sensors) == {
        "upload_sensor",
        "reconcile_sensor",
        "failure_sensor",
        "cancel_sensor",
        "requested_sensor",
        "retention_sensor",
        "upkeep_sensor",
    }
    assert all(sensor.default_status is DefaultSensorStatus.RUNNING for sensor in sensors.values())
    tables = {resource.table for resource in RESOURCES.values()}
    graph = repository.asset_graph
    assert {key.to_user_string() for key in graph.get_all_asset_keys()} == tables | {"inbox"}
    assert {(key.asset_key.to_user_string(), key.name) for key in graph.asset_check_keys} == {
        (table, name) for table in tables for name in ("rejected_rows", "no_unexpected_deletes")
    }
    assert (tags.BATCH_ID, tags.ORGANIZATION, tags.RESOURCE, tags.ACTION) == (
        "batch/id",
        "batch/organization",
        "batch/resource",
        "batch/action",
    )


def test_every_launchpad_is_filled_in_with_a_config_that_its_job_takes_and_describes_every_field() -> None:
    for name in tags.JOB_NAMES:
        job = defs.resolve_job_def(name)
        assert job.run_config
        validate_run_config(job, job.run_config)
        (op_name,) = job.run_config["ops"]
        schema = job.get_node_named(op_name).definition.config_schema.config_type.fields
        assert all(field.description for field in schema.values()), name


def test_the_launchpad_offers_every_option_with_its_default_and_a_description() -> None:
    schema = BatchConfig.to_config_schema().as_field().config_type.fields  # type: ignore[attr-defined] # a ConfigType that is typed as its base class
    assert set(schema) == {"organization", "resource", "action", "file", *OPTION_NAMES}
    assert {name for name, field in schema.items() if field.is_required} == {"resource", "action", "file"}
    assert all(field.description for field in schema.values())
    assert set(schema["resource"].config_type.config_values) == set(RESOURCES)
    plain = BatchConfig.model_validate({"resource": "contact", "action": "merge", "file": "a.csv"})
    assert plain.options() == BatchOptions()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"action": "upsert"}, "action"),
        ({"resource": "person"}, "resource"),
        ({"colour": "red"}, "colour"),
        ({"save_result": "perhaps"}, "save_result"),
    ],
)
def test_a_wrong_launchpad_config_is_refused_before_a_run_begins(wrong: dict[str, Any], says: str) -> None:
    from dagster import DagsterInvalidConfigError, validate_run_config

    config = {"resource": "contact", "action": "merge", "file": "a.csv"}
    job = defs.resolve_job_def(tags.JOB_NAME)
    validate_run_config(job, {"ops": {"parse": {"config": config}}})
    with pytest.raises(DagsterInvalidConfigError, match=says):
        validate_run_config(job, {"ops": {"parse": {"config": {**config, **wrong}}}})


@pytest.mark.parametrize("name", tags.JOB_NAMES)
def test_the_runs_of_every_job_log_in_the_format_of_the_setting(name: str) -> None:
    assert defs.resolve_job_def(name).loggers == LOGGERS
