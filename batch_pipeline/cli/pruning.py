"""The command `prune`: retention, run at once instead of by its sensor."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from batch_pipeline.cli.console import data_console, print_json, say
from batch_pipeline.cli.flags import DEFAULT_DATA_DIR, DataDir, Json
from batch_pipeline.cli.interrupts import stopping_in_order
from batch_pipeline.cli.progress import step
from batch_pipeline.cli.session import open_for_retention
from batch_pipeline.settings import get_settings

if TYPE_CHECKING:
    from batch_pipeline.orchestration.retention import Pruned

REPORT_SECONDS = 5.0


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("prune")(prune)


def prune(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be deleted.")] = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    json: Json = False,
) -> None:
    """Delete files of old batches, Dagster's old runs, old days of the change log, and old events for webhooks.

    BATCH_RETENTION_DAYS, BATCH_RUN_RETENTION_DAYS and BATCH_CHANGES_DAYS set the ages. The batches stay in the ledger.
    Runs of a failed or timed-out batch stay as long as its files, because Dagster can re-execute them.
    """
    with stopping_in_order(), open_for_retention(data_dir) as (system, instance):
        from batch_pipeline.orchestration.retention import prune as prune_all

        with step("looking for old batches and runs"):
            pruned = prune_all(system, instance, dry_run=dry_run, report=_Reporter())
    if json:
        print_json({"dry_run": dry_run, **pruned.to_json()})
        return
    verb = "Would go" if dry_run else "Gone"
    settings = get_settings()
    data_console().print(
        f"{verb}: {pruned.files.number:,} files ({pruned.files.bytes:,} bytes) of {pruned.batches:,} batches that "
        f"ended more than {settings.retention_days:,} days ago and of {pruned.orphans:,} orphaned folders, "
        f"{pruned.runs:,} Dagster runs older than {settings.run_retention_days:,} days, with their events, "
        f"{pruned.change_days:,} days of changes older than {settings.changes_days:,} days, and "
        f"{pruned.webhook_events:,} events for webhooks older than {settings.retention_days:,} days.",
        soft_wrap=True,
    )


class _Reporter:
    """Prints progress every few seconds."""

    def __init__(self) -> None:
        self._reported_at = time.monotonic()

    def __call__(self, so_far: "Pruned") -> None:
        if time.monotonic() - self._reported_at >= REPORT_SECONDS:
            self._reported_at = time.monotonic()
            say(f"{so_far.batches:,} batches, {so_far.files.number:,} files, {so_far.runs:,} runs …")
