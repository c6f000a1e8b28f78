"""Undo by the HTTP API: a new batch takes back what another wrote."""

from collections.abc import Iterator

import pytest
from batch_runs import contacts
from calls import ADA
from dagster import DagsterInstance
from serving import PATIENCE_SECONDS, Client, new_client, served

from batch_pipeline.orchestration.execute import execute_batch
from batch_pipeline.system import System


@pytest.fixture(scope="module")
def address(module_system: System) -> Iterator[str]:
    """The address of a server whose runs the tests execute, as the launcher's process would."""
    assert module_system.settings.dagster_url is None
    with served(runs_batches=True, mixed_wait_seconds=PATIENCE_SECONDS, sync_workers=1) as url:
        yield url


def merged(client: Client, *items: dict[str, str]) -> str:
    """The id of a completed batch of these items."""
    answer = client.create(list(items), mode="sync")
    assert answer["data"]["status"] == "completed", answer
    return str(answer["data"]["id"])


def test_an_undo_is_a_batch_of_its_own(client: Client, module_system: System, module_instance: DagsterInstance) -> None:
    batch_id = merged(client, ADA)

    answer = client.post(f"/v1/batches/{batch_id}/undo")

    undo = answer["data"]
    assert (answer["status"], undo["action"], undo["undo_of"], undo["via"]) == (202, "undo", batch_id, "api")
    assert (undo["status"], undo["has_upload_file"], undo["checksum"]) == ("requested", False, None)
    assert client.batch(batch_id)["undo_of"] is None
    execute_batch(module_system, module_instance, module_system.ledger.get(undo["id"]))
    done = client.batch(undo["id"], include_result_json=True, include_upload_csv=True, include_upload_json=True)
    assert (done["status"], done["stats"]["deleted"], done["has_result_file"]) == ("completed", 1, True)
    assert done["_result_json_url"] is not None
    assert (done["_upload_csv_url"], done["_upload_json_url"]) == (None, None)
    assert contacts(module_system, client.organization_id) == []
    assert [batch["id"] for batch in client.get("/v1/batches", action="undo")["data"]] == [undo["id"]]


def test_a_second_undo_is_refused_while_one_waits_and_a_batch_that_wrote_nothing_has_none(
    client: Client, module_system: System, module_instance: DagsterInstance
) -> None:
    batch_id, unchanged = merged(client, ADA), merged(client, ADA)
    undo = client.post(f"/v1/batches/{batch_id}/undo")["data"]

    for other in (batch_id, undo["id"], unchanged):
        answer = client.post(f"/v1/batches/{other}/undo")
        assert (answer["status"], answer["code"]) == (409, "not_undoable")

    execute_batch(module_system, module_instance, module_system.ledger.get(undo["id"]))
    again = client.post(f"/v1/batches/{batch_id}/undo")["data"]
    done = execute_batch(module_system, module_instance, module_system.ledger.get(again["id"]))
    assert (done.status, done.stats.gone) == ("completed", 1)
    answer = client.post(f"/v1/batches/{done.id}/undo")
    assert (answer["status"], answer["code"]) == (409, "not_undoable")  # it wrote nothing


def test_a_planned_undo_and_its_limit(client: Client, module_system: System, module_instance: DagsterInstance) -> None:
    batch_id = merged(client, ADA)

    limited = client.post(f"/v1/batches/{batch_id}/undo", {"delete_limit": 0})["data"]
    failed = execute_batch(module_system, module_instance, module_system.ledger.get(limited["id"]))
    assert failed.reason is not None
    assert (failed.status, failed.reason.code) == ("failed", "delete_limit_exceeded")
    planned = client.post(f"/v1/batches/{batch_id}/undo", {"plan_only": True})["data"]
    execute_batch(module_system, module_instance, module_system.ledger.get(planned["id"]))

    shown = client.batch(planned["id"])
    assert (shown["status"], shown["plan"]["counts"]["delete"]) == ("planned", 1)
    assert len(contacts(module_system, client.organization_id)) == 1


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"plan_only": "yes"}, "plan_only"),
        ({"delete_limit": "some"}, "delete_limit"),
        ({"duplicate_handling": "use_last"}, "duplicate_handling"),
    ],
)
def test_wrong_options_are_named(client: Client, body: dict[str, str], named: str) -> None:
    answer = client.post(f"/v1/batches/{merged(client, ADA)}/undo", body)
    assert (answer["status"], answer["code"]) == (422, "invalid_request")
    assert answer["errors"][0].startswith(f"{named}: ")


def test_no_upload_can_be_an_undo(client: Client) -> None:
    answer = client.create([ADA], action="undo")
    unknown = client.create([ADA], action="redo")
    assert (answer["status"], answer["errors"]) == (422, unknown["errors"])


def test_another_organizations_batch_is_not_found(client: Client, module_system: System) -> None:
    batch_id = merged(client, ADA)
    stranger = new_client(module_system, client.http)
    answer = stranger.post(f"/v1/batches/{batch_id}/undo")
    assert (answer["status"], answer["code"]) == (404, "batch_not_found")
