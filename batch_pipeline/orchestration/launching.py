"""Launches a batch's run at once, by the GraphQL API of Dagster's webserver.

The batch awaits its run in the ledger. If the launch fails, the sensor launches the run later. Both use the same run
key, and Dagster launches a run key only once.
"""

import logging
import time
from threading import Lock
from typing import Any

import httpx

from batch_pipeline.batches.model import Batch
from batch_pipeline.dagster_home import LOCATION_NAME
from batch_pipeline.orchestration import tags
from batch_pipeline.orchestration.requested_runs import job_name_of, run_config_of, run_key_of, run_tags_of

logger = logging.getLogger(__name__)

REPOSITORY_NAME = "__repository__"  # Dagster's name for the repository of one `Definitions`
TIMEOUT_SECONDS = 8.0
PAUSE_SECONDS = 10.0  # after a failure, so that not every call waits for the time-out

_LAUNCH = """
mutation Launch($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
  }
}
"""


class Launcher:
    """Launches runs by one webserver; without an address it launches none. Thread-safe."""

    def __init__(self, dagster_url: str | None) -> None:
        self._url = None if dagster_url is None else f"{dagster_url.rstrip('/')}/graphql"
        self._client = httpx.Client(timeout=TIMEOUT_SECONDS)
        self._lock = Lock()
        self._paused_until = 0.0

    @property
    def is_available(self) -> bool:
        """Whether there is a webserver that did not fail in the last seconds."""
        return self._url is not None and time.monotonic() >= self._paused_until

    def launch(self, batch: Batch) -> bool:
        """Launches the run that the batch awaits; returns whether Dagster accepted it."""
        if self._url is None or not self.is_available:
            return False
        try:
            answer = self._client.post(self._url, json={"query": _LAUNCH, "variables": {"params": _params(batch)}})
            answer.raise_for_status()
            result = answer.json()["data"]["launchRun"]["__typename"]
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            with self._lock:
                self._paused_until = time.monotonic() + PAUSE_SECONDS
            logger.warning(
                "Dagster did not launch batch %s (%s): the sensor launches it.", batch.id, type(error).__name__
            )
            return False
        if result != "LaunchRunSuccess":
            logger.warning("Dagster did not launch batch %s (%s): the sensor launches it.", batch.id, result)
        return bool(result == "LaunchRunSuccess")

    def close(self) -> None:
        """Closes its connections."""
        self._client.close()


def _params(batch: Batch) -> dict[str, Any]:
    named = {**run_tags_of(batch), tags.RUN_KEY: run_key_of(batch), tags.SENSOR_NAME: tags.UPLOAD_SENSOR}
    return {
        "selector": {
            "repositoryLocationName": LOCATION_NAME,
            "repositoryName": REPOSITORY_NAME,
            "jobName": job_name_of(batch),
        },
        "runConfigData": run_config_of(batch),
        "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in named.items()]},
    }
