"""Puts the code location together."""

from collections.abc import Mapping
from typing import Any

from dagster import Definitions

from batch_pipeline.orchestration.assets import build_asset_specs
from batch_pipeline.orchestration.io_manager import ledger_io_manager
from batch_pipeline.orchestration.jobs import build_batch_job
from batch_pipeline.orchestration.requested_sensors import build_requested_sensors
from batch_pipeline.orchestration.resources import SystemResource
from batch_pipeline.orchestration.retention_sensor import build_retention_sensor
from batch_pipeline.orchestration.sensors import build_sensors


def build_defs(*, resource_overrides: Mapping[str, Any] | None = None) -> Definitions:
    """All definitions; `resource_overrides` lets tests and tools build variants instead of patching."""
    batch_job = build_batch_job()
    return Definitions(
        assets=build_asset_specs(),
        jobs=[batch_job],
        sensors=[*build_sensors(batch_job), *build_requested_sensors(), build_retention_sensor()],
        resources={"system": SystemResource(), "io_manager": ledger_io_manager, **(resource_overrides or {})},
    )
