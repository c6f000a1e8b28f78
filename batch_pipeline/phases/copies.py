"""A batch's upload as CSV and as JSON, for download: written by its run if it is small, else when first asked for.

An upload that is CSV or a JSON array already is its own copy. The others are made from what parsing stored, so a batch
has copies from the end of its parsing until retention removes them.
"""

import tempfile
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

from batch_pipeline.batches.locks import Ownership
from batch_pipeline.batches.model import Batch, PhaseName, PhaseStatus
from batch_pipeline.errors import NotFoundError, StateError
from batch_pipeline.payloads.artifacts import flattened_columns, write_csv_copy, write_json_copy
from batch_pipeline.payloads.formats import is_flat
from batch_pipeline.payloads.model import RawChunk
from batch_pipeline.payloads.parsed import from_table
from batch_pipeline.settings import MIB
from batch_pipeline.storage import keys
from batch_pipeline.system import System

# Uploads up to this size are copied by their run: a copy has the decoded size, whatever the upload's own is.
SMALL_UPLOAD_BYTES = 64 * MIB


class CopyFormat(StrEnum):
    """What an upload can be downloaded as."""

    csv = "csv"
    json = "json"


def find_copy(system: System, batch: Batch, copy_format: CopyFormat) -> str | None:
    """The key of the upload in this format; None where there is none, or none yet (`can_be_copied`)."""
    if not can_be_copied(batch):
        return None
    key = _key(batch, copy_format)
    return key if _is_original(batch, copy_format) or system.store.exists(key) else None


def can_be_copied(batch: Batch) -> bool:
    """Whether `make_copies` can make what `find_copy` does not find: the upload is kept, and could be read."""
    return batch.has_upload_file and batch.phase(PhaseName.parsing).status is PhaseStatus.completed


def make_copies(system: System, batch_id: str) -> bool:
    """Makes the copies that are missing; long work for a large upload.

    Only one process makes a batch's copies: a lock that dies with its holder says which. Returns whether they are all
    there now; false where another process is at it, or there is nothing that they could be made of.
    """
    batch = system.ledger.get(batch_id)
    if not can_be_copied(batch):
        return False
    with Ownership(system.database_url) as claim:
        try:
            claim.take(f"{batch_id}/copies")
        except StateError:
            return False
        missing = [copy_format for copy_format in CopyFormat if find_copy(system, batch, copy_format) is None]
        try:
            _write(system, batch, missing)
        except NotFoundError:  # retention has been here
            return False
    return True


def write_small_copies(system: System, batch: Batch) -> None:
    """Writes the copies of an upload that is small and kept; called by its run, which is at work alone."""
    if can_be_copied(batch) and batch.work.decoded_bytes <= SMALL_UPLOAD_BYTES:
        _write(system, batch, [copy_format for copy_format in CopyFormat if not _is_original(batch, copy_format)])


def _write(system: System, batch: Batch, formats: list[CopyFormat]) -> None:
    with tempfile.TemporaryDirectory(prefix=f"{batch.id}-") as folder:
        for copy_format in formats:
            path = Path(folder) / copy_format
            with path.open("wb") as file:
                if copy_format is CopyFormat.json:
                    write_json_copy(file, _chunks(system, batch))
                else:
                    columns = list(batch.work.columns)
                    if not is_flat(batch.work.format):
                        limit = system.settings.max_columns
                        columns = flattened_columns(columns, _chunks(system, batch), max_columns=limit)
                    has_unreadable = batch.work.unreadable > 0
                    write_csv_copy(file, _chunks(system, batch), columns, has_unreadable=has_unreadable)
            system.store.upload(path, _key(batch, copy_format))
            path.unlink()


def _chunks(system: System, batch: Batch) -> Iterator[RawChunk]:
    for number in range(1, batch.work.chunks + 1):
        yield from_table(system.store.read_table(keys.parsed_chunk(batch.id, number)))


def _is_original(batch: Batch, copy_format: CopyFormat) -> bool:
    """Whether the upload itself is of this format and lies where its copy would."""
    original = keys.upload_copy(batch.id, copy_format, beside=None)
    return batch.upload_key == original and batch.work.format == copy_format and not batch.work.compressed


def _key(batch: Batch, copy_format: CopyFormat) -> str:
    beside = None if _is_original(batch, copy_format) else batch.upload_key
    return keys.upload_copy(batch.id, copy_format, beside=beside)
