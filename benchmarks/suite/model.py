"""What the suite measures: cases, their contestants, and the sample that one contestant gives in one round."""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Sample:
    """One measurement of one contestant. None: not measured for this kind of contestant.

    A run of ours begins when its batch is accepted and ends with its last phase. A run of dlt is its pipeline, without
    the start of Python. psql's is the whole command.
    """

    seconds: float  #: wall time of the run
    command_seconds: float | None = None  #: wall time of the whole command
    processor_seconds: float | None = None  #: user and system time of the command's process
    database_seconds: float | None = None  #: user and system time of all processes of PostgreSQL meanwhile
    memory_megabytes: float | None = None  #: peak of the command's resident memory
    phases: dict[str, float] = field(default_factory=dict)  #: wall time of each phase of ours
    figures: dict[str, float] = field(default_factory=dict)  #: other figures, by name with the unit in it


@dataclass(frozen=True)
class Contestant:
    """Someone who does the work of a case. `measure` prepares, works, and checks the result."""

    name: str
    measure: Callable[[], Sample]


class ContestantMissingError(Exception):
    """A contestant can't take part on this machine; the text is the reason."""
