"""One attempt at a batch, as its phases see it: what they work on, where they report to, when they must stop."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from batch_pipeline.batches.model import Action, ArtifactProgress, Batch, BlankCells, Phase, PhaseName, PhaseStatus
from batch_pipeline.batches.options import BatchOptions
from batch_pipeline.batches.states import BatchStatus
from batch_pipeline.database import borrowed, set_in_session
from batch_pipeline.errors import BatchError
from batch_pipeline.loading.staging import Connection
from batch_pipeline.records.resource import Resource
from batch_pipeline.system import System

MANY_ITEMS = 100_000  # to do something with all of them at once takes a second or so: worth an announcement


class TimedOutError(BatchError):
    """The attempt used up its running time."""


@dataclass(frozen=True)
class Progress:
    """How far a phase is, for people.

    Attributes:
        note: the step that is not counted in chunks: "planning …", "writing errors.csv, errors.json".
        done: items dealt with, by this and earlier attempts, of `total` (None: unknown, or the step counts nothing).
        per_second: items that this attempt deals with in a second.
        chunk: chunks dealt with, of `chunks` (None: not known yet).
    """

    phase: PhaseName
    note: str = ""
    done: int = 0
    total: int | None = None
    per_second: float = field(default=0.0, compare=False)  # falls while nothing gets on
    chunk: int = 0
    chunks: int | None = None

    @property
    def seconds_left(self) -> int | None:
        """Until the phase's items are dealt with, at this speed; None where that can't be told."""
        if self.total is None or self.per_second <= 0:
            return None
        return round(max(self.total - self.done, 0) / self.per_second)

    def __str__(self) -> str:
        if self.note and self.total is None:
            return f"{self.phase.value}: {self.note}"
        chunks = "" if self.chunks is None else f" of {self.chunks:,}"
        total = "" if self.total is None else f" of {self.total:,}"
        left = "" if self.seconds_left is None else f", about {self.seconds_left:,} s left"
        return (
            f"{self.phase.value}: {self.note or f'chunk {self.chunk:,}{chunks}'}, {self.done:,}{total} rows, "
            f"{self.per_second:,.0f} a second{left}"
        )


@dataclass
class Attempt:
    """A run's work on a batch.

    Attributes:
        batch: as the ledger had it when the phase began.
        scratch: an empty folder on local disk, for this phase only.
        report: told of progress, a few times a second at most; also again of what it has been told.
        used_seconds: running time that the attempt had used when this was made, without waits for the turn.
        has_slot: whether the run was launched by Dagster, and so has one of the slots that others wait for.
    """

    system: System
    batch: Batch
    run_id: str
    resource: Resource
    options: BatchOptions
    region: str
    scratch: Path
    report: Callable[[Progress], None]
    used_seconds: float = 0.0
    has_slot: bool = False
    _phase: Phase | None = field(default=None, repr=False)
    _progress: Progress | None = field(default=None, repr=False)
    _checked_at: float = field(default=0.0, repr=False)
    _made_at: float = field(default_factory=time.monotonic, repr=False)

    @property
    def action(self) -> Action:
        return self.batch.address.action

    @property
    def organization_id(self) -> str:
        return self.batch.address.organization_id

    @property
    def blank_clears(self) -> bool:
        """Whether an empty cell clears a field: as the option says, else only for overwrite."""
        if self.options.blank_cells is not None:
            return self.options.blank_cells is BlankCells.clear
        return self.action is Action.overwrite

    @property
    def timeout_seconds(self) -> int:
        """Running time allowed to one attempt."""
        return self.options.timeout_seconds or self.system.settings.timeout_seconds

    @property
    def remaining_seconds(self) -> float:
        """Running time that is left to the attempt."""
        return self.timeout_seconds - self.used_seconds - (time.monotonic() - self._made_at)

    def borrow(self, **settings: str) -> AbstractContextManager[Connection]:
        """A connection of the system's pool whose next transaction ends with the attempt's time.

        Call `limit_transactions` before a further transaction. A transaction that takes longer, even one that waits for
        a lock, raises psycopg's TransactionTimeout (SQLSTATE 25P04), and its connection is closed.
        """
        return borrowed(self.system.engine, transaction_timeout=self._milliseconds_left(), **settings)

    def limit_transactions(self, connection: Connection) -> None:
        """Makes the connection's transactions end with the attempt's time, from the next one on."""
        set_in_session(connection, {"transaction_timeout": self._milliseconds_left()})

    def _milliseconds_left(self) -> str:
        return str(max(int(self.remaining_seconds * 1000), 1))

    def out_of_time(self) -> TimedOutError:
        """What ends an attempt that used up its time."""
        return TimedOutError(
            "timed_out",
            f"The batch took longer than {self.timeout_seconds:,} seconds (timeout_seconds). What was written "
            "stays; a retry goes on from there.",
        )

    def waited(self, seconds: float) -> None:
        """Subtracts time spent waiting from the attempt's running time."""
        self.used_seconds -= seconds
        self.system.ledger.add_waiting(self.run_id, seconds)

    def refresh(self) -> None:
        """Looks the batch up again. Raises SupersededError where this attempt may not go on."""
        self.batch = self.system.ledger.check_live(self.batch.id, self.run_id)

    def check(self) -> None:
        """Raises TimedOutError or SupersededError where work must stop; called between chunks where none has ended."""
        self._require_time()
        self.refresh()
        self._report()

    def check_seldom(self) -> None:
        """The same at most once a second, for work in very small steps."""
        now = time.monotonic()
        if now - self._checked_at >= 1:
            self._checked_at = now
            self.check()

    def move_to(self, status: BatchStatus, **changes: Any) -> None:
        """Moves the batch on, storing other columns with it. Raises SupersededError."""
        self.batch = self.system.ledger.transition(self.batch.id, self.run_id, status, **changes)

    def announce(self, name: PhaseName, note: str) -> None:
        """Tells what the phase is at, where that takes long and nothing can be counted meanwhile."""
        self.report(Progress(name, note))

    @contextmanager
    def writing(self, phase: PhaseName, files: str, *, total: int) -> "Iterator[Callable[[int], None]]":
        """Stores and reports how far the writing of artifacts is, in rows, and the seconds that it takes.

        The function that it yields takes the number of rows gone through. It stores that number once a second at most,
        and then raises as `check` does.
        """
        artifact = ArtifactProgress(files, total, started_at=time.time())
        self._store_artifact(artifact)
        if total > MANY_ITEMS:
            self.report(Progress(phase, f"writing {files}", total=total))
        self._checked_at = time.monotonic()

        def advance(done: int) -> None:
            now = time.monotonic()
            if now - self._checked_at < 1:
                return
            self._checked_at = now
            self._require_time()
            self._store_artifact(replace(artifact, done=done))
            per_second = done / max(time.time() - artifact.started_at, 1e-6)
            self.report(Progress(phase, f"writing {files}", done=done, total=total, per_second=per_second))

        yield advance
        self._store_artifact(replace(artifact, done=total, ended_at=time.time()))

    def _store_artifact(self, artifact: ArtifactProgress) -> None:
        work = self.batch.work.with_artifact(artifact)
        self.batch = self.system.ledger.update(self.batch.id, self.run_id, work=work.to_row())

    def begin(self, name: PhaseName, total: int | None = None, *, already: int = 0) -> None:
        """Marks the phase as running; `already` items of it were dealt with before. Raises as `check` does."""
        self._require_time()
        phase = replace(
            self.batch.phase(name),
            status=PhaseStatus.running,
            total=total,
            started_at=time.time(),
            ended_at=None,
            already=already,
        )
        self._phase, self._progress = phase, None
        self._store(phase)

    def advance(self, *, success: int, error: int, chunk: int, chunks: int | None = None) -> None:
        """Stores and reports how far the running phase is: counts from the phase's start. Raises as `check` does."""
        self._require_time()
        phase = self._phase = replace(self._running, success=success, error=error)
        self._store(phase)
        self._progress = Progress(phase.name, done=phase.processed, total=phase.total, chunk=chunk, chunks=chunks)
        self._report()

    def complete(self, *, success: int, error: int, total: int, reason: str | None = None, **changes: Any) -> None:
        """Marks the running phase as completed, storing other columns of the batch in the same statement."""
        phase = replace(
            self._running,
            status=PhaseStatus.completed,
            success=success,
            error=error,
            total=total,
            reason=reason,
            ended_at=time.time(),
        )
        self._phase = self._progress = None
        self._store(phase, **changes)

    def skip(self, name: PhaseName, reason: str) -> None:
        """Marks a phase in which there is nothing to do as skipped."""
        self._store(replace(self.batch.phase(name), status=PhaseStatus.skipped, reason=reason))

    def is_done(self, name: PhaseName) -> bool:
        """Whether an earlier attempt (or op of this one) finished the phase."""
        return self.batch.phase(name).status in (PhaseStatus.completed, PhaseStatus.skipped)

    @property
    def _running(self) -> Phase:
        if self._phase is None:
            raise RuntimeError("no phase of the attempt is running")
        return self._phase

    def _report(self) -> None:
        if self._progress is None or self._phase is None or self._phase.started_at is None:
            return
        seconds = max(time.time() - self._phase.started_at, 1e-6)
        self.report(replace(self._progress, per_second=(self._progress.done - self._phase.already) / seconds))

    def _require_time(self) -> None:
        if self.remaining_seconds <= 0:
            raise self.out_of_time()

    def _store(self, phase: Phase, **changes: Any) -> None:
        self.batch = self.system.ledger.update_phase(self.batch.id, self.run_id, phase, **changes)
