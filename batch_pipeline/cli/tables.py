"""Batches and their rejected items as tables that people read."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from batch_pipeline.batches.model import Batch, Stats
from batch_pipeline.cli.console import one_line, printable

STATUS_STYLES = {
    "completed": "green",
    "failed": "bold red",
    "timed_out": "bold red",
    "expired": "red",
    "processing": "cyan",
    "running": "cyan",
    "skipped": "dim",
    "pending": "dim",
}
_CELL_CHARACTERS = 120
_WIDE = 120  # columns of a terminal that show all there is about a batch on one line


@dataclass(frozen=True)
class Rejection:
    """One error of a rejected item, as errors.json has it."""

    row: int
    code: str
    field: str | None
    message: str


def status_text(status: str) -> Text:
    """A batch's or a phase's status in its colour."""
    return Text(status, style=STATUS_STYLES.get(status, ""))


def batch_view(batch: Batch, *, with_reason: bool = True) -> RenderableType:
    """A batch with its counts and phases."""
    parts: list[RenderableType] = [_heading(batch)]
    if with_reason and batch.reason is not None:
        parts.append(Text(f"{batch.reason.code}: {one_line(batch.reason.message)}", style="red"))
    return Group(*parts, "", _stats_table(batch.stats), _phases_table(batch))


def batches_table(batches: Iterable[Batch], width: int) -> Table:
    """One line per batch; the id is always whole, and what does not fit into `width` characters is left out."""
    wide = width >= _WIDE
    table = Table()
    table.add_column("batch", no_wrap=True, min_width=28)
    table.add_column("name", no_wrap=True, overflow="ellipsis")
    if wide:
        for name in ("what", "created"):
            table.add_column(name, no_wrap=True)
    table.add_column("status")
    for name in ("items", "rejected"):
        table.add_column(name, justify="right")
    for batch in batches:
        status = status_text(batch.status)
        if batch.reason is not None:
            status.append(f" {batch.reason.code}", style="default")
        table.add_row(
            batch.id,
            Text(one_line(batch.name)),
            *((_what(batch), _time(batch.created_at)) if wide else ()),
            status,
            f"{batch.stats.items_read:,}",
            f"{batch.stats.rejected:,}",
        )
    return table


def rejections_table(rejections: Sequence[Rejection], title: str) -> Table:
    """Rejected items' errors: row, field, code, message."""
    table = Table(title=title, title_justify="left")
    table.add_column("row", justify="right")
    for name in ("field", "code", "message"):
        table.add_column(name, overflow="fold")
    for each in rejections:
        message = printable(each.message)
        if len(message) > _CELL_CHARACTERS:
            message = f"{message[: _CELL_CHARACTERS - 1]}…"
        table.add_row(f"{each.row:,}", Text(printable(each.field or "")), each.code, Text(message))
    return table


def read_rejections(blocks: Iterable[bytes], limit: int) -> list[Rejection]:
    """The first `limit` errors of an errors.json, which has one item per line; reads no more blocks than it takes."""
    found: list[Rejection] = []
    for entry in _entries(blocks):
        for error in entry["errors"]:
            if len(found) == limit:
                return found
            found.append(Rejection(entry["row"], error["code"], error["field"], error["message"]))
    return found


def _entries(blocks: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    rest = b""
    for block in blocks:
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            text = line.strip().rstrip(b",")
            if text not in (b"", b"[", b"]", b"[]"):
                yield json.loads(text)


def _heading(batch: Batch) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_row("batch", batch.id)
    grid.add_row("name", Text(one_line(batch.name)))
    grid.add_row("what", f"{_what(batch)}, organization {batch.organization_id or '?'}")
    grid.add_row("created", _time(batch.created_at))
    grid.add_row("status", status_text(batch.status))
    if batch.attempts > 1:
        grid.add_row("attempts", str(batch.attempts))
    return grid


def _stats_table(stats: Stats) -> Table:
    table = Table()
    table.add_column("items", justify="right")
    values = [stats.items_read]
    for field in fields(Stats):
        table.add_column(field.name, justify="right")
        values.append(getattr(stats, field.name))
    table.add_row(*(f"{value:,}" for value in values))
    return table


def _phases_table(batch: Batch) -> Table:
    table = Table("phase", "status")
    for name in ("total", "success", "error", "seconds"):
        table.add_column(name, justify="right")
    told = None if batch.reason is None else batch.reason.message
    reasons = [None if phase.reason == told else phase.reason for phase in batch.phases]
    if any(reasons):
        table.add_column("reason")
    for phase, reason in zip(batch.phases, reasons, strict=True):
        cells: list[RenderableType] = [
            phase.name.value,
            status_text(phase.status.value),
            "" if phase.total is None else f"{phase.total:,}",
            f"{phase.success:,}",
            f"{phase.error:,}",
            "" if phase.seconds is None else f"{phase.seconds:.2f}",
        ]
        table.add_row(*cells, *([Text(one_line(reason or ""))] if any(reasons) else []))
    return table


def _what(batch: Batch) -> str:
    return f"{'?' if batch.action is None else batch.action.value} {batch.resource or '?'}"


def _time(moment: datetime) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")
