"""Calls of the HTTP API in mode sync, and idempotency keys."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psycopg
import pytest
from batch_runs import arrived
from calls import ADA, WRONG, data_url, every_batch, padded, sizes
from process_table import forked_processes
from serving import Client, envelope, new_client
from waiting import eventually

from batch_pipeline.batches.model import Starter
from batch_pipeline.batches.states import BatchStatus
from batch_pipeline.intake.requested_uploads import EXPIRED
from batch_pipeline.storage import keys
from batch_pipeline.system import System


def test_mode_sync_answers_the_final_batch_whatever_its_status(client: Client) -> None:
    answer = client.create([ADA, WRONG], mode="sync", save_result=True, name="My people")
    batch = answer["data"]
    assert (answer["status"], batch["status"], batch["mode"], batch["via"]) == (200, "completed", "sync", "api")
    assert (batch["name"], batch["organization_id"], batch["attempts"]) == ("My people", client.organization_id, 1)
    assert (batch["stats"]["created"], batch["stats"]["rejected"]) == (1, 1)
    assert {phase["mode"] for phase in batch["phases"]} == {"sync"}
    assert (batch["has_upload_file"], batch["has_errors_file"], batch["has_result_file"]) == (True, True, True)
    assert client.batch(batch["id"]) == batch
    assert batch["updated_by"] == client.key.rsplit("_", 1)[0]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ([WRONG], "no_valid_items"),
        (data_url(b""), "empty_file"),
        (data_url(b"name,colour\nAda,red\n"), "unknown_columns"),
        (data_url(b"%PDF-1.7"), "unsupported_format"),
    ],
)
def test_a_payload_that_is_refused_answers_the_failed_batch(client: Client, data: Any, code: str) -> None:
    answer = client.create(data, mode="sync")
    assert (answer["status"], answer["code"]) == (422, code)
    assert (answer["data"]["status"], answer["data"]["reason"]["code"]) == ("failed", code)
    assert answer["errors"] == [answer["data"]["reason"]["message"]]
    assert every_batch(client) == [answer["data"]["id"]]


def test_a_refused_header_is_answered_with_a_mapping_that_completes(client: Client) -> None:
    data = data_url(b"E-Mail,Full name,colour\nada@example.com,Ada,red\nnowhere,Bob,red\n")
    refused = client.create(data, mode="sync")
    assert (refused["status"], refused["code"]) == (422, "unknown_columns")
    suggested = refused["data"]["suggested_mapping"]
    assert suggested == {"email": "E-Mail", "name": "Full name"}
    options = {"mode": "sync", "unknown_columns": "ignore"}
    done = client.create(data, column_mapping=suggested, **options)["data"]
    assert (done["status"], done["column_mapping"], done["suggested_mapping"]) == ("completed", suggested, None)
    assert [warning["code"] for warning in done["warnings"]] == ["unknown_columns_ignored"]
    (group,) = done["error_summary"]["groups"]
    assert (group["field"], group["code"], group["count"], group["rows"]) == ("email", "invalid_format", 1, [2])
    again = client.create(data, column_mapping="remembered", **options)["data"]
    assert (again["status"], again["column_mapping"], again["stats"]["unchanged"]) == ("completed", suggested, 1)


def test_the_link_to_an_errors_file_opens_it_for_whoever_has_the_key(
    module_system: System, client: Client, http: httpx.Client
) -> None:
    batch = client.create([ADA, WRONG], mode="sync", name="My people.csv")["data"]
    whole = client.create([{"external_id": "crm-2", "name": "Eve"}], mode="sync")["data"]
    link = f"/v1/batches/{batch['id']}/errors.csv"
    other = new_client(module_system, http)

    opened = http.get(link, auth=("anyone", client.key))  # as a browser sends what it has asked for
    assert opened.status_code == http.get(link, headers={"X-API-Key": client.key}).status_code == 307
    assert (opened.headers["Cache-Control"], opened.headers["Referrer-Policy"]) == ("no-store", "no-referrer")
    url = httpx.URL(opened.headers["Location"])
    assert url.path.endswith(f"/batches/{batch['id']}/errors.csv")
    assert int(url.params["X-Amz-Expires"]) <= 60
    file = httpx.get(url)
    assert 'filename="My people-errors.csv"' in file.headers["Content-Disposition"]
    assert file.text.startswith('"_row"') or "_codes" in file.text.splitlines()[0]
    assert client.key not in str(url)
    assert httpx.get(url.copy_with(path=url.path.replace("errors.csv", "errors.json"))).status_code == 403

    for headers in ({}, {"X-API-Key": "wrong"}, {"Authorization": "Basic YTpi"}, {"Authorization": "Basic ???"}):
        refused = envelope(answer := http.get(link, headers=headers))
        assert (refused["status"], refused["code"], refused["data"]) == (401, "unauthorized", None)
        assert answer.headers["WWW-Authenticate"].startswith("Basic")  # browsers ask for the password
    assert http.get(f"/v1/batches/{batch['id']}", auth=("anyone", client.key)).status_code == 401  # no other call does
    for caller, path, code in (
        (other, link, "batch_not_found"),
        (client, f"/v1/batches/{whole['id']}/errors.csv", "no_errors_file"),
        (client, "/v1/batches/nothing/errors.csv", "batch_not_found"),
    ):
        assert (caller.get(path)["status"], caller.get(path)["code"]) == (404, code)


@pytest.mark.parametrize("limit", [0, "49.9%"])
def test_a_payload_with_too_many_rejected_items_answers_the_failed_batch(client: Client, limit: int | str) -> None:
    code = "reject_limit_exceeded"
    answer = client.create([ADA, WRONG], mode="sync", reject_limit=limit)
    batch = answer["data"]
    assert (answer["status"], answer["code"], answer["errors"]) == (422, code, [batch["reason"]["message"]])
    assert (batch["status"], batch["reason"]["code"], batch["has_errors_file"]) == ("failed", code, True)
    described = client.get(f"/v1/batches/{batch['id']}", include_errors_csv="true")["data"]
    assert described["_errors_csv_url"] is not None
    again = client.post(f"/v1/batches/{batch['id']}/retry", {"failed_rows": True})
    assert (again["status"], again["code"]) == (409, "nothing_written")


def test_items_are_taken_as_they_are_written(module_system: System, client: Client) -> None:
    """One with duplicate keys, a lone surrogate, or that is no object, is rejected alone."""
    written = (
        r'[{"name": "Ada", "name": "Eva"}, {"name": "\ud800"}, 5, {"name": "Gr\u0061ce", "phone": "\ud83d\ude00"},'
    )
    written += r' {"name":"Bo"}]'
    answer = client.post(
        "/v1/batches", '{"resource": "contact", "data": ' + written + ', "action": "merge", "mode": "sync"}'
    )
    batch = answer["data"]
    assert (answer["status"], batch["stats"]["created"], batch["stats"]["rejected"]) == (200, 1, 4), answer
    assert module_system.store.read(keys.upload(batch["id"], "items.json", saved=True)) == written.encode()


@pytest.mark.parametrize(
    ("data", "created"),
    [
        (data_url(b"name\nAda\nBo\n"), 2),
        (data_url(b"name\nAda\nBo\n", "text/csv;charset=utf-8"), 2),
        (data_url(b'{"name": "Ada"}\n{"name": "Bo"}\n', "application/x-ndjson"), 2),
        (data_url(b'[{"name": "Ada"}]', "application/json"), 1),
        (data_url(b"name\nAda\n", "application/octet-stream"), 1),
        ("data:text/csv;base64," + data_url(b"name\nAda\n").split(",")[1].replace("Y", "%59").replace("=", "%3D"), 1),
    ],
)
def test_a_file_comes_as_data_url_in_any_format(client: Client, data: str, created: int) -> None:
    answer = client.create(data, mode="sync")
    assert (answer["status"], answer["data"]["stats"]["created"]) == (200, created), answer


@pytest.mark.parametrize(
    "data",
    [
        [{"name": f"n{number}"} for number in range(1_001)],
        data_url(b"name\n" + b"".join(b"n%d\n" % number for number in range(1_001))),
        [{"name": "x", "notes": "y" * 1_000_000}],
        [{"name": "x", "notes": "y" * 20_000_000}],
        data_url(b"name\n" + b"Ada\n" * 5_000_000),
    ],
    ids=["items", "rows", "bytes", "20 MB of items", "20 MB of rows"],
)
def test_mode_sync_above_its_limits_creates_nothing(module_system: System, client: Client, data: Any) -> None:
    before = module_system.store.list("batches/")
    answer = client.create(data, mode="sync")
    assert (answer["status"], answer["code"], answer["data"]) == (413, "too_large", None)
    assert every_batch(client) == []
    assert module_system.store.list("batches/") == before


@sizes
def test_mode_sync_that_does_not_get_its_turn_creates_nothing(
    module_system: System, client: Client, size_bytes: int
) -> None:
    ahead = arrived(module_system, client.organization_id, b"name\nAda\n", starter=Starter.launcher)
    before = module_system.store.list("batches/")
    body = json.dumps({"resource": "contact", "action": "merge", "mode": "sync", "data": [ADA]})
    answer = client.post("/v1/batches", padded(body.encode(), size_bytes))
    assert (answer["status"], answer["code"], answer["data"]) == (409, "resource_busy", None)
    assert every_batch(client) == [ahead.id]
    assert module_system.store.list("batches/") == before
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.create, [ADA], mode="sync")
        client.post(f"/v1/batches/{ahead.id}/cancel")
        assert waiting.result()["data"]["status"] == "completed"


def test_while_a_sync_call_runs_its_key_answers_the_batch_as_it_is(module_system: System, client: Client) -> None:
    body = json.dumps({"resource": "contact", "action": "merge", "mode": "sync", "data": [ADA]})
    with ThreadPoolExecutor(1) as pool, psycopg.connect(module_system.database_url) as connection:
        connection.execute("LOCK TABLE contacts IN SHARE MODE")
        first = pool.submit(client.post, "/v1/batches", body, Idempotency_Key="k")
        eventually(lambda: bool(client.get("/v1/batches", status="processing")["data"]))
        again = client.post("/v1/batches", body, Idempotency_Key="k")
        assert (again["status"], again["data"]["status"]) == (200, "processing")
        connection.rollback()
        assert first.result()["data"]["status"] == "completed"
    assert client.post("/v1/batches", body, Idempotency_Key="k")["data"] == first.result()["data"]


def test_a_sync_call_whose_process_is_killed_answers_the_failed_batch_and_the_next_has_another(
    module_system: System, client: Client
) -> None:
    with ThreadPoolExecutor(1) as pool, psycopg.connect(module_system.database_url) as connection:
        connection.execute("LOCK TABLE contacts IN SHARE MODE")
        call = pool.submit(client.create, [ADA], mode="sync")
        eventually(lambda: bool(client.get("/v1/batches", status="processing")["data"]))
        for process in forked_processes():
            process.kill()
        connection.rollback()  # what the killed one was writing is given up
        answer = call.result()
    assert (answer["status"], answer["data"]["status"]) == (200, "failed")
    assert answer["data"]["reason"]["code"] == "worker_lost"
    eventually(lambda: client.create([ADA], mode="sync")["status"] == 200)
    assert client.get("/v1/batches", order="desc")["data"][0]["status"] == "completed"


def test_many_sync_calls_at_once_do_not_harm_each_other(module_system: System, client: Client) -> None:
    clients = [client, *(new_client(module_system, client.http) for _ in range(3))]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda each: each.create([ADA, WRONG], mode="sync"), clients))
    done = [answer for answer in answers if answer["status"] == 200]
    assert done
    assert all(answer["data"]["stats"]["created"] == 1 for answer in done)
    assert {answer["code"] for answer in answers} <= {None, "resource_busy"}
    for each, answer in zip(clients, answers, strict=True):
        assert len(every_batch(each)) == (answer["status"] == 200)


def test_the_same_key_and_body_answer_the_same_batch_as_it_then_is(module_system: System, client: Client) -> None:
    body = json.dumps({"resource": "contact", "action": "merge", "data": [ADA]})
    first = client.post("/v1/batches", body, Idempotency_Key="one")
    module_system.ledger.end(first["data"]["id"], BatchStatus.failed, EXPIRED)
    again = client.post("/v1/batches", body, Idempotency_Key="one")
    assert (first["status"], first["data"]["status"]) == (202, "requested")
    assert (again["data"]["id"], again["data"]["status"]) == (first["data"]["id"], "failed")
    for other in (body + " ", "{"):
        conflict = client.post("/v1/batches", other, Idempotency_Key="one")
        assert (conflict["status"], conflict["code"]) == (409, "idempotency_conflict")
    assert every_batch(client) == [first["data"]["id"]]
    assert client.post("/v1/batches", body, Idempotency_Key="two")["data"]["id"] != first["data"]["id"]
    other_client = new_client(module_system, client.http)
    assert other_client.post("/v1/batches", body, Idempotency_Key="one")["data"]["id"] != first["data"]["id"]


def test_an_answer_without_a_batch_does_not_use_the_key_up(client: Client) -> None:
    wrong = client.post("/v1/batches", {"resource": "contact", "action": "upsert"}, Idempotency_Key="k")
    assert wrong["status"] == 422
    assert client.post("/v1/batches", {"resource": "contact", "action": "merge"}, Idempotency_Key="k")["status"] == 201


def test_after_a_day_the_key_is_free_again(module_system: System, client: Client) -> None:
    body = {"resource": "contact", "action": "merge"}
    first = client.post("/v1/batches", body, Idempotency_Key="k")["data"]["id"]
    with psycopg.connect(module_system.database_url) as connection:
        connection.execute(
            "UPDATE idempotency_keys SET created_at = now() - interval '24 hours 1 second' WHERE organization_id = %s",
            (client.organization_id,),
        )
    second = client.post("/v1/batches", {**body, "name": "another"}, Idempotency_Key="k")["data"]["id"]
    assert second != first
    assert client.post("/v1/batches", {**body, "name": "another"}, Idempotency_Key="k")["data"]["id"] == second


@pytest.mark.parametrize("mode", ["mixed", "sync"])
def test_calls_at_once_with_one_key_make_one_batch(module_system: System, client: Client, mode: str) -> None:
    body = json.dumps({"resource": "contact", "action": "merge", "mode": mode, "data": [ADA]})
    before = len(module_system.store.list("batches/"))
    start = threading.Barrier(6)

    def call(_: int) -> dict[str, Any]:
        start.wait()
        return client.post("/v1/batches", body, Idempotency_Key="k")

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(call, range(6)))
    assert len({answer["data"]["id"] for answer in answers}) == 1, answers
    assert len(every_batch(client)) == 1
    if mode == "mixed":  # what the others had stored is gone
        assert len(module_system.store.list("batches/")) == before + 1


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "a\tb"])
def test_an_idempotency_key_that_can_not_be_one_is_named(client: Client, key: str) -> None:
    answer = client.post("/v1/batches", {"resource": "contact", "action": "merge"}, Idempotency_Key=key)
    assert (answer["status"], answer["errors"][0].split(":")[0]) == (422, "Idempotency-Key")
