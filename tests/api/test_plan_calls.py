"""Plans by the HTTP API: shown with the batch, applied by a call, refused when they have changed."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import psycopg
import pytest
from batch_runs import contacts
from calls import ADA, WRONG
from dagster import DagsterInstance
from serving import PATIENCE_SECONDS, Client, new_client, served
from waiting import eventually

from batch_pipeline.orchestration.execute import execute_batch
from batch_pipeline.system import System

EVA = {"external_id": "crm-3", "name": "Eva"}


@pytest.fixture(scope="module")
def address(module_system: System) -> Iterator[str]:
    """The address of a server that waits for runs, which the tests execute."""
    assert module_system.settings.dagster_url is None
    with served(runs_batches=True, mixed_wait_seconds=PATIENCE_SECONDS, sync_workers=1) as url:
        yield url


def planned(client: Client, *items: dict[str, Any], **options: Any) -> dict[str, Any]:
    """A planned batch of these items."""
    answer = client.create(list(items), mode="sync", plan_only=True, **options)
    assert (answer["status"], answer["data"]["status"]) == (200, "planned"), answer
    batch: dict[str, Any] = answer["data"]
    return batch


@contextmanager
def applied(client: Client, system: System, instance: DagsterInstance, batch_id: str, **body: Any) -> Iterator[Any]:
    """The answer to an apply whose run this process executes, as the launcher's process would."""
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(client.post, f"/v1/batches/{batch_id}/apply", body or None)
        eventually(lambda: call.done() or system.ledger.get(batch_id).awaits_run is not None)
        if not call.done():
            execute_batch(system, instance, system.ledger.get(batch_id))
        yield call.result()


def test_a_planned_batch_shows_its_plan_and_its_files(client: Client, module_system: System) -> None:
    batch = planned(client, ADA, WRONG)

    plan = batch["plan"]
    assert (plan["counts"]["create"], plan["counts"]["reject"]) == (1, 1)
    assert client.create([ADA], mode="sync")["data"]["plan"] is None
    urls = client.batch(batch["id"], include_plan_csv=True, include_plan_json=True)
    lines = httpx.get(urls["_plan_json_url"]).json()
    assert [(line["row"], line["outcome"]) for line in lines] == [(1, "create"), (2, "reject")]
    assert httpx.get(urls["_plan_csv_url"]).text.startswith("row,outcome,id,external_id,changes,errors,was\r\n")
    assert client.get("/v1/batches", status="planned")["pagination"]["total_count"] == 1


def test_applying_writes_the_plan(client: Client, module_system: System, instance: DagsterInstance) -> None:
    batch = planned(client, ADA)
    assert contacts(module_system, client.organization_id) == []

    with applied(client, module_system, instance, batch["id"], digest=batch["plan"]["digest"]) as answer:
        assert (answer["status"], answer["data"]["id"]) == (202, batch["id"])

    assert client.batch(batch["id"])["stats"]["created"] == 1
    assert [row["name"] for row in contacts(module_system, client.organization_id)] == ["Ada"]
    again = client.post(f"/v1/batches/{batch['id']}/apply")
    assert (again["status"], again["code"]) == (409, "not_planned")


def test_a_changed_plan_answers_409_with_the_new_plan(
    client: Client, module_system: System, instance: DagsterInstance
) -> None:
    batch = planned(client, ADA, EVA)
    assert client.create([ADA], mode="sync")["data"]["stats"]["created"] == 1

    with applied(client, module_system, instance, batch["id"]) as answer:
        assert (answer["status"], answer["code"]) == (409, "plan_changed")
        (difference,) = answer["data"]["plan"]["difference"]
        assert (difference["row"], difference["was"]["outcome"], difference["now"]["outcome"]) == (
            1, "create", "unchanged",
        )  # fmt: skip

    assert len(contacts(module_system, client.organization_id)) == 1
    stale = client.post(f"/v1/batches/{batch['id']}/apply", {"digest": batch["plan"]["digest"]})
    assert (stale["status"], stale["code"]) == (409, "plan_changed")
    with applied(client, module_system, instance, batch["id"], if_changed="replan") as answer:
        assert answer["status"] == 202
    assert len(contacts(module_system, client.organization_id)) == 2


@pytest.mark.parametrize("body", [{"digest": "short"}, {"if_changed": "perhaps"}, {"digests": "0" * 64}, {"digest": 5}])
def test_a_wrong_apply_names_what_is_wrong_and_changes_nothing(client: Client, body: Any) -> None:
    batch = planned(client, ADA)

    answer = client.post(f"/v1/batches/{batch['id']}/apply", body)

    assert (answer["status"], answer["code"]) == (422, "invalid_request")
    assert answer["errors"][0].startswith(next(iter(body)))
    assert client.batch(batch["id"])["status"] == "planned"


def test_another_organizations_plan_is_not_found(client: Client, module_system: System) -> None:
    batch = planned(client, ADA)
    other = new_client(module_system, client.http)

    assert other.post(f"/v1/batches/{batch['id']}/apply")["status"] == 404
    assert client.batch(batch["id"])["status"] == "planned"


def test_an_expired_plan_is_refused(client: Client, module_system: System) -> None:
    batch = planned(client, ADA)
    with psycopg.connect(module_system.database_url) as connection:
        connection.execute("UPDATE batches SET plan_expires_at = now() WHERE id = %s", (batch["id"],))

    answer = client.post(f"/v1/batches/{batch['id']}/apply")

    assert (answer["status"], answer["code"]) == (409, "plan_expired")


def test_an_apply_over_the_reject_limit_answers_422_with_the_failed_batch(
    client: Client, module_system: System, instance: DagsterInstance
) -> None:
    stored = client.create([ADA, EVA], mode="sync")["data"]
    ids = {row["external_id"]: row["id"] for row in contacts(module_system, client.organization_id)}
    assert stored["status"] == "completed"
    batch = planned(client, *({"id": ids[name], "notes": "n"} for name in sorted(ids)), reject_limit=0)
    gone = client.create([{"id": ids["crm-1"]}], mode="sync", action="delete")["data"]
    assert gone["stats"]["deleted"] == 1

    with applied(client, module_system, instance, batch["id"], if_changed="replan") as answer:
        assert (answer["status"], answer["code"]) == (422, "reject_limit_exceeded")
        assert answer["data"]["status"] == "failed"


def test_a_repeated_apply_names_the_same_plan(client: Client, module_system: System, instance: DagsterInstance) -> None:
    batch = planned(client, ADA)
    digest = batch["plan"]["digest"]
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(client.post, f"/v1/batches/{batch['id']}/apply", {"digest": digest})
        eventually(lambda: module_system.ledger.get(batch["id"]).awaits_run is not None)
        other = client.post(f"/v1/batches/{batch['id']}/apply", {"digest": "0" * 64})
        assert (other["status"], other["code"]) == (409, "plan_changed")
        again = pool.submit(client.post, f"/v1/batches/{batch['id']}/apply", {"digest": digest})
        execute_batch(module_system, instance, module_system.ledger.get(batch["id"]))
        assert (first.result()["status"], again.result()["status"]) == (202, 202)
    assert client.batch(batch["id"])["attempts"] == 2
