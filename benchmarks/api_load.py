"""Many clients at once on one process of the API: what each call takes, and how many there are a second.

Each client creates a batch for an upload, sends items (mode mixed, which does not wait here), reads its batch and lists
its own, over and over; Dagster is not running, so that the API is what is measured. Every answer is checked, and so is
that no batch is lost. Usage: python benchmarks/api_load.py [--clients N] [--rounds N]
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from batch_pipeline import migrations
from batch_pipeline.batches.api_keys import create_key
from batch_pipeline.batches.organizations import create_organization
from batch_pipeline.database import create_engine
from batch_pipeline.local.s3 import free_port
from batch_pipeline.local.servers import embedded_servers

ITEMS = [{"external_id": f"crm-{number}", "name": f"Name {number}"} for number in range(20)]


def main() -> None:
    """Starts the servers and the API, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=10)
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
                "BATCH_API_REQUESTS_PER_MINUTE": "1000000",
                "BATCH_MIXED_WAIT_SECONDS": "0.001",
                "BATCH_SYNC_WORKERS": "1",
            }
            command = [sys.executable, "-m", "batch_pipeline", "api", "--port", str(port)]
            with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as api:
                try:
                    measure(f"http://127.0.0.1:{port}", url, arguments.clients, arguments.rounds)
                finally:
                    api.terminate()


def measure(address: str, database_url: str, clients: int, rounds: int) -> None:
    """Runs the clients and prints milliseconds of each kind of call."""
    while not answers(address):
        time.sleep(0.1)
    engine = create_engine(database_url)
    keys = []
    for number in range(clients):
        create_organization(engine, f"client-{number}")
        keys.append(create_key(engine, f"client-{number}").key)
    engine.dispose()
    taken: dict[str, list[float]] = defaultdict(list)
    began = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        for found in pool.map(lambda key: work(address, key, rounds), keys):
            for name, seconds in found.items():
                taken[name] += seconds
    elapsed = time.monotonic() - began
    calls = sum(map(len, taken.values()))
    print(
        f"{clients} clients, {calls:,} calls in {elapsed:.1f} s: {calls / elapsed:.0f} a second; none wrong, none lost"
    )
    print(f"{'call':24} {'calls':>6} {'median ms':>10} {'95 % ms':>10} {'most ms':>10}")
    for name, seconds in taken.items():
        of_100 = statistics.quantiles(seconds, n=100)
        shown = " ".join(f"{each * 1000:10.1f}" for each in (of_100[49], of_100[94], max(seconds)))
        print(f"{name:24} {len(seconds):6,} {shown}")


def answers(address: str) -> bool:
    """Whether the API answers yet."""
    try:
        return httpx.get(f"{address}/readyz", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def work(address: str, key: str, rounds: int) -> dict[str, list[float]]:
    """One client's calls; the seconds of each."""
    taken: dict[str, list[float]] = defaultdict(list)
    made: list[str] = []
    with httpx.Client(base_url=address, headers={"X-API-Key": key}, timeout=300) as http:

        def call(name: str, method: str, path: str, status: int, **more: Any) -> Any:
            began = time.monotonic()
            answer = http.request(method, path, **more)
            taken[name].append(time.monotonic() - began)
            assert answer.status_code == status, answer.text
            return answer.json()

        merge = {"resource": "contact", "action": "merge"}
        for _ in range(rounds):
            made.append(call("create for an upload", "POST", "/v1/batches", 201, json=merge)["data"]["id"])
            items = {**merge, "data": ITEMS}
            made.append(call("create with 20 items", "POST", "/v1/batches", 202, json=items)["data"]["id"])
            assert call("retrieve", "GET", f"/v1/batches/{made[-1]}", 200)["data"]["id"] == made[-1]
            page = call("list, newest 25", "GET", "/v1/batches?order=desc", 200)
            assert [batch["id"] for batch in page["data"]] == made[:-26:-1]
            assert page["pagination"]["total_count"] == len(made)
    return taken


if __name__ == "__main__":
    main()
