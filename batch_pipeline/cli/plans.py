"""The commands `plan` and `apply`."""

from typing import Annotated

import typer

from batch_pipeline.batches.model import IfChanged, Starter
from batch_pipeline.batches.options import BatchOptions
from batch_pipeline.cli.executing import execute_and_print
from batch_pipeline.cli.flags import (
    DEFAULT_DATA_DIR,
    DEFAULT_ORGANIZATION,
    ActionName,
    BatchId,
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
from batch_pipeline.cli.running import run_file
from batch_pipeline.cli.session import open_workplace


def add_to(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("plan", cls=HelpWithFormats)(plan)
    app.command("apply")(apply)


@with_batch_options
def plan(
    *,
    file: UploadFile,
    resource: ResourceName,
    action: ActionName,
    organization: OrganizationName = DEFAULT_ORGANIZATION,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    json: Json = False,
    options: BatchOptions,
) -> None:
    """Show what a file's batch would do, without writing it.

    The same as run --plan-only. The command `apply` writes the plan.
    """
    planned = options.model_copy(update={"plan_only": True})
    run_file(file, resource, action, organization=organization, data_dir=data_dir, json=json, options=planned)


def apply(
    *,
    batch_id: BatchId,
    if_changed: Annotated[
        IfChanged,
        typer.Option(
            help="If the plan has changed since it was shown: write nothing and show it, or write the new plan."
        ),
    ] = IfChanged.fail,
    digest: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Apply only the plan with this digest.", show_default=False)
    ] = None,
    organization: OrganizationName = DEFAULT_ORGANIZATION,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    json: Json = False,
) -> None:
    """Write a planned batch, exactly as its plan says.

    The command runs it in its own process and prints it.
    """
    with stopping_in_order(), open_workplace(data_dir) as (system, instance):
        from batch_pipeline.cli.batches import find_batch

        find_batch(system.ledger, batch_id, organization)
        batch = system.ledger.request_apply(
            batch_id, Starter.caller, if_changed=if_changed, digest=digest, updated_by="cli"
        )
        execute_and_print(system, instance, batch, json=json, flags=location_flags(data_dir, organization))
