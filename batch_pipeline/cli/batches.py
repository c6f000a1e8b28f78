"""Commands that read batches: `show`, `list`, `errors`, `result`."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from batch_pipeline.batches.model import Action
from batch_pipeline.batches.states import BatchStatus
from batch_pipeline.cli.console import data_console, message_console, print_json, say
from batch_pipeline.cli.flags import (
    DEFAULT_DATA_DIR,
    DEFAULT_ORGANIZATION,
    BatchId,
    DataDir,
    Json,
    OnlyResource,
    OrganizationName,
    Since,
    location_flags,
)
from batch_pipeline.cli.session import open_ledger, open_storage_too
from batch_pipeline.errors import NotFoundError, RefusedError
from batch_pipeline.records.registry import check_resource

if TYPE_CHECKING:
    from batch_pipeline.batches.ledger import Ledger
    from batch_pipeline.batches.model import Batch
    from batch_pipeline.storage.store import Store


GROUPS_SHOWN = 5


class ErrorsFormat(StrEnum):
    """The two forms of the errors file."""

    csv = "csv"
    json = "json"


def add_to(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("show")(show)
    app.command("list")(list_batches)
    app.command("errors")(errors)
    app.command("result")(result)


def show(
    batch_id: BatchId,
    organization: OrganizationName = DEFAULT_ORGANIZATION,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    json: Json = False,
) -> None:
    """Show a batch: status, run, attempts, counts, phases."""
    with open_ledger(data_dir) as (ledger, _):
        batch = find_batch(ledger, batch_id, organization)
    if json:
        print_json(batch.to_json())
        return
    from batch_pipeline.cli.tables import batch_view, error_groups_table

    console = data_console()
    console.print(batch_view(batch))
    flags = location_flags(data_dir, organization)
    if batch.status == BatchStatus.planned:
        from batch_pipeline.cli.executing import print_plan

        print_plan(batch, flags)
    arguments = f"{batch.id}{flags}"
    if batch.error_summary is not None:
        console.print(error_groups_table(batch.error_summary, most=GROUPS_SHOWN))
    if batch.has_errors_file:
        console.print(f"Rejected items: batch-pipeline errors {arguments}", soft_wrap=True)
    if batch.has_result_file:
        console.print(f"Outcome of each item: batch-pipeline result {arguments}", soft_wrap=True)


def list_batches(
    *,
    status: Annotated[
        list[BatchStatus] | None, typer.Option(help="Only batches with this status (may be repeated).")
    ] = None,
    resource: OnlyResource = None,
    action: Annotated[Action | None, typer.Option(help="Only of this action.")] = None,
    since: Since = None,
    limit: Annotated[int, typer.Option(metavar="NUMBER", help="Maximum number of batches.", min=1)] = 25,
    organization: OrganizationName = DEFAULT_ORGANIZATION,
    all_organizations: Annotated[
        bool, typer.Option("--all-organizations", help="Batches of all tenants; --organization is ignored.")
    ] = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    json: Json = False,
) -> None:
    """List batches, newest first.

    --since selects by the time at which batches were created.
    """
    if resource is not None:
        check_resource(resource)
    with open_ledger(data_dir) as (ledger, engine):
        from batch_pipeline.batches.organizations import get_organization

        if not all_organizations:
            get_organization(engine, organization)
        found = ledger.find(
            organization_id=None if all_organizations else organization,
            or_unknown_organization=True,
            resource=resource,
            action=action,
            status=[each.value for each in status or ()],
            since=since,
            limit=limit,
        )
    if json:
        print_json([batch.to_json() for batch in found])
        return
    from batch_pipeline.cli.tables import batches_table

    console = data_console()
    table = batches_table(found, console.width, with_organization=all_organizations)
    console.print(table if found else "No batches.")


def errors(
    *,
    batch_id: BatchId,
    form: Annotated[ErrorsFormat, typer.Option("--format", help="Format of the output.")] = ErrorsFormat.csv,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file instead of stdout.")] = None,
    opens: Annotated[
        bool, typer.Option("--open", help="Write a file, here if --output names none, and open it in its program.")
    ] = False,
    organization: OrganizationName = DEFAULT_ORGANIZATION,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Print a batch's rejected items with their errors.

    You can correct the CSV and upload it again. The errors by field and code are printed first, on stderr.
    """
    if opens and output is None:
        output = Path(f"{batch_id}-errors.{form}")
    with open_storage_too(data_dir) as system:
        from batch_pipeline.storage import keys

        batch = find_batch(system.ledger, batch_id, organization)
        if not batch.has_errors_file:
            raise NotFoundError("no_errors_file", _no_file(batch, "errors file", "no item was rejected"))
        if batch.error_summary is not None:
            from batch_pipeline.cli.tables import error_groups_table

            groups = len(batch.error_summary["groups"])
            message_console().print(error_groups_table(batch.error_summary, most=groups))
        key = keys.errors_csv(batch.id) if form is ErrorsFormat.csv else keys.errors_json(batch.id)
        _write(system.store, key, output)
    if opens and typer.launch(str(output)) != 0:
        raise RefusedError("not_opened", f"No program opened {output}: open it yourself.")


def result(
    batch_id: BatchId,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file instead of stdout.")] = None,
    organization: OrganizationName = DEFAULT_ORGANIZATION,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Print the outcome of each item, as JSON.

    Only batches with --save-result have it.
    """
    with open_storage_too(data_dir) as system:
        from batch_pipeline.storage import keys

        batch = find_batch(system.ledger, batch_id, organization)
        if not batch.has_result_file:
            raise NotFoundError("no_result_file", _no_file(batch, "result file", "it was run without --save-result"))
        _write(system.store, keys.result_json(batch.id), output)


def find_batch(ledger: "Ledger", batch_id: str, organization: str) -> "Batch":
    """The batch. Raises NotFoundError if it belongs to another organization. A batch without one is found for all."""
    batch = ledger.get(batch_id)
    if batch.organization_id not in (organization, None):
        raise NotFoundError(
            "batch_not_found",
            f"Batch {batch_id} is not of organization {organization}: give --organization {batch.organization_id}.",
        )
    return batch


def _no_file(batch: "Batch", file: str, cause: str) -> str:
    """Why the batch does not have the file; `cause` is the reason for a completed batch."""
    if batch.status == BatchStatus.completed:
        return f"Batch {batch.id} has no {file}: {cause}."
    return f"Batch {batch.id} has no {file}: it is {batch.status} (see batch-pipeline show {batch.id})."


def _write(store: "Store", key: str, output: Path | None) -> None:
    """Streams the object to stdout or to a file. The file appears when it is complete."""
    if output is None:
        for block in store.stream(key):
            sys.stdout.buffer.write(block)
        sys.stdout.buffer.flush()
        return
    part = output.with_name(f".{output.name}.part") if output.is_file() or not output.exists() else output
    try:
        with part.open("wb") as file:
            for block in store.stream(key):
                file.write(block)
        if part != output:
            part.replace(output)
    except OSError as error:
        raise RefusedError("unwritable", f"{output} can't be written ({error.strerror}): name another file.") from None
    say(f"Written to {output}.")
