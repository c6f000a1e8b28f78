"""The batch object of the specification, made of a batch's stored values.

Lists make it of rows of the ledger alone: to make a `Batch` of each row takes four times as long.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from batch_pipeline.batches.facts import REMEMBERED
from batch_pipeline.batches.stats import Stats

# The columns of `batches` that `batch_object` reads.
STORED = (
    "id",
    "organization_id",
    "name",
    "resource",
    "action",
    "mode",
    "via",
    "status",
    "reason",
    "options",
    "phases",
    "stats",
    "work",
    "plan",
    "error_summary",
    "checksum",
    "has_upload_file",
    "has_errors_file",
    "has_result_file",
    "run_id",
    "attempts",
    "next_attempt_at",
    "retry_of",
    "undo_of",
    "created_at",
    "updated_at",
    "updated_by",
)
_NO_STATS = Stats().to_json()


def batch_object(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The batch object of the values of the columns `STORED`. Times are in whole epoch seconds."""
    options, facts, reason = stored["options"], stored["work"], stored["reason"]
    return {
        "object": "batch",
        "id": stored["id"],
        "organization_id": stored["organization_id"],
        "name": stored["name"],
        "resource": stored["resource"],
        "action": None if stored["action"] is None else str(stored["action"]),
        "mode": str(stored["mode"]),
        "via": str(stored["via"]),
        "status": str(stored["status"]),
        "reason": None if reason is None else {"code": reason["code"], "message": reason["message"]},
        "duplicate_handling": options["duplicate_handling"],
        "phases": [phase_object(phase) for phase in stored["phases"]],
        "stats": {**_NO_STATS, **stored["stats"]},
        "plan": stored["plan"],
        "column_mapping": applying_mapping(options, facts.get("remembered")),
        "suggested_mapping": None if reason is None else reason.get("suggested_mapping"),
        "warnings": list(facts.get("warnings", ())),
        "error_summary": stored["error_summary"],
        "checksum": stored["checksum"],
        "save_upload": options["save_upload"],
        "save_result": options["save_result"],
        "has_upload_file": stored["has_upload_file"],
        "has_errors_file": stored["has_errors_file"],
        "has_result_file": stored["has_result_file"],
        "run_id": stored["run_id"],
        "attempts": stored["attempts"],
        "next_attempt_at": _seconds(stored["next_attempt_at"]),
        "retry_of": stored["retry_of"],
        "undo_of": stored["undo_of"],
        "created_at": _seconds(stored["created_at"]),
        "updated_at": _seconds(stored["updated_at"]),
        "updated_by": stored["updated_by"],
    }


def phase_object(stored: Mapping[str, Any]) -> dict[str, Any]:
    """One phase in the batch object."""
    success, error, started_at, ended_at = (stored[name] for name in ("success", "error", "started_at", "ended_at"))
    return {
        "name": str(stored["name"]),
        "mode": stored["mode"],
        "status": str(stored["status"]),
        "total": stored["total"],
        "processed": success + error,
        "success": success,
        "error": error,
        "reason": stored["reason"],
        "started_at": None if started_at is None else int(started_at),
        "ended_at": None if ended_at is None else int(ended_at),
    }


def applying_mapping(options: Mapping[str, Any], remembered: Mapping[str, str] | None) -> dict[str, str]:
    """The column mapping that applies: record field -> header. Empty while a remembered one is not looked up."""
    given = options.get("column_mapping") or {}
    return dict((remembered or {}) if given == REMEMBERED else given)


def _seconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())
