"""Runs a batch's job in this process, and prints how it ended."""

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import TYPE_CHECKING

import typer

from batch_pipeline.cli.console import data_console, join_sentences, print_json, say_error
from batch_pipeline.errors import UnavailableError

if TYPE_CHECKING:
    from dagster import DagsterInstance

    from batch_pipeline.batches.model import Batch
    from batch_pipeline.storage.local_copy import LocalCopy
    from batch_pipeline.system import System

REJECTIONS_SHOWN = 10
GROUPS_SHOWN = 5


def execute(
    system: "System",
    instance: "DagsterInstance",
    batch: "Batch",
    *,
    retry_command: str,
    upload: "LocalCopy | None" = None,
) -> "tuple[Batch, bool]":
    """Runs a batch that awaits its caller and shows progress. Returns the ended batch and whether it was interrupted.

    `upload`: a local copy of the batch's payload, if there is one.

    Raises UnavailableError; its message ends with `retry_command`, the command that resumes the batch.
    """
    from batch_pipeline.cli.progress import batch_progress
    from batch_pipeline.orchestration.execute import execute_until_interrupted

    with batch_progress(system.ledger, batch.id), _captured_stderr():
        try:
            # Dagster's own log would repeat what is printed below; it is kept with the run.
            return execute_until_interrupted(system, instance, batch, upload=upload, log_level="CRITICAL")
        except UnavailableError as error:
            message = join_sentences(error.message, f"When it is available again, resume with: {retry_command}")
            raise UnavailableError(error.service, message) from error


def execute_and_print(
    system: "System",
    instance: "DagsterInstance",
    batch: "Batch",
    *,
    json: bool,
    flags: str,
    upload: "LocalCopy | None" = None,
) -> None:
    """Runs the batch and prints it. Exits with 1 if it does not complete, or is to show its plan and does not.

    `flags` are those with which other commands find the batch (`location_flags`). `upload`: as in `execute`.
    """
    from batch_pipeline.batches.states import BatchStatus

    expected = BatchStatus.planned if batch.awaits_decision else BatchStatus.completed
    retry_command = f"batch-pipeline retry {batch.id}{flags}"
    batch, _ = execute(system, instance, batch, retry_command=retry_command, upload=upload)
    if json:
        print_json(batch.to_json())
    else:
        _print_batch(system, batch, flags)
    if batch.status is not expected:
        say_error(failure_text(batch))
        raise typer.Exit(1)


@contextmanager
def _captured_stderr() -> Iterator[None]:
    """Captures what libraries print to stderr, for a crash report."""
    captured = io.StringIO()
    with redirect_stderr(captured):
        try:
            yield
        except Exception as error:
            error.add_note(captured.getvalue())
            raise


def _print_batch(system: "System", batch: "Batch", flags: str) -> None:
    from batch_pipeline.cli.tables import batch_view, error_groups_table, read_rejections, rejections_table
    from batch_pipeline.storage import keys

    console = data_console()
    console.print(batch_view(batch, with_reason=False))
    if batch.status == "planned":
        print_plan(batch, flags)
    if batch.error_summary is not None and len(batch.error_summary["groups"]) > 1:
        console.print(error_groups_table(batch.error_summary, most=GROUPS_SHOWN))
    if batch.has_errors_file:
        first = read_rejections(system.store.stream(keys.errors_json(batch.id)), REJECTIONS_SHOWN)
        console.print(rejections_table(first, "First rejected items"))
        console.print(f"All of them: batch-pipeline errors {batch.id}{flags}", soft_wrap=True)
        console.print(f"In storage:  {system.store.uri(keys.errors_csv(batch.id))}", soft_wrap=True)


def print_plan(batch: "Batch", flags: str) -> None:
    """Prints the plan of a planned batch, and how to apply it."""
    from batch_pipeline.cli.plan_tables import plan_view

    assert batch.plan is not None  # noqa: S101 - planned
    console = data_console()
    console.print(plan_view(batch.plan))
    console.print(f"Apply it:   batch-pipeline apply {batch.id}{flags}", soft_wrap=True)
    console.print(f"Discard it: batch-pipeline cancel {batch.id}{flags}", soft_wrap=True)


def failure_text(batch: "Batch") -> str:
    """One or two sentences on why the batch is not completed."""
    if batch.status == "planned":
        return (
            f"The plan of batch {batch.id} has changed since it was shown, so nothing was written: "
            "look at the new plan, then apply it."
        )
    if batch.reason is None:
        return f"Batch {batch.id} is {batch.status}."
    text = f"Batch {batch.id} {batch.status} ({batch.reason.code}): {batch.reason.message}"
    if batch.reason.code == "internal_error" and batch.run_id is not None:
        text += f" See run {batch.run_id} in the Dagster UI (batch-pipeline up)."
    if batch.next_attempt_at is not None:
        text += f" It runs again by itself at {batch.next_attempt_at.astimezone():%H:%M:%S} if the daemon runs."
    return text
