"""What batches leave behind: what a completed one needs no longer, the files of old ones, and orphaned folders."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice, takewhile

from batch_pipeline.batches.ids import is_batch_id, made_at
from batch_pipeline.batches.model import Batch
from batch_pipeline.batches.retention import known_batches
from batch_pipeline.database import borrowed, connect
from batch_pipeline.loading.staging import Staging
from batch_pipeline.storage import keys
from batch_pipeline.system import System

PAGE = 100  # folders looked up in the ledger at once


@dataclass(frozen=True)
class Files:
    """How many files there are or were, and their bytes."""

    number: int = 0
    bytes: int = 0

    def __add__(self, other: "Files") -> "Files":
        return Files(self.number + other.number, self.bytes + other.bytes)


def files_of(system: System, batch_id: str) -> Files:
    """All that the batch has in storage: uploads, artifacts and work files."""
    found = system.store.list(f"{keys.batch_folder(batch_id)}/")
    return Files(len(found), sum(item.size for item in found))


def remove_files(system: System, batch_id: str) -> Files:
    """Removes all that the batch has in storage, and its staging tables; returns what was removed."""
    found = system.store.list(f"{keys.batch_folder(batch_id)}/")
    system.store.delete(*(item.key for item in found))
    with connect(system.database_url) as connection:
        Staging(batch_id).drop(connection)
    return Files(len(found), sum(item.size for item in found))


def find_orphans(system: System, *, made_before: datetime) -> Iterator[str]:
    """Ids made before that moment that have a folder but no row in the ledger, oldest first, as they are asked for.

    A file is copied to its batch's folder before the ledger has its row: a crash in between leaves the copy to nobody.
    Ids are in order of time, so the folders of later batches are not listed; others' folders are passed over.
    """
    ids = filter(is_batch_id, system.store.folders(keys.BATCHES))
    old = takewhile(lambda batch_id: made_at(batch_id) < made_before, ids)
    while some := list(islice(old, PAGE)):
        known = known_batches(system.engine, some)
        yield from (batch_id for batch_id in some if batch_id not in known)


def drop_leftovers(system: System, batch: Batch) -> None:
    """Drops what a completed batch needs no longer: its staging tables, and its upload unless that is to be kept.

    Safe to call again, for a batch whose run was killed before it was through with it.
    """
    if not batch.options["save_upload"] and batch.upload_key is not None:
        system.store.delete(batch.upload_key)
    with borrowed(system.engine) as connection:
        Staging(batch.id).drop(connection)
