"""How long the first call of an API process takes beside its tenth: one item in mode sync.

Starts the API as `batch-pipeline api` does, waits until its port accepts connections, and at once makes ten calls, one
after another; repeats that with a new process.
Usage: python benchmarks/first_call.py [--starts N]
"""

import argparse
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from batch_pipeline import migrations
from batch_pipeline.batches.api_keys import create_key
from batch_pipeline.batches.organizations import DEFAULT_ORGANIZATION
from batch_pipeline.local.s3 import HOST, free_port
from batch_pipeline.local.servers import embedded_servers
from batch_pipeline.orchestration.instance import upgrade_dagster
from batch_pipeline.settings import get_settings
from batch_pipeline.system import open_system

CALLS = 10
START_SECONDS = 120.0


def main() -> None:
    """Prints a line for each start, and the median of the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=10)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="batch-bench-", dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        with embedded_servers(Path(folder) / "servers") as servers:
            os.environ.update(servers.environment)
            get_settings.cache_clear()
            database_url = get_settings().require_database_url()
            migrations.upgrade(database_url)
            migrations.roles.set_up(database_url)
            upgrade_dagster()
            with open_system() as system:
                key = create_key(system.engine, DEFAULT_ORGANIZATION).key
            measure(key, arguments.starts)


def measure(key: str, starts: int) -> None:
    """Measures every start."""
    firsts, tenths, ratios, openings = [], [], [], []
    for number in range(1, starts + 1):
        with api_process() as (address, opening):
            seconds = time_calls(address, key, number)
        firsts.append(seconds[0])
        tenths.append(seconds[-1])
        ratios.append(seconds[0] / seconds[-1])
        openings.append(opening)
        print(f"start {number}: port open after {opening:.1f} s; calls " + " ".join(f"{each:.3f}" for each in seconds))
    print(
        f"{starts} starts, medians: port open after {statistics.median(openings):.1f} s, first call "
        f"{statistics.median(firsts):.3f} s, tenth {statistics.median(tenths):.3f} s, ratio "
        f"{statistics.median(ratios):.2f}"
    )


@contextlib.contextmanager
def api_process() -> Iterator[tuple[str, float]]:
    """A new API process; its address, and the seconds until its port accepted a connection."""
    port = free_port()
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "batch_pipeline", "api", "--port", str(port)])
    try:
        while not accepts(port):
            assert process.poll() is None
            assert time.perf_counter() - began < START_SECONDS
            time.sleep(0.01)
        yield f"http://{HOST}:{port}", time.perf_counter() - began
    finally:
        process.terminate()
        process.wait()


def accepts(port: int) -> bool:
    """Whether somebody listens."""
    with socket.socket() as trial:
        return trial.connect_ex((HOST, port)) == 0


def time_calls(address: str, key: str, start: int) -> list[float]:
    """Seconds of each call."""
    seconds = []
    with httpx.Client(base_url=address, headers={"X-API-Key": key}, timeout=120) as client:
        for number in range(CALLS):
            item = {"external_id": f"start-{start}-{number}", "name": "Ada"}
            began = time.perf_counter()
            answer = client.post(
                "/v1/batches", json={"resource": "contact", "action": "merge", "mode": "sync", "data": [item]}
            )
            seconds.append(time.perf_counter() - began)
            assert answer.status_code == 200, answer.text
            assert answer.json()["data"]["stats"]["created"] == 1, answer.text
    return seconds


if __name__ == "__main__":
    main()
