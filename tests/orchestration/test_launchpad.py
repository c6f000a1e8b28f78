"""Runs that are launched in the Launchpad: for a file of the bucket, or refused."""

from typing import Any

import pytest
from batch_runs import arrived, contacts
from dagster import (
    DagsterInstance,
)
from launches import INBOX, all_batches, failure_code, launchpad, tick

from batch_pipeline.orchestration import tags
from batch_pipeline.orchestration.execute import execute_batch
from batch_pipeline.system import System


def test_the_launchpad_runs_a_file_of_the_inbox_once(system: System, instance: DagsterInstance) -> None:
    system.store.write(f"{INBOX}/people.csv", b"name\nAda\n")
    result = launchpad(instance, file=f"{INBOX}/people.csv", save_result=True)
    assert result.success
    (batch,) = all_batches(system)
    assert (batch.status, batch.run_id, batch.has_result_file) == ("completed", result.run_id, True)
    assert tick(instance) == []
    run = instance.get_run_by_id(result.run_id)
    assert run is not None
    assert run.tags[tags.BATCH_ID] == batch.id


def test_the_launchpad_runs_any_other_file_of_the_bucket_and_leaves_it_there(
    system: System, instance: DagsterInstance
) -> None:
    system.store.write("elsewhere/people.csv", b"name\nAda\n")
    for count in (1, 2):
        assert launchpad(instance, file="elsewhere/people.csv").success
        assert len(all_batches(system)) == count
    assert system.store.exists("elsewhere/people.csv")
    assert len(contacts(system, "default")) == 1


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ({"file": "s3://other/people.csv"}, "invalid_file"),
        ({"file": "/etc/passwd"}, "invalid_file"),
        ({"file": "uploads/../batches/x"}, "invalid_file"),
        ({"file": "elsewhere//x"}, "invalid_file"),
        ({"file": ""}, "invalid_file"),
        ({"file": "elsewhere/absent.csv"}, "object_not_found"),
        ({"file": "uploads/other/contact/merge/people.csv"}, "wrong_folder"),
        ({"file": f"{INBOX}/people.csv", "organization": "nobody"}, "unknown_organization"),
        ({"file": f"{INBOX}/people.csv", "default_region": "XX"}, "invalid_options"),
        ({"file": f"{INBOX}/people.csv", "timeout_seconds": 0}, "invalid_options"),
        ({"file": f"{INBOX}/people.csv", "delete_limit": "many"}, "invalid_options"),
        ({"file": f"{INBOX}/people.csv", "reject_limit": "many"}, "invalid_options"),
    ],
)
def test_an_invalid_launchpad_config_creates_no_batch(
    system: System, instance: DagsterInstance, config: dict[str, Any], code: str
) -> None:
    system.store.write(f"{INBOX}/people.csv", b"name\nAda\n")
    system.store.write("uploads/other/contact/merge/people.csv", b"name\nAda\n")
    assert failure_code(launchpad(instance, **config)) == code
    assert all_batches(system) == []
    assert system.store.exists(f"{INBOX}/people.csv")


def test_the_launchpad_takes_a_reject_limit(system: System, instance: DagsterInstance) -> None:
    system.store.write("elsewhere/people.csv", b"name,email\nAda,\nEve,bad\n")
    assert not launchpad(instance, file="elsewhere/people.csv", reject_limit="0").success
    assert launchpad(instance, file="elsewhere/people.csv", reject_limit="50%").success
    refused, done = all_batches(system)
    assert refused.reason is not None
    assert (refused.reason.code, refused.stats.created) == ("reject_limit_exceeded", 0)
    assert (done.status, done.stats.created, done.stats.rejected) == ("completed", 1, 1)


def test_the_launchpad_takes_mappings_and_ignores_columns(system: System, instance: DagsterInstance) -> None:
    system.store.write("elsewhere/people.csv", b"Wer,colour\nAda,red\n")
    config = {"file": "elsewhere/people.csv", "unknown_columns": "ignore"}
    assert launchpad(instance, **config, column_mapping={"name": "Wer"}).success
    assert launchpad(instance, **config, column_mapping="remembered").success
    assert failure_code(launchpad(instance, **config)) == "unknown_columns"
    assert [batch.column_mapping for batch in all_batches(system)] == [{"name": "Wer"}, {"name": "Wer"}, {}]
    assert failure_code(launchpad(instance, **config, column_mapping="remember")) == "invalid_options"


def test_a_run_tagged_with_a_batch_that_awaits_no_run_is_refused(system: System, instance: DagsterInstance) -> None:
    done = execute_batch(system, instance, arrived(system, "default", b"name\nAda\n"))
    result = launchpad(instance, file="x", run_tags={tags.BATCH_ID: done.id})
    assert failure_code(result) == "run_refused"
    assert system.ledger.get(done.id) == done
