"""What a run shows of its batch: text, numbers, a table of the first failures and links. Short, and no secrets.

Values of customers' data stand in artifacts only; here are rows, fields and codes.
"""

from collections.abc import Mapping
from dataclasses import asdict

from dagster import AssetMaterialization, MetadataValue, TableColumn, TableRecord, TableSchema
from psycopg import sql

from batch_pipeline.batches.model import Batch, PhaseName
from batch_pipeline.database import borrowed
from batch_pipeline.loading.staging import Staging
from batch_pipeline.phases.attempt import Progress
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


def told(batch: Batch) -> str:
    """What the batch is, on one line: what it does, of what file, whose, and how it came."""
    return f"{batch.action} {batch.resource}: {batch.name}, from {batch.organization_id} by {batch.via.value}"


def batch_metadata(batch: Batch) -> Metadata:
    """Which batch this is and where it stands."""
    return {
        "what": MetadataValue.text(told(batch)),
        "batch": MetadataValue.text(batch.id),
        "status": MetadataValue.text(f"{batch.status}, attempt {batch.attempts}"),
    }


def outcome_metadata(batch: Batch) -> Metadata:
    """What a completed batch did, on one line: all that is not zero."""
    counts = {name: count for name, count in asdict(batch.stats).items() if count}
    said = ", ".join(f"{count:,} {name}" for name, count in counts.items()) or "nothing to do"
    return {"outcome": MetadataValue.text(f"{batch.stats.items_read:,} items: {said}")}


def progress_metadata(progress: Progress) -> Metadata:
    """How far a phase is while it works."""
    values: Metadata = {"phase": MetadataValue.text(progress.phase.value)}
    if progress.note:
        return values
    of_chunks = "" if progress.chunks is None else f" of {progress.chunks:,}"
    values["chunk"] = MetadataValue.text(f"{progress.chunk:,}{of_chunks}")
    values["rows"] = MetadataValue.int(progress.done)
    if progress.total is not None:
        values["of rows"] = MetadataValue.int(progress.total)
    values["rows per second"] = MetadataValue.int(int(progress.per_second))
    if progress.seconds_left is not None:
        values["seconds left"] = MetadataValue.int(progress.seconds_left)
    return values


def phase_metadata(batch: Batch, name: PhaseName) -> Metadata:
    """What one phase did."""
    phase = batch.phase(name)
    values: Metadata = {
        "phase": MetadataValue.text(f"{name.value} {phase.status.value}"),
        "processed": MetadataValue.int(phase.processed),
        "success": MetadataValue.int(phase.success),
        "error": MetadataValue.int(phase.error),
    }
    if phase.seconds is not None:
        values["seconds"] = MetadataValue.float(round(phase.seconds, 3))
        if phase.seconds > 0:
            values["items per second"] = MetadataValue.int(int((phase.processed - phase.already) / phase.seconds))
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
    """The statistics, and how long the phases took, as numbers, which the UI plots over the batches of a resource."""
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
    if any(phase.already for phase in batch.phases):
        return metadata  # of what an earlier attempt did nobody knows the time
    metadata["seconds"] = MetadataValue.float(round(seconds, 3))
    if seconds > 0:
        metadata["rows per second"] = MetadataValue.int(int(stats.items_read / seconds))
    return metadata


def materialization(system: System, batch: Batch) -> AssetMaterialization:
    """The asset event of a completed batch: its resource's table has changed, and by how much."""
    resource = RESOURCES[str(batch.resource)]
    return AssetMaterialization(
        asset_key=resource.table,
        description=told(batch),
        metadata={
            **outcome_metadata(batch),
            **batch_metadata(batch),
            **stats_metadata(batch),
            **artifact_metadata(system, batch),
        },
    )
