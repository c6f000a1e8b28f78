"""The OpenAPI document holds: what it allows is taken, what it forbids is refused, and no answer is a surprise."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest
from batch_runs import arrived, insert_contacts
from examples import examples
from serving import Client, new_client, served

from batch_pipeline.batches.model import Starter
from batch_pipeline.system import System

RECORD = "ctct_" + "1" * 22
PROGRAM = Path(sys.executable).with_name("schemathesis")


@pytest.fixture(scope="module")
def client(module_system: System) -> Iterator[Client]:
    """A client that has batches of several statuses."""
    with (
        served(mixed_wait_seconds=0.01, sync_turn_seconds=0.01, api_requests_per_minute=1_000_000) as url,
        httpx.Client(base_url=url, timeout=60) as http,
    ):
        made = new_client(module_system, http)
        for _ in range(3):
            made.create()
        # In mode sync a payload that is refused would be a 422 although the request is right: it never gets its turn.
        arrived(module_system, made.organization_id, b"name\nAda\n", starter=Starter.launcher)
        made.post(f"/v1/batches/{made.create()['data']['id']}/cancel")
        insert_contacts(module_system, made.organization_id, {"id": RECORD, "name": "Ada"})
        yield made


def test_every_error_answer_is_described_and_every_call_has_its_key(client: Client) -> None:
    document = client.http.get("/openapi.json").json()
    calls = {
        (method.upper(), path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert set(calls) == {
        ("POST", "/v1/batches"),
        ("GET", "/v1/batches"),
        ("GET", "/v1/batches/{batch_id}"),
        ("POST", "/v1/batches/{batch_id}/cancel"),
        ("POST", "/v1/batches/{batch_id}/retry"),
        ("POST", "/v1/batches/{batch_id}/apply"),
        ("POST", "/v1/batches/{batch_id}/undo"),
        ("GET", "/v1/batches/{batch_id}/changes"),
        ("GET", "/v1/batches/{batch_id}/errors.csv"),
        ("GET", "/v1/records/{resource}/{record_id}/history"),
        ("POST", "/v1/webhooks"),
        ("GET", "/v1/webhooks"),
        ("GET", "/v1/webhooks/{webhook_id}"),
        ("POST", "/v1/webhooks/{webhook_id}/rotate"),
        ("POST", "/v1/webhooks/{webhook_id}/delete"),
        ("POST", "/v1/webhooks/{webhook_id}/test"),
        ("GET", "/v1/webhooks/{webhook_id}/deliveries"),
        ("POST", "/v1/webhooks/{webhook_id}/redeliver"),
        ("GET", "/healthz"),
        ("GET", "/readyz"),
    }
    assert set(calls["POST", "/v1/batches"]["responses"]) == {
        *("200", "201", "202"),
        *("400", "401", "409", "413", "415", "422", "429", "503"),
    }
    for (_, path), operation in calls.items():
        assert bool(operation.get("security")) == path.startswith("/v1/")
        for status, answer in operation["responses"].items():
            if int(status) >= 400:
                example = answer["content"]["application/json"]["example"]
                assert (example["status"], bool(example["code"])) == (int(status), True)
    examples = calls["POST", "/v1/batches"]["requestBody"]["content"]["application/json"]["examples"]
    statuses = [client.post("/v1/batches", example["value"])["status"] for example in examples.values()]
    assert statuses == [202, 409, 201]  # mode sync: the items before are still in line


def test_no_request_however_made_gets_an_answer_that_is_not_described(
    module_system: System, client: Client, tmp_path: Path
) -> None:
    """All checks of schemathesis, on requests that the document allows and on ones that it does not."""
    command = [
        *(str(PROGRAM), "run", f"{client.http.base_url}/openapi.json", "--header", f"X-API-Key: {client.key}"),
        *(
            "--checks",
            "all",
            "--phases",
            "examples,coverage,fuzzing,stateful",
            "--max-examples",
            str(examples(4, thorough=30)),
            "--max-response-time",
            "120",
        ),
        *("--seed", "20", "--generation-deterministic", "--no-color", "--request-timeout", "60"),
    ]
    # Found by its name in the folder where the program runs.
    (tmp_path / "openapi_hooks.py").write_bytes(Path(__file__).with_name("openapi_hooks.py").read_bytes())
    rejecting = client.create()["data"]["id"]
    with psycopg.connect(module_system.database_url) as connection:
        connection.execute("UPDATE batches SET has_errors_file = true WHERE id = %s", (rejecting,))
    # No random id is that of a batch or record.
    (tmp_path / "schemathesis.toml").write_text(
        "".join(
            f'[[operations]]\ninclude-name = "POST /v1/batches/{{batch_id}}/{call}"\n'
            f'parameters = {{ batch_id = "{client.create()["data"]["id"]}" }}\n'
            for call in ("apply", "undo")
        )
        + '[[operations]]\ninclude-name = "GET /v1/batches/{batch_id}/errors.csv"\n'
        f'parameters = {{ batch_id = "{rejecting}" }}\n'
        + '[[operations]]\ninclude-name = "GET /v1/records/{resource}/{record_id}/history"\n'
        f'parameters = {{ resource = "contact", record_id = "{RECORD}" }}\n'
    )
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={
            **os.environ,
            "SCHEMATHESIS_HOOKS": "openapi_hooks",
            "PYTHONPATH": str(tmp_path),
        },
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8_000:] + done.stderr[-2_000:]
    assert "No issues found" in done.stdout, done.stdout[-2_000:]
