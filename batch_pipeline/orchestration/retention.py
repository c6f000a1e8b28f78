"""Retention: deletes files of old batches, old days of the change log, old Dagster runs, and old events for webhooks.

Never deletes files of live batches, unfinished runs, runs of a batch that can run again, or runs of other jobs. A pass
can stop anywhere; the next pass continues.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import partial

from dagster import DagsterInstance, DagsterRunStatus, RunsFilter

from batch_pipeline.batches.deliveries import prune_events
from batch_pipeline.batches.ids import BATCH_PREFIX
from batch_pipeline.batches.model import Batch
from batch_pipeline.batches.retention import begin_pruning, find_needed_runs, find_prunable, finish_pruning
from batch_pipeline.database import borrowed
from batch_pipeline.loading.change_indexes import MissingIndex, find_missing_indexes
from batch_pipeline.loading.change_partitions import drop_day, find_old_days, index_ended_day, make_partitions_ahead
from batch_pipeline.orchestration import tags
from batch_pipeline.orchestration.checks import delete_evaluations
from batch_pipeline.phases.leftovers import Files, files_of, find_orphans, remove_files
from batch_pipeline.system import System

PAGE = 100  # batches or runs per query
_ENDED = [DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED]


@dataclass(frozen=True)
class Pruned:
    """What was deleted, or would be in a dry run.

    Attributes:
        batches: number of batches whose files were deleted.
        orphans: number of folders without a batch, left by crashes.
        files: files of those batches and folders.
        runs: number of Dagster runs.
        change_days: number of days of the change log.
        webhook_events: number of events for webhooks, deleted with their deliveries.
        more: whether the time ended before the work.
    """

    batches: int = 0
    orphans: int = 0
    files: Files = field(default_factory=Files)
    runs: int = 0
    change_days: int = 0
    webhook_events: int = 0
    more: bool = False

    def __add__(self, other: "Pruned") -> "Pruned":
        return Pruned(
            self.batches + other.batches,
            self.orphans + other.orphans,
            self.files + other.files,
            self.runs + other.runs,
            self.change_days + other.change_days,
            self.webhook_events + other.webhook_events,
            self.more or other.more,
        )

    def to_json(self) -> dict[str, object]:
        """The JSON output of the command line."""
        return {
            "batches": self.batches,
            "orphans": self.orphans,
            "files": self.files.number,
            "bytes": self.files.bytes,
            "runs": self.runs,
            "change_days": self.change_days,
            "webhook_events": self.webhook_events,
            "more": self.more,
        }


_Step = Callable[[], Pruned]


def prune(
    system: System,
    instance: DagsterInstance,
    *,
    now: datetime | None = None,
    dry_run: bool = False,
    seconds: float | None = None,
    report: Callable[[Pruned], None] = lambda _: None,
) -> Pruned:
    """Deletes what is older than the retention settings, oldest first; with `dry_run` only counts it.

    Batches, runs, orphans, days of the change log and events share the time of at most `seconds`, so a backlog of one
    kind does not block the others. Calls `report` with the total so far after each of them. Also makes the partitions
    of the change log for the next days, and the indexes of days that have ended.
    """
    now = now or datetime.now(UTC)
    until = None if seconds is None else time.monotonic() + seconds
    kept_from = now - timedelta(days=system.settings.retention_days)
    runs_kept_from = now - timedelta(days=system.settings.run_retention_days)
    backlogs = [
        _Backlog(_batch_steps(system, kept_from, dry_run=dry_run)),
        _Backlog(_run_steps(system, instance, runs_kept_from, kept_from, dry_run=dry_run)),
        _Backlog(_orphan_steps(system, kept_from, dry_run=dry_run)),
        _Backlog(_change_steps(system, now, dry_run=dry_run)),
        _Backlog(_event_steps(system, kept_from, dry_run=dry_run)),
    ]
    done = Pruned()
    while backlogs:
        for number, backlog in enumerate(backlogs):
            for pruned in backlog.run_steps(_share_deadline(until, len(backlogs) - number)):
                done += pruned
                report(done)
        backlogs = [backlog for backlog in backlogs if not backlog.is_done]
        if backlogs and _is_past(until):
            return done + Pruned(more=True)
    return done


class _Backlog:
    """Steps that run while there is time. A step is requested only after the previous one has run."""

    def __init__(self, steps: Iterator[_Step]) -> None:
        self._steps = steps
        self._next: _Step | None = None
        self.is_done = False

    def run_steps(self, until: float | None) -> Iterator[Pruned]:
        """Runs steps until the deadline (of `time.monotonic`) or the last one; yields what each deleted."""
        while True:
            self._next = self._next or next(self._steps, None)
            if self._next is None:
                self.is_done = True
                return
            if _is_past(until):
                return
            pruned = self._next()
            self._next = None
            yield pruned


def _is_past(until: float | None) -> bool:
    return until is not None and time.monotonic() >= until


def _share_deadline(until: float | None, parts: int) -> float | None:
    """The end of the first of `parts` equal parts of the remaining time."""
    if until is None:
        return None
    now = time.monotonic()
    return now + max(until - now, 0) / parts


def _batch_steps(system: System, ended_before: datetime, *, dry_run: bool) -> Iterator[_Step]:
    step = _count_batch if dry_run else _prune_batch
    after = BATCH_PREFIX
    while page := find_prunable(system.engine, ended_before=ended_before, after=after, limit=PAGE):
        for batch in page:
            yield partial(step, system, batch, ended_before)
        after = page[-1].id


def _count_batch(system: System, batch: Batch, _ended_before: datetime) -> Pruned:
    return Pruned(batches=1, files=files_of(system, batch.id))


def _prune_batch(system: System, batch: Batch, ended_before: datetime) -> Pruned:
    """Deletes the batch's files unless the batch runs again."""
    if not begin_pruning(system.engine, batch.id, ended_before=ended_before):
        return Pruned()
    files = remove_files(system, batch.id)
    finish_pruning(system.engine, batch.id)
    return Pruned(batches=1, files=files)


def _run_steps(
    system: System, instance: DagsterInstance, created_before: datetime, ended_before: datetime, *, dry_run: bool
) -> Iterator[_Step]:
    for name in tags.JOB_NAMES:
        filters = RunsFilter(job_name=name, statuses=_ENDED, created_before=created_before)
        yield from _run_steps_of(system, instance, filters, ended_before, dry_run=dry_run)


def _run_steps_of(
    system: System, instance: DagsterInstance, filters: RunsFilter, ended_before: datetime, *, dry_run: bool
) -> Iterator[_Step]:
    # The cursor is the last run that stays, because the page after a deleted run is empty. If another process deletes
    # that run, this pass ends early and the next pass continues.
    after: str | None = None
    while page := instance.get_run_records(filters, limit=PAGE, ascending=True, cursor=after):
        runs = [record.dagster_run for record in page]
        needed = find_needed_runs(
            system.engine,
            {run.run_id: run.tags.get(tags.BATCH_ID) for run in runs},
            ended_before=ended_before if dry_run else None,
        )
        for run in runs:
            if run.run_id not in needed:
                yield partial(_delete_run, instance, run.run_id, dry_run=dry_run)
            if dry_run or run.run_id in needed:
                after = run.run_id


def _delete_run(instance: DagsterInstance, run_id: str, *, dry_run: bool) -> Pruned:
    """Deletes the run's events first and the run last, so that after a crash the next pass finds the run."""
    if not dry_run:
        instance.compute_log_manager.delete_logs(prefix=[run_id])
        delete_evaluations(instance, run_id)
        instance.event_log_storage.delete_events(run_id)
        instance.delete_run(run_id)
    return Pruned(runs=1)


def _orphan_steps(system: System, made_before: datetime, *, dry_run: bool) -> Iterator[_Step]:
    step = _count_orphan if dry_run else _remove_orphan
    for batch_id in find_orphans(system, made_before=made_before):
        yield partial(step, system, batch_id)


def _count_orphan(system: System, batch_id: str) -> Pruned:
    return Pruned(orphans=1, files=files_of(system, batch_id))


def _remove_orphan(system: System, batch_id: str) -> Pruned:
    return Pruned(orphans=1, files=remove_files(system, batch_id))


def _change_steps(system: System, now: datetime, *, dry_run: bool) -> Iterator[_Step]:
    if not dry_run:
        yield partial(_make_partitions, system, now)
    kept_from = (now - timedelta(days=system.settings.changes_days)).astimezone(UTC).date()
    with borrowed(system.engine) as connection:
        days = find_old_days(connection, kept_from)
    for day in days:
        yield partial(_drop_day, system, day, dry_run=dry_run)
    if dry_run:
        return
    with borrowed(system.engine) as connection:
        indexes = find_missing_indexes(connection, now.astimezone(UTC).date())
    for missing in indexes:
        yield partial(_index_ended_day, system, missing)


def _make_partitions(system: System, now: datetime) -> Pruned:
    with borrowed(system.engine) as connection:
        make_partitions_ahead(connection, now)
    return Pruned()


def _index_ended_day(system: System, missing: MissingIndex) -> Pruned:
    with borrowed(system.engine) as connection:
        index_ended_day(connection, missing)
    return Pruned()


def _drop_day(system: System, day: date, *, dry_run: bool) -> Pruned:
    if dry_run:
        return Pruned(change_days=1)
    with borrowed(system.engine) as connection:
        return Pruned(change_days=int(drop_day(connection, day)))


def _event_steps(system: System, created_before: datetime, *, dry_run: bool) -> Iterator[_Step]:
    if dry_run:
        yield lambda: Pruned(webhook_events=prune_events(system.engine, created_before, dry_run=True))
        return
    deleted = 1

    def delete() -> Pruned:
        nonlocal deleted
        deleted = prune_events(system.engine, created_before)
        return Pruned(webhook_events=deleted)

    while deleted:
        yield delete
