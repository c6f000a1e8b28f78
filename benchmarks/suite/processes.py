"""Measures a command: wall time, processor's seconds of the command and of PostgreSQL, peak memory. Linux only."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psycopg

from benchmarks.suite.model import Sample

POLL_SECONDS = 0.05


def measure_command(
    command: Sequence[str], *, database_url: str, environment: Mapping[str, str] | None = None, script: str = ""
) -> tuple[Sample, str]:
    """Runs a command, with the script as its input. Returns the sample and what the command printed.

    Raises RuntimeError with the end of its error output if it fails.
    """
    with tempfile.TemporaryFile("w+") as source, tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile() as err:
        source.write(script)
        source.seek(0)
        before = database_seconds(database_url)
        began = time.perf_counter()
        process = subprocess.Popen(command, stdin=source, stdout=out, stderr=err, env=environment)
        try:
            code, processor, memory = _wait(process)
        except BaseException:
            process.terminate()
            process.wait()
            raise
        seconds = time.perf_counter() - began
        database = database_seconds(database_url) - before
        if code != 0:
            err.seek(0)
            raise RuntimeError(f"{command[0]} ended with {code}: {err.read()[-2000:].decode(errors='replace')}")
        out.seek(0)
        return Sample(seconds, seconds, processor, database, memory), out.read()


def _wait(process: subprocess.Popen[bytes]) -> tuple[int, float, float]:
    """Waits for the process; returns its exit code, processor's seconds, and peak memory in MB.

    The peak is read while it runs: getrusage's includes the memory of the process that started it.
    """
    peak = 0
    while True:
        with suppress(FileNotFoundError, ProcessLookupError, IndexError):  # it has ended: a zombie has no memory
            text = Path(f"/proc/{process.pid}/status").read_text()
            peak = max(peak, int(text.partition("VmHWM:")[2].split()[0]))
        ended, status, used = os.wait4(process.pid, os.WNOHANG)
        if ended:
            process.returncode = os.waitstatus_to_exitcode(status)
            return process.returncode, used.ru_utime + used.ru_stime, peak / 1024
        time.sleep(POLL_SECONDS)


def database_seconds(url: str) -> float:
    """Processor's seconds so far of the server and all its ended and running processes."""
    with psycopg.connect(url) as connection:
        backend = Path("/proc") / str(connection.info.backend_pid)
        server = backend.joinpath("status").read_text().partition("PPid:")[2].split()[0]
        ticks = sum(_ticks(server))
        for process in Path(f"/proc/{server}/task/{server}/children").read_text().split():
            with suppress(FileNotFoundError, ProcessLookupError):  # it has ended since
                ticks += sum(_ticks(process)[:2])
    return ticks / os.sysconf("SC_CLK_TCK")


def _ticks(process: str) -> list[int]:
    """utime, stime, cutime and cstime of a process."""
    return [int(text) for text in Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:15]]


def python(*arguments: str) -> list[str]:
    """A command of this interpreter."""
    return [sys.executable, *arguments]


def batch_pipeline(*arguments: str) -> list[str]:
    """A command of `batch-pipeline`, as this environment has installed it."""
    return [str(Path(sys.executable).with_name("batch-pipeline")), *arguments]
