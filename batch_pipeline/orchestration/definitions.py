"""Assembles the code location: the job, the sensors, the assets and the Dagster resources.

The assets are the tables of records. Each completed batch adds a materialization to its resource's asset.
"""

from collections.abc import Mapping
from typing import Any

from dagster import AssetSpec, Definitions

from batch_pipeline.orchestration.ops import apply_job, batch_job
from batch_pipeline.orchestration.resources import SystemResource
from batch_pipeline.orchestration.sensors import SENSORS
from batch_pipeline.orchestration.undo_job import undo_job
from batch_pipeline.records.registry import RESOURCES


def build_defs(*, resource_overrides: Mapping[str, Any] | None = None) -> Definitions:
    """All definitions. `resource_overrides` lets tests and tools build variants instead of patching."""
    return Definitions(
        assets=build_asset_specs(),
        jobs=[batch_job, apply_job, undo_job],
        sensors=SENSORS,
        resources={"system": SystemResource(), **(resource_overrides or {})},
    )


def build_asset_specs() -> list[AssetSpec]:
    """One asset per resource. The asset's page plots the batches' numbers over time."""
    return [
        AssetSpec(
            resource.table,
            description=f"The table `{resource.table}` in PostgreSQL. Each point is one batch that completed.",
            kinds={"postgres"},
        )
        for resource in RESOURCES.values()
    ]
