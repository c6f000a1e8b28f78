"""Dagster's run queue, with limits that are settings: dagster.yaml takes no environment variable for them.

Fairness needs two things: here, that one organization's runs never fill all slots; and that Dagster's queue, which is
first come, first served, stays short: the sensor asks for few runs of each organization at a time (`Ledger`).
"""

from collections.abc import Mapping
from typing import Any

from dagster import DagsterInstance
from dagster._core.run_coordinator.queued_run_coordinator import QueuedRunCoordinator, RunQueueConfig

from batch_pipeline.orchestration import tags
from batch_pipeline.settings import get_settings

# Batches of the same records are written one after the other; a second run gets ready (parses, validates) while the
# first writes. More would only fill slots with waiting.
RUNS_PER_TURN = 2
# Runs of an organization that wait in Dagster's queue for each of its slots, so that the next ones are there before
# the next tick.
QUEUED_PER_SLOT = 2


class SettingsRunCoordinator(QueuedRunCoordinator[DagsterInstance]):
    """Queues runs as Dagster does; how many go on at once, in all and per organization, is in `Settings`."""

    def get_run_queue_config(self) -> RunQueueConfig:
        """The limits that the daemon goes by."""
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
