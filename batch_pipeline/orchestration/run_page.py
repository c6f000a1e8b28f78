"""What a run's page in Dagster shows: metadata of batches and phases, progress while it runs, and why it failed.

Metadata hold counts, codes, rows and keys, and no values of customers: the batch's `reason` is for its sender and may
quote the upload; a run's events are for the people who operate the system.
"""

import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict
from uuid import uuid4

import psycopg
from dagster import (
    AssetMaterialization,
    DagsterInstance,
    DagsterRun,
    Failure,
    MetadataValue,
    OpExecutionContext,
    TableColumn,
    TableRecord,
    TableSchema,
)
from dagster._core.events import EngineEventData  # Dagster's one event that shows metadata before an op has ended
from psycopg import sql
from sqlalchemy.exc import DBAPIError

from batch_pipeline.batches.model import Batch, PhaseName
from batch_pipeline.batches.states import Reason
from batch_pipeline.database import borrowed
from batch_pipeline.errors import BatchError, NotFoundError, UnavailableError
from batch_pipeline.loading.staging import Staging
from batch_pipeline.orchestration import tags
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
        values["step"] = MetadataValue.text(progress.note)
        if progress.total is None:
            return values
    else:
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
    """Where the batch's files are, and how long writing the artifacts took, which no phase's seconds include."""
    files: Mapping[str, tuple[bool, str]] = {
        "upload": (batch.has_upload_file, batch.upload_key or ""),
        "errors.csv": (batch.has_errors_file, keys.errors_csv(batch.id)),
        "errors.json": (batch.has_errors_file, keys.errors_json(batch.id)),
        "result.json": (batch.has_result_file, keys.result_json(batch.id)),
    }
    values: Metadata = {
        name: MetadataValue.path(system.store.uri(key)) for name, (exists, key) in files.items() if exists
    }
    seconds = [artifact.seconds for artifact in batch.work.artifacts if artifact.seconds is not None]
    if seconds:
        values["artifact seconds"] = MetadataValue.float(round(sum(seconds), 3))
    return values


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
    resource = RESOURCES[batch.address.resource]
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


EVENT_SECONDS = 5.0  # between two events: each is a row in Dagster's tables
STANDSTILL_SECONDS = 60.0  # the same between two that say the same: nothing gets on


class ProgressEvents:
    """Adds events to the run's log, one every few seconds at most.

    To be told often: news that comes too soon after the last event is in the next one, and the log of work that is
    stuck says where.
    """

    def __init__(self, context: OpExecutionContext) -> None:
        self._context = context
        self._told_at = time.monotonic()
        self._told: Progress | None = None

    def report(self, progress: Progress) -> None:
        """Tells of the progress, unless it is too soon."""
        is_new_step = progress.note and (self._told is None or self._told.note != progress.note)
        pause = 0.0 if is_new_step else STANDSTILL_SECONDS if progress == self._told else EVENT_SECONDS
        if time.monotonic() - self._told_at < pause:
            return
        self._told, self._told_at = progress, time.monotonic()
        shown: Metadata = progress_metadata(progress)
        self._context.instance.report_engine_event(
            str(progress), self._context.run, EngineEventData(shown), step_key=self._context.op.name
        )


CANCELLED = "cancelled"  # the reason's code

# Whose messages repeat the header: of a file without one that is the first row.
_ABOUT_HEADERS = {
    "unknown_columns": "The header has columns that are unknown",
    "missing_columns": "The header lacks columns",
    "duplicate_headers": "The header names a column more than once",
}
_TO_DO = {
    "gave_way": "Nothing: another run of the batch follows by itself.",
    "superseded": "Nothing: the batch goes on, or has ended, without this run.",
    "disk_full": "Make room on the disk that the reason names. Then re-execute this run from failure.",
    "batch_busy": "Wait for the run that is at work on the batch, or cancel the batch.",
    "batch_expired": "Create a new batch, and upload its file in time.",
    "pruned": "Send the upload again: its files are gone.",
    "internal_error": "Report it, with this run's log. Once it is mended, re-execute this run from failure.",
}


def failure_of(error: BatchError, system: System, batch_id: str) -> Failure:
    """What fails an op, as far as the ledger can be reached: the code, what to do, and what the batch was."""
    shown: Metadata = {"code": MetadataValue.text(error.code)}
    message = without_values(error.code, error.message, batch_id)
    try:
        batch = system.ledger.get(batch_id)
        shown |= {"what to do": MetadataValue.text(what_to_do(batch, error.code)), **batch_metadata(batch)}
        begun = [phase.name for phase in batch.phases if phase.started_at is not None]
        if begun:
            shown |= phase_metadata(batch, begun[-1])
        shown |= {**failure_metadata(system, batch), **artifact_metadata(system, batch)}
        shown.pop("reason", None)  # the phase's is the batch's, in full
    except (UnavailableError, NotFoundError, psycopg.Error, DBAPIError):
        shown["incomplete"] = MetadataValue.text("The ledger could not be asked for more.")
    return Failure(message, metadata=shown, allow_retries=False)


def show_refused(instance: DagsterInstance, batch: Batch) -> DagsterRun:
    """Adds a failed run for a batch that was refused at intake, so that Dagster's timeline shows what the ledger has.

    Nothing was executed: the run has the batch's tag, and its one event says why.
    """
    run = instance.add_run(DagsterRun(tags.JOB_NAME, run_id=str(uuid4()), tags={tags.BATCH_ID: batch.id}))
    reason = batch.reason or Reason("internal_error", "The batch was refused.")
    instance.report_run_failed(run, message=without_values(reason.code, reason.message, batch.id))
    return run


def without_values(code: str, message: str, batch_id: str) -> str:
    """A reason's message as an event may have it."""
    if code not in _ABOUT_HEADERS:
        return message
    return f"{_ABOUT_HEADERS[code]}: `batch-pipeline show {batch_id}` names them."


def unexpected_failure(error: Exception, batch_id: str) -> Failure:
    """What fails an op that met an error of ours: which, and where. Its words may quote what it was at."""
    places = "".join(
        f"{frame.filename}:{frame.lineno} {frame.name}\n" for frame in traceback.extract_tb(error.__traceback__)
    )
    return Failure(
        f"An unexpected error ({type(error).__name__}) ended batch {batch_id}.",
        metadata={
            "code": MetadataValue.text("internal_error"),
            "what to do": MetadataValue.text("Report it, with the places below."),
            "places": MetadataValue.md(f"```\n{places}```"),
        },
        allow_retries=False,
    )


def what_to_do(batch: Batch, code: str) -> str:
    """The next step after a run that ended with this code."""
    retry = f"`batch-pipeline retry {batch.id}`"
    if batch.reason is not None and batch.reason.code == CANCELLED:
        return f"If the rest is wanted, re-execute all of this run, or {retry}: what is done is not done again."
    if code in _TO_DO:
        return _TO_DO[code]
    if batch.is_refused:
        where = f" (`batch-pipeline errors {batch.id}` tells what is wrong with each item)"
        return f"Correct the upload{where if batch.has_errors_file else ''} and send it again."
    return f"Once the cause is gone, re-execute this run from failure, or {retry}: what is done is not done again."
