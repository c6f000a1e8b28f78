"""The command `demo`: runs the demonstration of `local.demo`, shows it, and compares its numbers."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.live import Live
from rich.table import Table
from rich.text import Text

from batch_pipeline.cli.console import data_console, message_console, one_line, say, say_error
from batch_pipeline.cli.flags import DEFAULT_DATA_DIR, DataDir
from batch_pipeline.cli.interrupts import stopping_in_order
from batch_pipeline.cli.progress import step
from batch_pipeline.cli.session import check_data_dir
from batch_pipeline.settings import get_settings

if TYPE_CHECKING:
    from batch_pipeline.local.demo import DemoSystem, Outcome
    from batch_pipeline.local.demo_plans import Step

# Not the folder of `up` and `run`: a demonstration can run beside them and be deleted.
DEMO_DATA_DIR = DEFAULT_DATA_DIR / "demo"
_REJECTIONS_SHOWN = 12
_CONFIGURATION = ("BATCH_", "AWS_", "DAGSTER_")


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("demo")(demo)


def demo(
    data_dir: DataDir = DEMO_DATA_DIR,
    rows: Annotated[int, typer.Option(help="Rows of the large sample file.", min=1_000, max=5_000_000)] = 100_000,
) -> None:
    """Run sample files through the local system.

    It checks every number of their batches. Settings in the environment are ignored.
    """
    with step("preparing the demonstration"):
        from batch_pipeline.local.demo import demo_system, differences, process_samples
        from batch_pipeline.local.demo_plans import plan_apply_undo
        from batch_pipeline.local.samples import load_samples
        from batch_pipeline.local.supervision import ServiceEndedError

        check_data_dir(data_dir)
    began = time.monotonic()
    with stopping_in_order(), _nothing_configured(), demo_system(data_dir, report=say) as running:
        samples = load_samples(rows)
        say(f"Ready after {time.monotonic() - began:.0f} s: Dagster UI at {running.local.dagster_url}")
        say(f"Sample files go into {_short(running.servers.inbox / running.organization)}")
        try:
            with _shown() as show:
                outcomes = process_samples(running, samples, show)
            _print_summary(running, outcomes, data_dir)
            steps = plan_apply_undo(running, _print_step)
        except ServiceEndedError as error:
            say_error(error.message)
            raise typer.Exit(1) from None
        wrong = [f"{outcome.sample.title}: {each}" for outcome in outcomes for each in differences(running, outcome)]
        wrong += [step.difference for step in steps if step.difference is not None]
    for line in wrong:
        say_error(line)
    if wrong:
        raise typer.Exit(1)
    data_console().print(f"Every number is as expected. It took {time.monotonic() - began:.0f} s.")


@contextmanager
def _nothing_configured() -> Iterator[None]:
    """Hides the configured deployment, so that no sample data get into its database."""
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith(_CONFIGURATION)}
    get_settings.cache_clear()
    try:
        yield
    finally:
        os.environ.update(hidden)
        get_settings.cache_clear()


@contextmanager
def _shown() -> "Iterator[Callable[[Sequence[Outcome]], None]]":
    """On a terminal, a table that is updated; otherwise a line for each change of a status."""
    console = message_console()
    if console.is_terminal:
        with Live(console=console, transient=True, refresh_per_second=8) as live:
            yield lambda outcomes: live.update(_progress_table(outcomes))
        return
    printed: dict[str, str] = {}

    def print_changes(outcomes: "Sequence[Outcome]") -> None:
        for outcome in outcomes:
            status = _stage(outcome)
            if printed.get(outcome.sample.title) != status:
                printed[outcome.sample.title] = status
                say(f"{outcome.sample.title}: {status}")

    yield print_changes


def _progress_table(outcomes: "Sequence[Outcome]") -> Table:
    from batch_pipeline.cli.tables import status_text

    table = Table("file", "status", "phase")
    table.add_column("items", justify="right")
    for outcome in outcomes:
        batch = outcome.batch
        if batch is None:
            table.add_row(outcome.sample.title, Text(_stage(outcome), "dim"))
            continue
        phase = next((phase for phase in batch.phases if phase.status == "running"), None)
        of_total = "" if phase is None or phase.total is None else f" of {phase.total:,}"
        table.add_row(
            outcome.sample.title,
            status_text(batch.status),
            "" if phase is None else phase.name.value,
            "" if phase is None else f"{phase.processed:,}{of_total}",
        )
    return table


def _stage(outcome: "Outcome") -> str:
    if outcome.batch is not None:
        return outcome.batch.status
    sample = outcome.sample
    if sample.made_of is not None:
        return f"waits for {sample.made_of}"
    return "waits in the inbox" if sample.after is None else f"waits for {sample.after}"


def _print_summary(running: "DemoSystem", outcomes: "Sequence[Outcome]", data_dir: Path) -> None:
    from batch_pipeline.cli.tables import read_rejections, rejections_table
    from batch_pipeline.local.demo import errors_file
    from batch_pipeline.storage import keys

    console = data_console()
    console.print(_summary_table(outcomes))
    first = outcomes[0].batch
    if first is not None and first.has_errors_file:
        blocks = running.system.store.stream(keys.errors_json(first.id))
        title = f"First rejected rows of {outcomes[0].sample.title}"
        console.print(rejections_table(read_rejections(blocks, _REJECTIONS_SHOWN), title))
        console.print("Where to look next:")
        where = f"--organization {running.organization} --data-dir {data_dir}"
        for line in (
            f"all rejected rows:   {_short(errors_file(running, first))}",
            f"one of the batches:  batch-pipeline show {first.id} {where}",
            f"the Dagster UI:      batch-pipeline up --data-dir {data_dir}",
        ):
            console.print(f"  {line}", soft_wrap=True)
    for outcome in outcomes:
        if outcome.batch is not None and outcome.batch.reason is not None:
            reason = outcome.batch.reason
            text = Text(f"{outcome.sample.title} was refused ({reason.code}): {one_line(reason.message)}")
            console.print(text, soft_wrap=True)


def _print_step(step: "Step") -> None:
    """One line, and the plan of a batch that shows one."""
    from batch_pipeline.cli.plan_tables import plan_view

    console = data_console()
    counts = ", ".join(f"{count:,} {name}" for name, count in step.expected[1].items())
    if step.batch.status == "planned" and step.batch.plan is not None:
        console.print(f"\nPlan, apply, undo: {step.title}:")
        console.print(plan_view(step.batch.plan))
    else:
        console.print(f"\nPlan, apply, undo: {step.title}: {counts}")


def _summary_table(outcomes: "Sequence[Outcome]") -> Table:
    from batch_pipeline.cli.tables import status_text

    table = Table(
        "file", "resource", "action", "status", title="Outcome of the files", title_justify="left", box=SIMPLE_HEAD
    )
    for name in ("created", "updated", "unchanged", "deleted", "rejected", "duplicates", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    club_began = False
    for outcome in outcomes:
        if outcome.sample.is_clubs and not club_began:
            table.add_section()
            club_began = True
        batch = outcome.batch
        if batch is None:
            table.add_row(outcome.sample.title, outcome.sample.resource, outcome.sample.action, "never taken in")
            continue
        stats = batch.stats
        counts = (
            stats.created,
            stats.updated,
            stats.unchanged,
            stats.deleted + stats.overwritten,
            stats.rejected,
            stats.duplicates,
        )
        table.add_row(
            outcome.sample.title,
            outcome.sample.resource,
            outcome.sample.action,
            status_text(batch.status),
            *(f"{count:,}" if count else "" for count in counts),
            f"{sum(phase.seconds or 0 for phase in batch.phases):.1f}",
        )
    return table


def _short(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
