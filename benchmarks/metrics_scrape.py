"""What a scrape of /metrics costs with a million batches in the ledger, and what the counts cost each change.

The ledger is filled as in `list_batches.py`, before the migration that adds the counts, to measure its backfill too.
Usage: python benchmarks/metrics_scrape.py [--batches N] [--rounds N]
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
from list_batches import fill

from batch_pipeline import migrations
from batch_pipeline.batches.counts import fold_counts, read_figures
from batch_pipeline.database import borrowed, create_engine
from batch_pipeline.local.servers import embedded_servers
from batch_pipeline.metrics import scraping
from batch_pipeline.metrics.calls import call_seconds
from batch_pipeline.orchestration.instance import upgrade_dagster

BEFORE = "0018"
TRANSITIONS = """
INSERT INTO batch_transitions (batch_id, before, after)
SELECT id, before, after FROM batches, LATERAL (VALUES (NULL, 'requested'), ('requested', status)) AS t (before, after)
"""
# Ends of phases and changes of status, as batches make them.
CHANGES = """
UPDATE batches SET status = CASE status WHEN 'failed' THEN 'queued' ELSE 'failed' END,
    phases = jsonb_set(phases, '{0}', phases -> 0 || jsonb_build_object('started_at', 1, 'ended_at', random()))
WHERE id = %s
"""


def main() -> None:
    """Fills the ledger and prints one line for each measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="batch-bench-", dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        with embedded_servers(Path(folder) / "servers") as servers:
            os.environ.update(servers.environment)
            url = servers.environment["BATCH_DATABASE_URL"]
            migrations.upgrade(url, BEFORE)
            fill(url, arguments.batches)
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(TRANSITIONS)
                connection.execute("VACUUM (ANALYZE) batch_transitions")
            began = time.monotonic()
            migrations.upgrade(url)
            print(f"migration with backfill: {time.monotonic() - began:.1f} s", flush=True)
            upgrade_dagster()
            measure(url, arguments.rounds)


def measure(url: str, rounds: int) -> None:
    """Prints the scrapes and the changes."""
    engine = create_engine(url)
    scraping.CACHE_SECONDS = 0.0
    scraper = scraping.Scraper(engine, call_seconds())

    def read() -> None:
        with borrowed(engine) as connection:
            read_figures(connection)

    def scrapes(when: str) -> None:
        print(f"{when}: figures of the ledger {median(read, rounds):.1f} ms, whole scrape"
              f" {median(scraper.render, rounds):.1f} ms", flush=True)  # fmt: skip

    scraper.render()  # opens the connections
    scrapes("after the migration")
    with_counts = change(url, 10_000)
    scrapes("10,000 changes later")
    change(url, 90_000)
    scrapes("100,000 changes later")
    began = time.monotonic()
    fold_counts(engine)
    print(f"fold: {(time.monotonic() - began) * 1000:.0f} ms")
    scrapes("after the fold, not vacuumed")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM metric_counts")
        scrapes("vacuumed")
        connection.execute("ALTER TABLE batches DISABLE TRIGGER USER")
        without = change(url, 10_000)
    print(f"a change of status and phase: {with_counts:.3f} ms with the counts, {without:.3f} ms without")
    scraper.close()
    engine.dispose()


def change(url: str, number: int) -> float:
    """Changes so many batches in one transaction each; returns milliseconds for one, without waits for the disk."""
    with psycopg.connect(url, autocommit=True, options="-csynchronous_commit=off") as connection:
        ids = [row[0] for row in connection.execute("SELECT id FROM batches ORDER BY random() LIMIT %s", (number,))]
        began = time.monotonic()
        for batch_id in ids:
            connection.execute(CHANGES, (batch_id,))
        return (time.monotonic() - began) / number * 1000


def median(call: Callable[[], object], rounds: int) -> float:
    """The median time of the call, in milliseconds."""
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


if __name__ == "__main__":
    main()
