"""Bodies that are not kept in memory: data URLs of all spellings, members beside the data, and the event loop."""

import asyncio
import base64
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from serving import PATIENCE_SECONDS, Client

from batch_pipeline.api.app import create_app
from batch_pipeline.storage import keys
from batch_pipeline.system import System

CSV = "data:text/csv;base64,"


def text_of(data: str, **options: Any) -> bytes:
    """A body with this JSON text as data, as it is."""
    members = json.dumps({"resource": "contact", "action": "merge", **options})
    return f'{members[:-1]}, "data": {data}}}'.encode()


def hexadecimal(character: str) -> str:
    return f"{ord(character):02X}"


SPELLINGS: dict[str, Callable[[str], str]] = {
    "as it is": lambda digits: digits,
    "slashes escaped": lambda digits: digits.replace("/", r"\/"),
    "percent-encoded": lambda digits: "".join(
        f"%{hexadecimal(digit)}" if digit in "+/=" else digit for digit in digits
    ),
    "JSON escapes": lambda digits: "".join(
        rf"\u00{hexadecimal(digit)}" if digit in "+/=" else digit for digit in digits
    ),
    "percent signs escaped": lambda digits: digits.replace("/", r"\u0025\u0032\u0046"),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("size_bytes", [2_000_000, 2_000_001, 2_000_002])
def test_a_large_data_url_is_decoded_however_it_is_spelled(
    module_system: System, client: Client, spelling: str, size_bytes: int
) -> None:
    content = b"\xff" * 300_000 + bytes(range(256)) * 7_000  # slashes alone first: wherever it is cut is an escape
    content = content[:size_bytes].ljust(size_bytes, b"x")
    data = f'"{CSV}{SPELLINGS[spelling](base64.b64encode(content).decode())}"'
    answer = client.post("/v1/batches", text_of(data))
    assert answer["status"] == 202, answer
    assert module_system.store.read(keys.upload(answer["data"]["id"], "items.csv", saved=True)) == content


def test_a_media_type_may_have_its_slash_escaped(module_system: System, client: Client) -> None:
    """As PHP writes it."""
    answer = client.post("/v1/batches", text_of(r'"data:text\/csv;base64,bmFtZQpBZGEK"'))
    assert answer["status"] == 202, answer
    assert module_system.store.read(keys.upload(answer["data"]["id"], "items.csv", saved=True)) == b"name\nAda\n"


@pytest.mark.parametrize("valid_digits", [0, 1_200_000])
@pytest.mark.parametrize(
    "digits",
    ["*", "A", "QQ==QQ==", "Q===", "=", "é", r"\ud800", r"\ud83d\ude00", r"\n", r"\\", "%", "%4-", "%zz", r"\u0025"],
)
def test_digits_that_are_no_base64_are_refused(client: Client, digits: str, valid_digits: int) -> None:
    for data in ("A" * valid_digits + digits, digits + "A" * valid_digits):
        answer = client.post("/v1/batches", text_of(f'"{CSV}{data}"'))
        assert (answer["status"], answer["errors"]) == (422, ["data: the data URL is no base64"])


@pytest.mark.parametrize(
    "options",
    [
        {"name": "x" * 1_200_000},
        {"colour": ["red"] * 300_000},
        {"properties": {f"field {number}": "value" for number in range(100_000)}},
        {f"member {number}": 0 for number in range(250_000)},
    ],
    ids=["name", "unknown", "properties", "members"],
)
def test_members_beside_the_data_have_a_limit_of_their_own(client: Client, options: dict[str, Any]) -> None:
    answer = client.post("/v1/batches", text_of("[]", **options))
    assert (answer["status"], answer["code"]) == (413, "too_large")
    assert "beside data" in answer["message"]
    assert client.get("/v1/batches")["data"] == []


@pytest.mark.parametrize(
    "options",
    [{f"m{number}": 0 for number in range(50_000)}, {"properties": {f"f{number}": 0 for number in range(50_000)}}],
    ids=["members", "properties"],
)
def test_of_very_many_wrong_values_the_first_are_named(client: Client, options: dict[str, Any]) -> None:
    answer = client.post("/v1/batches", text_of("[]", **options))
    assert (answer["status"], answer["code"]) == (422, "invalid_request")
    assert len(answer["errors"]) == 101
    assert answer["errors"][-1] == "and 49,900 more"


def test_a_name_in_an_error_is_shortened(client: Client) -> None:
    answer = client.post("/v1/batches", text_of("[]", **{"x" * 500_000: 0}))
    assert answer["errors"] == [f"{'x' * 100}…: is not known here"]


def test_a_client_that_disconnects_within_its_body_is_no_error_of_the_server(
    module_system: System, client: Client
) -> None:
    """What the application raises, the server logs as an error of its own."""
    messages = [{"type": "http.request", "body": bytes(2_000_000), "more_body": True}, {"type": "http.disconnect"}]
    statuses: list[int] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        statuses.extend([message["status"]] if "status" in message else [])

    async def scenario() -> None:
        app = create_app(warm_up=False)
        async with app.router.lifespan_context(app):
            headers = [(b"x-api-key", client.key.encode()), (b"content-type", b"application/json")]
            scope = {"type": "http", "method": "POST", "path": "/v1/batches", "headers": headers, "query_string": b""}
            await app({**scope, "scheme": "http", "server": ("x", 80), "http_version": "1.1"}, receive, send)

    asyncio.run(scenario())
    assert (messages, statuses) == ([], [400])  # which nobody receives
    assert client.get("/v1/batches")["data"] == []


@pytest.mark.parametrize(
    "step",
    [
        "tempfile.SpooledTemporaryFile.write",
        "mmap.mmap",
        "msgspec.json.Decoder",
        "base64.b64decode",
        "batch_pipeline.storage.store.Store.upload",
    ],
)
def test_the_api_answers_others_while_it_handles_a_large_data_url(
    client: Client, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Each step is held up until another call has been answered, which takes for ever if it is the loop that waits."""
    from pkgutil import resolve_name

    real = resolve_name(step)
    begun, answered = threading.Event(), threading.Event()

    def held_up(*arguments: Any, **options: Any) -> Any:
        begun.set()
        assert answered.wait(PATIENCE_SECONDS / 2)
        return real(*arguments, **options)

    data = f'"{CSV}{base64.b64encode(b"name" + bytes(2_000_000)).decode()}"'
    with (
        ThreadPoolExecutor(1) as pool,
        httpx.Client(base_url=client.http.base_url, timeout=PATIENCE_SECONDS / 4) as http,
    ):
        monkeypatch.setattr(step, held_up)
        call = pool.submit(client.post, "/v1/batches", text_of(data))
        assert begun.wait(PATIENCE_SECONDS)
        assert http.get("/healthz").status_code == 200
        answered.set()
        assert call.result()["status"] == 202
