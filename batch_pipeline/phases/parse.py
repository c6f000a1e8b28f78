"""Parsing: reads the payload in a stream, finds equal items, and stores the items chunk by chunk as uploaded."""

import hashlib
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

import pyarrow as pa

from batch_pipeline.batches.model import Action, DuplicateHandling, PhaseName
from batch_pipeline.errors import RefusedError
from batch_pipeline.payloads.equality import EqualItems, write_rows
from batch_pipeline.payloads.model import Payload
from batch_pipeline.payloads.parsed import to_table
from batch_pipeline.phases.attempt import Attempt
from batch_pipeline.phases.parsed_uploads import open_upload
from batch_pipeline.phases.undo import count_written
from batch_pipeline.phases.upload_columns import Columns, check_columns
from batch_pipeline.settings import MIB
from batch_pipeline.storage import keys
from batch_pipeline.storage.local_copy import LocalCopy

SMALL_UPLOAD = MIB  # of a larger one, storing the first chunk overlaps with reading the next one
# Works that are left open while the next chunk is parsed. A chunk has two: it is compared, and it is stored.
WORK_AHEAD = 2
ADVANCE_SECONDS = 0.25  # between two stored states of the progress: one takes as long as a tenth of a chunk
LARGE_UPLOAD = 256 * MIB  # its download takes seconds, so it is announced


def parse(attempt: Attempt) -> None:
    """Runs the phase unless it is done. Raises RefusedError if the file is refused as a whole."""
    if attempt.is_done(PhaseName.parsing):
        return
    if attempt.action is Action.undo:
        facts = attempt.batch.facts.with_(shares_staging=attempt.shares_staging(count_written(attempt)))
        attempt.skip(PhaseName.parsing, "an undo has no payload", work=facts.to_row())
        return
    attempt.begin(PhaseName.parsing)
    store, batch = attempt.system.store, attempt.batch
    spool = attempt.scratch / "upload"
    check_size = partial(_check_size, attempt)
    if attempt.upload is None:
        checksum = store.download(batch.payload.key, spool, check_size=check_size)
    else:
        checksum = _take(attempt.upload, spool, check_size)
    payload = open_upload(attempt.system, batch, spool, check=attempt.check_seldom)
    is_small = spool.stat().st_size <= SMALL_UPLOAD
    _read(attempt, payload, check_columns(attempt, payload), checksum, is_small=is_small)


def _read(attempt: Attempt, payload: Payload, uses: Columns, checksum: str, *, is_small: bool) -> None:
    """Reads and stores all chunks; threads store and compare a chunk while the next one is read.

    The only chunk of a small batch is kept in memory: a file of it would take as long as to parse it again.

    Ignored columns are stored, because the errors file has them, but items that differ only in them are equal.
    """
    store, batch = attempt.system.store, attempt.batch
    fields_vary = not payload.is_flat
    columns: dict[str, None] = dict.fromkeys(payload.columns)
    read = unreadable = decoded_bytes = number = 0
    keep_last = attempt.options.duplicate_handling is DuplicateHandling.use_last
    with (
        closing(EqualItems(attempt.scratch, fields_vary=fields_vary, keep_last=keep_last)) as equal_items,
        ThreadPoolExecutor(1) as comparing,
        ThreadPoolExecutor(1) as storing,
    ):
        begun: deque[Future[None]] = deque()
        kept: pa.Table | None = None
        advanced_at = time.monotonic()

        def begin_to_store(number: int, parsed: pa.Table) -> None:
            begun.append(storing.submit(_store_chunk, attempt, number, parsed))

        for number, chunk in enumerate(payload.chunks(), start=1):
            if kept is not None:
                begin_to_store(1, kept)
                kept = None
            while len(begun) > WORK_AHEAD:
                begun.popleft().result()
            if number > 1 and time.monotonic() - advanced_at >= ADVANCE_SECONDS:
                attempt.advance(success=read, error=unreadable, chunk=number - 1)
                advanced_at = time.monotonic()
            parsed = to_table(chunk)
            if is_small:  # a thread would take as long as the items do
                equal_items.add(uses.use(chunk))
            else:
                begun.append(comparing.submit(equal_items.add, uses.use(chunk)))
            if number == 1 and is_small:
                kept = parsed
            else:
                begin_to_store(number, parsed)
            columns |= dict.fromkeys(chunk.columns)
            read += len(chunk.rows)
            unreadable += chunk.unreadable.num_rows
            decoded_bytes += chunk.decoded_bytes
        shares_staging = attempt.shares_staging(read + unreadable)
        if kept is not None and not shares_staging:
            begin_to_store(1, kept)
        for work in begun:
            work.result()
        equal_path = attempt.scratch / "equal.parquet"
        equal = write_rows(equal_path, equal_items.repeated_rows())
    if number == 1 and shares_staging:
        attempt.kept.keep_only(parsed)
    if equal:
        store.upload(equal_path, keys.equal_rows(batch.id))
    facts = batch.facts.with_(
        format=payload.format,
        decoded_bytes=decoded_bytes,
        compressed=payload.was_compressed,
        columns=tuple(columns),
        items=read + unreadable,
        unreadable=unreadable,
        equal=equal,
        chunks=number,
        shares_staging=shares_staging,
        remembered=uses.remembered,
        warnings=uses.all_warnings(tuple(columns)),
    )
    goes_on = read + unreadable > 0  # else validation may refuse the batch before it begins
    attempt.complete(
        success=read - equal,
        error=unreadable,
        total=read + unreadable - equal,
        following=batch.phase(PhaseName.validation).begun(read - equal) if goes_on else None,
        work=facts.to_row(),
        checksum=checksum,
    )


def _store_chunk(attempt: Attempt, number: int, parsed: pa.Table) -> None:
    attempt.system.store.write_table(keys.parsed_chunk(attempt.batch.id, number), parsed)
    attempt.kept.keep(number, parsed)


def _take(upload: bytes | LocalCopy, spool: Path, check_size: Callable[[int], None]) -> str:
    """As `Store.download`, for an upload that this process has."""
    if isinstance(upload, bytes):
        check_size(len(upload))
        spool.write_bytes(upload)
        return hashlib.sha256(upload).hexdigest()
    check_size(upload.path.stat().st_size)
    spool.symlink_to(upload.path)
    return upload.checksum


def _check_size(attempt: Attempt, size: int) -> None:
    limit = attempt.system.settings.max_upload_bytes
    if size > limit:
        raise RefusedError(
            "too_large",
            f"The upload has {size:,} bytes, the limit is {limit:,} (BATCH_MAX_UPLOAD_BYTES): split it.",
        )
    if size > LARGE_UPLOAD:
        attempt.announce(PhaseName.parsing, f"fetching the upload, {size:,} bytes")
