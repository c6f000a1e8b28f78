"""Commands that read the change log: `history` of a record, `changes` of a batch."""

import json as json_text
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batch_pipeline.cli.batches import find_batch
from batch_pipeline.cli.console import data_console, one_line, print_json
from batch_pipeline.cli.flags import (
    DEFAULT_DATA_DIR,
    DEFAULT_ORGANIZATION,
    BatchId,
    DataDir,
    Json,
    OrganizationName,
)
from batch_pipeline.cli.help import RESOURCES
from batch_pipeline.cli.session import open_ledger
from batch_pipeline.errors import NotFoundError
from batch_pipeline.records.registry import check_resource
from batch_pipeline.settings import get_settings

if TYPE_CHECKING:
    from rich.table import Table

    from batch_pipeline.history.model import Change, FieldChange

_CELL_CHARACTERS = 60

Page = Annotated[int, typer.Option("--page", metavar="NUMBER", help="Page, from 1.", min=1)]
Limit = Annotated[int, typer.Option("--limit", metavar="NUMBER", help="Lines per page.", min=1, max=1000)]


def add_to(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("history")(history)
    app.command("changes")(changes)


def history(
    resource: Annotated[str, typer.Argument(metavar="RESOURCE", help=f"Resource of the record: {RESOURCES}.")],
    record_id: Annotated[str, typer.Argument(metavar="ID", help="The record's id.")],
    *,
    page: Page = 1,
    limit: Limit = 25,
    organization: OrganizationName = DEFAULT_ORGANIZATION,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    json: Json = False,
) -> None:
    """Show who changed what in a record, newest first.

    It reaches back BATCH_CHANGES_DAYS. A deleted record has its history as well.
    """
    check_resource(resource)
    with open_ledger(data_dir) as (_, engine):
        from batch_pipeline.batches.organizations import get_organization
        from batch_pipeline.history.reading import record_history

        get_organization(engine, organization)
        found = record_history(
            engine,
            organization,
            resource,
            record_id,
            changes_days=get_settings().changes_days,
            page=page,
            limit=limit,
        )
    if json:
        print_json([entry.to_json() for entry in found.entries])
        return
    table = _table("by")
    for entry in found.entries:
        batch = entry.change.batch_id or "outside of batches"
        table.add_row(*_moment_and_row(entry.change), batch, entry.by or "", *_cells(entry.change, entry.field))
    _print(table, len(found.entries), found.total_count, has_more=found.has_more, page=page)


def changes(
    batch_id: BatchId,
    *,
    page: Page = 1,
    limit: Limit = 25,
    organization: OrganizationName = DEFAULT_ORGANIZATION,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    json: Json = False,
) -> None:
    """Show what a batch changed: updates and deletions, then created records, then members and groups."""
    with open_ledger(data_dir) as (ledger, engine):
        from batch_pipeline.history.model import FieldChange
        from batch_pipeline.history.reading import batch_changes

        batch = find_batch(ledger, batch_id, organization)
        if batch.resource is None or batch.organization_id is None:
            raise NotFoundError("batch_not_found", f"Batch {batch_id} has changed nothing: it has no resource.")
        found = batch_changes(engine, batch, changes_days=get_settings().changes_days, page=page, limit=limit)
    if json:
        print_json(found.to_json())
        return
    table = _table()
    for change in found.changes:
        for field in change.fields or (FieldChange(None, None, None),):
            table.add_row(*_moment_and_row(change), change.record_id, *_cells(change, field))
    _print(table, len(found.changes), found.total_count, has_more=found.has_more, page=page)


def _table(*further: str) -> "Table":
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column("at", no_wrap=True)
    table.add_column("row", justify="right")
    table.add_column("batch" if further else "record", no_wrap=True)
    for name in (*further, "change", "field", "before", "after"):
        table.add_column(name, overflow="fold")
    return table


def _moment_and_row(change: "Change") -> tuple[str, str]:
    return f"{change.at.astimezone():%Y-%m-%d %H:%M:%S}", "" if change.row is None else f"{change.row:,}"


def _cells(change: "Change", field: "FieldChange") -> Iterable[str]:
    return change.kind.value, one_line(field.field or ""), _value_text(field.before), _value_text(field.after)


def _value_text(value: Any) -> str:
    """The value on one line; long ones are cut."""
    if value is None:
        return ""
    text = one_line(value if isinstance(value, str) else json_text.dumps(value, ensure_ascii=False))
    return text if len(text) <= _CELL_CHARACTERS else f"{text[: _CELL_CHARACTERS - 1]}…"


def _print(table: "Table", shown: int, total: int, *, has_more: bool, page: int) -> None:
    console = data_console()
    console.print(table if shown else "No changes.")
    if has_more:
        console.print(f"{shown:,} of {total:,}; further ones: --page {page + 1}")
