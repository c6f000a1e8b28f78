"""Removes what old batches leave in storage and in the staging schema."""

from dataclasses import dataclass

from batch_pipeline.batches.model import Batch
from batch_pipeline.database import connect
from batch_pipeline.loading.staging import Staging
from batch_pipeline.storage import keys
from batch_pipeline.system import System


@dataclass(frozen=True)
class Files:
    """How many files there are or were, and their bytes."""

    number: int = 0
    bytes: int = 0

    def __add__(self, other: "Files") -> "Files":
        return Files(self.number + other.number, self.bytes + other.bytes)


def files_of(system: System, batch: Batch) -> Files:
    """All that the batch has in storage: uploads, artifacts and work files."""
    found = system.store.list(f"{keys.batch_folder(batch.id)}/")
    return Files(len(found), sum(item.size for item in found))


def remove_files(system: System, batch: Batch) -> Files:
    """Removes all that the batch has in storage, and its staging tables; returns what was removed."""
    found = system.store.list(f"{keys.batch_folder(batch.id)}/")
    system.store.delete(*(item.key for item in found))
    with connect(system.database_url) as connection:
        Staging(batch.id).drop(connection)
    return Files(len(found), sum(item.size for item in found))
