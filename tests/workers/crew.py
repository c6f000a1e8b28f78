"""Celery workers, Redis and Dagster's processes of a test, each of which it may kill and start again."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import httpx
import psutil
import psycopg
from process_table import command_of
from waiting import eventually

from batch_pipeline.batches.model import Batch
from batch_pipeline.batches.queries import running_batches
from batch_pipeline.batches.states import BatchStatus
from batch_pipeline.local import redis
from batch_pipeline.local.processes import kill_group, start_process
from batch_pipeline.local.system import LocalSystem
from batch_pipeline.orchestration.celery_app import is_worker_ready
from batch_pipeline.system import System

PATIENCE_SECONDS = 180.0
PROCESSES = 2  # of each worker

_TERMINATE = """mutation Terminate($run: String!) {
  terminateRun(runId: $run) { __typename ... on TerminateRunFailure { message } ... on PythonError { message } }
}"""


class Redis:
    """A Redis server on a socket, with its data in a folder."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "socket"
        self.url = redis.redis_url(self.socket)
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = redis.redis_command(self.socket, self._folder / "data")
        self._process = start_process(command, log=self._folder / "redis.log")
        eventually(lambda: redis.answers(self.socket))

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def forget_everything(self) -> None:
        """Loses all tasks, as a Redis that keeps nothing on disk does when it restarts."""
        self.kill()
        shutil.rmtree(self._folder / "data")
        self.start()


class Worker:
    """A `batch-pipeline worker` of two processes."""

    def __init__(self, folder: Path, number: int) -> None:
        self.name = f"test-{number}@localhost"
        self.log = folder / f"worker-{number}.log"
        command = [sys.executable, "-m", "batch_pipeline", "worker", "--concurrency", str(PROCESSES)]
        self.process = start_process([*command, "--name", self.name], log=self.log, environment=os.environ)

    def is_executing(self, run_id: str | None) -> bool:
        """Whether its log has the task as received and not as ended."""
        task = f"[{run_id}]"
        lines = [line for line in self.log.read_text().splitlines() if task in line]
        return bool(lines) and not any("succeeded" in line for line in lines)

    def processes(self) -> list[psutil.Process]:
        parent = psutil.Process(self.process.pid)
        return [*parent.children(recursive=True), parent]

    def kill(self) -> None:
        """Kills the worker and its processes at once, as a machine that fails does."""
        processes = self.processes()
        for process in processes:
            process.kill()
        self.process.wait()
        psutil.wait_procs(processes, timeout=PATIENCE_SECONDS)


class Crew:
    """The workers of one module's tests."""

    def __init__(self, system: System, running: LocalSystem, server: Redis, folder: Path) -> None:
        self.system = system
        self.running = running
        self.redis = server
        self.workers: list[Worker] = []
        self._folder = folder
        self._started = 0

    def have(self, number: int) -> list[Worker]:
        """Starts workers until there are so many, and waits until each answers."""
        self.workers = [worker for worker in self.workers if worker.process.poll() is None]
        new = []
        while len(self.workers) < number:
            self._started += 1
            new.append(Worker(self._folder, self._started))
            self.workers.append(new[-1])
        for worker in new:
            eventually(lambda worker=worker: is_worker_ready(self.redis.url, worker.name))
        return self.workers

    def only_one(self) -> Worker:
        """Kills all workers but one, or starts one."""
        (kept,) = self.have(1)[:1]
        for worker in self.workers[1:]:
            worker.kill()
        self.workers = [kept]
        return kept

    def stop(self) -> None:
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.kill()

    def executing(self, worker: Worker) -> list[Batch]:
        """The batches whose runs the worker executes."""
        return [batch for batch in running_batches(self.system.engine) if worker.is_executing(batch.run_id)]

    def stopped_in_the_middle(self, worker: Worker) -> list[Batch]:
        """Suspends the worker if it executes batches, and returns them."""
        for process in worker.processes():
            process.suspend()
        found = self.executing(worker)
        if not found:
            for process in worker.processes():
                process.resume()
        return found

    def batch(self, batch: Batch) -> Batch:
        return self.system.ledger.get(batch.id)

    def count(self, batches: Sequence[Batch], *statuses: BatchStatus) -> int:
        """How many of the batches have one of the statuses."""
        with psycopg.connect(self.system.database_url) as connection:
            row = connection.execute(
                "SELECT count(*) FROM batches WHERE id = ANY(%s) AND status = ANY(%s)",
                ([batch.id for batch in batches], [str(status) for status in statuses]),
            ).fetchone()
        assert row is not None
        return int(row[0])

    def terminate(self, run_id: str) -> str:
        """Terminates the run as Dagster's UI does; returns the type of the answer."""
        answer = httpx.post(
            f"{self.running.dagster_url}/graphql",
            json={"query": _TERMINATE, "variables": {"run": run_id}},
            timeout=60.0,
        )
        return str(answer.json()["data"]["terminateRun"]["__typename"])

    def restart_daemon(self) -> None:
        """Kills Dagster's daemon and starts another."""
        daemon = next(
            child
            for child in psutil.Process().children(recursive=True)
            if "dagster._daemon" in command_of(child) and child.is_running()
        )
        command, folder = command_of(daemon).split(), Path(daemon.cwd())
        kill_group(daemon.pid)
        environment = {**os.environ, "BATCH_DAGSTER_URL": self.running.dagster_url}
        start_process(
            command,
            log=self._folder / "daemon.log",
            environment=environment,
            folder=folder,
            death_signal=signal.SIGKILL,
        )
