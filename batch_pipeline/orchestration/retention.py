"""Retention: removes the files of old batches, and Dagster's runs with their events, which Dagster itself never prunes.

Batches that are not final, and runs that are not, are never touched. A pass can stop anywhere; the next one goes on.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from dagster import DagsterInstance, DagsterRunStatus, RunsFilter

from batch_pipeline.batches.ids import BATCH_PREFIX
from batch_pipeline.batches.model import Batch
from batch_pipeline.batches.retention import begin_pruning, find_prunable, finish_pruning
from batch_pipeline.retention import Files, files_of, remove_files
from batch_pipeline.system import System

PAGE = 100  # batches looked up at once
_ENDED = [DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED]


@dataclass(frozen=True)
class Pruned:
    """What went, or would go: batches that lost their files, these files, and Dagster runs with their events.

    `more` says that the time was up before all was done.
    """

    batches: int = 0
    files: Files = field(default_factory=Files)
    runs: int = 0
    more: bool = False

    def to_json(self) -> dict[str, object]:
        """As the command line prints it."""
        return {
            "batches": self.batches,
            "files": self.files.number,
            "bytes": self.files.bytes,
            "runs": self.runs,
            "more": self.more,
        }


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

    `seconds` bounds the time it takes; `report` is told after each batch and each run how much that makes.
    """
    now = now or datetime.now(UTC)
    until = None if seconds is None else time.monotonic() + seconds
    done = Pruned()
    ended_before = now - timedelta(days=system.settings.retention_days)
    for batch in _old_batches(system, ended_before):
        if _is_over(until):
            return replace(done, more=True)
        files = files_of(system, batch) if dry_run else _prune_batch(system, batch, ended_before)
        if files is not None:
            done = replace(done, batches=done.batches + 1, files=done.files + files)
            report(done)
    created_before = now - timedelta(days=system.settings.run_retention_days)
    for run_id in reversed(instance.get_run_ids(RunsFilter(statuses=_ENDED, created_before=created_before))):
        if _is_over(until):
            return replace(done, more=True)
        if not dry_run:
            _delete_run(instance, run_id)
        done = replace(done, runs=done.runs + 1)
        report(done)
    return done


def _is_over(until: float | None) -> bool:
    return until is not None and time.monotonic() > until


def _old_batches(system: System, ended_before: datetime) -> Iterator[Batch]:
    after = BATCH_PREFIX
    while page := find_prunable(system.engine, ended_before=ended_before, after=after, limit=PAGE):
        yield from page
        after = page[-1].id


def _prune_batch(system: System, batch: Batch, ended_before: datetime) -> Files | None:
    """Removes the batch's files; None where it is being run again meanwhile."""
    if not begin_pruning(system.engine, batch.id, ended_before=ended_before):
        return None
    files = remove_files(system, batch)
    finish_pruning(system.engine, batch.id)
    return files


def _delete_run(instance: DagsterInstance, run_id: str) -> None:
    """Deletes the run last: one that is still there is found by the next pass."""
    instance.compute_log_manager.delete_logs(prefix=[run_id])
    instance.event_log_storage.delete_events(run_id)
    instance.delete_run(run_id)
