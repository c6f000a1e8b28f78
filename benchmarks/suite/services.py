"""The contestants of the cases about many small calls, files and commands.

Some are programs of their own, which start their own servers; their sizes shrink with the rows of the suite.
"""

import json
import os
import re
import subprocess
from pathlib import Path

from benchmarks.suite.model import Contestant, Sample
from benchmarks.suite.ours import run_batch
from benchmarks.suite.processes import batch_pipeline, measure_command, python
from benchmarks.suite.world import ORGANIZATION, World

SCRIPTS = Path(__file__).parents[1]
ROOT = SCRIPTS.parent
FULL_ROWS = 1_000_000

OURS, EMPTY, KEPT = "ours", "empty jobs", "empty jobs, kept connections"
READING, DAGSTER = "import sqlalchemy, typer, rich", "import dagster"
SHOW, RUN = "show", "run of 100 rows"

_SYNC = re.compile(r"(empty, connections kept|empty|batch) ([\d.]+) s")
_API_ROW = re.compile(r"^(\S.*?)\s+([\d,]+)\s+([\d.]+)\s+([\d.]+)\s+([\d.]+)\s*$", re.MULTILINE)


def small_files(world: World) -> list[Contestant]:
    """Files of 100 rows on two workers, beside as many empty runs of four ops by the same launcher."""
    return _pair(["-m", "benchmarks.suite.small_files", "--files", str(_scaled(world, 1000, least=10))])


def sync(world: World, items: int) -> list[Contestant]:
    """Batches that run in their caller's process, beside an empty job of four ops: `benchmarks/sync_batch.py`."""
    rounds = _scaled(world, 30, least=5)

    def measure() -> Sample:
        printed = _output([str(SCRIPTS / "sync_batch.py"), "--items", str(items), "--rounds", str(rounds)])
        medians = {name: float(seconds) for name, seconds in _SYNC.findall(printed.splitlines()[0])}
        figures = {"empty job s": medians["empty"], "empty job, kept connections s": medians["empty, connections kept"]}
        return Sample(medians["batch"], figures=figures)

    return [Contestant(OURS, measure)]


def api(world: World) -> list[Contestant]:
    """Clients that call the API at once: `benchmarks/api_load.py`."""
    rounds = _scaled(world, 10, least=2)

    def measure() -> Sample:
        printed = _output([str(SCRIPTS / "api_load.py"), "--clients", "50", "--rounds", str(rounds)])
        found = re.search(r"calls in ([\d.]+) s: ([\d.]+) a second", printed)
        rows = _API_ROW.findall(printed)
        if found is None or not rows:
            raise RuntimeError(f"api_load.py printed no table: {printed!r}")
        figures = {"calls a second": float(found[2])}
        for name, _, median, of_95, _ in rows:
            figures |= {f"{name}, median ms": float(median), f"{name}, p95 ms": float(of_95)}
        return Sample(float(found[1]), figures=figures)

    return [Contestant(OURS, measure)]


def commands(world: World) -> list[Contestant]:
    """`show` and `run` on running servers, beside the import of the libraries that they need."""
    file = world.files.contacts(100)

    def run() -> Sample:
        world.clear()
        return run_batch(world.environment, file)[0]

    world.clear()
    batch_id = run_batch(world.environment, file)[1]["id"]

    def plain(command: list[str]) -> Sample:
        return measure_command(command, database_url=world.url, environment=world.environment)[0]

    return [
        Contestant(READING, lambda: plain(python("-c", READING))),
        Contestant(SHOW, lambda: plain(batch_pipeline("show", batch_id, "--organization", ORGANIZATION))),
        Contestant(DAGSTER, lambda: plain(python("-c", DAGSTER))),
        Contestant(RUN, run),
    ]


def idle_system(world: World) -> list[Contestant]:
    """A local system: files of one row from the inbox to their end, then the code server's memory while idle."""
    files, idle = _scaled(world, 10, least=3), _scaled(world, 1800, least=10)
    program = ["-m", "benchmarks.suite.idle_system", "--files", str(files), "--idle-seconds", str(idle)]
    return [Contestant(OURS, lambda: Sample(**json.loads(_output(program).splitlines()[-1])))]


def _pair(program: list[str]) -> list[Contestant]:
    """A program that measures both in turn and prints their samples as JSON, the empty runs first."""
    found: dict[str, Sample] = {}

    def measure(name: str) -> Sample:
        if name not in found:
            both = json.loads(_output(program).splitlines()[-1])
            found.update({key: Sample(**both[key]) for key in (EMPTY, OURS)})
        return found.pop(name)

    return [Contestant(EMPTY, lambda: measure(EMPTY)), Contestant(OURS, lambda: measure(OURS))]


def _scaled(world: World, full: int, *, least: int) -> int:
    return max(least, full * world.rows // FULL_ROWS)


def _output(arguments: list[str]) -> str:
    """What a program of ours printed. Raises RuntimeError if it fails."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("BATCH_", "DAGSTER_"))}
    done = subprocess.run(
        python(*arguments),
        check=False,
        text=True,
        capture_output=True,
        cwd=ROOT,
        env=environment,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(arguments)} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout
