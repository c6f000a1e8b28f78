"""A service that is forked from the warm process runs as its command would, and shares nothing with the others."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from process_table import command_of
from waiting import eventually

from batch_pipeline.errors import UnavailableError
from batch_pipeline.local.services import LATER_MODULES, SHARED_MODULES
from batch_pipeline.local.supervision import Service, ServiceEndedError, Supervisor
from batch_pipeline.local.warm import ForkedProcess, Modules, Request, WarmProcess, warm_process

# The warm process looks for modules in the folder of its log first.
SERVICE = """
import os, sys
print(sys.argv[1:], os.environ["COLOUR"], sorted(os.environ), os.getsid(0) == os.getpid(), __name__, flush=True)
if "wait" in sys.argv:
    sys.stdin.read()
    import signal
    signal.pause()
sys.exit("no such thing")
"""
FORKING_SERVICE = """
from batch_pipeline.orchestration.forking import end_processes, forked_executor
if __name__ == "__main__":
    executor = forked_executor()
    print(executor.submit(eval, "'service' in __import__('sys').modules").result(), flush=True)
    end_processes(executor)
"""


@contextmanager
def ready(folder: Path, modules: Modules) -> Iterator[tuple[WarmProcess, psutil.Process]]:
    before = set(psutil.Process().children())
    with warm_process(modules, folder / "warm-process.log") as warm:
        (process,) = set(psutil.Process().children()) - before
        warm.wait_until_ready()
        yield warm, process


def forked(
    warm: WarmProcess, log: Path, *arguments: str, forks_runs: bool = False, imported_next: Modules = ()
) -> ForkedProcess:
    log.touch()
    environment = {"COLOUR": "green", "PATH": os.environ["PATH"]}
    return warm.fork(Request(arguments, log, environment, forks_runs, imported_next))


def test_a_forked_service_has_arguments_environment_log_session_and_title_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "service.py").write_text(SERVICE)
    with ready(tmp_path, ("json",)) as (warm, _):
        first = forked(warm, tmp_path / "first.log", "service", "--port", "1")
        second = forked(warm, tmp_path / "second.log", "service", "wait")
        assert first.wait() == 1
        eventually((tmp_path / "second.log").read_text)
        assert second.poll() is None
        assert command_of(psutil.Process(second.pid)).rstrip().endswith("-m service wait")
        second.terminate()
        assert second.wait() == -signal.SIGTERM
    said = "['COLOUR', 'PATH'] True __main__\n"
    assert (tmp_path / "first.log").read_text() == f"['--port', '1'] green {said}no such thing\n"
    assert (tmp_path / "second.log").read_text() == f"['wait'] green {said}"


def test_what_is_imported_next_is_in_later_services_only(tmp_path: Path) -> None:
    (tmp_path / "later.py").write_text("")
    (tmp_path / "looking_service.py").write_text("import sys\nprint('later' in sys.modules)")
    with ready(tmp_path, ("json",)) as (warm, _):
        for log in ("first.log", "second.log"):
            assert forked(warm, tmp_path / log, "looking_service", imported_next=("later",)).wait() == 0
    assert [(tmp_path / log).read_text() for log in ("first.log", "second.log")] == ["False\n", "True\n"]


def test_the_fork_server_of_a_service_has_imported_what_the_warm_process_has(tmp_path: Path) -> None:
    (tmp_path / "service.py").write_text("")
    (tmp_path / "forking_service.py").write_text(FORKING_SERVICE)
    with ready(tmp_path, ("service",)) as (warm, process):
        service = forked(warm, tmp_path / "service.log", "forking_service", forks_runs=True)
        assert service.wait() == 0
        eventually(lambda: process.children() == [])
        eventually(lambda: not _members_of(service.pid))
    assert (tmp_path / "service.log").read_text() == "True\n"


def test_the_warm_process_of_the_services_has_one_thread_and_no_connection(tmp_path: Path) -> None:
    with ready(tmp_path, SHARED_MODULES + LATER_MODULES) as (_, process):
        threads = {Path(f"/proc/{process.pid}/task/{each.id}/comm").read_text().strip() for each in process.threads()}
        assert threads - {"jemalloc_bg_thd"} == {process.name()}  # Arrow's allocator starts one, and again after a fork
        assert process.net_connections("inet") == []
    assert (tmp_path / "warm-process.log").read_text() == ""


def test_the_services_end_with_the_warm_process_and_the_supervisor_says_so(tmp_path: Path) -> None:
    (tmp_path / "service.py").write_text(SERVICE)
    with ready(tmp_path, ("json",)) as (warm, process):
        with Supervisor({"COLOUR": "green"}, tmp_path, warm=warm) as supervisor:
            supervisor.start(Service("the service", ["python", "-m", "service", "wait"], is_forked=True))
            (service,) = process.children()
            process.kill()
            eventually(lambda: not service.is_running())
            eventually(lambda: warm.ended() is not None)
            with pytest.raises(ServiceEndedError, match=r"^the services' common process was killed by signal 9"):
                supervisor.check()
        with pytest.raises(UnavailableError, match=r"^the services' common process was killed by signal 9"):
            forked(warm, tmp_path / "late.log", "service")


def test_a_module_that_cant_be_imported_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(
            UnavailableError, match="ended with code 1: ModuleNotFoundError: No module named 'nothing_at_all'"
        ),
        ready(tmp_path, ("nothing_at_all",)),
    ):
        pass


def _members_of(group: int) -> list[int]:
    return [pid for pid in psutil.pids() if _group_of(pid) == group]


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None
