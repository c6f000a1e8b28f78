"""Many clients at once of the API: milliseconds of each call, calls a second, and the processor time of each side.

Each client creates a batch for an upload, sends items (mode mixed, which does not wait here), reads its batch and lists
its own, over and over. Dagster is not running, so that the API is measured. The script checks every answer, and that no
batch is lost. The clients are tasks of one event loop on plain sockets, because what they take of the processor the API
would lack; the script prints it. Without --pause each client calls again at once, so the times are those of a saturated
machine; with it, each client pauses for as many seconds after each call, on average.

Usage: python benchmarks/api_load.py [--clients N] [--rounds N] [--processes N] [--pause SECONDS]
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from pathlib import Path
from typing import Any

import psutil

from batch_pipeline import migrations
from batch_pipeline.batches.api_keys import create_key
from batch_pipeline.batches.organizations import create_organization
from batch_pipeline.database import create_engine
from batch_pipeline.local.s3 import HOST, free_port
from batch_pipeline.local.servers import embedded_servers

ITEMS = [{"external_id": f"crm-{number}", "name": f"Name {number}"} for number in range(20)]
MERGE = {"resource": "contact", "action": "merge"}

Taken = dict[str, list[float]]


def main() -> None:
    """Starts the servers and the API, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--processes", type=int, default=1, help="BATCH_API_PROCESSES")
    parser.add_argument("--pause", type=float, default=0.0, help="mean seconds between two calls of a client")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="batch-bench-", dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        with embedded_servers(Path(folder) / "servers") as servers:
            url = servers.environment["BATCH_DATABASE_URL"]
            migrations.upgrade(url)
            migrations.roles.set_up(url)
            port = free_port()
            environment = {
                **os.environ,
                **servers.environment,
                "BATCH_API_PROCESSES": str(arguments.processes),
                "BATCH_API_REQUESTS_PER_MINUTE": "1000000",
                "BATCH_MIXED_WAIT_SECONDS": "0.001",
                "BATCH_SYNC_WORKERS": "1",
            }
            command = [sys.executable, "-m", "batch_pipeline", "api", "--port", str(port)]
            with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as api:
                try:
                    assert api.stderr is not None
                    while "The API listens on" not in (line := api.stderr.readline()):
                        assert line, "the API did not start"
                    measure(api.pid, port, url, arguments)
                finally:
                    api.terminate()
                    api.communicate()


def measure(api_pid: int, port: int, database_url: str, arguments: argparse.Namespace) -> None:
    """Runs the clients and prints the table."""
    engine = create_engine(database_url)
    keys = []
    for number in range(arguments.clients):
        create_organization(engine, f"client-{number}")
        keys.append(create_key(engine, f"client-{number}").key)
    engine.dispose()
    for _ in range(10):
        urllib.request.urlopen(f"http://{HOST}:{port}/readyz", timeout=60).close()
    api = psutil.Process(api_pid)
    before, own, began = processor_seconds(api), time.process_time(), time.monotonic()
    taken = asyncio.run(run_clients(port, keys, arguments.rounds, arguments.pause))
    elapsed = time.monotonic() - began
    calls = sum(map(len, taken.values()))
    per_call = 1000 / calls
    print(
        f"{arguments.clients} clients, {arguments.processes} processes, pause {arguments.pause:g} s: "
        f"{calls:,} calls in {elapsed:.1f} s: {calls / elapsed:.0f} a second; none wrong, none lost; "
        f"processor per call: API {(processor_seconds(api) - before) * per_call:.2f} ms, "
        f"clients {(time.process_time() - own) * per_call:.2f} ms"
    )
    print(f"{'call':24} {'calls':>6} {'median ms':>10} {'95 % ms':>10} {'most ms':>10}")
    for name, seconds in taken.items():
        of_100 = statistics.quantiles(seconds, n=100)
        shown = " ".join(f"{each * 1000:10.1f}" for each in (of_100[49], of_100[94], max(seconds)))
        print(f"{name:24} {len(seconds):6,} {shown}", flush=True)


def processor_seconds(process: psutil.Process) -> float:
    """User and system time of the process and its children."""
    times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
    return float(sum(each.user + each.system for each in times))


async def run_clients(port: int, keys: list[str], rounds: int, pause: float) -> Taken:
    """The seconds of each call of all clients, by its name."""
    taken: Taken = defaultdict(list)
    await asyncio.gather(*(Client(port, key, pause, taken).run(rounds) for key in keys))
    return taken


class Client:
    """One client with a connection of its own."""

    def __init__(self, port: int, key: str, pause: float, taken: Taken) -> None:
        self.port, self.key, self.pause, self.taken = port, key, pause, taken

    async def run(self, rounds: int) -> None:
        """Makes the calls, and checks the answers."""
        self.reader, self.writer = await asyncio.open_connection(HOST, self.port)
        made: list[str] = []
        for _ in range(rounds):
            made.append((await self.call("create for an upload", "POST", "/v1/batches", 201, MERGE))["data"]["id"])
            items = {**MERGE, "data": ITEMS}
            made.append((await self.call("create with 20 items", "POST", "/v1/batches", 202, items))["data"]["id"])
            batch = await self.call("retrieve", "GET", f"/v1/batches/{made[-1]}", 200)
            assert batch["data"]["id"] == made[-1]
            page = await self.call("list, newest 25", "GET", "/v1/batches?order=desc", 200)
            assert [batch["id"] for batch in page["data"]] == made[:-26:-1]
            assert page["pagination"]["total_count"] == len(made)
        self.writer.close()

    async def call(self, name: str, method: str, path: str, status: int, body: Any = None) -> Any:
        """The answer, with its time noted."""
        if self.pause:
            await asyncio.sleep(random.expovariate(1 / self.pause))
        content = b"" if body is None else json.dumps(body).encode()
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nX-API-Key: {self.key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        began = time.monotonic()
        self.writer.write(head.encode() + content)
        answered = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        length = next(
            int(line.split(":")[1]) for line in answered.split("\r\n") if line.lower().startswith("content-length:")
        )
        text = await self.reader.readexactly(length)
        self.taken[name].append(time.monotonic() - began)
        assert answered.split()[1] == str(status), text
        return json.loads(text)


if __name__ == "__main__":
    main()
