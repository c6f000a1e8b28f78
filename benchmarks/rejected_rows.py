"""How much slower a merge of contacts is if a tenth of its rows is rejected, errors files included.

Two files of the same size, one clean, one in which every tenth row has a broken email address, phone number, or number
of cells, in turn; each goes into an empty organization, in turn. Speed is rows read a second.
Usage: python benchmarks/rejected_rows.py [--rows N] [--rounds N]
"""

import argparse
import os
import resource
import statistics
import tempfile
from pathlib import Path

from contacts_file import write_contacts
from merge_contacts import ORGANIZATION, clear, run_cli, time_batch

from batch_pipeline.local.servers import embedded_servers


def main() -> None:
    """Runs the rounds and prints each, then the medians and their ratio."""
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
    """Measures both files, in turn."""
    clean, partly_bad = folder / "clean.csv", folder / "partly_bad.csv"
    write_contacts(clean, rows)
    _spoil_every_tenth(clean, partly_bad)
    run_cli(environment, "db", "upgrade")
    run_cli(environment, "organizations", "create", ORGANIZATION)
    files = {"clean": clean, "a tenth rejected": partly_bad}
    seconds: dict[str, list[float]] = {name: [] for name in files}
    for number in range(rounds):
        for name, file in files.items():
            clear(environment["BATCH_DATABASE_URL"])
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            figures = time_batch(environment, file)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            seconds[name].append(figures["run"])
            print(
                f"round {number + 1}, {name}: {figures['run']:.2f} s in the run, {cpu:.2f} s of CPU in its process, "
                f"{figures['memory']:.0f} MB, phases {figures['phases']}",
                flush=True,
            )
    medians = {name: statistics.median(figures) for name, figures in seconds.items()}
    speed = medians["clean"] / medians["a tenth rejected"]
    print(
        f"{rows:,} rows: median {medians['clean']:.2f} s clean, {medians['a tenth rejected']:.2f} s with "
        f"{rows // 10:,} rejected = {speed:.2f} x the speed",
        flush=True,
    )


def _spoil_every_tenth(source: Path, target: Path) -> None:
    """Copies a file of contacts with one fault in every tenth row, of three kinds in turn."""
    with source.open(encoding="utf-8", newline="") as good, target.open("w", encoding="utf-8", newline="") as file:
        file.write(good.readline())
        for number, line in enumerate(good):
            if number % 10:
                file.write(line)
                continue
            cells = line.split(",")
            fault = number // 10 % 3
            if fault == 0:
                cells[2] = cells[2].replace("@", " at ")
            elif fault == 1:
                cells[3] = cells[3][:5]
            else:
                cells.insert(1, "")
            file.write(",".join(cells))


if __name__ == "__main__":
    main()
