"""The marks that the figures are compared with."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from benchmarks.suite import services
from benchmarks.suite.contacts import CLEAN, DISTINCT, DLT, DLT_INDEXED, OURS, PSQL, PSQL_NEW, SAME_ROWS
from benchmarks.suite.results import Measured

Value = Callable[[Measured], "float | None"]


@dataclass(frozen=True)
class Mark:
    """A limit for a figure of one case. `limit` None: the figure is stated only."""

    case: str
    text: str
    value: Value
    limit: float | Value | None
    unit: str = "times"

    def limit_of(self, measured: Measured) -> float | None:
        """The limit, where it depends on other figures of the case."""
        return self.limit(measured) if callable(self.limit) else self.limit


def ratio(other: str, *, figure: str = "seconds") -> Value:
    """The median of the rounds' ratios of ours and another contestant."""
    return lambda measured: _median(measured.ratios(OURS, other, figure))


def figure(name: str, *, of: str = OURS) -> Value:
    """The median of a figure."""
    return lambda measured: _median(measured.values(of, name))


def _median(values: list[float]) -> float | None:
    return median(values) if values else None


def _most(values: list[float]) -> float | None:
    return max(values, default=None)


def _overhead(contestant: str) -> Value:
    """Seconds of the command that are not the run's."""

    def value(measured: Measured) -> float | None:
        commands, runs = measured.values(contestant, "command_seconds"), measured.values(contestant, "seconds")
        return _median([command - run for command, run in zip(commands, runs, strict=True)])

    return value


def _beside(of: str, factor: float, added: float) -> Value:
    """A limit of so many times another command's time, and some seconds."""

    def value(measured: Measured) -> float | None:
        middle = _median(measured.values(of, "command_seconds"))
        return None if middle is None else factor * middle + added

    return value


def _sync(measured: Measured) -> float | None:
    both = zip(measured.values(OURS, "seconds"), measured.values(OURS, "empty job, kept connections s"), strict=True)
    return _median([mine / empty for mine, empty in both])


MARKS = (
    Mark("all_new", "all new: run / psql", ratio(PSQL), 0.9),
    Mark("all_new", "all new: the command's time beyond the run's", _overhead(OURS), 2.0, "s"),
    Mark("all_new", "all new: run / dlt with our indexes on its table", ratio(DLT_INDEXED), 0.6),
    Mark("all_new", "all new: run / dlt without indexes", ratio(DLT), None),
    Mark("all_changed", "all changed: run / psql with the same change", ratio(PSQL), 1.1),
    Mark("tenth_changed", "10 % changed: run / psql, all new", ratio(PSQL_NEW), None),
    Mark("hundredth_changed", "1 % changed: run / psql, all new", ratio(PSQL_NEW), 0.5),
    Mark("none_changed", "none changed: run / psql, all new", ratio(PSQL_NEW), 0.45),
    Mark("rejected", "10 % rejected: run / run of the clean file", ratio(CLEAN), 1.15),
    Mark("overwrite", "overwrite that removes 30 %: run / psql", ratio(PSQL), None),
    Mark("delete", "delete of all: run / psql", ratio(PSQL), None),
    Mark("tenfold", "ten times the rows: run / run of the usual rows", ratio(SAME_ROWS), 11.0),
    Mark(
        "tenfold",
        "ten times the rows: peak memory",
        lambda found: _most(found.values(OURS, "memory_megabytes")),
        600,
        "MB",
    ),
    Mark(
        "tenfold",
        "ten times the rows: peak memory / that of the usual rows",
        ratio(SAME_ROWS, figure="memory_megabytes"),
        1.2,
    ),
    Mark("equal_rows", "equal rows: run / run of distinct rows", ratio(DISTINCT), 1.0),
    Mark(
        "equal_rows", "equal rows: peak memory / that of distinct rows", ratio(DISTINCT, figure="memory_megabytes"), 1.0
    ),
    Mark("small_files", "files of 100 rows: time / empty runs by the same launcher", ratio(services.EMPTY), None),
    Mark("sync_1", "sync call of 1 item / empty job, kept connections", _sync, 1.3),
    Mark("sync_100", "sync call of 100 items / empty job, kept connections", _sync, 1.5),
    Mark("api", "50 clients: retrieve, p95", figure("retrieve, p95 ms"), 60, "ms"),
    Mark("api", "50 clients: list, p95", figure("list, newest 25, p95 ms"), 80, "ms"),
    Mark("api", "50 clients: create for an upload, p95", figure("create for an upload, p95 ms"), 200, "ms"),
    Mark(
        "commands",
        f'`show`, beside 1.2 times `python -c "{services.READING}"` + 0.3 s',
        figure("command_seconds", of=services.SHOW),
        _beside(services.READING, 1.2, 0.3),
        "s",
    ),
    Mark(
        "commands",
        f'`run` of 100 rows, beside 1.5 times `python -c "{services.DAGSTER}"` + 1.5 s',
        figure("command_seconds", of=services.RUN),
        _beside(services.DAGSTER, 1.5, 1.5),
        "s",
    ),
    Mark("commands", "`run` of 100 rows: the command's time beyond the run's", _overhead(services.RUN), 2.0, "s"),
    Mark("idle_system", "file of one row, inbox to `completed`", figure("inbox to completed s"), 3.0, "s"),
    Mark("idle_system", "code server after the idle time", figure("code server at last MB"), 250, "MB"),
)
