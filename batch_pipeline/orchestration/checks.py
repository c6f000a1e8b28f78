"""The asset checks of each resource: what they are called, and how a batch is judged by them.

A run evaluates the checks of its batch. `upkeep_sensor` evaluates `fresh` as well, because no run tells of a file that
does not come. The UI can evaluate checks again for the newest batch (`check_definitions`). They warn and block nothing.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta

from dagster import (
    AssetCheckEvaluation,
    AssetCheckKey,
    AssetCheckSeverity,
    AssetKey,
    DagsterInstance,
    MetadataValue,
    TableColumn,
    TableRecord,
    TableSchema,
)

from batch_pipeline.batches.model import Action, Batch
from batch_pipeline.batches.queries import newest_completed_arrival
from batch_pipeline.batches.states import BatchStatus
from batch_pipeline.database import borrowed
from batch_pipeline.loading.limits import DEFAULT_COUNT, DEFAULT_PERCENT
from batch_pipeline.loading.row_counts import count_records
from batch_pipeline.orchestration.run_page import batch_text
from batch_pipeline.records.registry import RESOURCES
from batch_pipeline.settings import Settings
from batch_pipeline.system import System

REJECTED_ROWS = "rejected_rows"
NO_UNEXPECTED_DELETES = "no_unexpected_deletes"
FRESH = "fresh"
CHECKS = (REJECTED_ROWS, NO_UNEXPECTED_DELETES, FRESH)

_FRESH_COLUMNS = TableSchema(
    [
        TableColumn("organization", "string"),
        TableColumn("every hours", "float"),
        TableColumn("newest file", "string", description="arrival of the newest file whose batch completed, UTC"),
        TableColumn("late", "bool"),
    ]
)


def check_batch(system: System, batch: Batch) -> Iterator[AssetCheckEvaluation]:
    """The evaluated checks of a batch that has ended."""
    if batch.action is not Action.undo and (items_read(batch) or batch.status is BatchStatus.completed):
        yield check_rejected_rows(system.settings, batch)
    if may_delete(batch):
        yield check_deletes(system, batch)
    resource = batch.address.resource
    if batch.status is BatchStatus.completed and batch.organization_id in fresh_hours(system.settings, resource):
        yield check_fresh(system, resource)


def items_read(batch: Batch) -> int:
    """The items read, also of a batch that did not complete."""
    return batch.items or batch.facts.items


def items_rejected(batch: Batch) -> int:
    """The items rejected, also of a batch that did not complete."""
    if batch.status is BatchStatus.completed:
        return batch.stats.rejected
    return max(batch.facts.rejected, sum(phase.error for phase in batch.phases))


def check_rejected_rows(settings: Settings, batch: Batch) -> AssetCheckEvaluation:
    """Fails if more than `BATCH_REJECTED_SHARE` of the items were rejected."""
    items, rejected = items_read(batch), items_rejected(batch)
    share = rejected / items if items else 0.0
    return _evaluation(
        batch.address.resource,
        REJECTED_ROWS,
        passed=share <= settings.rejected_share,
        description=f"{rejected:,} of {items:,} items were rejected ({share:.1%}); the limit is "
        f"{settings.rejected_share:.1%}.",
        metadata={
            **_batch_metadata(batch),
            "items": MetadataValue.int(items),
            "rejected": MetadataValue.int(rejected),
            "share": MetadataValue.float(round(share, 4)),
        },
    )


def may_delete(batch: Batch) -> bool:
    """Whether the batch deleted records, could have, or was refused because of that."""
    completed = batch.status is BatchStatus.completed and batch.action is not Action.merge
    return completed or _is_over_delete_limit(batch)


def check_deletes(system: System, batch: Batch) -> AssetCheckEvaluation:
    """Fails if the batch was refused for its deletions, or deleted more than an overwrite may by default.

    That is more than 500 and more than half of the organization's records, also if the sender allowed it.
    """
    deleted = batch.stats.deleted + batch.stats.overwritten
    metadata = {**_batch_metadata(batch), "deleted": MetadataValue.int(deleted)}
    if _is_over_delete_limit(batch):
        description = "The batch was refused, because it would delete more records than its limit. Nothing was deleted."
        return _evaluation(
            batch.address.resource, NO_UNEXPECTED_DELETES, passed=False, description=description, metadata=metadata
        )
    passed, of_records = True, ""
    if deleted > DEFAULT_COUNT:
        with borrowed(system.engine) as connection:
            table = RESOURCES[batch.address.resource].table
            records = deleted + count_records(connection, table, batch.address.organization_id)
        passed = 100 * deleted / records <= DEFAULT_PERCENT
        of_records = f" of {records:,}"
        metadata["records before"] = MetadataValue.int(records)
    return _evaluation(
        batch.address.resource,
        NO_UNEXPECTED_DELETES,
        passed=passed,
        description=f"The batch deleted {deleted:,}{of_records} records; more than {DEFAULT_COUNT:,} and "
        f"{DEFAULT_PERCENT:g}% are unexpected.",
        metadata=metadata,
    )


def _is_over_delete_limit(batch: Batch) -> bool:
    return batch.reason is not None and batch.reason.code == "delete_limit_exceeded"


def fresh_hours(settings: Settings, resource: str) -> Mapping[str, float]:
    """The organizations whose files of the resource must come regularly, with the most hours between two files."""
    named = ((name.rpartition("/"), hours) for name, hours in settings.fresh_hours.items())
    return {organization: hours for (organization, _, of), hours in named if of == resource}


def check_fresh(system: System, resource: str, now: datetime | None = None) -> AssetCheckEvaluation:
    """Fails if an organization's newest file whose batch completed is older than `BATCH_FRESH_HOURS` allows."""
    now = now or datetime.now(UTC)
    late: list[str] = []
    rows: list[TableRecord] = []
    for organization, hours in sorted(fresh_hours(system.settings, resource).items()):
        newest = newest_completed_arrival(system.engine, organization, resource)
        is_late = newest is None or now - newest > timedelta(hours=hours)
        if is_late:
            late.append(organization)
        when = "none" if newest is None else newest.astimezone(UTC).strftime("%Y-%m-%d %H:%M")
        rows.append(
            TableRecord({"organization": organization, "every hours": hours, "newest file": when, "late": is_late})
        )
    return _evaluation(
        resource,
        FRESH,
        passed=not late,
        description=f"Late: {', '.join(late)}." if late else "Every organization's file came in time.",
        metadata={"organizations": MetadataValue.table(rows, schema=_FRESH_COLUMNS)},
    )


def report_freshness(system: System, instance: DagsterInstance) -> list[AssetCheckEvaluation]:
    """Evaluates `fresh` of each resource that has it, and records the results that differ from the last. Returns those.

    Recording only changes keeps Dagster's tables small: nobody reads that nothing has changed.
    """
    changed = []
    for resource in RESOURCES:
        if not fresh_hours(system.settings, resource):
            continue
        found = check_fresh(system, resource)
        if _last_result(instance, found.asset_check_key) != (found.passed, found.description):
            instance.report_runless_asset_event(found)
            changed.append(found)
    return changed


def delete_evaluations(instance: DagsterInstance, run_id: str) -> None:
    """Deletes what the run's checks left beside its events: Dagster deletes the events only."""
    # Nothing public deletes these rows. The second module imports alembic.
    from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable
    from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage

    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        return  # the user's own dagster.yaml has another storage
    table = AssetCheckExecutionsTable.c
    keys = [AssetKey(resource.table).to_string() for resource in RESOURCES.values()]
    with storage.index_connection() as connection:
        connection.execute(  # by all columns of the index, which begins with the key and the name
            AssetCheckExecutionsTable.delete().where(
                table.asset_key.in_(keys), table.check_name.in_(CHECKS), table.run_id == run_id
            )
        )


def _last_result(instance: DagsterInstance, key: AssetCheckKey) -> tuple[bool, str | None] | None:
    record = instance.event_log_storage.get_latest_asset_check_execution_by_key([key]).get(key)
    if record is None or record.event is None or record.event.dagster_event is None:
        return None
    last = record.event.dagster_event.asset_check_evaluation_data
    return last.passed, last.description


def _batch_metadata(batch: Batch) -> dict[str, MetadataValue]:
    return {"batch": MetadataValue.text(batch.id), "what": MetadataValue.text(batch_text(batch))}


def _evaluation(
    resource: str, name: str, *, passed: bool, description: str, metadata: Mapping[str, MetadataValue]
) -> AssetCheckEvaluation:
    return AssetCheckEvaluation(
        asset_key=AssetKey(RESOURCES[resource].table),
        check_name=name,
        passed=passed,
        severity=AssetCheckSeverity.WARN,
        description=description,
        metadata=metadata,
    )
