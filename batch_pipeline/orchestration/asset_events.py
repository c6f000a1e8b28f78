"""The events that a batch adds to its resource's asset: a materialization or an observation, and evaluated checks.

A completed merge adds two events, because each is a row in Dagster's tables and costs a batch some milliseconds.
"""

from collections.abc import Iterable, Iterator

from dagster import AssetCheckEvaluation, AssetMaterialization, AssetObservation, MetadataValue, OpExecutionContext

from batch_pipeline.batches.model import Batch
from batch_pipeline.database import borrowed_for_statements
from batch_pipeline.loading.row_counts import estimate_rows
from batch_pipeline.orchestration.checks import check_batch, items_read, items_rejected
from batch_pipeline.orchestration.run_page import Metadata, artifact_metadata, batch_metadata, batch_text
from batch_pipeline.records.registry import RESOURCES
from batch_pipeline.system import System

AssetEvent = AssetMaterialization | AssetObservation | AssetCheckEvaluation


def completing_events(system: System, batch: Batch) -> Iterator[AssetEvent]:
    """The events of a completed batch."""
    yield materialization(system, batch)
    yield from check_batch(system, batch)


def ending_events(system: System, batch: Batch) -> Iterator[AssetEvent]:
    """The events of a batch that failed or timed out. Its numbers are in the plots, beside those of completed ones."""
    counts = {"items": items_read(batch), "rejected": items_rejected(batch)}
    yield AssetObservation(
        asset_key=RESOURCES[batch.address.resource].table,
        description=batch_text(batch),
        metadata={**batch_metadata(batch), **{name: MetadataValue.int(count) for name, count in counts.items()}},
    )
    yield from check_batch(system, batch)


def log_events(context: OpExecutionContext, events: Iterable[AssetEvent]) -> None:
    """Adds the events to the run's log, also if the op fails afterwards."""
    for event in events:
        context.log_event(event)  # type: ignore[arg-type] # it takes evaluated checks; its annotation lacks them


def stats_metadata(batch: Batch) -> Metadata:
    """The statistics and the duration of all phases as numbers. The UI plots them over the batches of a resource."""
    values = {"items": batch.items, **batch.counts}
    seconds = sum(phase.seconds or 0.0 for phase in batch.phases)
    metadata: Metadata = {name: MetadataValue.int(value) for name, value in values.items()}
    if any(phase.already for phase in batch.phases):
        return metadata  # the time of earlier attempts is unknown
    metadata["seconds"] = MetadataValue.float(round(seconds, 3))
    if seconds > 0:
        metadata["rows per second"] = MetadataValue.int(int(batch.items / seconds))
    return metadata


def materialization(system: System, batch: Batch) -> AssetMaterialization:
    """The materialization that a completed batch adds to its resource's asset."""
    table = RESOURCES[batch.address.resource].table
    with borrowed_for_statements(system.engine) as connection:
        rows = estimate_rows(connection, table)
    return AssetMaterialization(
        asset_key=table,
        description=batch_text(batch),
        metadata={
            **batch_metadata(batch),
            **stats_metadata(batch),
            "dagster/row_count": MetadataValue.int(rows),
            **artifact_metadata(system, batch),
        },
    )
