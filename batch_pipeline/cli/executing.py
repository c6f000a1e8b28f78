"""How commands run a batch's job in this process, and print what became of it."""

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import TYPE_CHECKING

import typer

from batch_pipeline.cli.console import data_console, print_json, say_error, sentences
from batch_pipeline.errors import UnavailableError

if TYPE_CHECKING:
    from dagster import DagsterInstance

    from batch_pipeline.batches.model import Batch
    from batch_pipeline.system import System

REJECTIONS_SHOWN = 10


def execute(system: "System", instance: "DagsterInstance", batch: "Batch", *, go_on: str) -> "tuple[Batch, bool]":
    """Runs the batch that awaits its caller, with a progress bar; returns it as it ended, and whether by an interrupt.

    Raises UnavailableError, which then says that `go_on` is the command to go on with.
    """
    from batch_pipeline.cli.progress import shown_progress
    from batch_pipeline.orchestration.execute import execute_until_interrupted

    with shown_progress(system.ledger, batch.id), _quiet():
        try:
            # Dagster's own log would repeat what is told below; it is kept with the run.
            return execute_until_interrupted(system, instance, batch, log_level="CRITICAL")
        except UnavailableError as error:
            said = sentences(error.message, f"Once it is back, go on with: {go_on}")
            raise UnavailableError(error.service, said) from error


def execute_and_print(system: "System", instance: "DagsterInstance", batch: "Batch", *, json: bool, place: str) -> None:
    """Runs the batch and prints it; exits with 1 where it does not complete.

    `place` are the flags that lead other commands to it.
    """
    from batch_pipeline.batches.states import BatchStatus

    batch, _ = execute(system, instance, batch, go_on=f"batch-pipeline retry {batch.id}{place}")
    if json:
        print_json(batch.to_json())
    else:
        _print_batch(system, batch, place)
    if batch.status != BatchStatus.completed:
        say_error(how_it_ended(batch))
        raise typer.Exit(1)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what libraries write to stderr by themselves for the report of a crash, should there be one."""
    said = io.StringIO()
    with redirect_stderr(said):
        try:
            yield
        except Exception as error:
            error.add_note(said.getvalue())
            raise


def _print_batch(system: "System", batch: "Batch", place: str) -> None:
    from batch_pipeline.cli.tables import batch_view, read_rejections, rejections_table
    from batch_pipeline.storage import keys

    console = data_console()
    console.print(batch_view(batch, with_reason=False))
    if batch.has_errors_file:
        first = read_rejections(system.store.stream(keys.errors_json(batch.id)), REJECTIONS_SHOWN)
        console.print(rejections_table(first, "First rejected items"))
        console.print(f"All of them: batch-pipeline errors {batch.id}{place}", soft_wrap=True)
        console.print(f"In storage:  {system.store.uri(keys.errors_csv(batch.id))}", soft_wrap=True)


def how_it_ended(batch: "Batch") -> str:
    """Why the batch is not completed, in a sentence or two."""
    if batch.reason is None:
        return f"Batch {batch.id} is {batch.status}."
    told = f"Batch {batch.id} {batch.status} ({batch.reason.code}): {batch.reason.message}"
    if batch.reason.code == "internal_error" and batch.run_id is not None:
        told += f" It is run {batch.run_id} in the Dagster UI (batch-pipeline up)."
    return told
