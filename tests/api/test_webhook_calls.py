"""Webhooks by calls of the API: made, tried, told of batches, repeated, and closed to other organizations."""

import json
import time
from collections.abc import Iterator

import httpx
import pytest
from receivers import ALLOWED, receiving
from serving import Client, new_client, served
from standardwebhooks import Webhook as Verifier
from waiting import eventually

from batch_pipeline.system import System


@pytest.fixture(scope="module")
def http(module_system: System) -> Iterator[httpx.Client]:
    with served(webhook_networks=ALLOWED) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


@pytest.fixture
def client(module_system: System, http: httpx.Client) -> Client:
    """A client of an organization of the test's own."""
    return new_client(module_system, http)


def test_a_webhook_is_made_tried_told_of_a_batch_within_seconds_and_deleted(client: Client) -> None:
    with receiving() as receiver:
        made = client.post("/v1/webhooks", {"url": receiver.url, "events": ["batch.failed", "batch.completed"]})
        assert made["status"] == 201
        webhook = made["data"]
        secret = webhook.pop("secret")
        assert webhook["events"] == ["batch.completed", "batch.failed"]
        path = f"/v1/webhooks/{webhook['id']}"
        assert client.get(path)["data"] == webhook
        listed = client.get("/v1/webhooks")
        assert (listed["data"], listed["pagination"]["total_count"]) == ([webhook], 1)
        assert secret not in str(listed)

        tried = client.post(f"{path}/test")["data"]
        assert (tried["status"], tried["type"], tried["answer"]) == ("delivered", "webhook.test", 204)

        batch_id = client.create()["data"]["id"]
        began = time.monotonic()
        cancelled = client.post(f"/v1/batches/{batch_id}/cancel")["data"]
        eventually(lambda: len(receiver.received) == 2)
        assert time.monotonic() - began < 10  # usually half a second
        call = receiver.received[1]
        assert Verifier(secret).verify(call.body, call.headers)["data"] == cancelled
        eventually(lambda: client.get(f"{path}/deliveries", status="delivered")["pagination"]["total_count"] == 2)
        page = client.get(f"{path}/deliveries", limit=1)
        assert (page["pagination"]["has_more"], page["data"][0]["batch_id"]) == (True, batch_id)

        repeated = client.post(f"{path}/redeliver", {"deliveries": [page["data"][0]["id"]]})
        assert (repeated["status"], repeated["data"]) == (202, {"deliveries": 1})
        eventually(lambda: len(receiver.received) == 3)
        assert receiver.received[2].id == call.id
        assert receiver.received[2].body == call.body

        rotated = client.post(f"{path}/rotate")["data"]
        assert rotated.pop("secret") != secret
        assert rotated == webhook
        assert client.post(f"{path}/delete")["data"] == webhook
        assert client.get(path)["code"] == "webhook_not_found"
        assert client.get("/v1/webhooks")["data"] == []


def test_a_test_event_that_fails_says_why_and_is_not_sent_again(client: Client) -> None:
    with receiving(lambda call: 500) as receiver:
        path = f"/v1/webhooks/{client.post('/v1/webhooks', {'url': receiver.url})['data']['id']}"
        answer = client.post(f"{path}/test")
        assert (answer["status"], answer["data"]["status"], answer["data"]["answer"]) == (200, "failed", 500)
        assert "500" in answer["data"]["error"]
        assert client.post(f"{path}/redeliver")["data"] == {"deliveries": 1}
        eventually(lambda: len(receiver.received) == 2)


def test_another_organizations_webhook_is_not_found(module_system: System, client: Client) -> None:
    webhook_id = client.post("/v1/webhooks", {"url": "https://example.com/"})["data"]["id"]
    other = new_client(module_system, client.http)
    assert other.get("/v1/webhooks")["data"] == []
    for missing in (webhook_id, "whk_" + "1" * 22, "nonsense", "whk_%01"):
        for call in ("rotate", "delete", "test", "redeliver"):
            assert other.post(f"/v1/webhooks/{missing}/{call}")["code"] == "webhook_not_found"
        for path in (f"/v1/webhooks/{missing}", f"/v1/webhooks/{missing}/deliveries"):
            assert other.get(path)["status"] == 404
    assert client.get(f"/v1/webhooks/{webhook_id}")["status"] == 200
    assert other.http.get("/v1/webhooks").status_code == 401


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 415, "unsupported_media_type"),
        (b"{", 400, "malformed_json"),
        ({}, 422, "invalid_request"),
        ({"url": 7}, 422, "invalid_request"),
        ({"url": "https://example.com/", "events": []}, 422, "invalid_request"),
        ({"url": "https://example.com/", "events": ["batch.done"]}, 422, "invalid_request"),
        ({"url": "https://example.com/", "secret": "whsec_x"}, 422, "invalid_request"),
        ({"url": "gopher://example.com/"}, 422, "invalid_url"),
    ],
)
def test_wrong_webhooks_are_refused(client: Client, body: object, status: int, code: str) -> None:
    headers = {"Content_Type": "text/plain"} if body == b"" else {}
    answer = client.post("/v1/webhooks", body, **headers)
    assert (answer["status"], answer["code"]) == (status, code)
    assert client.get("/v1/webhooks")["data"] == []


def test_without_allowed_networks_http_is_refused(module_system: System) -> None:
    with served() as url, httpx.Client(base_url=url, timeout=60) as http:
        client = new_client(module_system, http)
        answer = client.post("/v1/webhooks", json.dumps({"url": "http://example.com/"}))
        assert (answer["status"], answer["code"]) == (422, "invalid_url")
        assert client.post("/v1/webhooks", {"url": "https://example.com/"})["status"] == 201
