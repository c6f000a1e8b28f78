"""The parsed chunks of a batch, for any process. A small batch has no file for its only one: it is parsed again."""

from collections.abc import Callable
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

import pyarrow as pa

from batch_pipeline.batches.model import Batch
from batch_pipeline.errors import NotFoundError
from batch_pipeline.payloads.model import Payload, ReadLimits
from batch_pipeline.payloads.parsed import to_table
from batch_pipeline.payloads.reader import open_payload
from batch_pipeline.storage import keys
from batch_pipeline.system import System


def open_upload(system: System, batch: Batch, spool: Path, *, check: Callable[[], None] = lambda: None) -> Payload:
    """The batch's payload, of which `spool` is a local copy. Raises as `open_payload` does."""
    name = PurePosixPath(batch.source_key or batch.payload.key).name
    return open_payload(spool, name=name, limits=ReadLimits.from_settings(system.settings), check=check)


def read_parsed_chunk(system: System, batch: Batch, number: int) -> pa.Table:
    """The parsed chunk with this number (see `payloads.parsed`).

    Raises NotFoundError if there is none: retention has deleted it, or the upload of a small batch has changed.
    """
    key = keys.parsed_chunk(batch.id, number)
    if batch.facts.chunks > 1 or not batch.facts.shares_staging or system.store.exists(key):
        return system.store.read_table(key)
    with TemporaryDirectory(prefix=f"{batch.id}-") as folder:
        spool = Path(folder) / "upload"
        if system.store.download(batch.payload.key, spool) != batch.checksum:
            raise NotFoundError("object_not_found", f"The upload of batch {batch.id} has changed since it was parsed.")
        tables = [to_table(chunk) for chunk in open_upload(system, batch, spool).chunks()]
    return pa.concat_tables(tables, promote_options="permissive")
