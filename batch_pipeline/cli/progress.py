"""Progress of a command on stderr, so that no command is silent for long.

A terminal shows a spinner and bars, which are erased at the end. Any other stderr gets a line if nothing was printed
for a while.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from batch_pipeline.cli.console import display_console, say, seconds_since_message
from batch_pipeline.errors import UnavailableError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn, TaskID

    from batch_pipeline.batches.ledger import Ledger
    from batch_pipeline.batches.model import Batch

    Columns = Callable[[], Sequence[ProgressColumn]]  # only terminals show them, and their import takes time

_POLL_SECONDS = 0.2
_FIRST_LINE_SECONDS = 1.5
_LAST_LINE_SECONDS = 30.0  # between two lines about the same step; the pause doubles up to here


@dataclass(frozen=True)
class Step:
    """One step of a command.

    Attributes:
        name: for display: "parsing", "loading Dagster".
        done: processed items of `total`; None if nothing is counted.
        is_running: whether it has not ended.
    """

    name: str
    done: int = 0
    total: int | None = None
    is_running: bool = True

    @property
    def count_text(self) -> str:
        """Progress as text: "1,000 of 2,000"; empty if nothing is counted."""
        if self.total is None:
            return f"{self.done:,}" if self.done else ""
        return f"{self.done:,} of {self.total:,}"


class _Display(Protocol):
    def show(self, steps: Sequence[Step]) -> None:
        """Called several times a second with all steps so far."""


class _TerminalDisplay:
    """A line for each step: spinner, name, bar if items are counted, time."""

    def __init__(self, progress: "Progress") -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def show(self, steps: Sequence[Step]) -> None:
        for step in steps:
            if step.name not in self._tasks:
                self._tasks[step.name] = self._progress.add_task(step.name, total=None, count="")
            task = self._tasks[step.name]
            self._progress.update(task, completed=step.done, total=step.total, count=step.count_text)
            if not step.is_running:
                self._progress.stop_task(task)
        for name in [name for name in self._tasks if name not in {step.name for step in steps}]:
            self._progress.remove_task(self._tasks.pop(name))


class _LineDisplay:
    """Prints a line about the running step after a silence. The pauses grow with the duration of the step."""

    def __init__(self) -> None:
        self._name = ""
        self._pause_seconds = _FIRST_LINE_SECONDS

    def show(self, steps: Sequence[Step]) -> None:
        running = [step for step in steps if step.is_running]
        if not running:
            return
        step = running[-1]
        if step.name != self._name:
            self._name, self._pause_seconds = step.name, _FIRST_LINE_SECONDS
        if seconds_since_message() >= self._pause_seconds:
            say(f"{step.name}: {step.count_text} …" if step.count_text else f"{step.name} …")
            self._pause_seconds = min(self._pause_seconds * 2, _LAST_LINE_SECONDS)


@contextmanager
def step(name: str) -> Iterator[None]:
    """Shows the step until the ``with`` block ends."""
    with _progress_shown(lambda: [Step(name)], _description):
        yield


@contextmanager
def batch_progress(ledger: "Ledger", batch_id: str) -> Iterator[None]:
    """Shows the batch's progress in the ledger until the ``with`` block ends, whichever process runs the batch."""
    steps: list[Step] = [Step("starting the run")]

    def read() -> Sequence[Step]:
        with suppress(UnavailableError):  # the run meets the same outage, and reports it
            steps[:] = _steps(ledger.get(batch_id))
        return steps

    with _progress_shown(read, _bars):
        yield


def _description() -> "Sequence[ProgressColumn]":
    from rich.progress import TextColumn

    return (TextColumn("{task.description} …", markup=False),)


def _bars() -> "Sequence[ProgressColumn]":
    from rich.progress import BarColumn, TextColumn

    return (TextColumn("{task.description:<10}", markup=False), BarColumn(), TextColumn("{task.fields[count]}"))


@contextmanager
def _progress_shown(read: Callable[[], Sequence[Step]], columns: "Columns") -> Iterator[None]:
    with display_console() as console, _display(console, columns) as display:
        done = threading.Event()

        def watch() -> None:
            display.show(read())
            while not done.wait(_POLL_SECONDS):
                display.show(read())

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()


@contextmanager
def _display(console: "Console", columns: "Columns") -> Iterator[_Display]:
    if not console.is_terminal:
        yield _LineDisplay()
        return
    from rich.progress import Progress, SpinnerColumn, TimeElapsedColumn

    # Stdout is left alone: JSON must not end up on stderr.
    with Progress(
        SpinnerColumn(finished_text=" "),
        *columns(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        redirect_stdout=False,
    ) as progress:
        yield _TerminalDisplay(progress)


def _steps(batch: "Batch") -> list[Step]:
    """The phases that have begun, the writing of artifacts, and the steps between them."""
    from batch_pipeline.batches.model import PhaseStatus
    from batch_pipeline.batches.states import BatchStatus

    steps = [
        Step(phase.name.value, phase.processed, phase.total, phase.status is PhaseStatus.running)
        for phase in batch.phases
        if phase.status not in (PhaseStatus.pending, PhaseStatus.skipped)
    ]
    steps += [
        Step(f"writing {artifact.files}", artifact.done, artifact.total, artifact.ended_at is None)
        for artifact in batch.facts.artifacts
    ]
    if any(step.is_running for step in steps):
        return steps
    if batch.status == BatchStatus.queued:
        return [*steps, Step("waiting for its turn")]
    return [*steps, Step("finishing" if steps else "starting the run")]
