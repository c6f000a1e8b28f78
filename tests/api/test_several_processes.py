"""`BATCH_API_PROCESSES`: several processes answer on one port as one API."""

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from test_metrics import samples
from waiting import eventually

from batch_pipeline.batches.api_keys import create_key
from batch_pipeline.local.s3 import HOST, free_port
from batch_pipeline.system import System

pytestmark = pytest.mark.timeout(300)  # among the files that begin first

PROGRAM = Path(sys.executable).with_name("batch-pipeline")


class Api:
    """A running command `api` with two processes."""

    def __init__(self, command: subprocess.Popen[str], port: int, key: str) -> None:
        self.command, self.port, self.key = command, port, key
        self.parent = psutil.Process(command.pid)

    def processes(self) -> set[int]:
        """Those that accept calls: children of the command that listen on the port."""
        found = set()
        for child in self.parent.children():
            with suppress(psutil.Error):
                if any(each.laddr.port == self.port for each in child.net_connections() if each.status == "LISTEN"):
                    found.add(child.pid)
        return found

    def call(self, method: str, path: str) -> tuple[int, Any]:
        """A call on a connection of its own: the process that answered, and the answer's text or envelope."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=60)
        body = json.dumps({"resource": "contact", "action": "merge"}) if method == "POST" else None
        connection.request(method, path, body, {"X-API-Key": self.key, "Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read().decode()
        assert answer.status in (200, 201), text
        local = connection.sock.getsockname()[1]
        owners = [
            pid
            for pid in self.processes()
            for each in psutil.Process(pid).net_connections()
            if each.raddr and each.raddr.port == local
        ]
        connection.close()
        return owners[0], text if path == "/metrics" else json.loads(text)

    def of_both(self, method: str, path: str) -> list[tuple[int, Any]]:
        """Calls until both processes have answered one."""
        found: list[tuple[int, Any]] = []

        def is_of_both() -> bool:
            found.append(self.call(method, path))
            return len({pid for pid, _ in found}) == 2

        eventually(is_of_both)
        return found

    def counted(self) -> set[float]:
        """The created batches that the two processes show in their metrics."""
        texts = [text for _, text in self.of_both("GET", "/metrics")]
        assert all("Seconds from the request to the end of its answer" in text for text in texts)
        return {samples(text)["batch_api_request_seconds_count", "route=/v1/batches", "status=201"] for text in texts}


@contextmanager
def running(system: System, folder: Path) -> Iterator[Api]:
    port = free_port()
    environment = {**os.environ, "BATCH_SYNC_WORKERS": "1", "BATCH_API_PROCESSES": "2"}
    log = folder / "api.log"
    with open(log, "w", encoding="utf-8") as output:
        command = subprocess.Popen(
            [str(PROGRAM), "api", "--port", str(port)],
            env=environment,
            stdout=output,
            stderr=output,
            text=True,
            start_new_session=True,
        )
    try:
        eventually(lambda: "The API listens on" in log.read_text(encoding="utf-8"))
        yield Api(command, port, create_key(system.engine, "default").key)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(command.pid, signal.SIGKILL)
        command.wait()


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def api(system: System, tmp_path: Path) -> Iterator[Api]:
    with running(system, tmp_path) as started:
        yield started


def test_two_processes_answer_as_one_and_a_killed_one_is_replaced(api: Api) -> None:
    created = api.of_both("POST", "/v1/batches")
    first = api.processes()
    assert {pid for pid, _ in created} == first
    # Each of them reads what the other one wrote, and counts the calls of both.
    for _, listed in api.of_both("GET", "/v1/batches?limit=100"):
        assert {batch["id"] for batch in listed["data"]} == {answer["data"]["id"] for _, answer in created}
    eventually(lambda: api.counted() == {len(created)})  # a call is counted after its answer

    killed, survivor = first
    os.kill(killed, signal.SIGKILL)
    assert {api.call("POST", "/v1/batches")[0] for _ in range(3)} == {survivor}
    eventually(lambda: len(api.processes()) == 2 and killed not in api.processes())
    later = api.of_both("POST", "/v1/batches")
    assert {pid for pid, _ in later} == api.processes()
    assert survivor in api.processes()
    eventually(lambda: api.counted() == {len(created) + 3 + len(later)})

    everything = [api.parent, *api.parent.children(recursive=True)]
    api.command.terminate()
    assert api.command.wait(60) == 0
    eventually(lambda: all(is_gone(process.pid) for process in everything))
    with pytest.raises(ConnectionRefusedError):
        http.client.HTTPConnection(HOST, api.port).connect()


def test_the_processes_end_with_a_killed_command(api: Api) -> None:
    processes = api.processes()
    assert len(processes) == 2

    api.command.kill()

    eventually(lambda: all(is_gone(pid) for pid in processes))


@pytest.mark.parametrize(
    ("variable", "value", "code"), [("BATCH_ALERT_URL", "nonsense", 2), ("AWS_PROFILE", "none", 3)]
)
def test_a_start_that_fails_ends_the_command(system: System, variable: str, value: str, code: int) -> None:
    del system
    environment = {**os.environ, "BATCH_SYNC_WORKERS": "1", "BATCH_API_PROCESSES": "2", variable: value}

    done = subprocess.run(
        [str(PROGRAM), "api", "--port", str(free_port())],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == code, done.stderr
    assert "The API listens on" not in done.stderr


def test_a_process_that_is_killed_while_the_command_starts_ends_the_command(system: System, tmp_path: Path) -> None:
    del system
    log = tmp_path / "api.log"

    def starting() -> list[int]:
        children = psutil.Process(command.pid).children()
        return [child.pid for child in children if "--multiprocessing-fork" in child.cmdline()]

    with open(log, "w", encoding="utf-8") as output:
        command = subprocess.Popen(
            [str(PROGRAM), "api", "--port", str(free_port())],
            env={**os.environ, "BATCH_SYNC_WORKERS": "1", "BATCH_API_PROCESSES": "2"},
            stderr=output,
        )
    eventually(lambda: len(starting()) == 2)
    both = starting()
    os.kill(both[0], signal.SIGKILL)

    assert command.wait(120) == 3
    assert all(is_gone(pid) for pid in both)
    text = log.read_text(encoding="utf-8")
    assert "ended while it started" in text
    assert "The API listens on" not in text
