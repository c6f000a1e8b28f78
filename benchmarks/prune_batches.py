"""What many batches leave in Dagster's tables and in storage, and what is left of it after retention has gone over it.

Real batches of a few items each, run in this process; then `prune` as it will be 31 days later.
Usage: python benchmarks/prune_batches.py [--batches N]
"""

import argparse
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
from dagster import DagsterInstance
from psycopg import sql

from batch_pipeline import migrations
from batch_pipeline.batches.accept import ArrivedPayload, NewBatch, accept
from batch_pipeline.batches.ids import new_batch_id
from batch_pipeline.batches.model import Action, Starter
from batch_pipeline.batches.options import BatchOptions
from batch_pipeline.batches.organizations import DEFAULT_ORGANIZATION
from batch_pipeline.local.servers import embedded_servers
from batch_pipeline.orchestration.execute import execute_batch
from batch_pipeline.orchestration.instance import open_instance, upgrade_dagster
from batch_pipeline.orchestration.retention import prune
from batch_pipeline.settings import get_settings
from batch_pipeline.storage import keys
from batch_pipeline.system import System, open_system

AT_ONCE = 4
TABLES = "dagster.event_logs", "dagster.runs", "dagster.run_tags", "public.batches", "public.batch_transitions"


def main() -> None:
    """Runs the batches, prunes, and prints the sizes before, in between and after."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=1000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="batch-bench-", dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        with embedded_servers(Path(folder) / "servers") as servers:
            os.environ.update(servers.environment)
            get_settings.cache_clear()
            migrations.upgrade(get_settings().require_database_url())
            upgrade_dagster()
            with open_system() as system, open_instance(in_process=True) as instance:
                measure(system, instance, arguments.batches)


def measure(system: System, instance: DagsterInstance, batches: int) -> None:
    """Prints a line for each state."""
    show(system, "at first")
    began = time.perf_counter()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        ended = list(pool.map(lambda number: run(system, instance, number), range(batches)))
    assert set(ended) == {"completed"}, set(ended)
    show(system, f"after {batches:,} batches ({time.perf_counter() - began:.0f} s)")
    began = time.perf_counter()
    pruned = prune(system, instance, now=datetime.now(UTC) + timedelta(days=system.settings.retention_days + 1))
    show(system, f"after pruning ({time.perf_counter() - began:.0f} s; {pruned.to_json()})")


def run(system: System, instance: DagsterInstance, number: int) -> str:
    """One batch of three items, one of which is rejected; returns how it ended."""
    payload = (
        f"name,email\nAda,ada{number}@example.com\nBob,bob{number}@example.com\nEve,no address\n",
        f"tracking_number,type\nNUMBER{number}A,inbound\nNUMBER{number}B,outbound\nNUMBER{number}C,sideways\n",
    )[number % 2]
    batch_id = new_batch_id()
    key = keys.upload(batch_id, "few.csv", saved=True)
    system.store.write(key, payload.encode())
    new = NewBatch(
        id=batch_id,
        organization_id=DEFAULT_ORGANIZATION,
        resource=("contact", "tracker")[number % 2],
        action=Action.merge,
        name="few.csv",
        options=BatchOptions(save_result=True),
        source_key="few.csv",
    )
    arrived = accept(system.engine, new, payload=ArrivedPayload(key, saved=True, starter=Starter.caller)).batch
    return str(execute_batch(system, instance, arrived).status)


def show(system: System, when: str) -> None:
    """Prints rows of the tables, after a vacuum their bytes, and what storage holds."""
    parts = []
    with psycopg.connect(system.database_url, autocommit=True) as connection:
        for table in TABLES:
            name = sql.Identifier(*table.split("."))
            connection.execute(sql.SQL("VACUUM FULL {}").format(name))
            count = sql.SQL("SELECT count(*), pg_total_relation_size({}) FROM {}").format(table, name)
            row = connection.execute(count).fetchone()
            assert row is not None
            parts.append(f"{table.split('.')[1]} {row[0]:,} rows {row[1] / 1e6:.1f} MB")
    files = system.store.list("batches/")
    parts.append(f"batches/ {len(files):,} files {sum(file.size for file in files) / 1e6:.1f} MB")
    print(f"{when}: {'; '.join(parts)}", flush=True)


if __name__ == "__main__":
    main()
