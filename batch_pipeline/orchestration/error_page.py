"""The errors and warnings of a batch on its run's page, without customers' values."""

from collections.abc import Iterable, Mapping
from typing import Any

from dagster import MetadataValue, TableColumn, TableRecord, TableSchema

from batch_pipeline.batches.model import Batch

_COLUMNS = TableSchema(
    columns=[
        TableColumn("field", "string"),
        TableColumn("code", "string"),
        TableColumn("errors", "int", description="an item can have several"),
        TableColumn("first rows", "string", description="positions in the upload, the first data row being 1"),
        TableColumn("suggestion", "string"),
    ]
)


def summary_metadata(batch: Batch) -> dict[str, MetadataValue]:
    """The summary of an ended batch's errors, and the warnings about its upload."""
    shown: dict[str, MetadataValue] = {}
    if batch.error_summary is not None:
        shown |= groups_metadata(batch.error_summary["groups"])
    if batch.facts.warnings:
        shown["warnings"] = MetadataValue.text("; ".join(each["message"] for each in batch.facts.warnings))
    return shown


def groups_metadata(groups: Iterable[Mapping[str, Any]]) -> dict[str, MetadataValue]:
    """A table of groups as in a summary (`phases.error_summary`); their suggestion can be absent."""
    records = [
        TableRecord(
            {
                "field": group["field"] or "",
                "code": group["code"],
                "errors": group["count"],
                "first rows": ", ".join(f"{row:,}" for row in group["rows"]),
                "suggestion": group.get("suggestion") or "",
            }
        )
        for group in groups
    ]
    return {"errors by field and code": MetadataValue.table(records, schema=_COLUMNS)}
