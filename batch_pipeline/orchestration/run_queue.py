"""Dagster's run queue with limits from our settings, because dagster.yaml accepts no environment variables for them.

Fairness needs two limits. Here, one organization's runs never occupy all slots. In `awaiting_launch`, the sensor
requests few runs of each organization, so that Dagster's first-come, first-served queue stays short.
"""

from collections.abc import Mapping
from typing import Any

from dagster import DagsterInstance
from dagster._core.run_coordinator.queued_run_coordinator import QueuedRunCoordinator, RunQueueConfig

from batch_pipeline.orchestration import tags
from batch_pipeline.settings import get_settings

# Batches of the same records are written one at a time. A second run parses and validates while the first one writes.
# More runs would only wait in their slots.
RUNS_PER_TURN = 2


class SettingsRunCoordinator(QueuedRunCoordinator[DagsterInstance]):
    """Dagster's queued run coordinator; `Settings` limits the concurrent runs, in total and per organization."""

    def get_run_queue_config(self) -> RunQueueConfig:
        """The limits for Dagster's daemon."""
        settings = get_settings()
        return (
            super()
            .get_run_queue_config()
            ._replace(
                max_concurrent_runs=settings.concurrent_runs,
                tag_concurrency_limits=[
                    _per_value(tags.ORGANIZATION, settings.organization_runs),
                    _per_value(tags.TURN, RUNS_PER_TURN),
                ],
            )
        )


def _per_value(tag: str, limit: int) -> Mapping[str, Any]:
    return {"key": tag, "value": {"applyLimitPerUniqueValue": True}, "limit": limit}
