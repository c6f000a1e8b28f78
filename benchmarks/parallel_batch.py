"""One large batch on one worker and on two, and the arithmetic for more.

All on this machine: PostgreSQL, the process of the run, and for two workers a Celery worker that helps. Each round
merges a file of new contacts into an empty table. It prints wall time and the processor's seconds of the run, of the
helper and of PostgreSQL, for each part of a batch. On a machine of two cores, PostgreSQL and one worker already use
both, so two workers can be no faster; the processor's seconds show what they cost.

The arithmetic takes the processor's seconds of one worker: a part that is split takes the larger of Python's share,
divided by the workers, and PostgreSQL's share, divided by the connections or the database's cores, whichever are fewer.
Usage: python -m benchmarks.parallel_batch [--rows N] [--rounds N]
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from batch_pipeline.batches.accept import ArrivedPayload, NewBatch, accept
from batch_pipeline.batches.ids import new_batch_id
from batch_pipeline.batches.model import Action, Starter
from batch_pipeline.batches.options import BatchOptions
from batch_pipeline.local import redis
from batch_pipeline.local.processes import start_process
from batch_pipeline.orchestration.celery_app import is_worker_ready
from batch_pipeline.orchestration.helpers import call_helpers
from batch_pipeline.phases import process, validate
from batch_pipeline.phases.attempt import Attempt
from batch_pipeline.phases.cleanup import cleanup
from batch_pipeline.phases.parse import parse
from batch_pipeline.records.descriptions import get_resource
from batch_pipeline.settings import get_settings
from batch_pipeline.storage import keys
from batch_pipeline.system import System, open_system
from benchmarks.suite.processes import database_seconds
from benchmarks.suite.world import ORGANIZATION, World, opened_world

STAGING, WRITING = "rules and staging", "writing"
SPLIT = (STAGING, WRITING)
WORKERS = (1, 2, 4, 8)
DATABASE_CORES = (2, 4, 8, 16)


@dataclass
class Used:
    """Seconds of one part of a batch: wall, and the processor's of the run, the helper and PostgreSQL."""

    wall: float = 0.0
    run: float = 0.0
    helper: float = 0.0
    database: float = 0.0

    def __sub__(self, other: "Used") -> "Used":
        return Used(
            self.wall - other.wall,
            self.run - other.run,
            self.helper - other.helper,
            self.database - other.database,
        )

    def __add__(self, other: "Used") -> "Used":
        return self - (Used() - other)

    def __str__(self) -> str:
        return (
            f"{self.wall:7.2f} s; of the processor: run {self.run:.2f} s, helper {self.helper:.2f} s, "
            f"PostgreSQL {self.database:.2f} s"
        )


@dataclass
class Clock:
    """Measures parts of a batch; a part within another one counts only for itself."""

    url: str
    helper: subprocess.Popen[bytes] | None
    parts: dict[str, Used] = field(default_factory=lambda: defaultdict(Used))

    @contextmanager
    def part(self, name: str, *, within: str | None = None) -> Iterator[None]:
        """Adds what happens in the context to the part, and takes it off the one within which it happens."""
        before = self._now()
        yield
        used = self._now() - before
        self.parts[name] += used
        if within is not None:
            self.parts[within] -= used

    def _now(self) -> Used:
        times = os.times()
        helper = 0.0 if self.helper is None else _processes_seconds(self.helper.pid)
        return Used(time.perf_counter(), times.user + times.system, helper, database_seconds(self.url))


def _processes_seconds(parent: int) -> float:
    """Processor time of a process and its children, so far."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    ticks = 0
    for process_id in [str(parent), *children]:
        fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Runs the rounds and prints each, the medians, and the arithmetic."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], choices=(1, 2))
    arguments = parser.parse_args()
    with opened_world("minimal", arguments.rows) as world, _redis(world.folder / "redis") as broker_url:
        os.environ |= world.environment | {
            "BATCH_LAUNCHER": "celery",
            "BATCH_CELERY_BROKER_URL": broker_url,
            "BATCH_PARALLEL_ITEMS": str(min(arguments.rows, 500_000)),
        }
        get_settings.cache_clear()
        measure(world, arguments.rounds, arguments.workers, broker_url)


@contextmanager
def _redis(folder: Path) -> Iterator[str]:
    """A Redis server with all its files in a folder of its own: the folder of its log becomes private."""
    socket = folder / "socket"
    server = start_process(redis.redis_command(socket, folder / "data"), log=folder / "redis.log")
    while not redis.answers(socket):
        time.sleep(0.1)  # it starts in some tenths of a second, and says nowhere that it has
    yield redis.redis_url(socket)
    server.kill()


@contextmanager
def _worker(folder: Path, broker_url: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Celery worker of one process, ready."""
    name = "bench@localhost"
    command = [sys.executable, "-m", "batch_pipeline", "worker", "--concurrency", "1", "--name", name]
    worker = start_process(command, log=folder / "redis" / "worker.log", environment=os.environ)
    while not is_worker_ready(broker_url, name):
        assert worker.poll() is None
    yield worker
    for child in Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split():
        os.kill(int(child), 9)
    worker.kill()
    worker.wait()


def measure(world: World, rounds: int, workers: list[int], broker_url: str) -> None:
    """Measures each number of workers in turn, and prints."""
    source = world.files.contacts()
    found: dict[int, list[dict[str, Used]]] = defaultdict(list)
    with open_system() as system:
        for number in range(rounds):
            for count in workers if number % 2 == 0 else reversed(workers):
                world.clear()
                if count == 1:
                    parts = run_batch(system, source, Clock(system.database_url, None))
                else:
                    with _worker(world.folder, broker_url) as helper:
                        parts = run_batch(system, source, Clock(system.database_url, helper))
                found[count].append(parts)
                print(f"round {number + 1}, {count} worker(s): {sum(parts.values(), Used())}", flush=True)
                for name, used in parts.items():
                    print(f"  {name:20}{used}", flush=True)
    for count, all_parts in found.items():
        wall = statistics.median(sum(used.wall for used in parts.values()) for parts in all_parts)
        print(f"{count} worker(s): median {wall:.1f} s, {world.rows / wall:,.0f} rows a second")
    if 1 in found:
        explain(found[1][0], world.rows)


def run_batch(system: System, source: Path, clock: Clock) -> dict[str, Used]:
    """Runs a merge of the file in this process, with helpers if the clock has one; returns what each part used."""
    batch_id, run_id = new_batch_id(), str(uuid.uuid4())
    key = keys.upload(batch_id, source.name, saved=True)
    system.store.upload(source, key)
    new = NewBatch(
        organization_id=ORGANIZATION,
        id=batch_id,
        resource="contact",
        action=Action.merge,
        name=source.name,
        options=BatchOptions(),
        source_key=source.name,
    )
    accept(system.engine, new, payload=ArrivedPayload(key, True, Starter.caller))
    batch = system.ledger.begin_attempt(batch_id, run_id)
    with tempfile.TemporaryDirectory() as scratch:
        attempt = Attempt(
            system=system,
            batch=batch,
            run_id=run_id,
            resource=get_resource("contact"),
            options=BatchOptions.model_validate(batch.options),
            scratch=Path(scratch),
            report=lambda progress: None,
        )
        if clock.helper is not None:
            attempt.call_helpers = call_helpers(system.settings)
        with clock.part("parsing"):
            parse(attempt)
        with _timed(validate, "stage_in_parallel", clock, STAGING, within="plan"), clock.part("plan"):
            validate.validate(attempt)
        with _timed(process, "write_chunks", clock, WRITING, within="final plan"), clock.part("final plan"):
            process.process(attempt)
        with clock.part("cleanup"):
            cleanup(attempt)
    assert attempt.batch.status == "completed", attempt.batch
    with psycopg.connect(system.database_url) as connection:
        shares = connection.execute(
            "SELECT worker, count(*) FROM batch_chunks WHERE batch_id = %s GROUP BY 1 ORDER BY 2 DESC", (batch_id,)
        ).fetchall()
    print(f"chunks written by each process: {dict(shares)}")
    return dict(clock.parts)


@contextmanager
def _timed(module: Any, function: str, clock: Clock, name: str, *, within: str) -> Iterator[None]:
    """Measures the calls that the module makes of its function."""
    original: Callable[..., Any] = getattr(module, function)

    def timed(*args: Any, **kwargs: Any) -> Any:
        with clock.part(name, within=within):
            return original(*args, **kwargs)

    setattr(module, function, timed)
    yield
    setattr(module, function, original)


def explain(parts: dict[str, Used], rows: int) -> None:
    """Prints the arithmetic for more workers."""
    total = sum(parts.values(), Used())
    alone = sum(used.wall for name, used in parts.items() if name not in SPLIT)
    split = sum(parts[name].wall for name in SPLIT)
    print(f"on one worker {split / total.wall:.0%} of the time is split, {alone:.1f} s are not")
    for cores in DATABASE_CORES:
        seconds = [alone + sum(_split_seconds(parts[name], count, cores) for name in SPLIT) for count in WORKERS]
        each = ", ".join(
            f"{count}: {taken:.0f} s ({rows / taken:,.0f} rows a second)"
            for count, taken in zip(WORKERS, seconds, strict=True)
        )
        print(f"a database of {cores} cores of its own, workers of two cores: {each}")


def _split_seconds(used: Used, workers: int, database_cores: int) -> float:
    connections = workers * get_settings().database_writers
    return max(used.run / workers, used.database / min(connections, database_cores))


if __name__ == "__main__":
    main()
