"""Overwrite and delete beside psql doing the same by hand, on 1,000,000 existing contacts.

Overwrite: 70 % of the contacts come again unchanged, 30 % are gone. By hand that is COPY, an upsert and a DELETE of
what the upload does not have. Delete: all of them by id; by hand COPY of the ids and DELETE … USING.
Usage: python benchmarks/overwrite_and_delete.py [--rows N] [--rounds N]
"""

import argparse
import os
import statistics
import tempfile
from pathlib import Path

import psycopg
from contacts_file import HEADER, write_contacts
from merge_contacts import ORGANIZATION, run_cli, time_batch, time_script

from batch_pipeline.local.servers import embedded_servers


def main() -> None:
    """Runs the rounds and prints each, then the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="batch-bench-", dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with embedded_servers(folder / "servers") as servers:
            environment = {**os.environ, **servers.environment, "BATCH_INBOX_QUIET_SECONDS": "0"}
            measure(folder, environment, arguments.rows, arguments.rounds)


def measure(folder: Path, environment: dict[str, str], rows: int, rounds: int) -> None:
    """Measures both actions both ways, in turn, each on the same contacts."""
    url = environment["BATCH_DATABASE_URL"]
    everything, most, ids = folder / "all.csv", folder / "most.csv", folder / "ids.csv"
    write_contacts(everything, rows)
    with everything.open(encoding="utf-8", newline="") as source, most.open("w", encoding="utf-8", newline="") as file:
        file.writelines(line for number, line in enumerate(source) if number <= rows * 7 // 10)
    run_cli(environment, "db", "upgrade")
    run_cli(environment, "organizations", "create", ORGANIZATION)
    time_batch(environment, everything)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept_contacts AS TABLE contacts")
        with ids.open("w", encoding="utf-8") as file:
            file.write("id\n")
            file.writelines(f"{row[0]}\n" for row in connection.execute("SELECT id FROM contacts ORDER BY external_id"))
    print(f"{rows:,} contacts", flush=True)
    scripts = {"overwrite": _overwrite_by_hand(most), "delete": _delete_by_hand(ids)}
    files = {"overwrite": most, "delete": ids}
    for action in ("overwrite", "delete"):
        theirs, ours = [], []
        for number in range(rounds):
            restore(url)
            theirs.append(time_script(url, scripts[action]))
            restore(url)
            ours.append(time_batch(environment, files[action], action=action))
            print(
                f"{action}, round {number + 1}: psql {theirs[-1]:.2f} s; batch {ours[-1]['run']:.2f} s in the run, "
                f"{ours[-1]['command']:.2f} s as a command, {ours[-1]['memory']:.0f} MB, phases {ours[-1]['phases']}",
                flush=True,
            )
        baseline = statistics.median(theirs)
        run = statistics.median(figure["run"] for figure in ours)
        print(f"{action}: median psql {baseline:.2f} s, run {run:.2f} s = {run / baseline:.2f} x psql", flush=True)


def restore(url: str) -> None:
    """Brings the contacts back as they were, and the server to a comparable state."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("TRUNCATE contacts")
        connection.execute("INSERT INTO contacts SELECT * FROM kept_contacts")
        connection.execute("VACUUM ANALYZE contacts")
        connection.execute("CHECKPOINT")


def _overwrite_by_hand(file: Path) -> str:
    updates = ", ".join(f"{name} = excluded.{name}" for name in HEADER.split(","))
    return f"""
        CREATE TEMPORARY TABLE upload (external_id text, name text, email text, phone text, address text,
            address_line2 text, id_number text, is_primary boolean, notes text);
        \\copy upload ({HEADER}) FROM '{file}' WITH (FORMAT csv, HEADER)
        INSERT INTO contacts (organization_id, id, batch_id, {HEADER})
        SELECT '{ORGANIZATION}', 'new-' || external_id, 'psql', {HEADER} FROM upload
        ON CONFLICT (organization_id, external_id) WHERE external_id IS NOT NULL DO UPDATE SET {updates};
        DELETE FROM contacts c WHERE organization_id = '{ORGANIZATION}'
            AND NOT EXISTS (SELECT FROM upload u WHERE u.external_id = c.external_id);
    """  # noqa: S608 - constants of this file


def _delete_by_hand(file: Path) -> str:
    return f"""
        CREATE TEMPORARY TABLE upload (id text);
        \\copy upload FROM '{file}' WITH (FORMAT csv, HEADER)
        DELETE FROM contacts c USING upload u WHERE c.organization_id = '{ORGANIZATION}' AND c.id = u.id;
    """  # noqa: S608 - constants of this file


if __name__ == "__main__":
    main()
