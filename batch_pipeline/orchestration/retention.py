"""Retention: removes the files of old batches, and Dagster's runs with their events, which Dagster itself never prunes.

Batches that are not final, and runs that are not, are never touched, nor the runs of a batch that can be run again, nor
those of other jobs. A pass can stop anywhere; the next one goes on.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial

from dagster import DagsterInstance, DagsterRunStatus, RunsFilter

from batch_pipeline.batches.ids import BATCH_PREFIX
from batch_pipeline.batches.model import Batch
from batch_pipeline.batches.retention import begin_pruning, find_needed_runs, find_prunable, finish_pruning
from batch_pipeline.orchestration import tags
from batch_pipeline.phases.leftovers import Files, files_of, find_orphans, remove_files
from batch_pipeline.system import System

PAGE = 100  # batches, or runs, looked up at once
_ENDED = [DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED]


@dataclass(frozen=True)
class Pruned:
    """What went, or would go.

    Attributes:
        batches: that lost their files.
        orphans: folders of no batch, which a crash left.
        files: of those batches and folders.
        runs: Dagster's, with their events.
        more: the time was up before all was done.
    """

    batches: int = 0
    orphans: int = 0
    files: Files = field(default_factory=Files)
    runs: int = 0
    more: bool = False

    def __add__(self, other: "Pruned") -> "Pruned":
        return Pruned(
            self.batches + other.batches,
            self.orphans + other.orphans,
            self.files + other.files,
            self.runs + other.runs,
            self.more or other.more,
        )

    def to_json(self) -> dict[str, object]:
        """As the command line prints it."""
        return {
            "batches": self.batches,
            "orphans": self.orphans,
            "files": self.files.number,
            "bytes": self.files.bytes,
            "runs": self.runs,
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
    """Removes what is older than the settings say, oldest first; with `dry_run` only counts it.

    `seconds` bounds the time it takes, which batches, runs and orphans share: a backlog of the one doesn't hold up the
    others. `report` is told after each batch, run and orphan how much that makes.
    """
    now = now or datetime.now(UTC)
    until = None if seconds is None else time.monotonic() + seconds
    kept_from = now - timedelta(days=system.settings.retention_days)
    runs_kept_from = now - timedelta(days=system.settings.run_retention_days)
    undone = [
        _Work(_batch_steps(system, kept_from, dry_run=dry_run)),
        _Work(_run_steps(system, instance, runs_kept_from, kept_from, dry_run=dry_run)),
        _Work(_orphan_steps(system, kept_from, dry_run=dry_run)),
    ]
    done = Pruned()
    while undone:
        for place, work in enumerate(undone):
            for pruned in work.go_on(_share(until, len(undone) - place)):
                done += pruned
                report(done)
        undone = [work for work in undone if not work.is_done]
        if undone and _is_over(until):
            return done + Pruned(more=True)
    return done


class _Work:
    """Steps that are taken for as long as there is time. Each is asked for only after the one before was taken."""

    def __init__(self, steps: Iterator[_Step]) -> None:
        self._steps = steps
        self._next: _Step | None = None
        self.is_done = False

    def go_on(self, until: float | None) -> Iterator[Pruned]:
        """Takes steps until that time, or until there are none; yields what each removed."""
        while True:
            self._next = self._next or next(self._steps, None)
            if self._next is None:
                self.is_done = True
                return
            if _is_over(until):
                return
            pruned = self._next()
            self._next = None
            yield pruned


def _is_over(until: float | None) -> bool:
    return until is not None and time.monotonic() >= until


def _share(until: float | None, parts: int) -> float | None:
    """When the first of so many equal parts of the time left is over."""
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
    """Removes the batch's files, unless it is being run again meanwhile."""
    if not begin_pruning(system.engine, batch.id, ended_before=ended_before):
        return Pruned()
    files = remove_files(system, batch.id)
    finish_pruning(system.engine, batch.id)
    return Pruned(batches=1, files=files)


def _run_steps(
    system: System, instance: DagsterInstance, created_before: datetime, ended_before: datetime, *, dry_run: bool
) -> Iterator[_Step]:
    filters = RunsFilter(job_name=tags.JOB_NAME, statuses=_ENDED, created_before=created_before)
    # The last run that stays: the page after one that is gone would be empty. (One that another process deletes
    # meanwhile ends this pass; the next one sees the rest.)
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
    """Deletes the run last: one that is still there is found by the next pass."""
    if not dry_run:
        instance.compute_log_manager.delete_logs(prefix=[run_id])
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
