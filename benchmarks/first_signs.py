"""How long each command takes until it prints its first byte on the terminal, on running servers of a data directory.

The suite measures how long commands take as a whole. Usage: python benchmarks/first_signs.py [--rounds N]
"""

import argparse
import json
import os
import pty
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from contacts_file import write_contacts

from batch_pipeline.local.servers import embedded_servers

PROGRAM = str(Path(sys.executable).with_name("batch-pipeline"))
ROWS = 100
SIGN_SECONDS = 1.0
END_SECONDS = 60.0


def main() -> None:
    """Prints the medians, and the slowest beside its mark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="batch-bench-", dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        file, place = folder / "contacts.csv", ["--data-dir", str(folder / "local")]
        write_contacts(file, ROWS)
        run = [PROGRAM, "run", str(file), "--resource", "contact", "--action", "merge", *place]
        with embedded_servers(folder / "local"):
            batch = json.loads(subprocess.run([*run, "--json"], check=True, stdout=subprocess.PIPE).stdout)["id"]
            measure_signs(signs(file, batch, place), arguments.rounds)


def signs(file: Path, batch: str, place: list[str]) -> list[list[str]]:
    """Every command, with arguments. The servers of the data directory run, so `up` and `demo` are refused."""
    upload = [str(file), "--resource", "contact", "--action", "merge"]
    of_batch = ("apply", "watch", "retry", "cancel", "undo", "show", "errors", "result", "changes")
    return [
        ["--help"],
        *(["run", *upload, *place], ["plan", *upload, *place], ["submit", *upload, *place]),
        *([name, batch, *place] for name in of_batch),
        ["history", "contact", "ctct_none", *place],
        *([name, *place] for name in ("list", "prune", "metrics", "up", "demo")),
        *([name, "list", *place] for name in ("organizations", "keys", "webhooks")),
        *(["api", *place], ["worker", *place], ["db", "upgrade", *place]),
    ]


def measure_signs(commands: list[list[str]], rounds: int) -> None:
    """Prints the median time to the first byte of each command."""
    slowest = 0.0
    for command in commands:
        seconds = statistics.median(time_first_byte([PROGRAM, *command]) for _ in range(rounds))
        slowest = max(slowest, seconds)
        print(f"first sign of {' '.join(part for part in command[:2] if '/' not in part)}: {seconds:.2f} s", flush=True)
    print(f"the slowest first sign: {slowest:.2f} s (mark {SIGN_SECONDS})")


def time_first_byte(command: Sequence[str]) -> float:
    """Seconds until the command writes to its terminal. It is interrupted then."""
    terminal, end = pty.openpty()
    began = time.perf_counter()
    process = subprocess.Popen(command, stdin=end, stdout=end, stderr=end, start_new_session=True)
    os.close(end)
    select.select([terminal], [], [], END_SECONDS)
    seconds = time.perf_counter() - began
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)
    until = time.monotonic() + END_SECONDS
    while process.poll() is None and time.monotonic() < until:
        if select.select([terminal], [], [], 0.05)[0]:
            with suppress(OSError):  # the other end is closed
                os.read(terminal, 65536)
    process.kill()
    process.wait()
    os.close(terminal)
    return seconds


if __name__ == "__main__":
    main()
