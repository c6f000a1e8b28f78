"""Services start, are watched, and end with all that they started, whatever happens to their supervisor."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
from process_table import command_of
from waiting import eventually

from batch_pipeline.errors import UnavailableError
from batch_pipeline.local.supervision import Service, ServiceEndedError, Supervisor

# Starts a child of its own, as a code server does with runs, and says both numbers.
PARENT = (
    "import subprocess, sys; child = subprocess.Popen(['sleep', '600']);"
    "import os; open(sys.argv[1], 'w').write(f'{os.getpid()} {child.pid}'); child.wait()"
)
STUBBORN = (
    "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "open(sys.argv[1], 'w').write('ready'); time.sleep(600)"
)


def python(script: str, *arguments: object) -> Sequence[str]:
    return [sys.executable, "-c", script, *map(str, arguments)]


def written(file: Path) -> bool:
    return file.exists() and file.read_text() != ""


def alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_leaving_ends_the_services_and_their_children(tmp_path: Path) -> None:
    numbers = tmp_path / "numbers"
    service = Service("the parent", python(PARENT, numbers), is_ready=lambda: written(numbers))
    with Supervisor(os.environ, tmp_path) as supervisor:
        supervisor.start(service)
        pids = [int(word) for word in numbers.read_text().split()]
        assert all(map(alive, pids))
    eventually(lambda: not any(map(alive, pids)))


def test_a_service_that_ends_by_itself_is_reported_with_its_last_line(tmp_path: Path) -> None:
    script = "import sys; sys.exit('\\x1b[31mno such thing\\x1b[0m')"
    with Supervisor(os.environ, tmp_path) as supervisor:
        supervisor.start(Service("the short one", python(script)))

        eventually(lambda: supervisor_complains(supervisor))
        said = f"the short one ended with code 1: no such thing (see {tmp_path / 'short-one.log'})"
        with pytest.raises(ServiceEndedError, match=f"^{re.escape(said)}$"):
            supervisor.check()


def supervisor_complains(supervisor: Supervisor) -> bool:
    try:
        supervisor.check()
    except ServiceEndedError:
        return True
    return False


def test_a_service_that_ends_while_starting_is_unavailable(tmp_path: Path) -> None:
    short = Service("the short one", python("import sys; print('boom'); sys.exit(3)"), is_ready=lambda: False)
    with (
        Supervisor(os.environ, tmp_path) as supervisor,
        pytest.raises(UnavailableError, match=r"^the short one ended with code 3: boom \(see "),
    ):
        supervisor.start(short)


def test_a_service_that_never_answers_is_unavailable_and_ended(tmp_path: Path) -> None:
    silent = Service("the silent one", ["sleep", "600"], is_ready=lambda: False, start_seconds=0.2)
    with (
        pytest.raises(UnavailableError, match=r"^the silent one did not answer in "),
        Supervisor(os.environ, tmp_path) as supervisor,
    ):
        supervisor.start(silent)


def test_a_service_that_ignores_sigterm_is_killed_when_its_time_is_up(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    stubborn = Service("the stubborn one", python(STUBBORN, ready), is_ready=lambda: written(ready), stop_seconds=0.1)
    with Supervisor(os.environ, tmp_path) as supervisor:
        supervisor.start(stubborn)
        [process] = [child for child in psutil.Process().children() if str(ready) in command_of(child)]
    assert not process.is_running()


def test_they_stop_in_reverse_order(tmp_path: Path) -> None:
    order = tmp_path / "order"
    script = (
        "import signal, sys\n"
        "def end(*_):\n    open(sys.argv[1], 'a').write(sys.argv[2])\n    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end)\nopen(sys.argv[3], 'w').write('ready')\n"
        "while True: signal.pause()\n"
    )

    def service(name: str) -> Service:
        ready = tmp_path / name
        return Service(f"the {name}", python(script, order, name, ready), is_ready=lambda: written(ready))

    with Supervisor(os.environ, tmp_path) as supervisor:
        supervisor.start(service("a"), service("b"), service("c"))
    assert order.read_text() == "cba"


def test_if_the_supervisor_is_killed_no_process_remains(tmp_path: Path) -> None:
    numbers = tmp_path / "numbers"
    script = (
        "import os, sys, pathlib; from batch_pipeline.local.supervision import Service, Supervisor\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "with Supervisor(os.environ, folder) as supervisor:\n"
        "    supervisor.start(Service('the parent', sys.argv[2:]))\n"
        "    print('started', flush=True); sys.stdin.read()\n"
    )
    command = python(script, tmp_path, *python(PARENT, numbers))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as supervisor:
        assert supervisor.stdout is not None
        assert supervisor.stdout.readline() == b"started\n"
        eventually(lambda: written(numbers))
        pids = [int(word) for word in numbers.read_text().split()]
        pids += [child.pid for child in psutil.Process(supervisor.pid).children(recursive=True)]
        supervisor.kill()
        eventually(lambda: not any(map(alive, pids)))


def test_the_log_has_only_the_last_start(tmp_path: Path) -> None:
    for word in ("first", "second"):
        done = tmp_path / word
        script = "import sys; print(sys.argv[1], flush=True); open(sys.argv[2], 'w').write('x'); sys.stdin.read(); \
import time; time.sleep(600)"
        with Supervisor(os.environ, tmp_path) as supervisor:
            supervisor.start(
                Service("the talker", python(script, word, done), is_ready=lambda file=done: written(file))
            )
    assert (tmp_path / "talker.log").read_text() == "second\n"
