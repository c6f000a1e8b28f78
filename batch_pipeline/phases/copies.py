"""Copies of a batch's upload as CSV and JSON, for download. Its run writes small ones; large ones are made on demand.

An upload that is CSV or a JSON array needs no copy in that format. Copies are made from the parsed chunks, so they
are available from the end of parsing until retention deletes the files.
"""

import io
import tempfile
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa

from batch_pipeline.batches.locks import Ownership
from batch_pipeline.batches.model import Batch, PhaseName, PhaseStatus
from batch_pipeline.errors import NotFoundError, StateError
from batch_pipeline.payloads.artifacts import flattened_columns, write_csv_copy, write_json_copy
from batch_pipeline.payloads.formats import is_flat
from batch_pipeline.payloads.model import RawChunk
from batch_pipeline.payloads.parsed import from_table
from batch_pipeline.phases.attempt import Attempt
from batch_pipeline.phases.parsed_uploads import read_parsed_chunk
from batch_pipeline.settings import MIB
from batch_pipeline.storage import keys
from batch_pipeline.system import System

# The run writes the copies of uploads that decode to at most this size.
SMALL_UPLOAD_BYTES = 64 * MIB
# Copies of uploads that decode to at most this size are made in memory.
MEMORY_BYTES = MIB


ReadChunk = Callable[[int], pa.Table]  # the parsed chunk with this number


class CopyFormat(StrEnum):
    """Download formats of an upload."""

    csv = "csv"
    json = "json"


def find_copy(system: System, batch: Batch, copy_format: CopyFormat) -> str | None:
    """The key of the upload in this format; None if it does not exist (yet: see `can_be_copied`)."""
    if not can_be_copied(batch):
        return None
    key = _copy_key(batch, copy_format)
    return key if _is_original(batch, copy_format) or system.store.exists(key) else None


def can_be_copied(batch: Batch) -> bool:
    """Whether `make_copies` can make the batch's copies: the upload is kept and is parsed."""
    return batch.has_upload_file and batch.phase(PhaseName.parsing).status is PhaseStatus.completed


def make_copies(system: System, batch_id: str) -> bool:
    """Writes the missing copies; takes long for a large upload.

    A session lock ensures that one process at a time writes a batch's copies. Returns whether all copies exist; False
    if another process holds the lock or the parsed chunks don't exist.
    """
    batch = system.ledger.get(batch_id)
    if not can_be_copied(batch):
        return False
    with Ownership(system.engine) as ownership:
        try:
            ownership.take(f"{batch_id}/copies")
        except StateError:
            return False
        missing = [copy_format for copy_format in CopyFormat if find_copy(system, batch, copy_format) is None]
        try:
            _write_copies(system, batch, missing, _from_storage(system, batch))
        except NotFoundError:  # retention has deleted the files
            return False
    return True


def begin_small_copies(attempt: Attempt) -> None:
    """Has the copies written in the background, if the upload is small and kept.

    For the batch's run, so it takes no lock. The run must call `finish_small_copies`.
    """
    batch = attempt.batch
    if can_be_copied(batch) and batch.facts.decoded_bytes <= SMALL_UPLOAD_BYTES:
        formats = [copy_format for copy_format in CopyFormat if not _is_original(batch, copy_format)]
        attempt.copying = attempt.background.submit(_write_copies, attempt.system, batch, formats, attempt.parsed_chunk)


def finish_small_copies(attempt: Attempt) -> None:
    """Waits until the copies that this process has begun are written. Raises their error."""
    if attempt.copying is not None:
        attempt.copying.result()


def _write_copies(system: System, batch: Batch, formats: list[CopyFormat], read: ReadChunk) -> None:
    for copy_format in formats:
        key = _copy_key(batch, copy_format)
        if batch.facts.decoded_bytes <= MEMORY_BYTES:
            memory = io.BytesIO()
            _write_copy(system, batch, copy_format, memory, read)
            system.store.write(key, memory.getvalue())
            continue
        with tempfile.NamedTemporaryFile(prefix=f"{batch.id}-") as file:
            _write_copy(system, batch, copy_format, cast("BinaryIO", file), read)
            file.flush()
            system.store.upload(Path(file.name), key)


def _write_copy(system: System, batch: Batch, copy_format: CopyFormat, file: BinaryIO, read: ReadChunk) -> None:
    if copy_format is CopyFormat.json:
        write_json_copy(file, _chunks(batch, read))
        return
    columns = list(batch.facts.columns)
    if not is_flat(batch.facts.format):
        columns = flattened_columns(columns, _chunks(batch, read), max_columns=system.settings.max_columns)
    write_csv_copy(file, _chunks(batch, read), columns, has_unreadable=batch.facts.unreadable > 0)


def _from_storage(system: System, batch: Batch) -> ReadChunk:
    return lambda number: read_parsed_chunk(system, batch, number)


def _chunks(batch: Batch, read: ReadChunk) -> Iterator[RawChunk]:
    for number in range(1, batch.facts.chunks + 1):
        yield from_table(read(number))


def _is_original(batch: Batch, copy_format: CopyFormat) -> bool:
    """Whether the upload itself has this format and the key of its copy."""
    original = keys.upload_copy(batch.id, copy_format, beside=None)
    return batch.upload_key == original and batch.facts.format == copy_format and not batch.facts.compressed


def _copy_key(batch: Batch, copy_format: CopyFormat) -> str:
    beside = None if _is_original(batch, copy_format) else batch.upload_key
    return keys.upload_copy(batch.id, copy_format, beside=beside)
