"""A server of the HTTP API in the tests' process, on a port of its own, and clients of it."""

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn
from waiting import eventually

from batch_pipeline.api.app import create_app
from batch_pipeline.batches.api_keys import create_key
from batch_pipeline.batches.organizations import create_organization
from batch_pipeline.local.s3 import HOST, free_port
from batch_pipeline.system import System

PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class Client:
    """Calls of one organization's key; each returns the envelope, checked."""

    http: httpx.Client
    organization_id: str
    key: str

    def get(self, path: str, **parameters: Any) -> dict[str, Any]:
        return envelope(self.http.get(path, params=parameters, headers={"X-API-Key": self.key}))

    def post(self, path: str, body: Any = None, **headers: str) -> dict[str, Any]:
        sent = {"X-API-Key": self.key, **{name.replace("_", "-"): value for name, value in headers.items()}}
        if isinstance(body, bytes | str):
            sent.setdefault("Content-Type", "application/json")
            return envelope(self.http.post(path, content=body, headers=sent))
        return envelope(self.http.post(path, json=body, headers=sent))

    def create(self, data: Any = None, **options: Any) -> dict[str, Any]:
        """Asks for a merge of contacts, unless the options say otherwise."""
        body = {"resource": "contact", "action": "merge", **options}
        return self.post("/v1/batches", body if data is None else {**body, "data": data})

    def batch(self, batch_id: str, **parameters: Any) -> dict[str, Any]:
        batch: dict[str, Any] = self.get(f"/v1/batches/{batch_id}", **parameters)["data"]
        return batch

    def until(self, batch_id: str, *statuses: str) -> dict[str, Any]:
        """The batch, once it has one of the statuses."""

        def reached() -> dict[str, Any] | None:
            batch = self.batch(batch_id)
            return batch if batch["status"] in statuses else None

        return eventually(reached, pause=0.2, about=lambda: self.batch(batch_id))


def envelope(answer: httpx.Response) -> dict[str, Any]:
    """The answer's envelope, which every answer must have."""
    content: dict[str, Any] = answer.json()
    assert list(content) == ["status", "message", "data", "errors", "code", "pagination", "endpoint"]
    assert content["status"] == answer.status_code
    assert content["endpoint"] == f"{answer.request.method} {answer.request.url.path}"
    assert content["message"]
    assert (content["code"] is None) == (answer.status_code < 400) == (content["errors"] == [])
    assert answer.headers["Content-Type"] == "application/json"
    return content


def new_client(system: System, http: httpx.Client, organization_id: str | None = None) -> Client:
    """A client with a key of its own, of an organization of its own unless one is named."""
    if organization_id is None:
        organization_id = create_organization(system.engine, f"org-{secrets.token_hex(4)}").id
    return Client(http, organization_id, create_key(system.engine, organization_id).key)


@contextmanager
def served(*, runs_batches: bool = False, **settings: Any) -> Iterator[str]:
    """A running server; its address. It uses what ``os.environ`` leads to; keywords change settings.

    Processes for mode sync are started at once only where it `runs_batches`.
    """
    from batch_pipeline.settings import load_settings

    port = free_port()
    app = create_app(load_settings().model_copy(update=settings), warm_up=runs_batches)
    server = uvicorn.Server(uvicorn.Config(app, host=HOST, port=port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    eventually(lambda: server.started or not thread.is_alive(), pause=0.01)
    assert server.started
    try:
        yield f"http://{HOST}:{port}"
    finally:
        server.should_exit = True
        thread.join()
