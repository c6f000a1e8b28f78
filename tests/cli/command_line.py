"""The command line as its users start it, in a folder of its own.

A new interpreter costs seconds of imports, so only what looks at a whole process has one (`start_program`). Commands
that are stopped or watched (`start`), or meet other settings than the rest (`process`), run in processes forked from
one that has imported all; the others run in the tests' process.
"""

import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

from batch_runs import accepted
from waiting import eventually

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


class Forked:
    """A command that runs in a forked process; as ``subprocess.Popen`` in what it offers."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
        self.args = arguments
        self._folder = tempfile.TemporaryDirectory()
        self._outputs = [Path(self._folder.name, name) for name in ("out", "err")]
        self._process = fork_context().Process(target=_command, args=(arguments, environment, folder, self._outputs))
        self._process.start()

    def __enter__(self) -> "Forked":
        return self

    def __exit__(self, *_: object) -> None:
        if self.poll() is None:
            self.kill()
        self._process.join()
        self._folder.cleanup()

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def communicate(self, timeout: float) -> tuple[str, str]:
        """Waits until the command has ended; returns what it printed."""
        self._process.join(timeout)
        out, err = (path.read_text() for path in self._outputs)
        if self.poll() is None:
            self.kill()
            raise subprocess.TimeoutExpired(list(self.args), timeout, out, err)
        return out, err


Process = Forked | subprocess.Popen[str]


@dataclass
class CommandLine:
    """Gives commands the environment of a deployment; keyword arguments change variables of it."""

    environment: dict[str, str] = field(repr=False)
    folder: Path

    def start(self, *arguments: str, **changes: str) -> Forked:
        """Starts the command in a process of its own."""
        return Forked(arguments, {**self.environment, **changes}, self.folder)

    def start_program(self, *arguments: str, **changes: str) -> "subprocess.Popen[str]":
        """Starts the command as a shell does, in a new interpreter."""
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
        with self.start(*arguments, **changes) as process:
            return finished(process)

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
        process.kill()
        raise
    assert process.returncode is not None
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

    def holds() -> bool:
        if condition():
            return True
        assert process.poll() is None, finished(process)
        return False

    eventually(holds, pause=0.05)


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
