"""Commands on existing batches: `retry`, `cancel`, `undo`."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from batch_pipeline.batches.options import parse_undo_options
from batch_pipeline.batches.states import BatchStatus
from batch_pipeline.cli.console import data_console, print_json, say, say_error
from batch_pipeline.cli.executing import execute, execute_and_print, failure_text
from batch_pipeline.cli.flags import (
    DEFAULT_DATA_DIR,
    DEFAULT_ORGANIZATION,
    BatchId,
    DataDir,
    Json,
    OnlyResource,
    OrganizationName,
    Since,
    complete_batch_ids,
    location_flags,
)
from batch_pipeline.cli.interrupts import stopping_in_order
from batch_pipeline.cli.progress import step
from batch_pipeline.cli.session import open_workplace
from batch_pipeline.errors import RefusedError, StateError
from batch_pipeline.records.registry import check_resource

if TYPE_CHECKING:
    from dagster import DagsterInstance

    from batch_pipeline.batches.model import Batch
    from batch_pipeline.system import System


class RetriedStatus(StrEnum):
    """The final statuses from which a batch can run again."""

    failed = "failed"
    timed_out = "timed_out"


def add_to(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("retry")(retry)
    app.command("cancel")(cancel)
    app.command("undo")(undo)


def retry(
    *,
    batch_id: Annotated[
        str | None, typer.Argument(metavar="ID", help="A batch's id: batch_…", autocompletion=complete_batch_ids)
    ] = None,
    failed_rows: Annotated[
        bool, typer.Option("--failed-rows", help="Create and run a new batch of the rejected items only.")
    ] = False,
    status: Annotated[
        RetriedStatus | None,
        typer.Option(
            help="Instead of ID: all batches with this status, also cancelled ones, oldest payload first. "
            "--since selects those that reached the status since then."
        ),
    ] = None,
    since: Since = None,
    resource: OnlyResource = None,
    organization: OrganizationName = DEFAULT_ORGANIZATION,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    json: Json = False,
) -> None:
    """Run failed or timed-out batches again.

    The command runs them in its own process and prints them. Finished phases and chunks are not repeated.
    """
    flags = location_flags(data_dir, organization)
    if (batch_id is None) == (status is None):
        raise RefusedError("invalid_options", "Give either the ID of a batch, or --status for several.")
    if status is None and (since is not None or resource is not None):
        raise RefusedError("invalid_options", "--since and --resource need --status.")
    if status is not None and failed_rows:
        raise RefusedError("invalid_options", "--failed-rows needs the ID of one batch.")
    if resource is not None:
        check_resource(resource)
    with stopping_in_order(), open_workplace(data_dir) as (system, instance):
        if batch_id is not None:
            batch = _request_run(system, batch_id, organization, failed_rows=failed_rows)
            execute_and_print(system, instance, batch, json=json, flags=flags)
            return
        from batch_pipeline.batches.organizations import get_organization
        from batch_pipeline.batches.queries import find_rerunnable

        get_organization(system.engine, organization)
        final_status = BatchStatus(str(status))
        found = find_rerunnable(
            system.engine, organization_id=organization, status=final_status, resource=resource, since=since
        )
        command = f"batch-pipeline retry --status {final_status}{flags}"
        ended = _rerun_all(system, instance, found, retry_command=command)
    if json:
        print_json([batch.to_json() for batch in ended])
    else:
        _print_batches(ended)
    if len(ended) < len(found):
        say_error(f"Interrupted: {len(found) - len(ended):,} of {len(found):,} batches were not run.")
    if len(ended) < len(found) or any(batch.status != BatchStatus.completed for batch in ended):
        raise typer.Exit(1)


def cancel(
    batch_id: BatchId,
    organization: OrganizationName = DEFAULT_ORGANIZATION,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    json: Json = False,
) -> None:
    """Cancel a batch that waits or runs, in any process.

    Written records stay. A retry processes the rest.
    """
    with stopping_in_order(), open_workplace(data_dir) as (system, instance):
        from batch_pipeline.cli.batches import find_batch
        from batch_pipeline.orchestration.reconciling import cancel_batch

        find_batch(system.ledger, batch_id, organization)
        with step("cancelling after the current chunk"):
            batch = cancel_batch(system, instance, batch_id)
    if json:
        print_json(batch.to_json())
        return
    from batch_pipeline.cli.tables import batch_view

    data_console().print(batch_view(batch))


def undo(
    batch_id: BatchId,
    *,
    plan_only: Annotated[
        bool, typer.Option("--plan-only", help="Show what the undo would do. The command `apply` does it.")
    ] = False,
    delete_limit: Annotated[
        str | None,
        typer.Option(
            help="Most records to delete: a count, a percentage, or none; above it nothing is written.",
            show_default=False,
        ),
    ] = None,
    organization: OrganizationName = DEFAULT_ORGANIZATION,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    json: Json = False,
) -> None:
    """Take back what a batch wrote, except what was changed since.

    The undo is a batch of its own. The command runs it in its own process and prints it.
    """
    flags = location_flags(data_dir, organization)
    with stopping_in_order():
        options = parse_undo_options({"plan_only": plan_only, "delete_limit": delete_limit})
        with open_workplace(data_dir) as (system, instance):
            from batch_pipeline.batches.model import Starter
            from batch_pipeline.cli.batches import find_batch
            from batch_pipeline.intake.undoing import request_undo

            find_batch(system.ledger, batch_id, organization)
            batch = request_undo(system, batch_id, starter=Starter.caller, options=options, updated_by="cli")
            execute_and_print(system, instance, batch, json=json, flags=flags)


def _request_run(system: "System", batch_id: str, organization: str, *, failed_rows: bool) -> "Batch":
    """The batch, or a new batch of its rejected items, for this process to run."""
    from batch_pipeline.batches.model import Starter
    from batch_pipeline.cli.batches import find_batch

    find_batch(system.ledger, batch_id, organization)
    if not failed_rows:
        return system.ledger.request_rerun(batch_id, Starter.caller)
    from batch_pipeline.intake.rejected_items import create_from_rejected

    return create_from_rejected(system, batch_id, starter=Starter.caller)


def _rerun_all(system: "System", instance: "DagsterInstance", ids: list[str], *, retry_command: str) -> "list[Batch]":
    """Runs one batch after the other. Returns the batches that it ran, fewer after an interrupt."""
    from batch_pipeline.batches.model import Starter

    ended = []
    for number, batch_id in enumerate(ids, start=1):
        try:
            batch = system.ledger.request_rerun(batch_id, Starter.caller)
        except StateError as error:  # another process has requested its re-run
            say(error.message)
            ended.append(system.ledger.get(batch_id))
            continue
        batch, interrupted = execute(system, instance, batch, retry_command=retry_command)
        ended.append(batch)
        outcome = f"Batch {batch.id} completed." if batch.status == BatchStatus.completed else failure_text(batch)
        say(f"{number:,} of {len(ids):,}: {outcome}")
        if interrupted:
            break
    return ended


def _print_batches(batches: "list[Batch]") -> None:
    from batch_pipeline.cli.tables import batches_table

    console = data_console()
    console.print(batches_table(batches, console.width) if batches else "No batches.")
