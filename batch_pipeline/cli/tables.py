"""Tables of batches and of their rejected items."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from rich.box import SIMPLE
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from batch_pipeline.batches.model import Batch, PhaseStatus
from batch_pipeline.cli.console import one_line, printable

STATUS_STYLES = {
    "completed": "green",
    "failed": "bold red",
    "timed_out": "bold red",
    "expired": "red",
    "planned": "magenta",
    "processing": "cyan",
    "running": "cyan",
    "skipped": "dim",
    "pending": "dim",
}
_CELL_CHARACTERS = 120
_WIDE = 130  # columns of a terminal in which a batch's name and counts also fit


@dataclass(frozen=True)
class Rejection:
    """One error of a rejected item in errors.json."""

    row: int
    code: str
    field: str | None
    message: str


def status_text(status: str) -> Text:
    """A status, of a batch or a phase, in its colour."""
    return Text(status, style=STATUS_STYLES.get(status, ""))


def batch_view(batch: Batch, *, with_reason: bool = True) -> RenderableType:
    """A batch with its run, counts and phases."""
    parts: list[RenderableType] = [_heading(batch)]
    if with_reason and batch.reason is not None:
        parts.append(Text(f"{batch.reason.code}: {one_line(batch.reason.message)}", style="red"))
    parts += [Text(f"{each['code']}: {one_line(each['message'])}", style="yellow") for each in batch.facts.warnings]
    return Group(*parts, "", _stats_table(batch), _phases_table(batch))


def batches_table(batches: Iterable[Batch], width: int, *, with_organization: bool = False) -> Table:
    """One line per batch, without name and counts on a terminal of less than `_WIDE` columns."""
    wide = width >= _WIDE
    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column("batch", no_wrap=True, min_width=28)
    if with_organization:
        table.add_column("organization", overflow="fold")
    if wide:
        table.add_column("name", no_wrap=True, overflow="ellipsis")
    for name in ("resource", "action"):
        table.add_column(name, no_wrap=True)
    table.add_column("status")
    for name in ("age", "duration", *(("items", "rejected") if wide else ())):
        table.add_column(name, justify="right", no_wrap=True)
    for batch in batches:
        status = status_text(batch.status)
        if batch.reason is not None:
            status.append(f" {batch.reason.code}", style="default")
        cells: list[str | Text] = [batch.id]
        if with_organization:
            cells.append(batch.organization_id or "?")
        if wide:
            cells.append(Text(one_line(batch.name)))
        cells += [batch.resource or "?", _action_text(batch), status]
        cells += [age_text(datetime.now(UTC) - batch.created_at), duration_text(duration_seconds(batch))]
        if wide:
            cells += [f"{batch.items:,}", f"{batch.stats.rejected:,}"]
        table.add_row(*cells)
    return table


def duration_seconds(batch: Batch) -> float:
    """Seconds of the phases and of writing artifacts so far, without waiting for the turn."""
    now = datetime.now(UTC).timestamp()
    running = [
        now - phase.started_at
        for phase in batch.phases
        if phase.status is PhaseStatus.running and phase.started_at is not None
    ]
    phases = sum(phase.seconds or 0.0 for phase in batch.phases if phase.status is not PhaseStatus.running)
    return phases + sum(running) + sum(artifact.seconds or 0.0 for artifact in batch.facts.artifacts)


def age_text(age: timedelta) -> str:
    """An age in its largest unit, in the form of `--since`: "5m", "3h", "12d"."""
    seconds = max(int(age.total_seconds()), 0)
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def duration_text(seconds: float) -> str:
    """A duration: "0.42 s", "12.3 s", "2:05", "1:02:05"."""
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def rejections_table(rejections: Sequence[Rejection], title: str) -> Table:
    """The errors of rejected items: row, field, code, message."""
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


def error_groups_table(summary: dict[str, Any], *, most: int) -> Table:
    """The errors of a batch by field and code, the largest groups first, and how many errors are in further ones."""
    table = Table(title=f"Errors by field and code: {summary['errors']:,}", title_justify="left")
    table.add_column("errors", justify="right", no_wrap=True)
    for name in ("field", "code", "first rows", "suggestion"):
        table.add_column(name, overflow="fold")
    for group in summary["groups"][:most]:
        rows = ", ".join(f"{row:,}" for row in group["rows"])
        more = ", …" if group["count"] > len(group["rows"]) else ""
        cells = [printable(group["field"] or ""), group["code"], f"{rows}{more}", printable(group["suggestion"] or "")]
        table.add_row(f"{group['count']:,}", *map(Text, cells))
    left = summary["errors"] - sum(group["count"] for group in summary["groups"][:most])
    if left:
        table.add_row(f"{left:,}", "others", "", "", "")
    return table


def read_rejections(blocks: Iterable[bytes], limit: int) -> list[Rejection]:
    """The first `limit` errors of an errors.json, which has one item per line; reads only the blocks that hold them."""
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
    grid.add_row("organization", batch.organization_id or "?")
    grid.add_row("action", f"{_action_text(batch)} {batch.resource or '?'}")
    age = age_text(datetime.now(UTC) - batch.created_at)
    grid.add_row("created", f"{batch.created_at.astimezone():%Y-%m-%d %H:%M:%S} ({age} ago)")
    grid.add_row("status", status_text(batch.status))
    grid.add_row("attempts", f"{batch.attempts:,}")
    if batch.next_attempt_at is not None:
        grid.add_row("runs again", f"{batch.next_attempt_at.astimezone():%Y-%m-%d %H:%M:%S}, by itself")
    grid.add_row("run", batch.run_id or "none yet")
    grid.add_row("duration", duration_text(duration_seconds(batch)))
    return grid


def _stats_table(batch: Batch) -> Table:
    table = Table()
    values = {"items": batch.items, **batch.counts}
    for name in values:
        table.add_column(name, justify="right")
    table.add_row(*(f"{value:,}" for value in values.values()))
    return table


def _phases_table(batch: Batch) -> Table:
    table = Table("phase", "status")
    for name in ("total", "success", "error", "seconds"):
        table.add_column(name, justify="right")
    batch_reason = None if batch.reason is None else batch.reason.message
    reasons = [None if phase.reason == batch_reason else phase.reason for phase in batch.phases]
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
    for artifact in batch.facts.artifacts:
        ended = artifact.seconds is not None
        seconds = "" if artifact.seconds is None else f"{artifact.seconds:.2f}"
        status = status_text("completed" if ended else "running" if batch.status == "processing" else batch.status)
        table.add_row(artifact.files, status, f"{artifact.total:,}", "", "", seconds)
    return table


def _action_text(batch: Batch) -> str:
    return "?" if batch.action is None else batch.action.value
