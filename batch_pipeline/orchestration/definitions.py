"""Assembles the code location: the job, the sensors, the assets and the Dagster resources.

The assets are the tables of records. Each batch reports to its resource's asset: see `asset_events`.
"""

from collections.abc import Mapping
from typing import Any

from dagster import Definitions

from batch_pipeline.orchestration.assets import build_asset_specs
from batch_pipeline.orchestration.check_definitions import build_checks
from batch_pipeline.orchestration.ops import apply_job, batch_job
from batch_pipeline.orchestration.resources import SystemResource
from batch_pipeline.orchestration.retry_rejected_job import retry_rejected_job
from batch_pipeline.orchestration.sensors import SENSORS
from batch_pipeline.orchestration.undo_job import undo_job
from batch_pipeline.settings import Settings, load_settings


def build_defs(*, settings: Settings | None = None, resource_overrides: Mapping[str, Any] | None = None) -> Definitions:
    """All definitions. The keywords let tests and tools build variants instead of patching.

    Raises SettingError if the settings, by default the environment's, are wrong.
    """
    settings = settings or load_settings()
    return Definitions(
        assets=build_asset_specs(settings),
        asset_checks=build_checks(settings),
        jobs=[batch_job, apply_job, undo_job, retry_rejected_job],
        sensors=SENSORS,
        resources={"system": SystemResource(), **(resource_overrides or {})},
    )
