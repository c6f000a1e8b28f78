"""Files sent to upload URLs: `requested/{batch_id}/upload` becomes the payload of the batch that awaits it.

Intake copies the file, records its arrival in the ledger, and deletes it, in this order. A crash between two steps
therefore neither loses nor duplicates it. The prefix holds only files that are not taken in yet, so the cost of a
listing does not depend on the number of batches.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from batch_pipeline.batches.accept import ArrivedPayload, attach_payload
from batch_pipeline.batches.model import Batch, Starter
from batch_pipeline.batches.queries import overdue_uploads
from batch_pipeline.batches.states import BatchStatus, Reason
from batch_pipeline.errors import NotFoundError
from batch_pipeline.intake.inbox import exclusive_intake
from batch_pipeline.intake.independent import process_independently
from batch_pipeline.storage import keys
from batch_pipeline.storage.store import StoredObject
from batch_pipeline.system import System

EXPIRED = Reason(
    "upload_expired", "No file arrived before the upload URL expired: create a new batch, and upload its file in time."
)


@dataclass(frozen=True)
class Removed:
    """A file that was deleted because its batch awaits no file; `why` is a sentence."""

    batch_id: str
    why: str


def take_in_requested(system: System, *, limit: int, seconds: float | None = None) -> tuple[list[Batch], list[Removed]]:
    """Attaches files to the batches that await them, and deletes files whose batch awaits none; at most `limit`.

    Stops after `seconds`, but processes at least one file. Ignores objects whose key names no batch, and files that
    changed within `inbox_quiet_seconds`. A file that fails does not block the others. Errors and raising: see
    `process_independently`.
    """
    quiet_since = datetime.now(UTC) - timedelta(seconds=system.settings.inbox_quiet_seconds)
    outcomes = process_independently(
        [found for found in system.store.list(keys.REQUESTED + "/") if found.modified_at <= quiet_since],
        lambda found: _take_in(system, found),
        name_of=lambda found: found.key,
        check_storage=system.store.check,
        limit=limit,
        seconds=seconds,
    )
    return (
        [outcome for outcome in outcomes if isinstance(outcome, Batch)],
        [outcome for outcome in outcomes if isinstance(outcome, Removed)],
    )


def take_in_upload(system: System, batch_id: str) -> Batch | None:
    """Takes in the file at the batch's upload URL. Returns the batch, or None if no file was taken in."""
    try:
        found = system.store.stat(keys.requested(batch_id))
    except NotFoundError:
        return None
    taken = _take_in(system, found)
    return taken if isinstance(taken, Batch) else None


def expire_requested(system: System, *, limit: int, seconds: float | None = None) -> list[Batch]:
    """Expires at most `limit` batches whose upload URL has expired and that have no file; returns them.

    A batch whose file has arrived is left to intake. Stops after `seconds`, but processes at least one batch. A batch
    that fails does not block the others. Errors and raising: see `process_independently`.
    """
    return process_independently(
        overdue_uploads(system.engine, limit),
        lambda batch: _expire(system, batch),
        name_of=lambda batch: f"Batch {batch.id}",
        check_storage=system.store.check,
        limit=limit,
        seconds=seconds,
    )


def _expire(system: System, batch: Batch) -> Batch | None:
    if system.store.exists(keys.requested(batch.id)):
        return None
    ended = system.ledger.expire(batch.id, EXPIRED)
    return ended if ended.status == BatchStatus.expired else None


def _take_in(system: System, found: StoredObject) -> Batch | Removed | None:
    """The batch that received the file, or why the file was deleted.

    None if the file has disappeared or changed, or its key names no batch.
    """
    batch_id = keys.batch_of_requested(found.key)
    if batch_id is None:
        return None
    with exclusive_intake(system, found.key):
        return _attach_or_delete(system, found, batch_id)


def _attach_or_delete(system: System, found: StoredObject, batch_id: str) -> Batch | Removed | None:
    try:
        batch = system.ledger.get(batch_id)
    except NotFoundError:
        return None
    if system.store.confirm(found) is None:
        return None
    if batch.status == BatchStatus.requested and batch.arrival is None:
        saved = bool(batch.options["save_upload"])
        target = keys.upload(batch_id, batch.source_key or "", saved=saved)
        system.store.copy(found.key, target)
        if system.store.confirm(found) is None:
            system.store.delete(target)
            return None  # overwritten during the copy: the next tick takes the newer one in
        batch = attach_payload(system.engine, batch_id, ArrivedPayload(target, saved, Starter.launcher))
        if batch.upload_key == target:
            system.store.delete(found.key)
            return batch
        system.store.delete(target)  # the batch was cancelled during the copy
    if batch.arrival is not None:
        why = f"Batch {batch_id} already has its file. Another file at its upload URL was deleted unread."
    else:
        when = f"{found.modified_at:%Y-%m-%d %H:%M:%S} UTC"
        why = f"The file that arrived at {when} was too late, and is removed."
        system.ledger.add_to_reason(batch_id, why)
    system.store.delete(found.key)
    return Removed(batch_id, why)
