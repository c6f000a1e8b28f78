"""Ticks of the upload sensor: with nothing to do, empty and beside 100,000 finished batches; and 10,000 files at once.

Usage: inbox_ticks.py [finished batches] [files]. On the embedded servers, without Dagster's own part of a tick.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import psycopg
from dagster import build_sensor_context

from batch_pipeline import migrations
from batch_pipeline.batches.accept import NewBatch, accept
from batch_pipeline.batches.ids import new_batch_id
from batch_pipeline.batches.model import Action
from batch_pipeline.batches.options import BatchOptions
from batch_pipeline.definitions import defs
from batch_pipeline.intake.inbox import take_in
from batch_pipeline.local.connecting import connected
from batch_pipeline.settings import get_settings
from batch_pipeline.storage import keys
from batch_pipeline.system import System, open_system

TICKS = 7


def tick_seconds() -> float:
    """One tick as the code server does it."""
    began = time.perf_counter()
    with build_sensor_context() as context:
        list(defs.get_sensor_def("upload_sensor")(context))  # type: ignore[call-overload] # Dagster types one of its forms
    return time.perf_counter() - began


def finish_many(system: System, storage_folder: Path, count: int) -> None:
    """So many completed batches, each with a file in the bucket."""
    new = NewBatch(
        id=new_batch_id(),
        organization_id="default",
        resource="contact",
        action=Action.merge,
        name="people.csv",
        options=BatchOptions(),
    )
    batch = accept(system.engine, new).batch
    with psycopg.connect(system.database_url) as connection:
        connection.execute(
            """
            INSERT INTO batches SELECT (jsonb_populate_record(b, jsonb_build_object(
                'id', left(b.id, 20) || to_char(n, 'FM000000000'), 'status', 'completed',
                'arrival', nextval('batch_arrivals'), 'run_id', gen_random_uuid()))).*
            FROM batches b, generate_series(1, %s) n WHERE b.id = %s
            """,
            (count, batch.id),
        )
        rows = connection.execute("SELECT id FROM batches WHERE status = 'completed'").fetchall()
        connection.execute("ANALYZE batches")
    for (batch_id,) in rows:
        file = storage_folder / keys.upload(batch_id, "people.csv", saved=True)
        file.parent.mkdir(parents=True)
        file.write_bytes(b"name\nAda\n")


def main() -> None:
    """Prints the figures."""
    finished, files = (int(given) for given in (*sys.argv[1:3], *("100000", "10000")[len(sys.argv) - 1 :]))
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="inbox-ticks-") as folder:
        Path(folder).chmod(0o755)
        with connected(Path(folder) / "data") as servers, open_system() as system:
            assert servers is not None
            migrations.upgrade(get_settings().require_database_url())
            inbox = servers.inbox / "default/contact/merge"
            inbox.mkdir(parents=True)
            tick_seconds()
            empty = [tick_seconds() for _ in range(TICKS)]
            finish_many(system, servers.storage_folder, finished)
            beside = [tick_seconds() for _ in range(TICKS)]
            ratio = statistics.median(beside) / statistics.median(empty)
            print(f"empty: {statistics.median(empty):.3f} s; beside {finished:,} finished batches:", end=" ")
            print(f"{statistics.median(beside):.3f} s, {ratio:.2f} times as long")

            for number in range(files):
                (inbox / f"{number:06}.csv").write_bytes(b"name\nAda\n")
            time.sleep(get_settings().inbox_quiet_seconds + 1)
            ticks, taken = [], 0
            while taken < files:
                began = time.perf_counter()
                batches = take_in(system, limit=get_settings().inbox_files_per_tick, seconds=20)
                ticks.append(time.perf_counter() - began)
                taken += len(batches)
                print(f"tick {len(ticks)}: {len(batches)} files in {ticks[-1]:.1f} s", file=sys.stderr)
            print(f"{files:,} files at once: {len(ticks)} ticks, {sum(ticks):.0f} s, the longest {max(ticks):.1f} s")
            with psycopg.connect(system.database_url) as connection:
                row = connection.execute(
                    "SELECT count(*), count(DISTINCT source_key) FROM batches WHERE awaits_run = 'launcher'"
                ).fetchone()
            assert row == (files, files), row


if __name__ == "__main__":
    main()
