"""How long a merge of contacts takes, beside what psql needs for COPY and INSERT … ON CONFLICT into the same table.

Both work on the same PostgreSQL, in turn, into an organization that is empty before each run. psql gets its ids
ready-made and checks nothing. Ours is the whole run: upload read from S3, parsed, deduplicated, every rule checked,
identity resolved, written, artifacts and ledger. Usage: python benchmarks/merge_contacts.py [--rows N] [--rounds N]
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg
from contacts_file import HEADER, write_contacts

from batch_pipeline.local.postgres_files import postgres_program
from batch_pipeline.local.servers import embedded_servers

ORGANIZATION = "bench"


def main() -> None:
    """Runs the rounds and prints one line for each, then the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="batch-bench-", dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        with embedded_servers(Path(folder) / "servers") as servers:
            environment = {**os.environ, **servers.environment, "BATCH_INBOX_QUIET_SECONDS": "0"}
            measure(Path(folder), environment, arguments.rows, arguments.rounds)


def measure(folder: Path, environment: dict[str, str], rows: int, rounds: int) -> None:
    """Measures both, in turn."""
    source, with_ids = folder / "contacts.csv", folder / "with_ids.csv"
    write_contacts(source, rows)
    with source.open(encoding="utf-8", newline="") as plain, with_ids.open("w", encoding="utf-8", newline="") as file:
        file.write("id," + plain.readline())
        file.writelines(f"ctct_bench{number:017}," + line for number, line in enumerate(plain))
    url = environment["BATCH_DATABASE_URL"]
    run_cli(environment, "db", "upgrade")
    run_cli(environment, "organizations", "create", ORGANIZATION)
    print(f"{rows:,} rows, {source.stat().st_size / 1e6:.0f} MB", flush=True)
    theirs, ours, again = [], [], []
    for number in range(rounds):
        clear(url)
        theirs.append(time_psql(url, with_ids))
        clear(url)
        first = time_batch(environment, source)
        second = time_batch(environment, source)
        ours.append(first)
        again.append(second)
        print(
            f"round {number + 1}: psql {theirs[-1]:.2f} s; batch {first['run']:.2f} s in the run, "
            f"{first['command']:.2f} s as a command, {first['memory']:.0f} MB, phases {first['phases']}; "
            f"again, all unchanged: {second['run']:.2f} s",
            flush=True,
        )
    baseline = statistics.median(theirs)
    for name, figures in (("batch", ours), ("again", again)):
        run = statistics.median(figure["run"] for figure in figures)
        command = statistics.median(figure["command"] for figure in figures)
        memory = max(figure["memory"] for figure in figures)
        print(
            f"{name}: median run {run:.2f} s = {run / baseline:.2f} x psql; command {command:.2f} s = "
            f"{command / baseline:.2f} x psql; peak memory {memory:.0f} MB"
        )


def clear(url: str) -> None:
    """Empties the table, and brings the server to a comparable state."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("TRUNCATE contacts")
        connection.execute("CHECKPOINT")


def time_psql(url: str, file: Path) -> float:
    """Seconds that psql needs for COPY into a temporary table and the upsert."""
    names = "id," + HEADER
    updates = ", ".join(f"{name} = excluded.{name}" for name in HEADER.split(","))
    return time_script(
        url,
        f"""
        CREATE TEMPORARY TABLE upload (id text, external_id text, name text, email text, phone text, address text,
            address_line2 text, id_number text, is_primary boolean, notes text);
        \\copy upload ({names}) FROM '{file}' WITH (FORMAT csv, HEADER)
        INSERT INTO contacts (organization_id, batch_id, {names}) SELECT '{ORGANIZATION}', 'psql', {names} FROM upload
        ON CONFLICT (organization_id, external_id) WHERE external_id IS NOT NULL DO UPDATE SET {updates};
    """,  # noqa: S608 - constants of this file
    )


def time_script(url: str, script: str) -> float:
    """Seconds that psql needs for a script."""
    command = [str(postgres_program("psql")), "-X", "-q", "-v", "ON_ERROR_STOP=1", url]
    began = time.perf_counter()
    subprocess.run(command, input=script, text=True, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def time_batch(environment: dict[str, str], file: Path, *, action: str = "merge") -> dict[str, Any]:
    """Seconds of the run (from the batch's creation to its last phase's end) and of the command; its peak memory."""
    began = time.perf_counter()
    arguments = [
        "run",
        str(file),
        "--resource",
        "contact",
        "--action",
        action,
        "--organization",
        ORGANIZATION,
        "--json",
    ]
    batch = json.loads(run_cli(environment, *arguments))
    command = time.perf_counter() - began
    assert batch["status"] == "completed", batch
    with psycopg.connect(environment["BATCH_DATABASE_URL"]) as connection:
        row = connection.execute(
            "SELECT extract(epoch FROM updated_at - arrived_at), phases FROM batches WHERE id = %s", (batch["id"],)
        ).fetchone()
    assert row is not None
    phases = {phase["name"]: round(phase["ended_at"] - phase["started_at"], 2) for phase in row[1] if phase["ended_at"]}
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return {"run": float(row[0]), "command": command, "memory": memory, "phases": phases}


def run_cli(environment: dict[str, str], *arguments: str) -> str:
    """Runs `batch-pipeline` and returns what it printed."""
    command = [str(Path(sys.executable).with_name("batch-pipeline")), *arguments]
    done = subprocess.run(command, env=environment, text=True, check=False, stdout=subprocess.PIPE)
    if done.returncode != 0:
        sys.exit(f"{' '.join(arguments[:2])} ended with {done.returncode}")
    return done.stdout


if __name__ == "__main__":
    main()
