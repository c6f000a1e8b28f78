"""The assets: the tables of records that batches change. Each completed batch is an event on its resource's asset."""

from dagster import AssetSpec

from batch_pipeline.records.registry import RESOURCES


def build_asset_specs() -> list[AssetSpec]:
    """One asset per resource, so that its page plots the batches' numbers over time."""
    return [
        AssetSpec(
            resource.table,
            description=f"The table `{resource.table}` in PostgreSQL. Each point is one batch that completed.",
            kinds={"postgres"},
        )
        for resource in RESOURCES.values()
    ]
