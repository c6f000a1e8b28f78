"""What the change log costs: the same runs with BATCH_CHANGES on and off, one right after the other.

Each round loads contacts into an empty table (all new), twice; loads them again (none changed), twice; and loads them
with another name, email, phone and address (all changed), and back. The limits are 1.03, 1.03 and 1.15, for the median
of the rounds' ratios of run times. On a busy machine the ratio of the processor's time, of the command and the server
together, says more.
Usage: python benchmarks/change_log.py [--rows N] [--rounds N]
"""

import argparse
import os
import resource
import statistics
import tempfile
from contextlib import suppress
from pathlib import Path

import psycopg
from contacts_file import write_contacts
from merge_contacts import ORGANIZATION, run_cli, time_batch

from batch_pipeline.local.servers import embedded_servers

LIMITS = {"all new": 1.03, "none changed": 1.03, "all changed": 1.15}


def main() -> None:
    """Runs the rounds and prints each, then the medians of the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="batch-bench-", dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with embedded_servers(folder / "servers") as servers:
            environment = {**os.environ, **servers.environment, "BATCH_INBOX_QUIET_SECONDS": "0"}
            measure(folder, environment, arguments.rows, arguments.rounds)


def measure(folder: Path, environment: dict[str, str], rows: int, rounds: int) -> None:
    """Measures each case with and without the log; every second round begins without it.

    Prints seconds of the run, of its phase processing, and of the processor.
    """
    url = environment["BATCH_DATABASE_URL"]
    first, second = folder / "first.csv", folder / "second.csv"
    write_contacts(first, rows)
    write_contacts(second, rows, seed=2)
    run_cli(environment, "db", "upgrade")
    run_cli(environment, "organizations", "create", ORGANIZATION)
    ratios: dict[str, list[tuple[float, ...]]] = {case: [] for case in LIMITS}
    for number in range(rounds):
        settings = ("on", "off") if number % 2 == 0 else ("off", "on")
        for case in LIMITS:
            measured = {}
            for changes, file in zip(
                settings, (second, first) if case == "all changed" else (first, first), strict=True
            ):
                if case == "all new":
                    clear(url)
                settle(url)
                before = processor_seconds(url)
                time = time_batch({**environment, "BATCH_CHANGES": changes}, file)
                used = processor_seconds(url) - before
                measured[changes] = (time["run"], time["phases"]["processing"], used)
                print(
                    f"round {number + 1}, {case}, {changes}: {measured[changes]}, phases {time['phases']}", flush=True
                )
            ratios[case].append(tuple(on / off for on, off in zip(measured["on"], measured["off"], strict=True)))
        with psycopg.connect(url) as connection:
            logged = connection.execute("SELECT count(*) FROM contact_changes").fetchone()
        assert logged == (rows,), logged
    for case, limit in LIMITS.items():
        time, processing, processor = (statistics.median(each) for each in zip(*ratios[case], strict=True))
        print(
            f"{case}: {time:.3f} of the time (limit {limit}); of processing {processing:.3f}; "
            f"of the processor's time {processor:.3f}; rounds {[round(each[0], 3) for each in ratios[case]]}"
        )


def processor_seconds(url: str) -> float:
    """Processor time so far of the server, its ended and running processes, and of this program's ended children."""
    with psycopg.connect(url) as connection:
        backend = Path("/proc") / str(connection.info.backend_pid)
        server = backend.joinpath("status").read_text().partition("PPid:")[2].split()[0]
        running = 0
        for process in Path(f"/proc/{server}/task/{server}/children").read_text().split():
            with suppress(FileNotFoundError):  # it has ended since, and counts for the server
                running += sum(_ticks(process)[:2])
        ticks = running + sum(_ticks(server))
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ticks / os.sysconf("SC_CLK_TCK") + children.ru_utime + children.ru_stime


def _ticks(process: str) -> list[int]:
    """utime, stime, cutime and cstime of a process."""
    return [int(text) for text in Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:15]]


def clear(url: str) -> None:
    """Empties the contacts and their log. Indexes of the log get no filters, as those of a new partition."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("TRUNCATE contacts, contact_changes")
        connection.execute(
            "SELECT brin_desummarize_range(indexrelid, 0) FROM pg_partition_tree('contact_changes') AS t"
            " JOIN pg_index ON indrelid = relid JOIN pg_class ON pg_class.oid = indexrelid"
            " WHERE isleaf AND relam = (SELECT oid FROM pg_am WHERE amname = 'brin')"
        )


def settle(url: str) -> None:
    """Does what the server would otherwise do at some time during a run."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE contacts")
        connection.execute("CHECKPOINT")


if __name__ == "__main__":
    main()
