"""How long PostgreSQL takes for pages of a list among a million batches, counts included, by EXPLAIN ANALYZE.

The ledger is filled by SQL: one organization has almost all batches, others have some; kinds are unevenly spread, some
are rare, some gathered in one stretch of time. Usage: python benchmarks/list_batches.py [--batches N] [--rounds N]
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa

from batch_pipeline import migrations
from batch_pipeline.batches.listing import Filters, kinds_statement, list_page, page_statement, total_statement
from batch_pipeline.database import create_engine
from batch_pipeline.local.servers import embedded_servers

ORGANIZATION = "default"
LIMIT = 100

FILL = """
INSERT INTO batches (id, organization_id, name, resource, action, mode, via, status, options, phases, stats, work,
                     created_at, updated_at)
SELECT 'batch_' || lpad(n::text, 22, 'a'),
       CASE WHEN n %% 20 = 0 THEN 'other' ELSE 'default' END,
       'batch ' || n,
       (ARRAY['contact', 'contact', 'contact', 'group', 'shipment', 'tracker', 'asset'])[1 + n %% 7],
       CASE WHEN n %% 7 < 4 THEN (ARRAY['merge', 'merge', 'merge', 'overwrite', 'delete'])[1 + n / 7 %% 5]
            ELSE 'merge' END,
       CASE WHEN n %% 997 = 3 THEN 'sync' ELSE 'mixed' END,
       CASE WHEN n %% 997 = 3 OR n %% 3 = 0 THEN 'api' ELSE 'file' END,
       CASE WHEN n > %(batches)s - 300 THEN 'queued'
            WHEN n BETWEEN %(batches)s / 2 AND %(batches)s / 2 + 20000 THEN 'expired'
            WHEN n %% 5003 = 1 THEN 'timed_out'
            WHEN n %% 11 = 0 THEN 'failed' ELSE 'completed' END,
       '{"duplicate_handling": "ignore_all", "save_upload": true, "save_result": false}',
       %(phases)s, %(stats)s, %(work)s,
       now() - make_interval(secs => %(batches)s - n), now()
FROM generate_series(1, %(batches)s) AS n
"""

CASES: dict[str, dict[str, str]] = {
    "no filter": {},
    "resource=contact": {"resource": "contact"},
    "status=completed": {"status": "completed"},
    "status=failed": {"status": "failed"},
    "status=expired (gathered)": {"status": "expired"},
    "status=timed_out (rare)": {"status": "timed_out"},
    "mode=mixed": {"mode": "mixed"},
    "mode=sync (rare)": {"mode": "sync"},
    "via=file": {"via": "file"},
    "action=merge": {"action": "merge"},
    "contact, mixed": {"resource": "contact", "mode": "mixed"},
    "merge, completed": {"action": "merge", "status": "completed"},
    "all five": {
        "resource": "contact", "action": "merge", "mode": "mixed", "via": "file", "status": "completed",
    },
}  # fmt: skip


def main() -> None:
    """Fills the ledger and prints one line for each filter."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="batch-bench-", dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        with embedded_servers(Path(folder) / "servers") as servers:
            url = servers.environment["BATCH_DATABASE_URL"]
            migrations.upgrade(url)
            fill(url, arguments.batches)
            engine = create_engine(url)
            measure(engine, arguments.rounds)
            engine.dispose()


def fill(url: str, number: int) -> None:
    """Writes so many batches, and lets PostgreSQL gather its statistics as autovacuum would."""
    import json

    from batch_pipeline.batches.facts import BatchFacts
    from batch_pipeline.batches.model import Mode, Via, initial_phases
    from batch_pipeline.batches.stats import Stats

    values = {
        "batches": number,
        "phases": json.dumps([phase.to_row() for phase in initial_phases(Mode.mixed, Via.file)]),
        "stats": json.dumps(Stats().__dict__),
        "work": json.dumps(BatchFacts().to_row()),
    }
    began = time.monotonic()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(FILL, values)
        connection.execute("VACUUM (ANALYZE) batches")
    print(f"{number:,} batches written in {time.monotonic() - began:.0f} s", flush=True)


def measure(engine: sa.Engine, rounds: int) -> None:
    """Prints the median milliseconds (planning and execution) of the total, of the first, the 10,000th, the middle and
    the last row's page, and of the whole call."""
    print(f"{'filter':28} {'kinds':>5} {'total':>9} {'count':>7} {'first':>7} {'10,000':>7} {'middle':>7} {'last':>7}"
          f" {'whole call':>10}")  # fmt: skip
    for name, given in CASES.items():
        filters = Filters(**given)
        with engine.connect() as connection:
            counting = kinds_statement(ORGANIZATION, filters) if given else total_statement(ORGANIZATION)
            rows = connection.execute(counting).all()
            kinds = sorted(tuple(row[:-1]) for row in rows)
            total = sum(int(row[-1]) for row in rows)
            count = explained(connection, counting, rounds)
            times = []
            for offset in (0, min(9_900, max(0, total - LIMIT)), max(0, total // 2), max(0, total - LIMIT)):
                wanted = max(1, min(LIMIT, total - offset))
                statement = page_statement(
                    ORGANIZATION,
                    kinds if given else None,
                    total=total,
                    offset=offset,
                    wanted=wanted,
                    newest_first=False,
                )
                times.append(explained(connection, statement, rounds))
        calls = []
        for _ in range(rounds):
            began = time.monotonic()
            list_page(engine, ORGANIZATION, filters, page=100, limit=LIMIT)
            calls.append((time.monotonic() - began) * 1000)
        shown = " ".join(f"{each:7.1f}" for each in times)
        print(f"{name:28} {len(kinds):5} {total:9,} {count:7.1f} {shown} {statistics.median(calls):10.1f}", flush=True)


def explained(connection: sa.Connection, statement: sa.Select[Any], rounds: int) -> float:
    """Median milliseconds of planning and execution, as PostgreSQL says."""
    compiled = statement.compile(connection, compile_kwargs={"render_postcompile": True})
    text = f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {compiled}"
    found = []
    for _ in range(rounds):
        plan = connection.exec_driver_sql(text, compiled.params).scalar_one()[0]
        found.append(plan["Planning Time"] + plan["Execution Time"])
    return statistics.median(found)


if __name__ == "__main__":
    main()
