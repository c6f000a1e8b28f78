"""An idle local system: how long a file of one row takes from the inbox to its end, and the code server's memory.

Each file is moved into the inbox when the one before has completed and a moment has passed, a different one each time,
so that files come at all times between two ticks of a sensor. Then nothing happens for some time. Usage:
python -m benchmarks.suite.idle_system [--files N] [--idle-seconds N]
"""

import argparse
import json
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median

import psutil
import psycopg

from batch_pipeline.batches.organizations import DEFAULT_ORGANIZATION
from batch_pipeline.local.s3 import free_port
from batch_pipeline.local.system import local_system
from benchmarks.suite.model import Sample

DEADLINE_SECONDS = 120.0
POLL_SECONDS = 0.02
PAUSE_SECONDS = 0.7
MEMORY_EVERY_SECONDS = 30.0

_BATCH = """
    SELECT status, extract(epoch FROM arrived_at), extract(epoch FROM updated_at), phases FROM batches WHERE name = %s
"""


def main() -> None:
    """Prints the sample as JSON, in the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=10)
    parser.add_argument("--idle-seconds", type=float, default=1800)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="batch-bench-", dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with local_system(folder / "data", port=free_port(), api_port=free_port(), s3_port=free_port()) as local:
            assert local.servers is not None
            inbox = local.servers.inbox / DEFAULT_ORGANIZATION / "contact" / "merge"
            url = local.servers.environment["BATCH_DATABASE_URL"]
            send(folder, inbox, url, 0)  # the first run of a new system is not measured
            found = [send(folder, inbox, url, number) for number in range(1, arguments.files + 1)]
            memory = code_server_megabytes(arguments.idle_seconds)
            local.hurry()
    parts = {name: median(each[name] for each in found) for name in found[0]}
    figures = parts | {
        "slowest file s": max(each["inbox to completed s"] for each in found),
        "code server at first MB": memory[0],
        "code server at last MB": memory[-1],
        "code server at most MB": max(memory),
        "idle s": arguments.idle_seconds,
    }
    print(json.dumps(asdict(Sample(parts["inbox to completed s"], figures=figures))))


def send(folder: Path, inbox: Path, url: str, number: int) -> dict[str, float]:
    """Seconds of each part of one file's way, from the inbox to `completed`."""
    file = folder / f"one-row-{number}.csv"
    file.write_text(f"external_id,name,email\none-{number},Ada,ada{number}@example.com\n")
    time.sleep(PAUSE_SECONDS * number)
    began = time.time()
    file.rename(inbox / file.name)
    with psycopg.connect(url, autocommit=True) as connection:
        while (row := connection.execute(_BATCH, (file.name,)).fetchone()) is None or row[0] != "completed":
            if time.time() - began > DEADLINE_SECONDS:
                raise RuntimeError(f"{file.name} has not completed: {row and row[0]}")
            time.sleep(POLL_SECONDS)
    arrived, ended, started = float(row[1]), float(row[2]), row[3][0]["started_at"]
    return {
        "inbox to completed s": ended - began,
        "inbox to batch s": arrived - began,
        "batch to its run s": started - arrived,
        "phases s": ended - started,
    }


def code_server_megabytes(seconds: float) -> list[float]:
    """The code server's resident memory now and, every 30 s, until so many seconds have passed."""
    (server,) = [each for each in psutil.Process().children(recursive=True) if _is_code_server(each)]
    found, until = [server.memory_info().rss / 2**20], time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, MEMORY_EVERY_SECONDS))
        found.append(server.memory_info().rss / 2**20)
    return found


def _is_code_server(process: psutil.Process) -> bool:
    try:
        return "--module-name" in process.cmdline()
    except psutil.Error:  # a run that has just ended
        return False


if __name__ == "__main__":
    main()
