"""What a run shows of its batch: text, numbers, a table of the first failures and links. Short, and no secrets.

Values of customers' data stand in artifacts only; here are rows, fields and codes.
"""

from collections.abc import Mapping

from dagster import AssetMaterialization, MetadataValue, TableColumn, TableRecord, TableSchema
from psycopg import sql

from batch_pipeline.batches.model import Batch, PhaseName
from batch_pipeline.database import borrowed
from batch_pipeline.loading.staging import Staging
from batch_pipeline.records.registry import RESOURCES
from batch_pipeline.storage import keys
from batch_pipeline.system import System

FIRST_FAILURES = 50  # metadata lives in the event's row: more belongs in the errors file

_FAILURE_COLUMNS = TableSchema(
    columns=[
        TableColumn("row", "int", description="position in the upload, the first data row being 1"),
        TableColumn("field", "string"),
        TableColumn("code", "string"),
    ]
)

Metadata = dict[str, MetadataValue]


def batch_metadata(batch: Batch) -> Metadata:
    """Which batch this is and where it stands."""
    return {
        "batch": MetadataValue.text(batch.id),
        "name": MetadataValue.text(batch.name),
        "organization": MetadataValue.text(str(batch.organization_id)),
        "status": MetadataValue.text(batch.status),
        "attempt": MetadataValue.int(batch.attempts),
    }


def phase_metadata(batch: Batch, name: PhaseName) -> Metadata:
    """What one phase did."""
    phase = batch.phase(name)
    values: Metadata = {
        "status": MetadataValue.text(phase.status.value),
        "processed": MetadataValue.int(phase.processed),
        "success": MetadataValue.int(phase.success),
        "error": MetadataValue.int(phase.error),
    }
    if phase.seconds is not None:
        values["seconds"] = MetadataValue.float(round(phase.seconds, 3))
        if phase.seconds > 0:
            values["items per second"] = MetadataValue.int(int(phase.processed / phase.seconds))
    if phase.reason is not None:
        values["reason"] = MetadataValue.text(phase.reason)
    return values


def failure_metadata(system: System, batch: Batch) -> Metadata:
    """Counts of errors by code, and the first failures, as long as the batch's staging tables exist."""
    if not any(phase.error for phase in batch.phases):
        return {}
    staging = Staging(batch.id)
    with borrowed(system.engine) as connection:
        if not staging.exists(connection):
            return {}
        counts = connection.execute(
            sql.SQL("SELECT code, count(*) FROM {} GROUP BY code ORDER BY 2 DESC, 1").format(staging.errors)
        ).fetchall()
        first = connection.execute(
            sql.SQL("SELECT row, field, code FROM {} ORDER BY row, step, number LIMIT {}").format(
                staging.errors, sql.Literal(FIRST_FAILURES)
            )
        ).fetchall()
    return {
        "errors by code": MetadataValue.table(
            [TableRecord({"code": str(code), "errors": int(count)}) for code, count in counts],
            schema=TableSchema([TableColumn("code", "string"), TableColumn("errors", "int")]),
        ),
        f"first {FIRST_FAILURES} failures": MetadataValue.table(
            [TableRecord({"row": int(row), "field": field or "", "code": str(code)}) for row, field, code in first],
            schema=_FAILURE_COLUMNS,
        ),
    }


def artifact_metadata(system: System, batch: Batch) -> Metadata:
    """Where the batch's files are."""
    files: Mapping[str, tuple[bool, str]] = {
        "upload": (batch.has_upload_file, batch.upload_key or ""),
        "errors.csv": (batch.has_errors_file, keys.errors_csv(batch.id)),
        "errors.json": (batch.has_errors_file, keys.errors_json(batch.id)),
        "result.json": (batch.has_result_file, keys.result_json(batch.id)),
    }
    return {name: MetadataValue.path(system.store.uri(key)) for name, (exists, key) in files.items() if exists}


def stats_metadata(batch: Batch) -> Metadata:
    """The statistics, as numbers, which the UI plots over the batches of a resource."""
    stats = batch.stats
    values = {
        "items": stats.items_read,
        "created": stats.created,
        "updated": stats.updated,
        "unchanged": stats.unchanged,
        "deleted": stats.deleted,
        "overwritten": stats.overwritten,
        "rejected": stats.rejected,
        "duplicates": stats.duplicates,
    }
    seconds = sum(phase.seconds or 0.0 for phase in batch.phases)
    metadata: Metadata = {name: MetadataValue.int(value) for name, value in values.items()}
    metadata["seconds"] = MetadataValue.float(round(seconds, 3))
    if seconds > 0:
        metadata["rows per second"] = MetadataValue.int(int(stats.items_read / seconds))
    return metadata


def materialization(system: System, batch: Batch) -> AssetMaterialization:
    """The asset event of a completed batch: its resource's table has changed, and by how much."""
    resource = RESOURCES[str(batch.resource)]
    return AssetMaterialization(
        asset_key=resource.table,
        description=f"{batch.name}: {batch.action} by batch {batch.id}",
        metadata={**batch_metadata(batch), **stats_metadata(batch), **artifact_metadata(system, batch)},
    )
