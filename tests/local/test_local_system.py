"""``up`` as a whole: it answers, watches over its parts, and leaves nothing behind, however it ends."""

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import psutil
import pytest
from process_table import command_of

from batch_pipeline.errors import SettingError, UnavailableError
from batch_pipeline.local.s3 import HOST, free_port
from batch_pipeline.local.system import connected, local_system
from batch_pipeline.settings import get_settings

UP = """
import sys, pathlib
from batch_pipeline.local.system import run_up
ports = [int(port) for port in sys.argv[2:]]
sys.exit(run_up(
    pathlib.Path(sys.argv[1]), port=ports[0], api_port=ports[1], s3_port=ports[2],
    on_ready=lambda system: print("ready", system.dagster_url, flush=True),
    report=lambda line: print("report", line, flush=True),
))
"""


@pytest.fixture(autouse=True)
def settings_read_anew() -> Iterator[None]:
    """Settings are read once in a process; tests here change what they are read from."""
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


class Up:
    """A running ``up`` and what it prints."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        assert process.stdout is not None
        self._output: IO[str] = process.stdout
        self.word, self.url = self.line().split(" ", 1)

    def line(self) -> str:
        return self._output.readline().strip()

    def child(self, part: str) -> psutil.Process:
        children = psutil.Process(self.process.pid).children(recursive=True)
        return next(child for child in children if part in command_of(child))


@contextmanager
def up(data_dir: Path) -> Iterator[Up]:
    ports = [str(free_port()) for _ in range(3)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("BATCH_", "DAGSTER_"))}
    with subprocess.Popen(
        [sys.executable, "-c", UP, str(data_dir), *ports], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            yield Up(process)
        finally:
            process.terminate()
            process.wait(120)


def test_it_answers_lets_no_second_one_in_and_a_signal_ends_all_of_it_with_exit_code_0(
    data_dir: Path, processes_of: Callable[[Path], list[str]]
) -> None:
    with up(data_dir) as system:
        assert system.word == "ready"
        with urllib.request.urlopen(f"{system.url}/server_info", timeout=120) as answer:  # noqa: S310 -- ours
            assert answer.status == 200
        commands = processes_of(data_dir)
        secret = (data_dir / "s3.keys.json").read_text().split('"')[-2]
        assert not any(secret in command for command in commands)
        with (
            pytest.raises(UnavailableError, match=r"^the local system of \S+ runs already: "),
            local_system(data_dir, port=free_port(), api_port=free_port(), s3_port=None),
        ):
            pass
        system.process.send_signal(signal.SIGINT)
        assert system.process.wait(120) == 0
    assert processes_of(data_dir) == []
    assert list(data_dir.glob("socket-*")) == []


def test_killed_it_leaves_nothing_running(
    data_dir: Path, processes_of: Callable[[Path], list[str]], eventually: Callable[..., None]
) -> None:
    with up(data_dir) as system:
        pids = [child.pid for child in psutil.Process(system.process.pid).children(recursive=True)]
        system.process.kill()
        system.process.wait()
        eventually(lambda: not processes_of(data_dir))
        eventually(lambda: not any(map(alive, pids)))


def test_a_part_that_dies_is_reported_and_ends_it_with_exit_code_1(
    data_dir: Path, processes_of: Callable[[Path], list[str]]
) -> None:
    with up(data_dir) as system:
        system.child("dagster_webserver").kill()
        assert system.line().startswith("report the Dagster webserver was killed by signal 9")
        assert system.process.wait(120) == 1
    assert processes_of(data_dir) == []


def test_the_end_of_the_servers_is_reported_too(data_dir: Path) -> None:
    with up(data_dir) as system:
        system.child("batch_pipeline.local.keeper").kill()
        # Whichever notices first: the watch over the servers, or a part of Dagster without its database.
        assert system.line().startswith("report ")
        assert system.process.wait(120) == 1


@pytest.mark.parametrize(("name", "flag"), [("port", "--port"), ("api_port", "--api-port")])
def test_a_taken_port_is_found_before_anything_starts(data_dir: Path, name: str, flag: str) -> None:
    with socket.create_server((HOST, 0)) as other:
        ports = {"port": free_port(), "api_port": free_port(), name: other.getsockname()[1]}
        with (
            pytest.raises(UnavailableError, match=f"^port {ports[name]}, .*{flag}$"),
            local_system(data_dir, **ports),
        ):
            pass
    assert not data_dir.exists()


def test_configured_servers_are_used_and_none_is_started(
    data_dir: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DAGSTER_POSTGRES_URL")
    with connected(data_dir) as servers:
        assert servers is None
        assert os.environ["DAGSTER_POSTGRES_URL"] == environment["DAGSTER_POSTGRES_URL"]
        assert get_settings().require_storage_url() == environment["BATCH_STORAGE_URL"]
    assert "DAGSTER_POSTGRES_URL" not in os.environ
    assert not data_dir.exists()


def test_one_of_the_two_settings_alone_is_refused(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCH_DATABASE_URL", "postgresql://u@h/db")
    monkeypatch.delenv("BATCH_STORAGE_URL", raising=False)
    with pytest.raises(SettingError, match=r"^BATCH_STORAGE_URL is not set"), connected(data_dir):
        pass


def test_without_settings_the_embedded_servers_are_lent_to_this_process_for_a_while(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("BATCH_DATABASE_URL", "BATCH_STORAGE_URL"):
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    with connected(data_dir) as servers:
        assert servers is not None
        assert get_settings().require_database_url() == servers.environment["BATCH_DATABASE_URL"]
        assert get_settings().inbox_quiet_seconds == 2
    assert dict(os.environ) == before


def alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
