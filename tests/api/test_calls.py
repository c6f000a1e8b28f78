"""The calls of the HTTP API: what they answer to whom, right and wrong, by HTTP on a real server."""

import base64
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import psycopg
import pytest
from batch_runs import arrived
from dagster import DagsterInstance, SkipReason, build_sensor_context
from process_table import forked_processes
from serving import PATIENCE_SECONDS, Client, envelope, new_client, served

from batch_pipeline.batches.api_keys import revoke_key
from batch_pipeline.batches.model import Starter
from batch_pipeline.batches.states import BatchStatus
from batch_pipeline.definitions import defs
from batch_pipeline.intake.requested_uploads import EXPIRED, expire_requested, take_in_requested
from batch_pipeline.storage import keys
from batch_pipeline.system import System

ADA = {"external_id": "crm-1", "name": "Ada", "email": "ada@example.com"}
WRONG = {"external_id": "crm-2", "name": "Alan", "email": "nowhere"}


def data_url(content: bytes, kind: str = "text/csv") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def padded(body: bytes, size_bytes: int) -> bytes:
    """The body, with spaces before it where it is smaller."""
    return body.rjust(size_bytes)


def every_batch(client: Client) -> list[str]:
    return [batch["id"] for batch in client.get("/v1/batches", limit=100)["data"]]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# ---- keys ------------------------------------------------------------------------------------------------------


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


# ---- what is wrong ---------------------------------------------------------------------------------------------


# A body of more than 1 MiB is not kept in memory.
sizes = pytest.mark.parametrize("size_bytes", [0, 1_200_000, 20_000_000], ids=["small", "1.2 MB", "20 MB"])


@sizes
@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ({}, ["resource: is required", "action: is required"]),
        ({"resource": "nothing", "action": "merge"}, ["resource: there is no 'nothing'; known are "]),
        ({"resource": "contact", "action": "upsert"}, ["action: should be 'merge', 'overwrite' or 'delete'"]),
        ({"resource": "contact", "action": "merge", "colour": 1}, ["colour: is not known here"]),
        ({"resource": "contact", "action": "merge", "save_upload": "true"}, ["save_upload: should be a valid boolean"]),
        ({"resource": "contact", "action": "merge", "name": "ab"}, ["name: string should have at least 3 characters"]),
        ({"resource": "contact", "action": "merge", "name": "a\x00b"}, ["name: has a NUL character"]),
        ({"resource": "contact", "action": "merge", "timeout_seconds": 10**30}, ["timeout_seconds: "]),
        ({"resource": "contact", "action": "merge", "mode": "sync"}, ["data: is required in mode sync"]),
        ({"resource": "contact", "action": "merge", "data": {}}, ["data: must be a JSON array of items, or a file"]),
        ({"resource": "contact", "action": "merge", "data": "name\nAda"}, ["data: must be a JSON array of items, or"]),
        ({"resource": "contact", "action": "merge", "data": "data:text/csv;base64,*"}, ["data: the data URL is no"]),
        (
            {"resource": "contact", "action": "merge", "mode": "sync", "data": [], "timeout_seconds": 61},
            ["timeout_seconds: must be at most 60 in mode sync"],
        ),
        (
            {"resource": "contact", "action": "merge", "column_mapping": {"name": "a", "email": "a"}},
            ["column_mapping: maps the header 'a' to more than one field"],
        ),
    ],
)
def test_wrong_values_are_named_and_create_nothing(
    client: Client, body: dict[str, Any], wrong: list[str], size_bytes: int
) -> None:
    answer = client.post("/v1/batches", padded(json.dumps(body).encode(), size_bytes))
    assert (answer["status"], answer["code"], answer["data"]) == (422, "invalid_request", None)
    assert len(answer["errors"]) == len(wrong)
    for error, beginning in zip(sorted(answer["errors"]), sorted(wrong), strict=True):
        assert error.startswith(beginning)
    assert every_batch(client) == []


@pytest.mark.parametrize(
    ("members", "repeated"),
    [
        (b'"mode": "mixed", "data": [], "mode": "mixed"', ["mode"]),
        (b'"data": [{"name": "Ada"}], "data": [{"name": "Eva"}]', ["data"]),
        (b'"data": null, "name": "one", "data": null, "n\\u0061me": "two", "name": "three"', ["data", "name"]),
        (b'"colour": 1, "colour": 1', ["colour"]),
        (b'"properties": {"notes": "a", "notes": "b", "name": "c"}', ["properties.notes"]),
        (b'"data": [{"name": "\\ud800"}], "column_mapping": {"name": "a", "name": "b"}', ["column_mapping.name"]),
    ],
)
@sizes
def test_members_that_are_given_more_than_once_are_named_and_create_nothing(
    client: Client, members: bytes, repeated: list[str], size_bytes: int
) -> None:
    body = b'{"resource": "contact", "action": "merge", ' + members + b"}"
    answer = client.post("/v1/batches", padded(body, size_bytes))
    assert (answer["status"], answer["code"]) == (422, "invalid_request")
    assert answer["errors"] == [f"{name}: is given more than once" for name in repeated]
    assert every_batch(client) == []


def test_a_member_of_a_retry_that_is_given_more_than_once_is_named(client: Client) -> None:
    batch_id = client.create()["data"]["id"]
    answer = client.post(f"/v1/batches/{batch_id}/retry", b'{"failed_rows": true, "failed_rows": false}')
    assert (answer["status"], answer["errors"]) == (422, ["failed_rows: is given more than once"])


@sizes
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"resource": NaN}',
        b'{"resource": "contact"} {}',
        b'{"resource": "\xff"}',
        b'{"resource": "contact", "data": [{"a": 01}]}',
        b'{"data": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"\xef\xbb\xbf{}",
    ],
    ids=range(10),
)
def test_a_body_that_is_no_json_object_is_malformed(client: Client, body: bytes, size_bytes: int) -> None:
    answer = client.post("/v1/batches", padded(body, size_bytes))
    assert (answer["status"], answer["code"]) == (400, "malformed_json")


@sizes
@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", "application/json; charset=x"])
def test_a_body_that_is_not_said_to_be_json_is_not_read(client: Client, kind: str, size_bytes: int) -> None:
    answer = client.post("/v1/batches", padded(b"{}", size_bytes), Content_Type=kind)
    assert (answer["status"], answer["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    ("path", "status", "allow"),
    [
        ("/", 404, None),
        ("/v1/batches/", 404, None),
        ("/v1/nothing", 404, None),
        ("/v1/batches", 405, "GET, POST"),
        ("/v1/batches/batch_x", 405, "GET"),
        ("/v1/batches/batch_x/cancel", 405, "POST"),
        ("/healthz", 405, "GET"),
    ],
)
def test_unknown_paths_and_methods_are_told_in_the_envelope(
    client: Client, path: str, status: int, allow: str | None
) -> None:
    answer = client.http.request("DELETE", path, headers={"X-API-Key": client.key})
    assert (envelope(answer)["status"], answer.headers.get("Allow")) == (status, allow)


@pytest.mark.parametrize("batch_id", ["batch_x", "batch_" + "1" * 22, "%00", "batch_" + "é" * 22, "a" * 5000])
def test_what_is_no_id_of_a_batch_is_not_found(client: Client, batch_id: str) -> None:
    assert client.get(f"/v1/batches/{batch_id}")["status"] == 404
    assert client.post(f"/v1/batches/{batch_id}/cancel")["status"] == 404
    assert client.post(f"/v1/batches/{batch_id}/retry")["status"] == 404


@pytest.mark.parametrize(
    "query",
    ["page=0", "page=x", "limit=101", "limit=0", "order=up", "status=done", "resource=x", "colour=1", "page=1&page=2"],
)
def test_wrong_parameters_of_a_list_are_named(client: Client, query: str) -> None:
    answer = envelope(client.http.get(f"/v1/batches?{query}", headers={"X-API-Key": client.key}))
    assert (answer["status"], answer["code"]) == (422, "invalid_request")
    assert answer["errors"][0].startswith(query.split("=", maxsplit=1)[0] + ": ")


@sizes
def test_a_body_to_a_call_that_takes_none_gets_the_calls_own_answer(client: Client, size_bytes: int) -> None:
    body = padded(b"{}", size_bytes)
    batch_id = client.create()["data"]["id"]
    assert client.post(f"/v1/batches/{batch_id}/cancel", body)["status"] == 200
    assert client.post(f"/v1/batches/{batch_id}/retry", body)["status"] == (413 if size_bytes else 409)
    assert client.post("/v1/nothing", body)["status"] == 404
    assert client.post("/healthz", body)["status"] == 405
    answers = [client.http.post("/v1/batches", content=body), client.http.request("GET", "/v1/batches", content=body)]
    assert [envelope(answer)["status"] for answer in answers] == [401, 401]


def test_an_organization_that_calls_too_often_is_told_when_to_go_on(module_system: System) -> None:
    with served(api_requests_per_minute=3) as url, httpx.Client(base_url=url) as http:
        client, other = new_client(module_system, http), new_client(module_system, http)
        body = json.dumps({"resource": "contact", "action": "merge"})
        first = client.post("/v1/batches", body, Idempotency_Key="k")
        assert [client.get("/v1/batches")["status"] for _ in range(3)] == [200, 200, 429]
        refused = http.get("/v1/batches", headers={"X-API-Key": client.key})
        assert 1 <= int(refused.headers["Retry-After"]) <= 20
        assert envelope(refused)["code"] == "rate_limited"
        assert client.create()["status"] == 429
        # An idempotency key is looked up before any quota.
        assert client.post("/v1/batches", body, Idempotency_Key="k")["data"]["id"] == first["data"]["id"]
        assert other.get("/v1/batches")["status"] == 200


def test_a_body_above_the_limit_is_refused_announced_or_not(module_system: System) -> None:
    with (
        served(max_inline_bytes=3_000_000, mixed_wait_seconds=0.05) as url,
        httpx.Client(base_url=url, timeout=60) as http,
    ):
        client = new_client(module_system, http)
        items = [{"name": "x" * 1000} for _ in range(2_950)]
        text = json.dumps({"resource": "contact", "action": "merge", "data": items}).encode()
        assert len(text) < 3_000_000
        headers = {"X-API-Key": client.key, "Content-Type": "application/json"}
        blocks = [text, b" " * (3_000_001 - len(text))]
        announced = http.post("/v1/batches", content=b"".join(blocks), headers=headers)
        streamed = http.post("/v1/batches", content=iter(blocks), headers=headers)
        assert [envelope(answer)["code"] for answer in (announced, streamed)] == ["too_large"] * 2
        assert {answer.status_code for answer in (announced, streamed)} == {413}
        assert every_batch(client) == []
        used = client.post("/v1/batches", {"resource": "contact", "action": "merge"}, Idempotency_Key="used")["data"]
        other_body = http.post("/v1/batches", content=iter(blocks), headers={**headers, "Idempotency-Key": "used"})
        assert envelope(other_body)["code"] == "idempotency_conflict"
        assert every_batch(client) == [used["id"]]
        within = http.post("/v1/batches", content=iter([text]), headers=headers)  # larger than what is kept in memory
        batch = envelope(within)["data"]
        sent = module_system.store.read(keys.upload(batch["id"], "items.json", saved=True))
        assert json.loads(sent) == items


def test_while_the_database_is_away_calls_say_so_and_when_to_try_again(environment: dict[str, str]) -> None:
    from pydantic import SecretStr

    away = SecretStr("postgresql://user:secret@127.0.0.1:1/name")
    with served(database_url=away) as url, httpx.Client(base_url=url, timeout=60) as http:
        key = "key_" + "1" * 16 + "_" + "1" * 43
        answers = [
            http.get("/readyz"),
            http.get("/v1/batches", headers={"X-API-Key": key}),
            http.post("/v1/batches", headers={"X-API-Key": key}, json={}),
        ]
        assert {(answer.status_code, envelope(answer)["code"]) for answer in answers} == {(503, "database_unavailable")}
        assert all(int(answer.headers["Retry-After"]) > 0 for answer in answers)
        assert not any("secret" in answer.text or "127.0.0.1" in answer.text for answer in answers)
        assert http.get("/healthz").status_code == 200


def test_while_storage_is_away_nothing_is_accepted_that_needs_it(
    module_system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with served() as url, httpx.Client(base_url=url, timeout=60) as http:
        client = new_client(module_system, http)
        refused = client.create([ADA])
        assert (refused["status"], refused["code"]) == (503, "storage_unavailable")
        large = client.create([{"name": "x" * 1_200_000}])
        assert (large["status"], large["code"]) == (503, "storage_unavailable")
        assert every_batch(client) == []


def test_ready_means_that_database_and_storage_can_be_reached(client: Client) -> None:
    for path in ("/healthz", "/readyz"):
        assert envelope(client.http.get(path))["data"] == {"healthy": True}


# ---- mode sync -------------------------------------------------------------------------------------------------


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
        until(lambda: bool(client.get("/v1/batches", status="processing")["data"]))
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
        until(lambda: bool(client.get("/v1/batches", status="processing")["data"]))
        for process in forked_processes():
            process.kill()
        connection.rollback()  # what the killed one was writing is given up
        answer = call.result()
    assert (answer["status"], answer["data"]["status"]) == (200, "failed")
    assert answer["data"]["reason"]["code"] == "worker_lost"
    until(lambda: client.create([ADA], mode="sync")["status"] == 200)
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


# ---- idempotency -----------------------------------------------------------------------------------------------


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


# ---- uploads ---------------------------------------------------------------------------------------------------


def test_a_batch_for_an_upload_takes_its_file_once(module_system: System, client: Client) -> None:
    answer = client.create(name="people")
    batch = answer["data"]
    assert (answer["status"], batch["status"], batch["via"], batch["checksum"]) == (201, "requested", "file", None)
    lasts = batch["_upload_url_expires_at"] - datetime.now(UTC).timestamp()
    assert 3_500 < lasts <= 3_600
    assert "X-Amz-Algorithm=AWS4-HMAC-SHA256" in batch["_upload_url"]
    assert take_in_requested(module_system, limit=10) == ([], [])

    assert httpx.put(batch["_upload_url"], content=b"name\nAda\n").status_code == 200
    (taken,), removed = take_in_requested(module_system, limit=10)
    assert (taken.id, taken.awaits_run, removed) == (batch["id"], Starter.launcher, [])
    assert module_system.store.read(str(taken.upload_key)) == b"name\nAda\n"
    assert module_system.store.list("requested/") == []

    assert httpx.put(batch["_upload_url"], content=b"name\nEva\n").status_code == 200
    none, (second,) = take_in_requested(module_system, limit=10)
    assert (none, second.batch_id) == ([], batch["id"])
    assert "already has its file" in second.why
    assert module_system.store.read(str(taken.upload_key)) == b"name\nAda\n"
    assert module_system.store.list("requested/") == []


def test_a_batch_expires_only_if_no_file_lies_there_at_last(module_system: System, client: Client) -> None:
    late, in_time = client.create()["data"], client.create()["data"]
    assert httpx.put(in_time["_upload_url"], content=b"name\nAda\n").status_code == 200
    with psycopg.connect(module_system.database_url) as connection:
        connection.execute(
            "UPDATE batches SET upload_expires_at = now() - interval '1 second' WHERE organization_id = %s",
            (client.organization_id,),
        )
    assert [batch.id for batch in expire_requested(module_system, limit=10)] == [late["id"]]
    assert [batch.id for batch in take_in_requested(module_system, limit=10)[0]] == [in_time["id"]]
    expired = client.batch(late["id"])
    assert (expired["status"], expired["reason"]["code"]) == ("expired", "upload_expired")

    assert httpx.put(late["_upload_url"], content=b"name\nEva\n").status_code == 200
    _, (removed,) = take_in_requested(module_system, limit=10)
    assert removed.batch_id == late["id"]
    explained = client.batch(late["id"])
    assert explained["status"] == "expired"
    assert "was too late, and is removed" in explained["reason"]["message"]
    assert client.post(f"/v1/batches/{late['id']}/retry")["code"] == "not_rerunnable"
    assert client.post(f"/v1/batches/{late['id']}/cancel")["code"] == "not_cancellable"


def test_the_sensor_looks_at_storage_only_while_a_file_could_come(system: System, instance: DagsterInstance) -> None:
    def tick() -> str:
        with build_sensor_context(instance=instance) as context:
            skipped = defs.get_sensor_def("requested_sensor")(context)
        assert isinstance(skipped, SkipReason)
        return str(skipped.skip_message)

    assert "no upload URL" in tick()
    with served() as url, httpx.Client(base_url=url, timeout=60) as http:
        batch = new_client(system, http).create()["data"]
    assert "No file has arrived" in tick()
    assert httpx.put(batch["_upload_url"], content=b"name\nAda\n").status_code == 200
    assert "1 files taken in" in tick()
    with psycopg.connect(system.database_url) as connection:
        connection.execute("UPDATE batches SET upload_expires_at = now() - interval '1 hour'")
    assert "no upload URL" in tick()
    with psycopg.connect(system.database_url) as connection:
        connection.execute("UPDATE batches SET arrival = NULL")  # as if the daemon had been away when it ran out
    assert "1 batches expired" in tick()
    assert system.ledger.get(batch["id"]).status == "expired"


def test_an_upload_url_is_good_for_its_own_object_and_method_alone(client: Client) -> None:
    mine, other = client.create()["data"], client.create()["data"]
    elsewhere = mine["_upload_url"].replace(mine["id"], other["id"])
    assert httpx.put(elsewhere, content=b"name\nAda\n").status_code == 403
    assert httpx.get(mine["_upload_url"]).status_code == 403


def test_urls_are_signed_for_the_public_endpoint(module_system: System) -> None:
    public = "https://files.example.com"
    with served(storage_public_endpoint=public) as url, httpx.Client(base_url=url, timeout=60) as http:
        client = new_client(module_system, http)
        upload = urlsplit(client.create()["data"]["_upload_url"])
        batch = client.create(data_url(b"name\nAda\n"), mode="sync", name="people.csv")["data"]
        found = client.batch(batch["id"], include_upload_csv="true")["_upload_csv_url"]
    assert (upload.scheme, upload.netloc, upload.path.split("/")[1]) == ("https", "files.example.com", "batch")
    download = urlsplit(found)
    assert download.netloc == "files.example.com"
    assert parse_qs(download.query)["X-Amz-Expires"] == ["3600"]
    assert parse_qs(download.query)["response-content-disposition"] == ['attachment; filename="people.csv"']


# ---- looking ---------------------------------------------------------------------------------------------------


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
    until(lambda: client.batch(batch["id"], include_upload_json="true")["_upload_json_url"] is not None)
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


# ---- many at once ----------------------------------------------------------------------------------------------


def test_fifty_clients_at_once_lose_nothing_and_get_no_wrong_answer(module_system: System, address: str) -> None:
    def work(_: int) -> bool:
        with httpx.Client(base_url=address, timeout=120) as http:
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
