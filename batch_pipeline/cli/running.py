"""The command `run`: a file becomes a batch that runs in this process."""

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, NamedTuple

import typer

from batch_pipeline.batches.model import Action, Starter, UploadAction
from batch_pipeline.batches.options import BatchOptions
from batch_pipeline.cli.console import one_line
from batch_pipeline.cli.executing import execute_and_print
from batch_pipeline.cli.flags import (
    DEFAULT_DATA_DIR,
    DEFAULT_ORGANIZATION,
    ActionName,
    DataDir,
    Json,
    OrganizationName,
    ResourceName,
    UploadFile,
    location_flags,
    with_batch_options,
)
from batch_pipeline.cli.help import HelpWithFormats
from batch_pipeline.cli.interrupts import stopping_in_order
from batch_pipeline.cli.progress import step
from batch_pipeline.cli.session import open_dagster, open_newest
from batch_pipeline.errors import DiskFullError, RefusedError, UnavailableError, is_disk_full
from batch_pipeline.records.registry import check_action

if TYPE_CHECKING:
    from batch_pipeline.batches.model import Batch
    from batch_pipeline.storage.local_copy import LocalCopy
    from batch_pipeline.system import System


class Target(NamedTuple):
    """The resource, organization and action of a batch."""

    organization: str
    resource: str
    action: Action


def add_to(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("run", cls=HelpWithFormats)(run)


@with_batch_options
def run(
    *,
    file: UploadFile,
    resource: ResourceName,
    action: ActionName,
    organization: OrganizationName = DEFAULT_ORGANIZATION,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    json: Json = False,
    options: BatchOptions,
) -> None:
    """Run a file's batch in this process.

    The command shows progress, and prints the batch and its first rejected items.
    """
    run_file(file, resource, action, organization=organization, data_dir=data_dir, json=json, options=options)


def run_file(
    file: str,
    resource: str,
    action: UploadAction,
    *,
    organization: str,
    data_dir: Path,
    json: bool,
    options: BatchOptions,
) -> None:
    """Runs a file's batch in this process and prints it. Exits with 1 if it neither completes nor shows its plan."""
    source = readable_file(file)
    with stopping_in_order():
        target = Target(organization, resource, check_action(resource, action))
        with (
            _copying(source) as copied,
            open_newest(data_dir) as system,
            uploading(system, copied().path, target, options, Starter.caller) as accepted,
            open_dagster(system) as instance,
        ):
            for phase in ("parse", "validate"):  # pandas and pyarrow take a third of a second
                importlib.import_module(f"batch_pipeline.phases.{phase}")
            flags = location_flags(data_dir, organization)
            execute_and_print(system, instance, accepted(), json=json, flags=flags, upload=copied())


@contextmanager
def _copying(source: Path) -> "Iterator[Callable[[], LocalCopy]]":
    """Copies the file in a thread, while the caller opens the system. Yields a function that waits for the copy.

    The run reads the copy, because to fetch what this process has just stored takes longer. The file itself may change
    meanwhile. The function raises RefusedError (`no_such_file`) or DiskFullError.
    """
    from concurrent.futures import ThreadPoolExecutor

    from batch_pipeline.orchestration.scratch import scratch_folder
    from batch_pipeline.storage.local_copy import copy_file

    is_left = Event()
    with scratch_folder() as folder, ThreadPoolExecutor(1) as copying:
        copy = copying.submit(copy_file, source, folder / source.name, is_left=is_left.is_set)

        def copied() -> "LocalCopy":
            try:
                if not copy.done():
                    with step(f"copying {one_line(source.name)}"):
                        copy.result()
                return copy.result()
            except OSError as error:
                if is_disk_full(error):
                    raise DiskFullError from error
                raise _unreadable(str(source), error) from None

        try:
            yield copied
        finally:
            is_left.set()


def readable_file(name: str) -> Path:
    """The file's path. Raises RefusedError (`no_such_file`) unless it is a regular file that can be read."""
    path = Path(name)
    if not name:
        raise RefusedError("no_such_file", "The name of FILE is empty: name a file.")
    try:
        if path.is_dir():
            raise RefusedError("no_such_file", f"{name} is a folder: name a file in it.")
        if not path.is_file():
            fault = f"{name} is not a regular file" if path.exists() else f"There is no file {name}"
            raise RefusedError("no_such_file", f"{fault}: name an existing file.")
        with path.open("rb"):
            pass
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise _unreadable(name, error) from None
    return path


def _unreadable(name: str, error: OSError | ValueError) -> RefusedError:
    cause = error.strerror if isinstance(error, OSError) else str(error)
    return RefusedError("no_such_file", f"{name} can't be read ({cause}): check its name and permissions.")


@contextmanager
def uploading(
    system: "System", source: Path, target: Target, options: BatchOptions, starter: Starter
) -> "Iterator[Callable[[], Batch]]":
    """Uploads the file in the background. Yields a function that waits for the upload, then records the batch.

    So a crash in between leaves no batch that waits for ever. If the context fails before the batch is being recorded,
    removes the upload. Later it stays: the database may have the batch although its answer was lost.
    """
    from batch_pipeline.batches.accept import ArrivedPayload, NewBatch, accept
    from batch_pipeline.batches.ids import new_batch_id
    from batch_pipeline.batches.options import label_from_file_name
    from batch_pipeline.batches.organizations import get_organization
    from batch_pipeline.storage import keys

    get_organization(system.engine, target.organization)
    batch_id = new_batch_id()
    key = keys.upload(batch_id, source.name, saved=options.save_upload)
    new = NewBatch(
        id=batch_id,
        organization_id=target.organization,
        resource=target.resource,
        action=target.action,
        name=options.name or label_from_file_name(source.name),
        options=options,
        source_key=source.name,
        updated_by="cli",
    )
    upload = system.store.begin_upload(source, key)
    is_recorded = False

    def accepted() -> "Batch":
        nonlocal is_recorded
        with step(f"uploading {one_line(source.name)}"):
            upload.wait()
        is_recorded = True
        return accept(system.engine, new, payload=ArrivedPayload(key, options.save_upload, starter)).batch

    try:
        yield accepted
    except BaseException:
        if not is_recorded:
            upload.cancel()
            with suppress(KeyboardInterrupt, UnavailableError):
                system.store.delete(key)
        raise
