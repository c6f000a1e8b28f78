"""The plan of a batch on the terminal."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.box import SIMPLE
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from batch_pipeline.cli.console import one_line, printable

_SHOWN = 10  # of deletions and differences; the plan's files have all
_VALUE_CHARACTERS = 60
_COUNT_STYLES = {
    "create": "green",
    "update": "cyan",
    "unchanged": "",
    "delete": "red",
    "overwrite": "red",
    "reject": "yellow",
    "duplicate": "",
}


def plan_view(plan: Mapping[str, Any]) -> RenderableType:
    """Warnings, counts, changes by field, samples, deletions and differences; parts without content are left out."""
    parts: list[RenderableType] = [
        Text.assemble(("Warning ", "bold yellow"), (warning["code"], "yellow"), f": {one_line(warning['message'])}")
        for warning in plan["warnings"]
    ]
    parts.append(_counts_table(plan["counts"]))
    if plan["fields"]:
        parts.append(_fields_table(plan["fields"]))
    if plan["samples"]:
        parts.append(_samples_table(plan["samples"]))
    if plan["deletions"]:
        total = plan["counts"]["delete"] + plan["counts"]["overwrite"]
        parts.append(_deletions_table(plan["deletions"], total))
    if plan.get("difference"):
        parts.append(_difference_table(plan["difference"]))
    expires = datetime.fromtimestamp(plan["expires_at"]).astimezone()
    parts.append(Text(f"The plan can be applied until {expires:%Y-%m-%d %H:%M}.", style="dim"))
    return Group(*parts)


def _counts_table(counts: Mapping[str, int]) -> Table:
    table = Table(title="What the batch would do", title_justify="left")
    shown = {name: (counts[name], style) for name, style in _COUNT_STYLES.items()}
    for name in shown:
        table.add_column(name, justify="right")
    table.add_row(*(Text(f"{count:,}", style=style if count else "dim") for count, style in shown.values()))
    return table


def _fields_table(fields: Mapping[str, int]) -> Table:
    table = Table("field", box=SIMPLE, pad_edge=False)
    table.add_column("records that change", justify="right")
    for name, count in sorted(fields.items(), key=lambda each: -each[1]):
        table.add_row(name, f"{count:,}")
    return table


def _samples_table(samples: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="Samples of changes", title_justify="left")
    table.add_column("row", justify="right")
    table.add_column("field")
    table.add_column("before", overflow="fold")
    table.add_column("after", overflow="fold")
    for each in samples:
        table.add_row(f"{each['row']:,}", each["field"], _value_text(each["before"]), _value_text(each["after"]))
    return table


def _deletions_table(deletions: Sequence[Mapping[str, Any]], total: int) -> Table:
    table = Table(title=f"Records that would be deleted: {total:,}", title_justify="left", title_style="bold red")
    table.add_column("id", no_wrap=True)
    table.add_column("external id", overflow="fold")
    for each in deletions[:_SHOWN]:
        table.add_row(Text(printable(each["id"])), Text(printable(each["external_id"] or "")))
    if total > _SHOWN:
        table.add_row(f"and {total - min(_SHOWN, len(deletions)):,} more", "")
    return table


def _difference_table(difference: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="Different from the plan shown before", title_justify="left", title_style="bold yellow")
    for name in ("row or record", "was", "now"):
        table.add_column(name, overflow="fold")
    for each in difference[:_SHOWN]:
        place = each["id"] if each["row"] is None else f"{each['row']:,}"
        table.add_row(Text(printable(place)), _line_text(each["was"]), _line_text(each["now"]))
    if len(difference) > _SHOWN:
        table.add_row("more: see plan.csv", "", "")
    return table


def _line_text(line: Mapping[str, Any] | None) -> Text:
    if line is None:
        return Text("no line", style="dim")
    changes = [
        Text.assemble(f"\n{each['field']}: ", _value_text(each["before"]), " → ", _value_text(each["after"]))
        for each in line["changes"] or ()
    ]
    return Text.assemble(line["outcome"], *changes)


def _value_text(value: Any) -> Text:
    if value is None:
        return Text("(empty)", style="dim")
    text = printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    return Text(text if len(text) <= _VALUE_CHARACTERS else f"{text[: _VALUE_CHARACTERS - 1]}…")
