"""The command `watch`, and waiting for a batch, which `submit --wait` does too."""

import time
from typing import TYPE_CHECKING

import typer

from batch_pipeline.cli.batches import find_batch
from batch_pipeline.cli.console import data_console, print_json, say_error
from batch_pipeline.cli.executing import failure_text, print_plan
from batch_pipeline.cli.flags import (
    DEFAULT_DATA_DIR,
    DEFAULT_ORGANIZATION,
    BatchId,
    DataDir,
    Json,
    OrganizationName,
    location_flags,
)
from batch_pipeline.cli.interrupts import stopping_in_order
from batch_pipeline.cli.session import open_ledger
from batch_pipeline.garbage import collect_seldom

if TYPE_CHECKING:
    from batch_pipeline.batches.ledger import Ledger
    from batch_pipeline.batches.model import Batch

_POLL_SECONDS = 0.3


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("watch")(watch)


def watch(
    batch_id: BatchId,
    organization: OrganizationName = DEFAULT_ORGANIZATION,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    json: Json = False,
) -> None:
    """Show a batch's progress until it ends or shows its plan."""
    flags = location_flags(data_dir, organization)
    with stopping_in_order(), open_ledger(data_dir) as (ledger, _):
        batch = wait_for(ledger, find_batch(ledger, batch_id, organization), flags)
    if json:
        print_json(batch.to_json())
    else:
        print_batch(batch, flags)
    if batch.status not in ("planned", "completed"):
        say_error(failure_text(batch))
        raise typer.Exit(1)


def print_batch(batch: "Batch", flags: str) -> None:
    """Prints the batch as `show` does, with its plan if it waits to be applied."""
    from batch_pipeline.cli.tables import batch_view

    data_console().print(batch_view(batch))
    if batch.status == "planned":
        print_plan(batch, flags)


def wait_for(ledger: "Ledger", batch: "Batch", flags: str) -> "Batch":
    """Waits for the end of the batch and returns it. An interrupt stops only the waiting, and exits with 1."""
    from batch_pipeline.batches.states import AT_REST
    from batch_pipeline.cli.progress import batch_progress

    collect_seldom()
    try:
        with batch_progress(ledger, batch.id):
            while batch.status not in AT_REST or batch.next_attempt_at is not None:
                time.sleep(_POLL_SECONDS)  # another process runs the batch, and only the ledger shows how far
                batch = ledger.get(batch.id)
    except KeyboardInterrupt:
        say_error(f"Interrupted; the batch continues: batch-pipeline watch {batch.id}{flags}")
        raise typer.Exit(1) from None
    return batch
