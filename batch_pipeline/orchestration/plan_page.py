"""The plan of a planned batch on its run's page."""

from collections.abc import Mapping
from typing import Any

from dagster import MetadataValue, TableColumn, TableRecord, TableSchema

from batch_pipeline.batches.model import Batch
from batch_pipeline.batches.states import BatchStatus
from batch_pipeline.orchestration import tags
from batch_pipeline.orchestration.page_links import next_links
from batch_pipeline.orchestration.run_page import Metadata
from batch_pipeline.storage import keys
from batch_pipeline.system import System

_FIELD_COLUMNS = TableSchema([TableColumn("field", "string"), TableColumn("records", "int")])
_SAMPLE_COLUMNS = TableSchema([TableColumn("row", "int"), TableColumn("id", "string"), TableColumn("field", "string")])
_DELETION_COLUMNS = TableSchema([TableColumn("id", "string")])
_DIFFERENCE_COLUMNS = TableSchema([TableColumn(name, "string") for name in ("row or record", "was", "now")])


def plan_metadata(system: System, batch: Batch) -> Metadata:
    """The plan of a planned batch: what it would do, in which fields, its warnings, and how to apply it.

    The samples name rows and fields. The values are in the plan's files.
    """
    plan = batch.plan
    if plan is None or batch.status is not BatchStatus.planned:
        return {}
    counts = ", ".join(f"{count:,} {outcome}" for outcome, count in plan["counts"].items() if count) or "nothing"
    values: Metadata = {
        "plan": MetadataValue.text(counts),
        "to apply": MetadataValue.text(
            f"Launch {tags.APPLY_JOB_NAME} with batch: {batch.id}, or run `batch-pipeline apply {batch.id}`."
        ),
        **next_links(batch),
    }
    for number, warning in enumerate(plan["warnings"], start=1):
        values[f"warning {number}"] = MetadataValue.text(f"{warning['code']}: {warning['message']}")
    for name, rows, columns in (
        ("changes by field", [{"field": f, "records": n} for f, n in plan["fields"].items()], _FIELD_COLUMNS),
        ("sample changes", [_without_values(each) for each in plan["samples"]], _SAMPLE_COLUMNS),
        ("first deletions", [{"id": each["id"]} for each in plan["deletions"]], _DELETION_COLUMNS),
        ("first differences", [_line_text(each) for each in plan.get("difference", ())], _DIFFERENCE_COLUMNS),
    ):
        if rows:
            values[name] = MetadataValue.table([TableRecord(row) for row in rows], schema=columns)
    return values | {
        "plan.csv": MetadataValue.path(system.store.uri(keys.plan_csv(batch.id))),
        "plan.json": MetadataValue.path(system.store.uri(keys.plan_json(batch.id))),
    }


def _without_values(sample: Mapping[str, Any]) -> dict[str, Any]:
    return {"row": sample["row"], "id": sample["id"], "field": sample["field"]}


def _line_text(difference: Mapping[str, Any]) -> dict[str, Any]:
    outcomes = [(difference[side] or {}).get("outcome", "no line") for side in ("was", "now")]
    return {"row or record": str(difference["row"] or difference["id"]), "was": outcomes[0], "now": outcomes[1]}
