"""Deletes files and staged rows of completed and old batches, and finds orphaned batch folders."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice, takewhile

from batch_pipeline.batches.ids import is_batch_id, made_at
from batch_pipeline.batches.model import Batch
from batch_pipeline.batches.retention import known_batches
from batch_pipeline.database import borrowed
from batch_pipeline.loading.own_staging import OwnStaging
from batch_pipeline.loading.shared_staging import remove_shared_rows
from batch_pipeline.loading.staging_choice import staging_of
from batch_pipeline.storage import keys
from batch_pipeline.system import System

PAGE = 100  # folders looked up in the ledger at once


@dataclass(frozen=True)
class Files:
    """Number of files and their total size in bytes."""

    number: int = 0
    bytes: int = 0

    def __add__(self, other: "Files") -> "Files":
        return Files(self.number + other.number, self.bytes + other.bytes)


def files_of(system: System, batch_id: str) -> Files:
    """Counts the batch's files in storage: uploads, artifacts and work files."""
    found = system.store.list(f"{keys.batch_folder(batch_id)}/")
    return Files(len(found), sum(item.size for item in found))


def remove_files(system: System, batch_id: str) -> Files:
    """Deletes the batch's files in storage and its staged rows; returns the deleted files."""
    found = system.store.list(f"{keys.batch_folder(batch_id)}/")
    system.store.delete(*(item.key for item in found))
    drop_staged_rows(system, batch_id)
    return Files(len(found), sum(item.size for item in found))


def find_orphans(system: System, *, made_before: datetime) -> Iterator[str]:
    """Batch ids created before `made_before` that have a folder but no row in the ledger, oldest first. Lazy.

    Intake copies a file to the batch's folder before it records the batch, so a crash in between orphans the folder.
    Ids sort by time, so folders of later batches are not listed. Folders that are not named like a batch are ignored.
    """
    ids = filter(is_batch_id, system.store.folders(keys.BATCHES))
    old = takewhile(lambda batch_id: made_at(batch_id) < made_before, ids)
    while page := list(islice(old, PAGE)):
        known = known_batches(system.engine, page)
        yield from (batch_id for batch_id in page if batch_id not in known)


def drop_leftovers(system: System, batch: Batch) -> None:
    """Deletes a completed batch's staged rows, and its upload unless `save_upload` keeps it. Idempotent."""
    if not batch.options["save_upload"] and batch.upload_key is not None:
        system.store.delete(batch.upload_key)
    with borrowed(system.engine) as connection, connection.pipeline():  # nothing to fetch: one round trip
        connection.execute("SET LOCAL synchronous_commit = off")  # whatever a crash keeps, retention drops
        staging_of(batch).drop(connection)


def drop_staged_rows(system: System, batch_id: str) -> None:
    """Removes the batch's staged rows, wherever they are. Idempotent."""
    with borrowed(system.engine) as connection:
        remove_shared_rows(connection, batch_id)
        OwnStaging(batch_id).drop(connection)
