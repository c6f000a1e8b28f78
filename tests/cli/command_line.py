"""The command line as its users start it: a process of its own, in a folder of its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from batch_pipeline.batches.ledger import Ledger
from batch_pipeline.batches.model import Batch

PROGRAM = Path(sys.executable).with_name("batch-pipeline")
PATIENCE_SECONDS = 60

Finished = subprocess.CompletedProcess[str]
Process = subprocess.Popen[str]


@dataclass
class CommandLine:
    """Starts commands with the environment of a deployment; keyword arguments change variables of it."""

    environment: dict[str, str] = field(repr=False)
    folder: Path

    def start(self, *arguments: str, **changes: str) -> Process:
        return subprocess.Popen(
            [str(PROGRAM), *arguments],
            env={**self.environment, **changes},
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __call__(self, *arguments: str, **changes: str) -> Finished:
        with self.start(*arguments, **changes) as process:
            return finished(process)

    def file(self, name: str, text: str) -> str:
        """Writes a file to the folder; returns its name."""
        (self.folder / name).write_text(text)
        return name


def finished(process: Process) -> Finished:
    try:
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def only_line(text: str) -> str:
    """The one line that a failure must be."""
    lines = text.splitlines()
    assert len(lines) == 1, text
    return lines[0]


def wait_for(condition: Callable[[], bool], process: Process) -> None:
    """Waits until the condition holds, which must be while the process runs."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert process.poll() is None, finished(process)
        assert time.monotonic() < deadline
        time.sleep(0.02)


def newest(ledger: Ledger, organization: str) -> Batch | None:
    """The organization's newest batch."""
    found = ledger.find(organization_id=organization, limit=1)
    return found[0] if found else None
