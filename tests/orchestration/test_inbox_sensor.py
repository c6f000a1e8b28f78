"""Files in the inbox become batches, and each tick of the upload sensor requests the runs of waiting batches."""

import json
from typing import Any

import pytest
from aiobotocore.client import AioBaseClient
from batch_runs import arrived, as_csv, contacts, new_organization
from dagster import (
    DagsterEventType,
    DagsterInstance,
    DagsterRunStatus,
)
from launches import INBOX, all_batches, launch, tick

from batch_pipeline.batches.model import Starter
from batch_pipeline.batches.states import BatchStatus, Reason
from batch_pipeline.errors import UnavailableError
from batch_pipeline.intake import inbox
from batch_pipeline.orchestration import tags
from batch_pipeline.orchestration.execute import execute_batch
from batch_pipeline.orchestration.reconciling import reconcile
from batch_pipeline.storage import keys
from batch_pipeline.storage.store import Store
from batch_pipeline.system import System


def test_a_file_becomes_one_batch_with_one_run_in_any_number_of_ticks(
    system: System, instance: DagsterInstance
) -> None:
    payload = as_csv([{"name": "Ada"}])
    system.store.write(f"{INBOX}/people.csv", payload)
    (request,) = tick(instance)
    (batch,) = all_batches(system)
    assert (batch.status, batch.name, batch.via, batch.awaits_run) == ("requested", "people.csv", "file", "launcher")
    assert request.tags[tags.BATCH_ID] == batch.id
    assert system.store.list("uploads/") == []
    assert system.store.read(keys.upload(batch.id, "people.csv", saved=True)) == payload
    (again,) = tick(instance)  # it has no run yet; the key keeps Dagster from starting two
    assert again.run_key == request.run_key
    assert launch(instance, request).success
    assert tick(instance) == []
    assert [found.id for found in all_batches(system)] == [batch.id]
    assert [record["name"] for record in contacts(system, "default")] == ["Ada"]


def test_the_same_file_uploaded_again_is_another_batch(system: System, instance: DagsterInstance) -> None:
    for count in (1, 2, 3):
        system.store.write(f"{INBOX}/people.csv", b"name\nAda\n")
        tick(instance)
        assert len(all_batches(system)) == count


def test_options_come_from_the_sidecar_which_is_removed_with_the_file(
    system: System, instance: DagsterInstance
) -> None:
    options = {"name": "My people", "duplicate_handling": "use_last", "save_upload": False}
    system.store.write(f"{INBOX}/people.csv.options.json", json.dumps(options).encode())
    assert tick(instance) == []
    system.store.write(f"{INBOX}/people.csv", b"name\nAda\n")
    (request,) = tick(instance)
    (batch,) = all_batches(system)
    assert {name: batch.options[name] for name in options} == options
    assert (batch.name, batch.has_upload_file) == ("My people", False)
    assert request.run_config["ops"][tags.PARSE]["config"]["duplicate_handling"] == "use_last"
    assert system.store.list("uploads/") == []


@pytest.mark.parametrize(
    ("key", "sidecar", "expected"),
    [
        ("uploads/nobody/contact/merge/a.csv", None, ("unknown_folder", None, "contact", "merge")),
        ("uploads/default/person/merge/a.csv", None, ("unknown_folder", "default", None, "merge")),
        ("uploads/default/contact/upsert/a.csv", None, ("unknown_folder", "default", "contact", None)),
        ("uploads/a.csv", None, ("unknown_folder", None, None, None)),
        (f"{INBOX}/a.csv", b'{"colour": "red"}', ("invalid_options", "default", "contact", "merge")),
        (f"{INBOX}/a.csv", b"{", ("invalid_options", "default", "contact", "merge")),
        (f"{INBOX}/a.csv", b"\xff", ("invalid_options", "default", "contact", "merge")),
    ],
)
def test_a_file_in_a_wrong_folder_or_with_a_wrong_sidecar_becomes_a_failed_batch(
    system: System, instance: DagsterInstance, key: str, sidecar: bytes | None, expected: tuple[str | None, ...]
) -> None:
    if sidecar is not None:
        system.store.write(f"{key}.options.json", sidecar)
    system.store.write(key, b"name\nAda\n")
    assert tick(instance) == []
    (batch,) = all_batches(system)
    assert batch.reason is not None
    assert batch.status == "failed"
    assert (batch.reason.code, batch.organization_id, batch.resource, batch.action) == expected
    assert system.store.list("uploads/") == []
    assert tick(instance) == []
    assert len(all_batches(system)) == 1


def test_hidden_and_unfinished_files_are_not_taken_in(system: System, instance: DagsterInstance) -> None:
    for name in (".people.csv", "people.csv.tmp", "people.csv.part", "people.csv.options.json"):
        system.store.write(f"{INBOX}/{name}", b"{}")
    assert tick(instance) == []
    assert all_batches(system) == []


@pytest.mark.parametrize("error", [UnavailableError("storage", "It refuses."), ZeroDivisionError()], ids=type)
def test_waiting_batches_get_runs_although_a_file_can_not_be_taken_in(
    system: System, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    system.store.write(f"{INBOX}/people.csv", b"name\nAda\n")
    waiting = arrived(system, "default", b"name\nEva\n", starter=Starter.launcher)

    def fails(*_: Any) -> None:
        raise error

    monkeypatch.setattr(Store, "copy", fails)
    (request,) = tick(instance)
    assert request.tags[tags.BATCH_ID] == waiting.id
    system.ledger.end(waiting.id, BatchStatus.failed, Reason("never_started", "It waits no more."))
    with pytest.raises(type(error)):
        tick(instance)  # nothing waits: the tick fails, and is seen to


def test_a_tick_takes_organizations_in_turn_and_files_in_order(system: System) -> None:
    flood, quiet = new_organization(system), new_organization(system)
    for number in range(4):
        system.store.write(f"uploads/{flood}/contact/merge/{number}.csv", b"name\nAda\n")
    system.store.write(f"uploads/{quiet}/contact/merge/only.csv", b"name\nAda\n")
    taken = inbox.take_in(system, limit=3)
    assert sorted(str(batch.organization_id) for batch in taken) == sorted([flood, quiet, flood])
    assert len(inbox.take_in(system, limit=3)) == 2
    names = [batch.source_key for batch in all_batches(system) if batch.organization_id == flood]
    assert names == [f"uploads/{flood}/contact/merge/{number}.csv" for number in range(4)]


def test_a_file_that_is_refused_at_intake_is_a_failed_run_in_dagster_too(
    system: System, instance: DagsterInstance
) -> None:
    system.store.write("uploads/default/spaceship/merge/people.csv", b"name\nAda\n")
    assert tick(instance) == []
    (batch,) = all_batches(system)
    (run,) = instance.get_runs()
    assert (run.status, run.tags[tags.BATCH_ID]) == (DagsterRunStatus.FAILURE, batch.id)
    (failure,) = instance.all_logs(run.run_id, of_type=DagsterEventType.RUN_FAILURE)
    assert batch.reason is not None
    assert failure.dagster_event is not None
    assert failure.dagster_event.message == batch.reason.message
    assert reconcile(system, instance) == []


def test_the_config_and_tags_of_a_run_contain_no_values_of_its_batch(system: System, instance: DagsterInstance) -> None:
    """They stand in Dagster's tables and ticks, which more people read than may read customers' values."""
    batch = arrived(
        system,
        new_organization(system),
        b"Full name\nAda\n",
        starter=Starter.launcher,
        name="secret-name.csv",
        properties={"notes": "secret-value"},
        column_mapping={"name": "Full name"},
        save_result=True,
    )
    (request,) = tick(instance)
    tags_but_the_name = {name: value for name, value in request.tags.items() if name != "batch/name"}
    assert "secret" not in repr((request.run_config, tags_but_the_name))
    assert request.tags["batch/name"] == "secret-name.csv"  # the list of runs shows the file
    assert "Full name" not in repr(request.run_config)
    assert request.run_config["ops"]["parse"]["config"]["save_result"] is True
    done = execute_batch(system, instance, batch)
    assert done.status == "completed", done.reason
    assert [(row["name"], row["notes"]) for row in contacts(system, str(batch.organization_id))] == [
        ("Ada", "secret-value")
    ]


def test_a_tick_lists_only_the_inbox_for_any_number_of_finished_batches(
    system: System, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []
    real = AioBaseClient._make_api_call

    async def noted(client: Any, operation: str, parameters: dict[str, Any]) -> Any:
        asked.append((operation, parameters.get("Prefix", parameters.get("Key", ""))))
        return await real(client, operation, parameters)

    monkeypatch.setattr(AioBaseClient, "_make_api_call", noted)
    assert tick(instance) == []
    empty = asked.copy()
    for _ in range(3):
        execute_batch(system, instance, arrived(system, "default", b"name\nAda\n"))
    asked.clear()
    assert tick(instance) == []
    assert asked == empty
    assert {key.removeprefix(f"{system.store.prefix}/").rstrip("/") for _, key in asked} == {keys.INBOX}
