"""A signal stops what starts processes: none of them is left, at whichever instruction the signal arrives."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from interrupting import interrupt_in_callback
from process_table import command_of
from waiting import eventually

from batch_pipeline.held_signals import holding_signals
from batch_pipeline.local.postgres import EmbeddedPostgres
from batch_pipeline.local.processes import kill_group, run_process
from batch_pipeline.local.s3 import EmbeddedS3, free_port
from batch_pipeline.local.supervision import Service, Supervisor
from batch_pipeline.local.up import run_up
from batch_pipeline.settings import get_settings
from batch_pipeline.system import System

ProcessesOf = Callable[[Path], list[str]]


def start_s3(data_dir: Path) -> None:
    EmbeddedS3(data_dir / "s3").start("batch")


def start_postgres(data_dir: Path) -> None:
    EmbeddedPostgres(data_dir).start()


def start_service(data_dir: Path) -> None:
    with Supervisor(os.environ, data_dir) as supervisor:
        supervisor.start(Service("the sleeper", ["sleep", "600"]))


@pytest.fixture
def interrupt_start_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], list[int]]]:
    """SIGINT arrives after a program's process has started, before anybody has its object; gives the process's id."""
    started: list[int] = []

    def interrupt(program: str) -> list[int]:
        class Popen(subprocess.Popen[bytes]):
            def __init__(self, command: list[str], **settings: Any) -> None:
                super().__init__(command, **settings)
                if Path(command[0]).name == program:
                    started.append(self.pid)
                    signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr(subprocess, "Popen", Popen)
        return started

    yield interrupt
    for pid in started:
        kill_group(pid)


@pytest.mark.parametrize(
    ("program", "start"),
    [
        ("rclone", start_s3),
        ("initdb", start_postgres),
        ("postgres", start_postgres),
        ("sleep", start_service),
    ],
)
def test_an_interrupt_while_a_process_is_started_ends_the_process(
    data_dir: Path,
    program: str,
    start: Callable[[Path], None],
    interrupt_start_of: Callable[[str], list[int]],
    processes_of: ProcessesOf,
) -> None:
    started = interrupt_start_of(program)
    with pytest.raises(KeyboardInterrupt):
        start(data_dir)
    assert len(started) == 1
    assert not psutil.pid_exists(started[0])
    assert processes_of(data_dir) == []


def test_an_interrupt_while_a_command_works_ends_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = tmp_path / "numbers"
    script = "import subprocess, sys; child = subprocess.Popen(['sleep', '600']); \
import os; open(sys.argv[1], 'w').write(f'{os.getpid()} {child.pid}'); child.wait()"

    class Popen(subprocess.Popen[bytes]):
        def communicate(self, *arguments: Any) -> tuple[bytes, bytes]:
            if not numbers.exists():
                eventually(lambda: numbers.exists() and numbers.read_text() != "")
                signal.raise_signal(signal.SIGINT)
            return super().communicate(*arguments)

    monkeypatch.setattr(subprocess, "Popen", Popen)
    with pytest.raises(KeyboardInterrupt):
        run_process([sys.executable, "-c", script, str(numbers)])
    eventually(lambda: not any(map(is_alive, map(int, numbers.read_text().split()))))


def test_a_command_ends_with_a_killed_parent(tmp_path: Path) -> None:
    number = tmp_path / "number"
    script = "import sys; from batch_pipeline.local.processes import run_process; run_process(sys.argv[1:])"
    sleeper = ["sh", "-c", 'echo $$ > "$1"; exec sleep 600', "sh", str(number)]
    with subprocess.Popen([sys.executable, "-c", script, *sleeper]) as parent:
        eventually(lambda: number.exists() and number.read_text().endswith("\n"))
        parent.kill()
    eventually(lambda: not is_alive(int(number.read_text())))


def is_alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_signals_are_held_back_until_the_end_whichever_thread_gets_them() -> None:
    seen: list[str] = []

    def note(number: int, _frame: object) -> None:
        seen.append(signal.Signals(number).name)

    def receive_both() -> None:
        with holding_signals(), holding_signals():
            other = threading.Thread(target=lambda: signal.pthread_kill(threading.get_ident(), signal.SIGTERM))
            other.start()
            other.join()
            signal.raise_signal(signal.SIGINT)
            seen.append("end of the block")

    before = signal.signal(signal.SIGTERM, note)
    try:
        with pytest.raises(KeyboardInterrupt):
            receive_both()
        assert seen == ["end of the block", "SIGTERM"]
        assert signal.getsignal(signal.SIGTERM) is note
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)


def test_up_stops_though_python_drops_the_exception_of_the_signals_handler(
    data_dir: Path,
    processes_of: ProcessesOf,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("BATCH_DATABASE_URL", "BATCH_STORAGE_URL"):
        monkeypatch.delenv(name, raising=False)
    get_settings.cache_clear()
    reported: list[str] = []

    def report(line: str) -> None:
        reported.append(line)
        if len(reported) == 1:
            interrupt_in_callback()

    ports = {"port": free_port(), "api_port": free_port(), "s3_port": free_port()}
    run_up(data_dir, **ports, on_ready=lambda _: pytest.fail("it went on"), report=report)
    assert reported[0] == "Starting …"
    assert not list(data_dir.glob("socket-*"))
    eventually(lambda: not processes_of(data_dir))  # a child of initdb ends a moment after it
    get_settings.cache_clear()


def test_a_second_signal_while_the_services_start_kills_them_at_once(
    system: System, data_dir: Path, processes_of: ProcessesOf
) -> None:
    del system  # os.environ leads to it
    reported: list[str] = []

    def halt_code_server_and_interrupt() -> None:
        def is_code_server(process: psutil.Process) -> bool:
            return "orchestration.code_server" in command_of(process)

        def code_server() -> psutil.Process | None:
            return next(filter(is_code_server, psutil.Process().children(recursive=True)), None)

        server = eventually(code_server, pause=0.01)
        server.suspend()  # it doesn't end on SIGTERM
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def report(line: str) -> None:
        reported.append(line)
        if line == "Stopping …":
            signal.raise_signal(signal.SIGINT)

    halting = threading.Thread(target=halt_code_server_and_interrupt)
    halting.start()
    ports = {"port": free_port(), "api_port": free_port(), "s3_port": free_port()}
    run_up(data_dir, **ports, on_ready=lambda _: pytest.fail("it went on"), report=report)
    halting.join()
    assert [line for line in reported if line.startswith("Stopping the code server")] == []
    eventually(lambda: not processes_of(data_dir))
