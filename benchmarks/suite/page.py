"""The page docs/performance.md: text, tables and plot, all from the stored results."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import median

from benchmarks.suite.cases import CASES, FULL_ROWS
from benchmarks.suite.contacts import PSQL
from benchmarks.suite.marks import MARKS, Mark
from benchmarks.suite.plot import write_plot
from benchmarks.suite.results import ONCE, Measured, Results
from benchmarks.suite.world import WAL_LEVELS

PHASES = ("parsing", "validation", "processing", "cleanup")
PLOT = "images/performance.svg"

_INTRODUCTION = """\
<!-- Made by `python -m benchmarks.suite` from {source}: change the suite, not this page. -->

# Performance

How long batches take beside the same work in psql and in dlt, and whether the marks are met. All figures come from one
program on one machine, and `make bench` measures them again.
"""

_TIMES = """\
Seconds: median (least to most). "Ratio" is the median of the rounds' ratios of the run and psql's time for the same
work. Where psql does not take part, it is the ratio to the case's first contestant.
"""

_METHOD = """\
## How it is measured

- PostgreSQL, the S3 server and the run share the machine. The server has the settings of the local system, once with
  `wal_level` minimal, as there, and once with replica, PostgreSQL's default.
- The contestants of a case take turns in each round, and each round begins with another one. Before each measurement
  the tables get the same content, `VACUUM ANALYZE` and a checkpoint. After it the suite checks that the work was done.
- **ours** is `batch-pipeline run` with running servers. The run begins when the batch is accepted and ends with its
  last phase. The upload is parsed, checked against all rules, matched with the records and written; the change log and
  the artifacts are written as well. The command adds the start of Python and Dagster, and the upload to S3. Its run
  parses a local copy of the file. A run that Dagster launches fetches the file from S3 first: 0.35 s for 108 MB.
- **psql** is `COPY` into a temporary table and one `INSERT … ON CONFLICT DO UPDATE` into the same table. It gets the
  ids of the records ready-made, checks nothing and keeps no history. "psql, all new" does so into an empty table.
- **dlt** reads the file with pyarrow and merges it with its strategy "upsert" into its own table in another database
  of the same server. It checks nothing and keeps no history. Its time is that of the pipeline without the start of
  Python. "dlt with our indexes" has the four indexes that identify our records on its table.
- Processor's seconds are user and system time: of the command's process, and of all processes of PostgreSQL. Memory
  is the peak of the command's process.
"""

_USAGE = """\
## Measure it again

```bash
make bench                                     # all cases at full size, then this page
python -m benchmarks.suite --rows 100000       # the same at a tenth of the size
python -m benchmarks.suite --cases all_new none_changed --rounds 5 --wal-level replica
python -m benchmarks.suite --page-only         # this page again, from the stored results
```

Results are stored after each measurement in `.benchmarks/results.json` (`--results`). The same command continues an
interrupted suite. `--anew` drops the results of the chosen cases first. dlt is installed into an environment of its own
in the user's cache folder; `--without-dlt` leaves it out.
"""


def write_page(results: Results, page: Path) -> None:
    """Writes the page, its plot beside it in `images/`, and the results as JSON under the page's name."""
    page.parent.mkdir(parents=True, exist_ok=True)
    source = page.with_suffix(".json")
    results.save(source)
    has_plot = write_plot(results, page.parent / PLOT)
    page.write_text(page_text(results, source=source.name, has_plot=has_plot), encoding="utf-8")


def page_text(results: Results, *, source: str, has_plot: bool) -> str:
    """The page in Markdown."""
    parts = [
        _INTRODUCTION.format(source=source),
        "\n".join(_machine(results)),
        "\n".join(_marks(results)),
        f"## Plot\n\n![Milliseconds for 1,000 rows, by case and contestant]({PLOT})\n" if has_plot else "",
        "\n".join(_times(results)),
        "\n".join(_phases(results)),
        "\n".join(_services(results)),
        _METHOD,
        _USAGE,
    ]
    return "\n".join(part for part in parts if part)


def _machine(results: Results) -> Iterator[str]:
    measured = [each for levels in results.cases.values() for each in levels.values() if each.rounds]
    rounds = sorted({len(each.rounds) for each in measured})
    yield "## Machine and size\n"
    yield from _table(("what", "value"), results.machine.items())
    yield ""
    dates = sorted({each.date for each in measured})
    yield f"- Rows: {results.rows:,}. Rounds: {_range(rounds)}. Dates: {_range(dates)}."
    yield f"- Commits: {', '.join(sorted({f'`{each.commit}`' for each in measured}))}."
    for reason in sorted(set(results.missing.values())):
        names = [name for name, other in results.missing.items() if other == reason]
        yield f"- Not measured: {', '.join(names)} ({reason})."
    if lacking := [name for name in CASES if not any(each.rounds for each in results.cases.get(name, {}).values())]:
        yield f"- Cases not measured: {', '.join(f'`{name}`' for name in lacking)}."
    if results.rows != FULL_ROWS:
        yield f"- **This is a reduced size.** The marks are for {FULL_ROWS:,} rows."
    yield ""


def _marks(results: Results) -> Iterator[str]:
    yield "## Marks\n"
    yield "Medians of the rounds' values; a ratio is taken within each round. Lower is better.\n"
    rows = [row for mark in MARKS for row in _judged(mark, results)]
    yield from _table(("figure", "`wal_level`", "measured", "mark", "met"), rows)
    yield ""


def _judged(mark: Mark, results: Results) -> Iterator[tuple[str, ...]]:
    for level, measured in _levels(results, mark.case):
        value, limit = mark.value(measured), mark.limit_of(measured)
        if value is None:
            continue
        met = "" if limit is None else "yes" if value <= limit else "**no**"
        yield mark.text, _level(level), _quantity(value, mark.unit), _limit(limit, mark.unit), met


def _times(results: Results) -> Iterator[str]:
    yield "## Times\n"
    yield _TIMES
    header = ("contestant", "run s", "ratio", "command s", "processor s", "PostgreSQL's processor s", "peak MB")
    for name, case in CASES.items():
        for level, measured in _levels(results, name):
            if not case.by_wal_level:
                continue
            yield f"### {case.heading(results.rows)}, {_level(level)} (`{name}`)\n"
            rows = []
            base = PSQL if PSQL in measured.contestants else measured.contestants[0]
            for contestant in measured.contestants:
                if not measured.values(contestant, "seconds"):
                    continue
                ratios = [] if contestant == base else measured.ratios(contestant, base)
                rows.append(
                    (
                        contestant,
                        _spread(measured.values(contestant, "seconds")),
                        f"{median(ratios):.2f}" if ratios else "",
                        _spread(measured.values(contestant, "command_seconds")),
                        _spread(measured.values(contestant, "processor_seconds")),
                        _spread(measured.values(contestant, "database_seconds")),
                        f"{max(measured.values(contestant, 'memory_megabytes')):.0f}",
                    )
                )
            yield from _table(header, rows)
            yield ""


def _phases(results: Results) -> Iterator[str]:
    rows = []
    for name in CASES:
        for level, measured in _levels(results, name):
            for contestant in measured.contestants:
                phases = [each[contestant].phases for each in measured.rounds if contestant in each]
                if not any(phases):
                    continue
                middles = (_middle([each[phase] for each in phases if phase in each]) for phase in PHASES)
                rows.append((f"`{name}`{', ' if _level(level) else ''}{_level(level)}", contestant, *middles))
    if not rows:
        return
    yield "## Phases\n"
    yield "Seconds of each phase of our runs, medians. The rest of a run is before, between and after its phases.\n"
    yield from _table(("case", "contestant", *PHASES), rows)
    yield ""


def _services(results: Results) -> Iterator[str]:
    rows = []
    for name, case in CASES.items():
        for _, measured in _levels(results, name):
            if case.by_wal_level:
                continue
            for contestant in measured.contestants:
                samples = [each[contestant] for each in measured.rounds if contestant in each]
                if not samples:
                    continue
                figures = ["command_seconds"] if samples[0].command_seconds is not None else ["seconds"]
                figures += samples[0].figures
                for figure in figures:
                    label = "s" if figure.endswith("seconds") else figure
                    rows.append(
                        (case.heading(results.rows), contestant, label, _spread(measured.values(contestant, figure)))
                    )
    if not rows:
        return
    yield "## Calls, files and commands\n"
    yield from _table(("case", "contestant", "figure", "median (least to most)"), rows)
    yield ""


def _levels(results: Results, case: str) -> Iterator[tuple[str, Measured]]:
    """The levels at which the case has results."""
    for level in (*WAL_LEVELS, ONCE):
        measured = results.cases.get(case, {}).get(level)
        if measured is not None and measured.rounds:
            yield level, measured


def _middle(values: Sequence[float]) -> str:
    return f"{median(values):.2f}" if values else ""


def _level(level: str) -> str:
    return "" if level == ONCE else level


def _quantity(value: float, unit: str) -> str:
    return f"{value:.2f} {unit}" if unit in ("times", "s") else f"{value:.0f} {unit}"


def _limit(limit: float | None, unit: str) -> str:
    return "" if limit is None else f"≤ {_quantity(limit, unit)}"


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    digits = 0 if min(values) >= 100 else 1 if min(values) >= 10 else 2
    middle, least, most = (f"{value:.{digits}f}" for value in (median(values), min(values), max(values)))
    return middle if len(values) == 1 else f"{middle} ({least} to {most})"


def _range(values: Sequence[object]) -> str:
    if not values:
        return "none"
    return str(values[0]) if len(values) == 1 else f"{values[0]} to {values[-1]}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
