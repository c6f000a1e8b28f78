"""What a run that failed says: why, what to do next and what was wrong, without customers' values.

The batch's `reason` is for its sender and may name what the upload has; events are for whoever looks after batches.
"""

import traceback

import psycopg
from dagster import Failure, MetadataValue
from sqlalchemy.exc import DBAPIError

from batch_pipeline.batches.model import Batch
from batch_pipeline.batches.reasons import is_refused
from batch_pipeline.errors import BatchError, NotFoundError, UnavailableError
from batch_pipeline.orchestration.metadata import (
    Metadata,
    artifact_metadata,
    batch_metadata,
    failure_metadata,
    phase_metadata,
)
from batch_pipeline.system import System

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
    if is_refused(batch):
        where = f" (`batch-pipeline errors {batch.id}` tells what is wrong with each item)"
        return f"Correct the upload{where if batch.has_errors_file else ''} and send it again."
    return f"Once the cause is gone, re-execute this run from failure, or {retry}: what is done is not done again."
