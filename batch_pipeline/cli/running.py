"""Commands that run a batch's job in this process: `run`, `retry`."""

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from batch_pipeline.batches.model import Action
from batch_pipeline.batches.options import BatchOptions
from batch_pipeline.cli.console import data_console, print_json, say_error, sentences
from batch_pipeline.cli.flags import (
    DEFAULT_DATA_DIR,
    DEFAULT_ORGANIZATION,
    ActionName,
    BatchId,
    DataDir,
    Json,
    OrganizationName,
    ResourceName,
    same_place,
    with_batch_options,
)
from batch_pipeline.cli.interrupts import stopping_in_order
from batch_pipeline.cli.session import open_workplace
from batch_pipeline.errors import RefusedError, UnavailableError

if TYPE_CHECKING:
    from dagster import DagsterInstance

    from batch_pipeline.batches.model import Batch
    from batch_pipeline.system import System

REJECTIONS_SHOWN = 10


class Place(NamedTuple):
    """Whose records a batch changes, which, and how."""

    organization: str
    resource: str
    action: Action


def add_to(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("run")(run)
    app.command("retry")(retry)


@with_batch_options
def run(
    *,
    file: Annotated[str, typer.Argument(metavar="FILE", help="The upload: CSV, JSON array or NDJSON.")],
    resource: ResourceName,
    action: ActionName,
    organization: OrganizationName = DEFAULT_ORGANIZATION,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    json: Json = False,
    options: BatchOptions,
) -> None:
    """Run a file's batch here, in this process, and print the batch."""
    source = _readable_file(file)
    with stopping_in_order():
        _check_resource(resource, action)
        with open_workplace(data_dir) as (system, instance):
            batch = _accept(system, source, Place(organization, resource, action), options)
            _execute_and_print(system, instance, batch, json=json, place=same_place(data_dir, organization))


def retry(
    batch_id: BatchId,
    organization: OrganizationName = DEFAULT_ORGANIZATION,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    json: Json = False,
) -> None:
    """Run a failed or timed-out batch again, here, and print it; what was done is not done again."""
    from batch_pipeline.batches.model import Starter
    from batch_pipeline.cli.batches import find_batch

    with stopping_in_order(), open_workplace(data_dir) as (system, instance):
        find_batch(system.ledger, batch_id, organization)
        batch = system.ledger.request_rerun(batch_id, Starter.caller)
        _execute_and_print(system, instance, batch, json=json, place=same_place(data_dir, organization))


def _readable_file(name: str) -> Path:
    path = Path(name)
    if not name:
        raise RefusedError("no_such_file", "The name of FILE is empty: name a file.")
    try:
        if path.is_dir():
            raise RefusedError("no_such_file", f"{name} is a folder: name a file in it.")
        if not path.is_file():
            there = path.exists()
            what = f"{name} is no regular file" if there else f"There is no file {name}"
            raise RefusedError("no_such_file", f"{what}: name an existing file.")
        with path.open("rb"):
            pass
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        said = error.strerror if isinstance(error, OSError) else str(error)
        raise RefusedError("no_such_file", f"{name} can't be read ({said}): check its name and permissions.") from None
    return path


def _check_resource(resource: str, action: Action) -> None:
    from batch_pipeline.records.registry import check_action, get_resource

    check_action(get_resource(resource), action)


def _accept(system: "System", source: Path, place: Place, options: BatchOptions) -> "Batch":
    """Uploads first, then records the batch: a process that ends in between leaves no batch that waits for ever."""
    from batch_pipeline.batches.ids import new_batch_id
    from batch_pipeline.batches.model import Starter
    from batch_pipeline.batches.options import label_from_file_name
    from batch_pipeline.batches.organizations import get_organization
    from batch_pipeline.storage import keys

    get_organization(system.engine, place.organization)
    batch_id = new_batch_id()
    key = keys.upload(batch_id, source.name, saved=options.save_upload)
    try:
        system.store.upload(source, key)
        batch, _ = system.ledger.create(
            batch_id=batch_id,
            organization_id=place.organization,
            resource=place.resource,
            action=place.action,
            name=options.name or label_from_file_name(source.name),
            options=options,
            source_key=source.name,
            updated_by="cli",
        )
        return system.ledger.payload_arrived(
            batch.id, upload_key=key, saved=options.save_upload, starter=Starter.caller
        )
    except KeyboardInterrupt:
        with suppress(KeyboardInterrupt):
            system.store.delete(key)
        raise


def _execute_and_print(
    system: "System", instance: "DagsterInstance", batch: "Batch", *, json: bool, place: str
) -> None:
    from batch_pipeline.batches.states import BatchStatus
    from batch_pipeline.cli.progress import shown_progress
    from batch_pipeline.orchestration.execute import execute_batch

    with shown_progress(system.ledger, batch.id), _quiet():
        try:
            # Dagster's own log would repeat what is told below; it is kept with the run.
            batch = execute_batch(system, instance, batch, log_level="CRITICAL")
        except UnavailableError as error:
            raise UnavailableError(
                error.service,
                sentences(error.message, f"Once it is back, go on with: batch-pipeline retry {batch.id}{place}"),
            ) from error
    if json:
        print_json(batch.to_json())
    else:
        _print_batch(system, batch, place)
    if batch.status != BatchStatus.completed:
        say_error(_how_it_ended(batch))
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


def _how_it_ended(batch: "Batch") -> str:
    if batch.reason is None:
        return f"Batch {batch.id} is {batch.status}."
    told = f"Batch {batch.id} {batch.status} ({batch.reason.code}): {batch.reason.message}"
    if batch.reason.code == "internal_error" and batch.run_id is not None:
        told += f" It is run {batch.run_id} in the Dagster UI (batch-pipeline up)."
    return told
