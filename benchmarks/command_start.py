"""How long commands take to start, on an existing local system.

Measures whole processes, in turn: `show` beside the import of the libraries that it needs, `run` of 100 rows beside the
import of Dagster, both with the embedded servers running and without (then the command starts and stops them), and for
every command the time to its first byte on the terminal.
Usage: python benchmarks/command_start.py [--rounds N] [--only show,run,idle,signs]
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
READING = "import sqlalchemy, typer, rich"
DAGSTER = "import dagster"
ROWS = 100
SIGN_SECONDS = 1.0
END_SECONDS = 60.0

Measured = tuple[float, float]  # seconds of time, seconds of the processor; of the process without its servers


def main() -> None:
    """Prints the medians beside the marks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="show,run,idle,signs")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="batch-bench-", dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        file, place = folder / "contacts.csv", ["--data-dir", str(folder / "local")]
        write_contacts(file, ROWS)
        run = [PROGRAM, "run", str(file), "--resource", "contact", "--action", "merge", *place]
        with embedded_servers(folder / "local"):
            batch = json.loads(subprocess.run([*run, "--json"], check=True, stdout=subprocess.PIPE).stdout)["id"]
            show = [PROGRAM, "show", batch, *place]
            commands = {"reading": python(READING), "dagster": python(DAGSTER)}
            commands |= {name: command for name, command in (("show", show), ("run", run)) if name in arguments.only}
            times = measure(commands, arguments.rounds)
            marks = {"show": 1.2 * times["reading"][0] + 0.3, "run": 1.5 * times["dagster"][0] + 1.5}
            print_times(times, marks)
            if "signs" in arguments.only:
                measure_signs(signs(file, batch, place), arguments.rounds)
        if "idle" in arguments.only:
            print_times(measure({"show, idle": show, "run, idle": run}, arguments.rounds), marks)


def print_times(times: dict[str, Measured], marks: dict[str, float]) -> None:
    """Prints each command's times, and its mark if it has one."""
    for name, (seconds, processor) in times.items():
        mark = marks.get(name.partition(",")[0])
        beside = "" if mark is None else f" (mark {mark:.2f} s)"
        print(f"{name}: {seconds:.2f} s, {processor:.2f} s of the processor{beside}", flush=True)


def python(code: str) -> list[str]:
    """The command that executes the code alone."""
    return [sys.executable, "-c", code]


def measure(commands: dict[str, list[str]], rounds: int) -> dict[str, Measured]:
    """The medians of each command, all in turn, after one round that is not counted."""
    measured: dict[str, list[Measured]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name, command in commands.items():
            seconds = time_command(command)
            if number:
                measured[name].append(seconds)
    return {
        name: (statistics.median(time for time, _ in each), statistics.median(used for _, used in each))
        for name, each in measured.items()
    }


def time_command(command: Sequence[str]) -> Measured:
    """The time and the processor's time of a command that succeeds."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, command
    return seconds, used.ru_utime + used.ru_stime


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
