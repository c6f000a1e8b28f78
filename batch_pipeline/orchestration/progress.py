"""Progress in a run's log: an event every few seconds that says in words, and as metadata, how far the run is."""

import time

from dagster import OpExecutionContext
from dagster._core.events import EngineEventData  # Dagster's one event that shows metadata before an op has ended

from batch_pipeline.orchestration.metadata import Metadata, progress_metadata
from batch_pipeline.phases.attempt import Progress

EVENT_SECONDS = 5.0  # between two events: each is a row in Dagster's tables
STANDSTILL_SECONDS = 60.0  # the same between two that say the same: nothing gets on


class ProgressEvents:
    """Adds events to the run's log, one every few seconds at most.

    To be told often: news that comes too soon after the last event is in the next one, and the log of work that is
    stuck says where.
    """

    def __init__(self, context: OpExecutionContext) -> None:
        self._context = context
        self._told_at = time.monotonic()
        self._told: Progress | None = None

    def report(self, progress: Progress) -> None:
        """Tells of the progress, unless it is too soon."""
        pause = STANDSTILL_SECONDS if progress == self._told else 0.0 if progress.note else EVENT_SECONDS
        if time.monotonic() - self._told_at < pause:
            return
        self._told, self._told_at = progress, time.monotonic()
        shown: Metadata = progress_metadata(progress)
        self._context.instance.report_engine_event(
            str(progress), self._context.run, EngineEventData(shown), step_key=self._context.op.name
        )
