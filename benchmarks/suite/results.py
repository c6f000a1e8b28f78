"""The stored results: every sample of every contestant, round by round, and the machine that gave them.

The file is written anew after each sample, so an interrupted suite loses only the sample that was under way.
"""

import json
import os
import platform
import subprocess
from collections.abc import Container
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from batch_pipeline.local.postgres_files import postgres_program
from benchmarks.suite.model import Sample

ONCE = "once"  #: in place of the level, for cases that don't run at each `wal_level`
ROOT = Path(__file__).parents[2]


class OtherResultsError(Exception):
    """The file has results that can't be continued; the text says why."""


@dataclass
class Measured:
    """One case at one `wal_level`: for each round, the sample of each contestant."""

    date: str
    commit: str
    contestants: list[str] = field(default_factory=list)  #: all that a round has, if none of them is missing
    rounds: list[dict[str, Sample]] = field(default_factory=list)

    def is_done(self, rounds: int, missing: Container[str]) -> bool:
        """Whether so many rounds have a sample of each contestant that can take part."""
        wanted = {name for name in self.contestants if name not in missing}
        return len(self.rounds) >= rounds and all(wanted <= each.keys() for each in self.rounds[:rounds])

    def values(self, contestant: str, figure: str) -> list[float]:
        """A contestant's values in all rounds that have them."""
        samples = (each[contestant] for each in self.rounds if contestant in each)
        return [value for sample in samples if (value := value_of(sample, figure)) is not None]

    def ratios(self, contestant: str, other: str, figure: str = "seconds") -> list[float]:
        """A contestant's value in the other's, in each round that has both."""
        pairs = (
            (value_of(each[contestant], figure), value_of(each[other], figure))
            for each in self.rounds
            if contestant in each and other in each
        )
        return [mine / theirs for mine, theirs in pairs if mine is not None and theirs]


def value_of(sample: Sample, figure: str) -> float | None:
    """A field of the sample, or one of its other figures, by name."""
    if figure in sample.figures:
        return sample.figures[figure]
    value: float | None = getattr(sample, figure, None)
    return value


@dataclass
class Results:
    """What the suite has measured with one number of rows on one machine."""

    rows: int
    machine: dict[str, str]
    cases: dict[str, dict[str, Measured]] = field(default_factory=dict)  #: by case and `wal_level`
    missing: dict[str, str] = field(default_factory=dict)  #: contestants that can't take part, and why

    def of(self, case: str, level: str) -> Measured:
        """The case's results, new ones if there are none."""
        levels = self.cases.setdefault(case, {})
        if level not in levels:
            levels[level] = Measured(_today(), _commit())
        return levels[level]

    def save(self, path: Path) -> None:
        """Writes the file. Another process sees the old content or the new one."""
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"{path.name}.unfinished")
        unfinished.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        unfinished.rename(path)

    @classmethod
    def load(cls, path: Path) -> "Results":
        """Reads the file. Raises FileNotFoundError."""
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        cases = {
            case: {
                level: Measured(
                    each["date"],
                    each["commit"],
                    each["contestants"],
                    [{name: Sample(**sample) for name, sample in found.items()} for found in each["rounds"]],
                )
                for level, each in levels.items()
            }
            for case, levels in stored["cases"].items()
        }
        return cls(stored["rows"], stored["machine"], cases, stored["missing"])

    @classmethod
    def opened(cls, path: Path, rows: int) -> "Results":
        """The file's results, to be continued; new ones without a file.

        Raises OtherResultsError if they are of another number of rows or another machine.
        """
        machine = describe_machine()
        if not path.exists():
            return cls(rows, machine)
        found = cls.load(path)
        if found.rows != rows:
            raise OtherResultsError(
                f"{path} has results of {found.rows:,} rows: choose another --results, or remove it"
            )
        if found.machine != machine:
            raise OtherResultsError(f"{path} has results of another machine or server: remove it, or choose another")
        return found


def describe_machine() -> dict[str, str]:
    """What the figures depend on."""
    model = Path("/proc/cpuinfo").read_text().partition("model name")[2].partition("\n")[0].strip("\t :")
    version = subprocess.run([postgres_program("postgres"), "--version"], check=True, capture_output=True, text=True)
    return {
        "processor": model or platform.machine(),
        "cores": str(os.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GB",
        "system": f"{platform.system()} {platform.release()}",
        "PostgreSQL": version.stdout.split()[-1],
        "Python": platform.python_version(),
    }


def _today() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d")


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], check=False, cwd=ROOT, capture_output=True, text=True
    )
    return done.stdout.strip() or "unknown"
