"""The calls of the HTTP API by HTTP on a real server: keys, what is shown of batches, and many clients."""

import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import psycopg
import pytest
from calls import ADA, data_url, every_batch
from serving import Client, envelope, new_client
from waiting import eventually

from batch_pipeline.batches.api_keys import revoke_key
from batch_pipeline.batches.callers import CALL_THREADS
from batch_pipeline.service.context import STORING_CALLS
from batch_pipeline.system import System


@pytest.mark.parametrize("header", ["X-API-Key", "PX-API-KEY", "px-api-key"])
def test_a_key_is_taken_from_either_header(client: Client, header: str) -> None:
    answer = client.http.get("/v1/batches", headers={header: client.key})
    assert envelope(answer)["data"] == []


@pytest.mark.parametrize("key", [None, "", "nonsense", "key_" + "1" * 16 + "_" + "1" * 43, "é".encode()])
def test_a_call_without_a_known_key_is_unauthorized(client: Client, key: str | bytes | None) -> None:
    headers = {} if key is None else {b"X-API-Key": key.encode() if isinstance(key, str) else key}
    for method, path in (("GET", "/v1/batches"), ("POST", "/v1/batches"), ("POST", "/v1/batches/x/cancel")):
        answer = client.http.request(method, path, headers=headers)
        assert (envelope(answer)["status"], envelope(answer)["code"]) == (401, "unauthorized")


def test_a_wrong_secret_and_a_revoked_key_are_unauthorized_at_once(module_system: System, client: Client) -> None:
    assert client.get("/v1/batches")["status"] == 200
    wrong = client.key[:-1] + ("1" if client.key[-1] != "1" else "2")
    assert Client(client.http, "", wrong).get("/v1/batches")["status"] == 401
    revoke_key(module_system.engine, client.key.rsplit("_", 1)[0])
    assert client.get("/v1/batches")["status"] == 401


def test_another_organizations_batch_is_not_found_by_any_call(module_system: System, client: Client) -> None:
    batch_id = client.create()["data"]["id"]
    other = new_client(module_system, client.http)
    answers = [
        other.get(f"/v1/batches/{batch_id}", include_upload_csv="true"),
        other.post(f"/v1/batches/{batch_id}/cancel"),
        other.post(f"/v1/batches/{batch_id}/retry"),
        other.post(f"/v1/batches/{batch_id}/retry", {"failed_rows": True}),
    ]
    assert {(answer["status"], answer["code"], answer["data"]) for answer in answers} == {
        (404, "batch_not_found", None)
    }
    assert every_batch(other) == []
    assert other.get("/v1/batches")["pagination"]["total_count"] == 0
    assert client.batch(batch_id)["status"] == "requested"


def test_batches_of_folders_that_name_nothing_known_are_the_operators_alone(
    module_system: System, client: Client
) -> None:
    module_system.store.write(f"uploads/{client.organization_id}/person/merge/a.csv", b"name\nAda\n")
    from batch_pipeline.intake.inbox import take_in

    (batch,) = take_in(module_system, limit=10)
    assert batch.organization_id == client.organization_id
    assert client.get(f"/v1/batches/{batch.id}")["status"] == 404
    assert every_batch(client) == []


def test_urls_of_files_are_added_where_asked_for_and_null_where_there_is_no_file(client: Client) -> None:
    batch = client.create(data_url(b"name,email\nAda,ada@example.com\nAlan,nowhere\n"), mode="sync")["data"]
    assert not [name for name in client.batch(batch["id"]) if name.startswith("_")]
    asked = {
        f"include_{name}": "true" for name in ("upload_csv", "upload_json", "errors_csv", "errors_json", "result_json")
    }
    found = client.batch(batch["id"], **asked)
    assert {name for name in found if name.startswith("_")} == {f"_{name[8:]}_url" for name in asked}
    assert found["_result_json_url"] is None
    assert httpx.get(found["_upload_csv_url"]).content.startswith(b"name,email\n")
    assert [item["name"] for item in httpx.get(found["_upload_json_url"]).json()] == ["Ada", "Alan"]
    assert httpx.get(found["_errors_csv_url"]).text.splitlines()[1].startswith('"Alan","nowhere",2,')
    assert json.loads(httpx.get(found["_errors_json_url"]).content)[0]["row"] == 2
    assert client.batch(batch["id"], include_errors_csv="false").get("_errors_csv_url", "absent") == "absent"
    unsaved = client.create([ADA], mode="sync", save_upload=False)["data"]
    assert client.batch(unsaved["id"], include_upload_json="1")["_upload_json_url"] is None


def test_a_copy_of_the_upload_that_is_not_there_is_made_when_it_is_asked_for(
    module_system: System, client: Client
) -> None:
    """As that of a large upload, which its run does not make."""
    batch = client.create(data_url(b"name\nAda\n"), mode="sync")["data"]
    module_system.store.delete(f"batches/{batch['id']}/upload.json")
    assert client.batch(batch["id"], include_upload_json="true")["_upload_json_url"] is None
    eventually(lambda: client.batch(batch["id"], include_upload_json="true")["_upload_json_url"] is not None)
    url = client.batch(batch["id"], include_upload_json="true")["_upload_json_url"]
    assert httpx.get(url).json() == [{"name": "Ada"}]


def test_pages_have_every_batch_once_in_the_order_of_creation(client: Client) -> None:
    made = [client.create(name=f"number {number}")["data"]["id"] for number in range(7)]
    pages = [client.get("/v1/batches", page=page, limit=3) for page in (1, 2, 3, 4)]
    assert [[batch["id"] for batch in page["data"]] for page in pages] == [made[:3], made[3:6], made[6:], []]
    assert [page["pagination"] for page in pages] == [
        {"page": number, "limit": 3, "has_more": number < 3, "total_count": 7} for number in (1, 2, 3, 4)
    ]
    newest = client.get("/v1/batches", order="desc", limit=2)
    assert [batch["id"] for batch in newest["data"]] == made[:-3:-1]
    cancelled = client.post(f"/v1/batches/{made[2]}/cancel")["data"]
    assert (cancelled["status"], cancelled["reason"]["code"]) == ("failed", "cancelled")
    failed = client.get("/v1/batches", status="failed")
    assert ([batch["id"] for batch in failed["data"]], failed["pagination"]["total_count"]) == ([made[2]], 1)
    assert len(client.get("/v1/batches", resource="contact", mode="mixed", via="file", action="merge")["data"]) == 7
    assert client.get("/v1/batches", mode="sync")["pagination"]["total_count"] == 0
    assert client.get("/v1/batches", page=10**9)["data"] == []


def test_fifty_clients_at_once_lose_nothing_and_get_no_wrong_answer(module_system: System, address: str) -> None:
    certificates = httpx.create_ssl_context()  # which takes longer than some calls

    def work(_: int) -> bool:
        with httpx.Client(base_url=address, timeout=120, verify=certificates) as http:
            client = new_client(module_system, http)
            made = []
            for number in range(3):
                answer = client.create([{"name": f"n{number}"}] if number else None, name=f"number {number}")
                assert answer["status"] == (202 if number else 201), answer
                made.append(answer["data"]["id"])
                listed = client.get("/v1/batches", limit=100)
                assert [batch["id"] for batch in listed["data"]] == made
                assert listed["pagination"]["total_count"] == len(made)
                assert client.batch(made[-1])["name"] == f"number {number}"
            return True

    with ThreadPoolExecutor(50) as pool:
        assert all(pool.map(work, range(50)))


def test_reads_are_answered_while_many_calls_with_items_wait(module_system: System, client: Client) -> None:
    """More calls than there are threads: those that store their items leave some to the others."""
    known = client.create()["data"]["id"]
    many = CALL_THREADS + STORING_CALLS

    def writers_wait() -> bool:
        with psycopg.connect(module_system.database_url) as connection:
            row = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
            ).fetchone()
        return row is not None and row[0] >= STORING_CALLS

    with psycopg.connect(module_system.database_url) as holder, ThreadPoolExecutor(many) as callers:
        holder.execute("LOCK TABLE batches IN SHARE MODE")
        creating = [callers.submit(client.create, [ADA]) for _ in range(many)]
        eventually(writers_wait)
        for _ in range(many):  # each takes a moment in which further calls arrive
            answer = client.http.get(f"/v1/batches/{known}", headers={"X-API-Key": client.key}, timeout=30)
            assert envelope(answer)["data"]["id"] == known
        assert not any(call.done() for call in creating)
        holder.rollback()
        assert {call.result()["status"] for call in creating} == {202}
    assert len(every_batch(client)) == many + 1
