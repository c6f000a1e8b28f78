"""One attempt at a batch: the context that phases work in, report to, and check whether they must stop."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batch_pipeline.batches.facts import ArtifactProgress
from batch_pipeline.batches.model import Action, Batch, BlankCells, Phase, PhaseName, PhaseStatus
from batch_pipeline.batches.options import BatchOptions
from batch_pipeline.batches.organizations import get_organization
from batch_pipeline.batches.states import BatchStatus
from batch_pipeline.database import Connection, borrowed, set_in_session
from batch_pipeline.errors import TimedOutError
from batch_pipeline.loading.log_support import can_log
from batch_pipeline.loading.staging import STAGED_BATCH, Staging
from batch_pipeline.loading.staging_choice import staging_of
from batch_pipeline.phases.kept_chunks import KeptChunks
from batch_pipeline.phases.phase_progress import Progress
from batch_pipeline.storage.local_copy import LocalCopy
from batch_pipeline.system import System

if TYPE_CHECKING:
    import pyarrow as pa

    from batch_pipeline.loading.chunks import ChunksDone
    from batch_pipeline.records.fields import RuleContext
    from batch_pipeline.records.resource import Resource

MANY_ITEMS = 100_000  # a step over all of them takes about a second, so it is announced


@dataclass(frozen=True)
class HelpRequest:
    """A running phase whose chunks other workers may do as well.

    Attributes:
        run_id: the run that is the batch's newest attempt.
        fence: the fencing number of the turn that the run holds; None in validation, which needs no turn.
    """

    batch_id: str
    run_id: str
    phase: PhaseName
    fence: int | None


@dataclass
class Attempt:
    """A run's work on a batch.

    Attributes:
        batch: the batch as last read from the ledger.
        scratch: an empty folder on local disk, for one phase.
        report: called with progress up to four times a second; may repeat the same progress.
        used_seconds: running time of the attempt before this object was created, without waits for the turn.
        has_slot: whether the run occupies one of Dagster's slots, because Dagster launched it.
        call_helpers: offers a phase to other workers, at most this many; by default to none.
        transaction_seconds: time-out of a transaction, if that is less than the attempt's remaining time.
        kept: the parsed chunks that this process has kept.
        upload: the payload as stored, if this process has it in memory or in a local file.
        background: for work that the run need not wait for at once.
        copying: the writing of the upload's copies in the background; None if this process does not write them.
        processed: what is done of processing, once it is complete; None if an earlier process completed it.
    """

    system: System
    batch: Batch
    run_id: str
    resource: "Resource"
    options: BatchOptions
    scratch: Path
    report: Callable[[Progress], None]
    used_seconds: float = 0.0
    has_slot: bool = False
    call_helpers: Callable[[HelpRequest, int], None] = field(default=lambda request, number: None, repr=False)
    transaction_seconds: float = math.inf
    kept: KeptChunks = field(default_factory=KeptChunks, repr=False)
    upload: bytes | LocalCopy | None = field(default=None, repr=False)
    background: Executor = field(default_factory=partial(ThreadPoolExecutor, 1), repr=False)
    copying: Future[None] | None = field(default=None, repr=False)
    processed: "ChunksDone | None" = field(default=None, repr=False)
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
    def rule_context(self) -> "RuleContext":
        """What rules need to know beside a value: the region of national phone numbers. May ask the ledger for it."""
        from batch_pipeline.records.fields import RuleContext

        region = self.options.default_region
        return RuleContext(region or get_organization(self.system.engine, self.organization_id).region)

    @property
    def blank_clears(self) -> bool:
        """Whether an empty cell clears a field: the option `blank_cells`, by default only for overwrite."""
        if self.options.blank_cells is not None:
            return self.options.blank_cells is BlankCells.clear
        return self.action is Action.overwrite

    def logs_changes(self, connection: Connection) -> bool:
        """Whether the batch writes the change log: `BATCH_CHANGES` is on and the server has what the log needs."""
        return self.system.settings.changes and can_log(connection)

    @property
    def staging(self) -> Staging:
        """The batch's staged rows, for the connections of `borrow` and `borrow_untimed`."""
        return staging_of(self.batch)

    def shares_staging(self, items: int) -> bool:
        """Whether a batch of this many items (of an undo: lines) shares staging tables."""
        return items <= self.system.settings.shared_staging_items

    @property
    def is_parallel(self) -> bool:
        """Whether several workers may work on the batch: it has at least `BATCH_PARALLEL_ITEMS` items."""
        facts = self.batch.facts
        return facts.items >= self.system.settings.parallel_items and not facts.shares_staging

    def parsed_chunk(self, number: int) -> "pa.Table":
        """The parsed chunk with this number (see `payloads.parsed`)."""
        if (kept := self.kept.get(number)) is not None:
            return kept
        from batch_pipeline.phases.parsed_uploads import read_parsed_chunk

        return read_parsed_chunk(self.system, self.batch, number)

    def offer(self, phase: PhaseName, *, chunks: int, fence: int | None = None) -> None:
        """Offers the phase, which has this many open chunks, to other workers if the batch is large enough."""
        helpers = min(self.system.settings.parallel_workers, chunks) - 1
        if self.is_parallel and helpers > 0:
            self.call_helpers(HelpRequest(self.batch.id, self.run_id, phase, fence), helpers)

    @property
    def timeout_seconds(self) -> int:
        """Maximum running time of one attempt."""
        return self.options.timeout_seconds or self.system.settings.timeout_seconds

    @property
    def remaining_seconds(self) -> float:
        """Running time that is left to the attempt; negative after the time-out."""
        return self.timeout_seconds - self.used_seconds - (time.monotonic() - self._made_at)

    def borrow(self, **settings: str) -> AbstractContextManager[Connection]:
        """Borrows a connection from the pool; its first transaction times out with the attempt.

        Call `limit_transactions` before each further transaction. A transaction that times out, even while it waits for
        a lock, raises psycopg's TransactionTimeout (SQLSTATE 25P04) and closes its connection.
        """
        return borrowed(self.system.engine, **self.timed_session_settings, **settings)

    def borrow_untimed(self, **settings: str) -> AbstractContextManager[Connection]:
        """Borrows a connection from the pool, for statements that must end even after the attempt's time-out."""
        return borrowed(self.system.engine, **self.session_settings, **settings)

    def limit_transactions(self, connection: Connection) -> None:
        """Sets the time-out of the connection's next transactions to the attempt's remaining time."""
        set_in_session(connection, {"transaction_timeout": self._milliseconds_left()})

    @property
    def session_settings(self) -> dict[str, str]:
        """PostgreSQL settings of the attempt's sessions.

        A crash of the server may lose their last commits, never an earlier one: a retry makes the lost plan or chunks
        again. The ledger's commit at the end of a phase waits until the server has stored all of them.

        psycopg prepares the statements of a kept connection. PostgreSQL plans them for each batch all the same: one
        organization has a few records, another millions.
        """
        return {
            "synchronous_commit": "off",
            "plan_cache_mode": "force_custom_plan",
            STAGED_BATCH: self.batch.id,
        }

    @property
    def timed_session_settings(self) -> dict[str, str]:
        """As `session_settings`; the next transaction times out with the attempt."""
        return {**self.session_settings, "transaction_timeout": self._milliseconds_left()}

    def _milliseconds_left(self) -> str:
        return str(max(int(min(self.remaining_seconds, self.transaction_seconds) * 1000), 1))

    def out_of_time(self) -> TimedOutError:
        """The error for an attempt that reached its time-out."""
        return TimedOutError(
            "timed_out",
            f"The batch took longer than {self.timeout_seconds:,} seconds (timeout_seconds). What was written "
            "stays. Retry the batch to process the rest.",
        )

    def waited(self, seconds: float) -> None:
        """Excludes seconds spent waiting from the attempt's running time, also in the ledger."""
        self.used_seconds -= seconds
        self.system.ledger.add_waiting(self.run_id, seconds)

    def refresh(self) -> None:
        """Reads the batch again. Raises SupersededError if this attempt must stop."""
        self.batch = self.system.ledger.check_live(self.batch.id, self.run_id)

    def check(self) -> None:
        """Raises TimedOutError or SupersededError if work must stop, and reports progress again.

        Call it while no chunk ends: `begin` and `advance` check as well.
        """
        self._require_time()
        self.refresh()
        self._report()

    def check_seldom(self) -> None:
        """As `check`, but at most once a second, for work in very small steps."""
        now = time.monotonic()
        if now - self._checked_at >= 1:
            self._checked_at = now
            self.check()

    def move_to(self, status: BatchStatus, *phases: Phase, **changes: Any) -> None:
        """Changes the batch's status, its phases and other columns. Raises SupersededError."""
        self.batch = self.system.ledger.transition(self.batch.id, self.run_id, status, *phases, **changes)

    def announce(self, name: PhaseName, note: str) -> None:
        """Reports a step that takes long and counts nothing."""
        self.report(Progress(name, note))

    def announce_workers(self, name: PhaseName, chunks: Mapping[str, int]) -> None:
        """Reports how many chunks of the phase each process did (`loading.chunks.worker_name`)."""
        each = ", ".join(f"{worker} {number:,}" for worker, number in chunks.items())
        self.announce(name, f"{len(chunks):,} workers did the chunks: {each}")

    @contextmanager
    def writing(self, phase: PhaseName, files: str, *, total: int) -> "Iterator[Callable[[int], None]]":
        """Stores and reports the progress of writing artifacts, in rows, and its duration.

        Yields a function that takes the number of rows read so far. At most once a second it stores and reports that
        number, and raises as `check` does.
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
        facts = self.batch.facts.with_artifact(artifact)
        self.batch = self.system.ledger.update(self.batch.id, self.run_id, durably=False, work=facts.to_row())

    def begin(self, name: PhaseName, total: int | None = None, *, already: int = 0) -> None:
        """Marks the phase as running, unless it is stored as such; earlier attempts processed `already` items.

        Raises as `check` does.
        """
        self._require_time()
        phase = self.batch.phase(name)
        if (phase.status, phase.total, phase.already) != (PhaseStatus.running, total, already):
            phase = phase.begun(total, already=already)
            self._store(phase, durably=False)
        self._phase, self._progress = phase, None

    def advance(self, *, success: int, error: int, chunk: int, chunks: int | None = None, workers: int = 0) -> None:
        """Stores and reports the running phase's counts since its start. Raises as `check` does."""
        self._require_time()
        phase = self._phase = replace(self._running, success=success, error=error)
        self._store(phase, durably=False)
        self._progress = Progress(
            phase.name, done=phase.processed, total=phase.total, chunk=chunk, chunks=chunks, workers=workers
        )
        self._report()

    def complete(
        self,
        *,
        success: int,
        error: int,
        total: int,
        reason: str | None = None,
        status: BatchStatus | None = None,
        following: Phase | None = None,
        **changes: Any,
    ) -> None:
        """Marks the running phase as completed; changes the batch's status and other columns with it.

        `following`: another phase to store with it.
        """
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
        phases = [phase] if following is None else [phase, following]
        if status is None:
            self._store(*phases, **changes)
        else:
            self.move_to(status, *phases, **changes)

    def skip(self, name: PhaseName, reason: str, **changes: Any) -> None:
        """Marks a phase that has nothing to do as skipped and changes other columns of the batch."""
        self._store(self.skipped(name, reason), **changes)

    def skipped(self, name: PhaseName, reason: str) -> Phase:
        """A phase that has nothing to do, as skipped, for the caller to store."""
        return replace(self.batch.phase(name), status=PhaseStatus.skipped, reason=reason)

    def is_done(self, name: PhaseName) -> bool:
        """Whether the phase is completed or skipped."""
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

    def _store(self, *phases: Phase, durably: bool = True, **changes: Any) -> None:
        self.batch = self.system.ledger.update_phase(self.batch.id, self.run_id, *phases, durably=durably, **changes)
