"""The assets: the tables of records, and the inbox that their files come from. Runs report to them; none makes them."""

from dagster import AssetSpec, TableColumn, TableColumnConstraints, TableSchema

from batch_pipeline.records.registry import RESOURCES
from batch_pipeline.records.table_columns import read_columns
from batch_pipeline.settings import Settings
from batch_pipeline.storage.keys import INBOX

INBOX_ASSET = "inbox"


def build_asset_specs(settings: Settings) -> list[AssetSpec]:
    """One asset per resource, and the inbox. An asset's page plots the batches' numbers over time."""
    inbox = AssetSpec(
        INBOX_ASSET,
        description=f"The prefix `{INBOX}/` of the bucket: a file in `{INBOX}/ORGANIZATION/RESOURCE/ACTION/` becomes a "
        "batch. `upload_sensor` takes the files in.",
        kinds={"s3"},
        group_name="intake",
        owners=[settings.asset_owner],
    )
    tables = [
        AssetSpec(
            resource.table,
            deps=[inbox],
            description=f"The table `{resource.table}` in PostgreSQL. Each point is one batch: a materialization if it "
            "completed, an observation if it failed.",
            kinds={"postgres"},
            group_name="records",
            owners=[settings.asset_owner],
            metadata={
                "dagster/column_schema": _table_schema(name),
                "dagster/table_name": f"public.{resource.table}",
            },
        )
        for name, resource in RESOURCES.items()
    ]
    return [inbox, *tables]


def _table_schema(resource: str) -> TableSchema:
    return TableSchema(
        [
            TableColumn(
                column.name,
                column.sql_type,
                description=column.description,
                constraints=TableColumnConstraints(nullable=not column.required),
            )
            for column in read_columns(resource)
        ]
    )
