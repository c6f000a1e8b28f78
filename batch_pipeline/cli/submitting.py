"""The command `submit`: queues a file's batch in the running system."""

from typing import Annotated

import typer

from batch_pipeline.batches.model import Starter
from batch_pipeline.batches.options import BatchOptions
from batch_pipeline.cli.console import data_console, print_json, say, say_error
from batch_pipeline.cli.executing import failure_text
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
from batch_pipeline.cli.running import Target, readable_file, uploading
from batch_pipeline.cli.session import open_storage_too, require_running_system
from batch_pipeline.cli.watching import print_batch, wait_for
from batch_pipeline.records.registry import check_action


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("submit", cls=HelpWithFormats)(submit)


@with_batch_options
def submit(
    *,
    file: UploadFile,
    resource: ResourceName,
    action: ActionName,
    wait: Annotated[bool, typer.Option("--wait", help="Show progress until the batch ends or shows its plan.")] = False,
    organization: OrganizationName = DEFAULT_ORGANIZATION,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    json: Json = False,
    options: BatchOptions,
) -> None:
    """Queue a file's batch in the running system."""
    source = readable_file(file)
    flags = location_flags(data_dir, organization)
    with stopping_in_order():
        target = Target(organization, resource, check_action(resource, action))
        require_running_system(data_dir)
        with open_storage_too(data_dir) as system:
            with uploading(system, source, target, options, Starter.launcher) as accepted:
                batch = accepted()
            say(f"Batch {batch.id} is queued: batch-pipeline watch {batch.id}{flags}")
            if wait:
                batch = wait_for(system.ledger, batch, flags)
    if json:
        print_json(batch.to_json())
    elif wait:
        print_batch(batch, flags)
    else:
        data_console().print(batch.id)
    if wait and batch.status != ("planned" if options.plan_only else "completed"):
        say_error(failure_text(batch))
        raise typer.Exit(1)
