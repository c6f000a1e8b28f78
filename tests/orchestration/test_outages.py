"""Ledger and Dagster agree after an outage of a part of Dagster, with real processes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest
from batch_runs import contacts, new_organization, reasons
from dagster import DagsterEventType, DagsterInstance, DagsterRunStatus, RunsFilter
from folders import server_folder
from passing_time import age_runs, eventually_reconciled
from process_table import command_of
from waiting import eventually

from batch_pipeline import migrations
from batch_pipeline.batches.model import Batch, Starter
from batch_pipeline.dagster_home import LOCATION_NAME, MODULE_NAME, dagster_database_url, prepare_dagster_home
from batch_pipeline.local.postgres import EmbeddedPostgres
from batch_pipeline.local.processes import start_process, stop_process
from batch_pipeline.local.s3 import EmbeddedS3, free_port
from batch_pipeline.orchestration import tags
from batch_pipeline.orchestration.instance import open_instance, upgrade_dagster
from batch_pipeline.settings import get_settings
from batch_pipeline.system import System, open_system

CODE_SERVER = "batch_pipeline.orchestration.code_server"
PAUSE_SECONDS = 0.3  # the queries of one look take 10 ms of processor
pytestmark = pytest.mark.timeout(400)


class Parts:
    """The code server and the daemon, which the tests share: each starts what another has left dead."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._socket = folder / "code-server"
        self._workspace = folder / "workspace.yaml"
        self._workspace.write_text(
            f"load_from:\n  - grpc_server:\n      host: localhost\n      socket: {self._socket}\n"
            f"      location_name: {LOCATION_NAME}\n"
        )
        (folder / "broken_definitions.py").write_text('raise RuntimeError("This code is broken.")\n')

    def code_server(self, module: str = MODULE_NAME) -> "subprocess.Popen[bytes]":
        """The code server; started, with the definitions of the module, if it doesn't run."""
        if not self._is_running(CODE_SERVER):
            self._socket.unlink(missing_ok=True)
        what = ["--module-name", module, "--location-name", LOCATION_NAME, "--log-level", "warning"]
        return self._have(CODE_SERVER, "--socket", str(self._socket), *what)

    def daemon(self) -> "subprocess.Popen[bytes]":
        """The daemon; started if it doesn't run."""
        run = ["dagster._daemon", "run", "--workspace", str(self._workspace)]
        return self._have("batch_pipeline.orchestration.dagster_command", *run)

    def runs(self) -> list[psutil.Process]:
        """The processes of runs: they were forked without importing anything."""
        own = psutil.Process(self.code_server().pid).children()  # a run has the command line of its fork server
        (forking,) = [child for child in own if "multiprocessing.forkserver" in command_of(child)]
        return forking.children()

    def log_of_runs(self) -> str:
        """What the code server and its runs have printed."""
        return self._log(CODE_SERVER).read_text()

    def stop(self) -> None:
        for process in self._running.values():
            stop_process(process, patience_seconds=30)

    def _log(self, module: str) -> Path:
        return self.folder / f"{module}.log"

    def _is_running(self, module: str) -> bool:
        return module in self._running and self._running[module].poll() is None

    def _have(self, module: str, *arguments: str) -> "subprocess.Popen[bytes]":
        if not self._is_running(module):
            path = os.pathsep.join([str(self.folder), *filter(None, [os.environ.get("PYTHONPATH")])])
            self._running[module] = start_process(
                [sys.executable, "-m", module, *arguments],
                log=self._log(module),
                environment={**os.environ, "PYTHONPATH": path},
                folder=self.folder,
            )
        return self._running[module]


@pytest.fixture(scope="module")
def own_servers(environment: dict[str, str]) -> Iterator[tuple[EmbeddedPostgres, EmbeddedS3]]:
    """Servers of these tests' own, which they can stop; ``os.environ`` leads to them."""
    del environment  # restored at the end of the session
    folder = server_folder()
    postgres, s3 = EmbeddedPostgres(folder), EmbeddedS3(folder / "s3", free_port())
    try:
        url = postgres.start()
        endpoint = s3.start("batch")
        with pytest.MonkeyPatch.context() as patch:
            variables = {
                "BATCH_DATABASE_URL": url,
                "BATCH_STORAGE_URL": "s3://batch",
                "BATCH_INBOX_QUIET_SECONDS": "0",
                "DAGSTER_POSTGRES_URL": dagster_database_url(url),
                "DAGSTER_HOME": str(prepare_dagster_home(folder)),
                "AWS_ENDPOINT_URL": endpoint,
                "AWS_ACCESS_KEY_ID": s3.keys.access_key_id,
                "AWS_SECRET_ACCESS_KEY": s3.keys.secret_access_key,
                "BATCH_ORGANIZATION_RUNS": "1",  # so that the second batch waits in Dagster's queue
                "BATCH_RERUN_PAUSE_SECONDS": "0.5",
            }
            for name, value in variables.items():
                patch.setenv(name, value)
            get_settings.cache_clear()
            migrations.upgrade(url)
            upgrade_dagster()
            yield postgres, s3
    finally:
        s3.stop()
        postgres.stop()
        get_settings.cache_clear()
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def parts(own_servers: tuple[EmbeddedPostgres, EmbeddedS3]) -> Iterator[Parts]:
    del own_servers  # os.environ leads to them
    folder = server_folder()
    shared = Parts(folder)
    yield shared
    shared.stop()
    shutil.rmtree(folder)


def killed(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


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
        batches = self.system.ledger.find(organization_id=self.organization)
        found = [batch for batch in batches if batch.name == f"{name}.csv"]
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

        eventually(stands, pause=PAUSE_SECONDS, about=lambda: (name, self.batch(name), self.run_status(name)))
        batch = self.batch(name)
        assert batch is not None
        return batch

    def requeued(self, name: str) -> int:
        """How often Dagster has put the batch's run back into its queue."""
        batch = self.batch(name)
        assert batch is not None
        (run,) = self.instance.get_runs(RunsFilter(tags={tags.BATCH_ID: batch.id}))
        return len(self.instance.all_logs(run.run_id, of_type=DagsterEventType.RUN_ENQUEUED)) - 1

    def runs_again(self, name: str) -> bool:
        """Whether the batch has failed and runs again by itself."""
        batch = self.batch(name)
        return batch is not None and batch.next_attempt_at is not None

    def completes_by_itself(self, name: str) -> Batch:
        """The batch, once it is completed; nobody requests its run."""

        def is_completed() -> bool:
            batch = self.batch(name)
            return batch is not None and batch.status == "completed"

        eventually(is_completed, pause=PAUSE_SECONDS, about=lambda: self.batch(name))
        batch = self.batch(name)
        assert batch is not None
        return batch

    def fails(self, name: str) -> str:
        """The code of the reason for which the batch has failed, once it has."""

        def reason() -> str | None:
            batch = self.batch(name)
            return next(iter(reasons(self.system, batch)), None) if batch is not None else None

        return eventually_reconciled(self.instance, reason, about=lambda: self.batch(name))

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


@pytest.fixture(scope="module")
def opened(own_servers: tuple[EmbeddedPostgres, EmbeddedS3]) -> Iterator[tuple[System, DagsterInstance]]:
    del own_servers  # os.environ leads to them
    with open_system() as system, open_instance(in_process=True) as instance:
        yield system, instance


@pytest.fixture
def world(opened: tuple[System, DagsterInstance]) -> World:
    return World(*opened)


def test_runs_continue_while_the_daemon_is_killed_and_restarted(world: World, parts: Parts) -> None:
    parts.code_server()
    with world.held():
        daemon = parts.daemon()
        world.drop("first")
        world.wait("first", "processing", DagsterRunStatus.STARTED)
        world.drop("second")
        world.wait("second", None, DagsterRunStatus.QUEUED)
        killed(daemon)
    # The run needs no daemon to end, nor to say so.
    world.wait("first", "completed", DagsterRunStatus.SUCCESS)
    world.wait("second", None, DagsterRunStatus.QUEUED)
    world.drop("third")
    parts.daemon()
    world.check_all_completed_once("first", "second", "third")


def test_queued_batches_run_once_the_code_can_be_loaded_again(world: World, parts: Parts) -> None:
    parts.daemon()
    with world.held():
        code_server = parts.code_server()
        world.drop("first")
        world.wait("first", "processing", DagsterRunStatus.STARTED)
        world.drop("second")
        world.wait("second", None, DagsterRunStatus.QUEUED)
        killed(code_server)
    # Its process is the code server's child, and outlives it.
    world.wait("first", "completed", DagsterRunStatus.SUCCESS)
    broken = parts.code_server("broken_definitions")
    eventually(lambda: world.requeued("second") > 0, pause=PAUSE_SECONDS, about=lambda: world.run_status("second"))
    world.drop("third")
    world.wait("second", None, DagsterRunStatus.QUEUED)
    killed(broken)
    parts.code_server()
    world.check_all_completed_once("first", "second", "third")


def test_a_run_whose_process_and_code_server_die_before_its_first_step_fails_and_lets_the_next_one_run(
    world: World, parts: Parts
) -> None:
    """Nobody else knows that the run has ended: Dagster shows it as STARTED for ever."""
    parts.daemon()
    code_server = parts.code_server()
    with psycopg.connect(world.system.database_url) as connection:
        connection.execute("LOCK TABLE batch_attempts")  # Dagster has recorded STARTED, the attempt is not written
        world.drop("first")
        world.wait("first", None, DagsterRunStatus.STARTED)
        world.drop("second")
        world.wait("second", None, DagsterRunStatus.QUEUED)
        children = psutil.Process(code_server.pid).children(recursive=True)
        assert parts.runs()
        for process in (*children, psutil.Process(code_server.pid)):
            process.kill()
        code_server.wait()
        psutil.wait_procs(children)
    age_runs(world.system.database_url, DagsterRunStatus.STARTED)
    parts.code_server()
    assert world.fails("first") == "never_started"
    world.wait("second", "completed", DagsterRunStatus.SUCCESS)
    first = world.completes_by_itself("first")
    assert (first.attempts, first.reruns) == (1, 1)
    assert reasons(world.system, first) == ["never_started"]
    assert [record["name"] for record in contacts(world.system, world.organization)] == ["first", "second"]


def test_a_batch_whose_worker_is_killed_runs_again_within_a_minute_by_itself(world: World, parts: Parts) -> None:
    parts.daemon()
    parts.code_server()
    with world.held():
        world.drop("first")
        world.wait("first", "processing", DagsterRunStatus.STARTED)
        (run,) = parts.runs()
        run.kill()
        killed_at = time.monotonic()
    first = world.completes_by_itself("first")
    assert time.monotonic() - killed_at < 60
    assert (first.attempts, first.reruns, first.stats.created) == (2, 1, 1)
    assert reasons(world.system, first) == ["worker_lost"]


def test_batches_run_again_by_themselves_after_outages_of_storage_and_database(
    world: World, parts: Parts, own_servers: tuple[EmbeddedPostgres, EmbeddedS3]
) -> None:
    postgres, s3 = own_servers
    parts.code_server()
    daemon = parts.daemon()
    with psycopg.connect(world.system.database_url) as connection:
        connection.execute("LOCK TABLE batch_attempts")  # the run can't read the upload yet
        world.drop("first")
        world.wait("first", None, DagsterRunStatus.STARTED)
        s3.stop()
    eventually(lambda: world.runs_again("first"), pause=PAUSE_SECONDS, about=lambda: world.batch("first"))
    s3.start("batch")
    first = world.completes_by_itself("first")
    assert reasons(world.system, first)[0] == "storage_unavailable"

    holding = psycopg.connect(world.system.database_url)
    holding.execute("LOCK TABLE contacts IN EXCLUSIVE MODE")
    world.drop("second")
    world.wait("second", "processing", DagsterRunStatus.STARTED)
    postgres.stop()
    holding.close()
    stop_process(daemon, patience_seconds=30)
    # Nobody can record or notice that the batch has failed. Dagster's retries keep the run's process for 45 s more.
    eventually(lambda: "could not be recorded in the ledger" in parts.log_of_runs(), pause=PAUSE_SECONDS)
    postgres.start()
    parts.daemon()  # a supervisor restarts a daemon that ended in the outage
    second = world.completes_by_itself("second")
    assert reasons(world.system, second)[0] in ("worker_lost", "database_unavailable")
    assert [record["name"] for record in contacts(world.system, world.organization)] == ["first", "second"]
