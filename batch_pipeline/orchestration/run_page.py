"""The content of a run's page in Dagster: metadata of batches and phases, progress, and failures.

Metadata contain counts, codes, row numbers and keys, and no customers' values. A batch's `reason` is for its sender and
may quote the upload; a run's events are for the operators of the system.
"""

import time
import traceback
from collections.abc import Mapping
from uuid import uuid4

import psycopg
from dagster import (
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
from batch_pipeline.batches.states import AT_REST, Reason
from batch_pipeline.database import borrowed
from batch_pipeline.errors import BatchError, NotFoundError, UnavailableError
from batch_pipeline.loading.staging import STAGED_BATCH
from batch_pipeline.loading.staging_choice import staging_of
from batch_pipeline.orchestration import tags
from batch_pipeline.orchestration.error_page import groups_metadata, summary_metadata
from batch_pipeline.orchestration.outcomes import outcome_text
from batch_pipeline.orchestration.page_links import errors_links, next_links
from batch_pipeline.phases.phase_progress import Progress
from batch_pipeline.storage import keys
from batch_pipeline.system import System

FIRST_FAILURES = 50  # metadata are part of the event's row; the errors file has all failures

_FAILURE_COLUMNS = TableSchema(
    columns=[
        TableColumn("row", "int", description="position in the upload, the first data row being 1"),
        TableColumn("field", "string"),
        TableColumn("code", "string"),
    ]
)

Metadata = dict[str, MetadataValue]


def batch_text(batch: Batch) -> str:
    """One line that describes the batch: action, resource, name, organization and how its payload arrived."""
    return f"{batch.action} {batch.resource}: {batch.name}, from {batch.organization_id} by {batch.via.value}"


def batch_metadata(batch: Batch) -> Metadata:
    """The outcome of a batch that is not live, then the batch, its id and its status."""
    outcome = {"outcome": MetadataValue.text(outcome_text(batch))} if batch.status in AT_REST else {}
    return {
        **outcome,
        "what": MetadataValue.text(batch_text(batch)),
        "batch": MetadataValue.text(batch.id),
        "status": MetadataValue.text(f"{batch.status}, attempt {batch.attempts}"),
        **({} if batch.next_attempt_at is None else {"next attempt": MetadataValue.timestamp(batch.next_attempt_at)}),
    }


def progress_metadata(progress: Progress) -> Metadata:
    """The progress of a running phase."""
    values: Metadata = {"phase": MetadataValue.text(progress.phase.value)}
    if progress.note:
        values["step"] = MetadataValue.text(progress.note)
        if progress.total is None:
            return values
    else:
        of_chunks = "" if progress.chunks is None else f" of {progress.chunks:,}"
        values["chunk"] = MetadataValue.text(f"{progress.chunk:,}{of_chunks}")
    if progress.workers > 1:
        values["workers"] = MetadataValue.int(progress.workers)
    values["rows"] = MetadataValue.int(progress.done)
    if progress.total is not None:
        values["of rows"] = MetadataValue.int(progress.total)
    values["rows per second"] = MetadataValue.int(int(progress.per_second))
    if progress.seconds_left is not None:
        values["seconds left"] = MetadataValue.int(progress.seconds_left)
    return values


def phase_metadata(batch: Batch, name: PhaseName) -> Metadata:
    """The counts and the duration of one phase."""
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
    """The largest groups of errors, and the first failures. Empty without errors, or if the staged rows are removed."""
    if not any(phase.error for phase in batch.phases):
        return {}
    staging = staging_of(batch)
    with borrowed(system.engine, **{STAGED_BATCH: batch.id}) as connection:
        if not staging.exists(connection):
            return {}
        groups = connection.execute(
            sql.SQL(
                "SELECT field, code, count(*), min(row) FROM {} GROUP BY field, code ORDER BY 3 DESC, 4, 2 LIMIT {}"
            ).format(staging.errors, sql.Literal(FIRST_FAILURES))
        ).fetchall()
        first = connection.execute(
            sql.SQL("SELECT row, field, code FROM {} ORDER BY row, step, number LIMIT {}").format(
                staging.errors, sql.Literal(FIRST_FAILURES)
            )
        ).fetchall()
    return {
        **groups_metadata({"field": name, "code": code, "count": n, "rows": [row]} for name, code, n, row in groups),
        f"first {FIRST_FAILURES} failures": MetadataValue.table(
            [TableRecord({"row": int(row), "field": field or "", "code": str(code)}) for row, field, code in first],
            schema=_FAILURE_COLUMNS,
        ),
    }


def artifact_metadata(system: System, batch: Batch) -> Metadata:
    """Links for the rejected items, the addresses of the batch's files, and the time to write the artifacts.

    That time is part of no phase's time.
    """
    files: Mapping[str, tuple[bool, str]] = {
        "upload": (batch.has_upload_file, batch.upload_key or ""),
        "errors.csv": (batch.has_errors_file, keys.errors_csv(batch.id)),
        "errors.json": (batch.has_errors_file, keys.errors_json(batch.id)),
        "result.json": (batch.has_result_file, keys.result_json(batch.id)),
    }
    values: Metadata = {
        **errors_links(system.settings, batch),
        **{name: MetadataValue.path(system.store.uri(key)) for name, (exists, key) in files.items() if exists},
    }
    seconds = [artifact.seconds for artifact in batch.facts.artifacts if artifact.seconds is not None]
    if seconds:
        values["artifact seconds"] = MetadataValue.float(round(sum(seconds), 3))
    return values


EVENT_SECONDS = 5.0  # minimum between two events, because each is a row in Dagster's tables
STANDSTILL_SECONDS = 60.0  # the same between two events with equal progress


class ProgressEvents:
    """Adds progress events to the run's log, limited to one in `EVENT_SECONDS`.

    Callers report often. Progress that comes too early is dropped, and a later report includes it. Unchanged progress
    is logged once in `STANDSTILL_SECONDS`, so the log shows where work is stuck.
    """

    def __init__(self, context: OpExecutionContext) -> None:
        self._context = context
        self._logged_at = time.monotonic()
        self._logged: Progress | None = None

    def report(self, progress: Progress) -> None:
        """Logs the progress unless the last event is too recent. A new step is always logged."""
        is_new_step = progress.note and (self._logged is None or self._logged.note != progress.note)
        pause = 0.0 if is_new_step else STANDSTILL_SECONDS if progress == self._logged else EVENT_SECONDS
        if time.monotonic() - self._logged_at < pause:
            return
        self._logged, self._logged_at = progress, time.monotonic()
        shown: Metadata = progress_metadata(progress)
        self._context.instance.report_engine_event(
            str(progress), self._context.run, EngineEventData(shown), step_key=self._context.op.name
        )


CANCELLED = "cancelled"  # the reason's code

# Messages with these codes quote the header. In a file without a header, that is a row of customers' values.
_HEADER_MESSAGES = {
    "missing_columns": "The header lacks columns",
    "duplicate_headers": "The header names a column more than once",
}
_NEXT_STEPS = {
    "plan_changed": "Look at the new plan of the batch and at the difference. Then apply it, or cancel the batch.",
    "changes_expired": "Nothing: the log no longer has what the batch changed, so it can't be undone.",
    "gave_way": "Nothing: Dagster starts another run of the batch.",
    "superseded": "Nothing: a newer run has the batch, or the batch has ended.",
    "disk_full": "Make room on the disk that the reason names. Then re-execute this run from failure.",
    "batch_busy": "Wait for the run that is working on the batch, or cancel the batch.",
    "batch_expired": "Create a new batch, and upload its file in time.",
    "pruned": "Send the upload again: its files are gone.",
    "internal_error": "Report it, with this run's log. Once it is fixed, re-execute this run from failure.",
}


def failure_of(error: BatchError, system: System, batch_id: str) -> Failure:
    """The error that fails the op: the code and, if the ledger can be reached, the outcome, next step and batch."""
    shown: Metadata = {"code": MetadataValue.text(error.code)}
    message = without_values(error.code, error.message, batch_id)
    try:
        batch = system.ledger.get(batch_id)
        described = batch_metadata(batch)
        first = {name: value for name, value in described.items() if name == "outcome"}
        shown = {
            **first,
            **shown,
            "what to do": MetadataValue.text(what_to_do(batch, error.code)),
            **described,
            **next_links(batch),
        }
        begun = [phase.name for phase in batch.phases if phase.started_at is not None]
        if begun:
            shown |= phase_metadata(batch, begun[-1])
        shown |= {**failure_metadata(system, batch), **summary_metadata(batch), **artifact_metadata(system, batch)}
        shown.pop("reason", None)  # the phase's reason is the batch's, which may quote values
    except (UnavailableError, NotFoundError, psycopg.Error, DBAPIError):
        shown["incomplete"] = MetadataValue.text("The ledger can't be reached, so the batch is not shown.")
    return Failure(message, metadata=shown, allow_retries=False)


def show_refused(instance: DagsterInstance, batch: Batch) -> DagsterRun:
    """Adds a failed run for a batch that intake refused, so that Dagster's timeline shows the batch.

    Nothing is executed: the run has the batch's tags and one event with the reason.
    """
    known = {tags.ORGANIZATION: batch.organization_id, tags.RESOURCE: batch.resource, tags.ACTION: batch.action}
    run_tags = {
        tags.BATCH_ID: batch.id,
        **{name: str(value) for name, value in known.items() if value is not None},
        tags.NAME: batch.name,
        tags.OUTCOME: outcome_text(batch),
    }
    run = instance.add_run(DagsterRun(tags.JOB_NAME, run_id=str(uuid4()), tags=run_tags))
    reason = batch.reason or Reason("internal_error", "The batch was refused.")
    instance.report_run_failed(run, message=without_values(reason.code, reason.message, batch.id))
    return run


def without_values(code: str, message: str, batch_id: str) -> str:
    """A reason's message without customers' values, for an event."""
    if code not in _HEADER_MESSAGES:
        return message
    return f"{_HEADER_MESSAGES[code]}: `batch-pipeline show {batch_id}` names them."


def unexpected_failure(error: Exception, batch_id: str) -> Failure:
    """The error that fails an op after an unexpected exception: its type and stack, without its message.

    The message may quote customers' values.
    """
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
    """The operator's next step after a run that failed with this code."""
    retry = f"`batch-pipeline retry {batch.id}`"
    if batch.next_attempt_at is not None:
        return f"Nothing: the batch runs again by itself. To run it at once, {retry}; to prevent it, cancel the batch."
    if batch.reason is not None and batch.reason.code == CANCELLED:
        return f"If the rest is wanted, re-execute all of this run, or {retry}: finished work is not repeated."
    if code in _NEXT_STEPS:
        return _NEXT_STEPS[code]
    if batch.is_refused:
        where = f" (`batch-pipeline errors {batch.id}` lists the errors of each item)"
        return f"Correct the upload{where if batch.has_errors_file else ''} and send it again."
    return f"Once the cause is gone, re-execute this run from failure, or {retry}: finished work is not repeated."
