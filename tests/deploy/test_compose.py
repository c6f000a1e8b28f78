"""compose.yaml: each of its commands runs here as a plain process, and a batch goes through all of them."""

import json
import re
import secrets
import shutil
import subprocess
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import psycopg
import pytest
from composed import PROGRAMS, REPOSITORY, Composed, read_compose, tcp_to_socket
from psycopg import sql
from waiting import eventually

from batch_pipeline.errors import SettingError
from batch_pipeline.local.postgres_files import SOCKET_NAME
from batch_pipeline.local.redis import redis_command
from batch_pipeline.local.s3 import free_port
from batch_pipeline.storage.store import Store

pytestmark = pytest.mark.timeout(600)

OURS = ("code-server", "webserver", "daemon", "worker", "api")
FROM_ELSEWHERE = ("postgres", "redis", "s3")
HEADER = "external_id,name\n"


@pytest.fixture(scope="module")
def redis_server_program(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("redis")
    try:
        return redis_command(folder / "socket", folder / "data")[0]
    except SettingError as error:
        pytest.skip(error.message)


def test_a_batch_goes_through_the_processes_of_compose(
    environment: dict[str, str], redis_server_program: str, tmp_path: Path
) -> None:
    variables = {
        **{f"{role}_PASSWORD": secrets.token_hex(16) for role in ("POSTGRES", "LOADER", "API")},
        "REDIS_PASSWORD": secrets.token_hex(16),
        "S3_ACCESS_KEY": environment["AWS_ACCESS_KEY_ID"],
        "S3_SECRET_KEY": environment["AWS_SECRET_ACCESS_KEY"],
    }
    server_url = environment["BATCH_DATABASE_URL"]
    name = f"composed_{secrets.token_hex(6)}"
    ports = {inner: str(free_port()) for inner in ("3000", "4000", "6379", "8000")}
    socket_path = Path(parse_qs(urlsplit(server_url).query)["host"][0]) / SOCKET_NAME
    with psycopg.connect(server_url, autocommit=True) as server, tcp_to_socket(socket_path) as postgres:
        server.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
        places = {
            "postgres:5432/batch": f"127.0.0.1:{postgres}/{name}",
            "http://s3:9000": environment["AWS_ENDPOINT_URL"],
            "s3://batch": f"s3://batch/{name}",
            **{
                f"{host}:{inner}": f"127.0.0.1:{port}"
                for host in ("redis", "webserver")
                for inner, port in ports.items()
            },
            **ports,
            "0.0.0.0": "127.0.0.1",  # noqa: S104 - what the containers listen on; here nobody else may call
            "code-server": "127.0.0.1",
            "/etc/batch-pipeline/workspace.yaml": str(tmp_path / "workspace.yaml"),
        }
        composed = Composed(read_compose(variables), places, tmp_path)
        assert set(composed.compose["services"]) == {*OURS, *FROM_ELSEWHERE, "migrate"}
        shutil.copytree(REPOSITORY / "dagster_home", tmp_path / "dagster_home", ignore=lambda *_: ["storage", "logs"])
        workspace = (REPOSITORY / "deploy" / "workspace.yaml").read_text()
        (tmp_path / "workspace.yaml").write_text(re.sub(r"\b4000\b", ports["4000"], workspace))

        redis = composed.compose["services"]["redis"]["command"]
        with subprocess.Popen(
            [redis_server_program, *redis[1:], "--port", ports["6379"], "--dir", str(tmp_path)]
        ) as process:
            try:
                composed.run("migrate")
                composed.start(*OURS)
                run_batches(composed, f"http://127.0.0.1:{ports['8000']}", Store(places["s3://batch"]))
                assert composed.stop() == dict.fromkeys(reversed(OURS), 0)
            finally:
                for left in composed.running.values():
                    left.kill()
                    left.wait()
                process.kill()
        server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def run_batches(composed: Composed, api: str, store: Store) -> None:
    """A batch of a call and one of a file in the inbox, run by the worker."""
    made = subprocess.run(
        [str(PROGRAMS / "batch-pipeline"), "keys", "create", "--json"],
        env=composed.environment("api"),
        capture_output=True,
        text=True,
        check=True,
    )
    headers = {"X-API-Key": json.loads(made.stdout)["key"]}
    item = {"external_id": "called", "name": "Ada"}
    body = {"resource": "contact", "action": "merge", "data": [item]}
    with httpx.Client(base_url=api, headers=headers, timeout=60) as client:
        created = client.post("/v1/batches", json=body)
        assert created.status_code == httpx.codes.ACCEPTED, created.text
        store.write("uploads/default/contact/merge/people.csv", f"{HEADER}put,Ben\n".encode())

        def statuses() -> list[str]:
            return [batch["status"] for batch in client.get("/v1/batches").json()["data"]]

        eventually(lambda: statuses() == ["completed", "completed"], pause=0.2, about=statuses)
    assert "succeeded" in (composed.folder / "worker.log").read_text()
