"""The command line as its users start it, in a folder of its own.

A new interpreter costs seconds of imports, so only those commands have one that are stopped or watched (`start`). What
meets other settings than the rest runs in a process forked from one that has imported all (`process`); the others run
in the tests' process.
"""

import io
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

from batch_runs import accepted

from batch_pipeline.batches.ledger import Ledger
from batch_pipeline.batches.model import Batch, Starter
from batch_pipeline.cli.main import main
from batch_pipeline.orchestration.forking import fork_context
from batch_pipeline.settings import get_settings

PROGRAM = Path(sys.executable).with_name("batch-pipeline")
PATIENCE_SECONDS = 60
MERGE = ("--resource", "contact", "--action", "merge")
PEOPLE = "name,email\nAda Lovelace,ada@example.com\nAlan Turing,nowhere\n"

Finished = subprocess.CompletedProcess[str]
Process = subprocess.Popen[str]


@dataclass
class CommandLine:
    """Gives commands the environment of a deployment; keyword arguments change variables of it."""

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
        """Runs the command to its end: in this process, or, as libraries remember settings, where some are changed."""
        if changes:
            return self.process(*arguments, **changes)
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="") for _ in range(2))
        with _environment(self.environment), _folder(self.folder), redirect_stdout(out), redirect_stderr(err):
            try:
                main(arguments)
            except SystemExit as ended:
                code = ended.code
        assert isinstance(code, int)
        printed = []
        for stream in (out, err):
            stream.flush()
            stream.seek(0)
            printed.append(stream.read())
        return subprocess.CompletedProcess(arguments, code, *printed)

    def process(self, *arguments: str, **changes: str) -> Finished:
        """Runs the command to its end, in a process of its own."""
        with tempfile.TemporaryDirectory() as folder:
            outputs = [Path(folder, name) for name in ("out", "err")]
            process = fork_context().Process(
                target=_command, args=(arguments, {**self.environment, **changes}, self.folder, outputs)
            )
            process.start()
            process.join(PATIENCE_SECONDS)
            if process.exitcode is None:
                process.kill()
            printed = [path.read_text() for path in outputs]
        assert process.exitcode is not None, printed
        return subprocess.CompletedProcess(arguments, process.exitcode, *printed)

    def file(self, name: str, text: str) -> str:
        """Writes a file to the folder; returns its name."""
        (self.folder / name).write_text(text)
        return name


def _command(arguments: Sequence[str], environment: Mapping[str, str], folder: Path, outputs: Sequence[Path]) -> None:
    """In a forked process: runs the command as a new interpreter does, and ends the process with its exit code."""
    os.setsid()
    for descriptor, path in zip((1, 2), outputs, strict=True):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND), descriptor)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    get_settings.cache_clear()
    sys.argv = [str(PROGRAM), *arguments]
    main()


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(variables)
    get_settings.cache_clear()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        get_settings.cache_clear()


@contextmanager
def _folder(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def finished(process: Process) -> Finished:
    try:
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def without_progress(stderr: str) -> list[str]:
    """The lines that are no progress; how many of those there are depends on how fast the machine is."""
    return [line for line in stderr.splitlines() if not line.endswith(" …")]


def only_line(stderr: str) -> str:
    """The one line that a failure must be."""
    lines = without_progress(stderr)
    assert len(lines) == 1, stderr
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


def status_of(ledger: Ledger, organization: str) -> str | None:
    """The status of the organization's newest batch."""
    batch = newest(ledger, organization)
    return None if batch is None else batch.status


def processed(ledger: Ledger, organization: str) -> int:
    """How many items the organization's newest batch has processed."""
    batch = newest(ledger, organization)
    return 0 if batch is None else batch.phases[2].processed


def batch_that_never_starts(ledger: Ledger, organization: str) -> str:
    """Arrived first, and waits for a launcher that isn't there: whoever comes later waits for its turn."""
    return accepted(ledger.engine, organization, key="none", starter=Starter.launcher, name="first").id
