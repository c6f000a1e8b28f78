"""A progress bar for a batch that runs in this process, fed from the ledger."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from batch_pipeline.batches.ledger import Ledger
from batch_pipeline.batches.model import Batch, PhaseStatus
from batch_pipeline.cli.console import say, talk_console
from batch_pipeline.errors import UnavailableError

_POLL_SECONDS = 0.2


@contextmanager
def shown_progress(ledger: Ledger, batch_id: str) -> Iterator[None]:
    """Shows how far the batch's phases are, on stderr if that is a terminal, for the time of the ``with``."""
    console = talk_console()
    if not console.is_terminal:
        yield
        return
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )
    done = threading.Event()
    with bar:
        watcher = threading.Thread(target=_watch, args=(ledger, batch_id, bar, done), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()


@contextmanager
def told_progress() -> Iterator[Callable[[Batch], None]]:
    """A function that tells the end of each phase on a line of stderr, where there is no terminal for a bar."""
    ended: set[str] = set()
    is_terminal = talk_console().is_terminal

    def tell(batch: Batch) -> None:
        for phase in batch.phases:
            if phase.status in (PhaseStatus.pending, PhaseStatus.running) or phase.name in ended or is_terminal:
                continue
            ended.add(phase.name)
            say(f"{phase.name.value}: {phase.status.value}, {phase.success:,} items, {phase.error:,} rejected")

    yield tell


def _watch(ledger: Ledger, batch_id: str, bar: Progress, done: threading.Event) -> None:
    tasks: dict[str, TaskID] = {}
    while not done.wait(_POLL_SECONDS):
        try:
            batch = ledger.get(batch_id)
        except UnavailableError:
            return  # the run finds out as well, and what it says counts
        _update(bar, tasks, batch)


def _update(bar: Progress, tasks: dict[str, TaskID], batch: Batch) -> None:
    for phase in batch.phases:
        if phase.status is PhaseStatus.pending:
            continue
        if phase.name not in tasks:
            tasks[phase.name] = bar.add_task(phase.name.value, total=None)
        bar.update(tasks[phase.name], completed=phase.processed, total=phase.total)
        if phase.status is not PhaseStatus.running:
            bar.stop_task(tasks[phase.name])
