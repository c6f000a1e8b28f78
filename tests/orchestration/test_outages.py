"""Ledger and Dagster agree after an outage of a part of Dagster, with real processes."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest
from batch_runs import contacts, new_organization
from dagster import DagsterEventType, DagsterInstance, DagsterRunStatus, RunsFilter
from process_table import command_of

from batch_pipeline.batches.model import Batch, Starter
from batch_pipeline.dagster_home import LOCATION_NAME, MODULE_NAME
from batch_pipeline.local.processes import start_process, stop_process
from batch_pipeline.orchestration import tags
from batch_pipeline.system import System

WAIT_SECONDS = 150.0  # for what takes seconds on a machine that isn't overloaded
pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def system_settings() -> dict[str, str]:
    return {"BATCH_ORGANIZATION_RUNS": "1"}  # so that the second batch waits in Dagster's queue


class Parts:
    """The code server and the daemon."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._socket = folder / "code-server"
        self._workspace = folder / "workspace.yaml"
        self._workspace.write_text(
            f"load_from:\n  - grpc_server:\n      host: localhost\n      socket: {self._socket}\n"
            f"      location_name: {LOCATION_NAME}\n"
        )
        (folder / "broken_definitions.py").write_text('raise RuntimeError("This code is broken.")\n')

    def start_code_server(self, module: str = MODULE_NAME) -> "subprocess.Popen[bytes]":
        self._socket.unlink(missing_ok=True)
        what = ["--module-name", module, "--location-name", LOCATION_NAME, "--log-level", "warning"]
        return self._start("batch_pipeline.orchestration.code_server", "--socket", str(self._socket), *what)

    def start_daemon(self) -> "subprocess.Popen[bytes]":
        return self._start("dagster._daemon", "run", "--workspace", str(self._workspace))

    def _start(self, module: str, *arguments: str) -> "subprocess.Popen[bytes]":
        path = os.pathsep.join([str(self.folder), *filter(None, [os.environ.get("PYTHONPATH")])])
        return start_process(
            [sys.executable, "-m", module, *arguments],
            log=self.folder / f"{module}.log",
            environment={**os.environ, "PYTHONPATH": path},
            folder=self.folder,
        )


@pytest.fixture
def parts(system: System) -> Iterator[Parts]:
    del system  # os.environ leads to it
    folder = Path(tempfile.mkdtemp(prefix="batch-pipeline-tests-", dir="/var/tmp"))  # a socket's path is short
    yield Parts(folder)
    shutil.rmtree(folder)


@contextmanager
def running(start: Callable[[], "subprocess.Popen[bytes]"]) -> Iterator["subprocess.Popen[bytes]"]:
    process = start()
    try:
        yield process
    finally:
        stop_process(process, patience_seconds=30)


def eventually(condition: Callable[[], object], about: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, about()
        time.sleep(0.1)


class World:
    """An organization's batches, by the files they came from, and their runs."""

    def __init__(self, system: System, instance: DagsterInstance) -> None:
        self.system = system
        self.instance = instance
        self.organization = new_organization(system)

    def drop(self, name: str) -> None:
        payload = f"external_id,name\n{name},{name}\n".encode()
        self.system.store.write(f"uploads/{self.organization}/contact/merge/{name}.csv", payload)

    def batch(self, name: str) -> Batch | None:
        found = [batch for batch in self.system.ledger.find() if batch.name == f"{name}.csv"]
        assert len(found) <= 1, "taken in twice"
        return found[0] if found else None

    def run_status(self, name: str) -> DagsterRunStatus | None:
        batch = self.batch(name)
        runs = self.instance.get_runs(RunsFilter(tags={tags.BATCH_ID: batch.id})) if batch is not None else []
        assert len(runs) <= 1, "launched twice"
        return runs[0].status if runs else None

    def wait(self, name: str, status: str | None, run_status: DagsterRunStatus) -> Batch:
        """Until ledger and Dagster say so; a status of None stands for a batch that awaits its run."""

        def stands() -> bool:
            batch = self.batch(name)
            if batch is None or self.run_status(name) is not run_status:
                return False
            return batch.awaits_run is Starter.launcher if status is None else batch.status == status

        eventually(stands, lambda: (name, self.batch(name), self.run_status(name)))
        batch = self.batch(name)
        assert batch is not None
        return batch

    def requeued(self, name: str) -> int:
        """How often Dagster has put the batch's run back into its queue."""
        batch = self.batch(name)
        assert batch is not None
        (run,) = self.instance.get_runs(RunsFilter(tags={tags.BATCH_ID: batch.id}))
        return len(self.instance.all_logs(run.run_id, of_type=DagsterEventType.RUN_ENQUEUED)) - 1

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nobody writes contacts for so long."""
        with psycopg.connect(self.system.database_url) as connection:
            connection.execute("LOCK TABLE contacts IN EXCLUSIVE MODE")
            yield

    def check_all_completed_once(self, *names: str) -> None:
        for name in names:
            batch = self.wait(name, "completed", DagsterRunStatus.SUCCESS)
            assert (batch.attempts, batch.stats.created) == (1, 1)
        assert [record["name"] for record in contacts(self.system, self.organization)] == sorted(names)


@pytest.fixture
def world(system: System, instance: DagsterInstance) -> World:
    return World(system, instance)


def test_runs_continue_while_the_daemon_is_killed_and_restarted(world: World, parts: Parts) -> None:
    with running(parts.start_code_server):
        with running(parts.start_daemon) as daemon, world.held():
            world.drop("first")
            world.wait("first", "processing", DagsterRunStatus.STARTED)
            world.drop("second")
            world.wait("second", None, DagsterRunStatus.QUEUED)
            daemon.send_signal(signal.SIGKILL)
            daemon.wait()
        # The run needs no daemon to end, nor to say so.
        world.wait("first", "completed", DagsterRunStatus.SUCCESS)
        world.wait("second", None, DagsterRunStatus.QUEUED)
        world.drop("third")
        with running(parts.start_daemon):
            world.check_all_completed_once("first", "second", "third")


def test_queued_batches_run_once_the_code_can_be_loaded_again(world: World, parts: Parts) -> None:
    with running(parts.start_daemon):
        with running(parts.start_code_server) as code_server, world.held():
            world.drop("first")
            world.wait("first", "processing", DagsterRunStatus.STARTED)
            world.drop("second")
            world.wait("second", None, DagsterRunStatus.QUEUED)
            code_server.send_signal(signal.SIGKILL)
            code_server.wait()
        # Its process is the code server's child, and outlives it.
        world.wait("first", "completed", DagsterRunStatus.SUCCESS)
        with running(lambda: parts.start_code_server("broken_definitions")):
            eventually(lambda: world.requeued("second") > 0, lambda: world.run_status("second"))
            world.drop("third")
            world.wait("second", None, DagsterRunStatus.QUEUED)
        with running(parts.start_code_server):
            world.check_all_completed_once("first", "second", "third")


def test_a_run_whose_process_and_code_server_die_before_its_first_step_fails_and_lets_the_next_one_run(
    world: World, parts: Parts
) -> None:
    """Nobody else knows that the run has ended: Dagster shows it as STARTED for ever."""
    with running(parts.start_daemon):
        with running(parts.start_code_server) as code_server, psycopg.connect(world.system.database_url) as connection:
            connection.execute("LOCK TABLE batch_attempts")  # Dagster has recorded STARTED, the attempt is not written
            world.drop("first")
            world.wait("first", None, DagsterRunStatus.STARTED)
            world.drop("second")
            world.wait("second", None, DagsterRunStatus.QUEUED)
            children = psutil.Process(code_server.pid).children(recursive=True)
            own = psutil.Process(code_server.pid).children()  # a run has the command line of its fork server
            (forking,) = [child for child in own if "multiprocessing.forkserver" in command_of(child)]
            assert forking.children()  # the run: it began without importing anything
            for process in (*children, psutil.Process(code_server.pid)):
                process.kill()
            psutil.wait_procs(children)
        with running(parts.start_code_server):
            failed = world.wait("first", "failed", DagsterRunStatus.FAILURE)
            assert failed.reason is not None
            assert (failed.reason.code, failed.attempts) == ("never_started", 0)
            world.wait("second", "completed", DagsterRunStatus.SUCCESS)
            world.system.ledger.request_rerun(failed.id, Starter.launcher)
            eventually(
                lambda: world.system.ledger.get(failed.id).status == "completed",
                lambda: world.system.ledger.get(failed.id),
            )
    assert [record["name"] for record in contacts(world.system, world.organization)] == ["first", "second"]
