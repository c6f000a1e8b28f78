"""Calls of the HTTP API that are wrong, too many, too large, or come while a service is away."""

import json
from typing import Any

import httpx
import pytest
from calls import ADA, every_batch, padded, sizes
from serving import Client, envelope, new_client, served

from batch_pipeline.storage import keys
from batch_pipeline.system import System


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
        (
            {"resource": "contact", "action": "merge", "column_mapping": "remember", "unknown_columns": "drop"},
            [
                "column_mapping: must be an object of fields and their headers, or remembered",
                "unknown_columns: should be 'refuse' or 'ignore'",
            ],
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
    with served(database_url=away, api_database_url=away) as url, httpx.Client(base_url=url, timeout=60) as http:
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
    monkeypatch.setattr("batch_pipeline.storage.store.ATTEMPTS", 1)  # more are spread over ten seconds
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
