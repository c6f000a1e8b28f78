"""Validation: applies the row rules to every item, then makes the plan. Does not change the organization's records."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql

from batch_pipeline.batches.locks import planned_version
from batch_pipeline.batches.model import Action, PhaseName
from batch_pipeline.batches.states import BatchStatus
from batch_pipeline.database import Connection
from batch_pipeline.errors import RefusedError
from batch_pipeline.loading.bulk_copy import copy_table
from batch_pipeline.loading.chunks import chunk_ranges, store_chunks
from batch_pipeline.loading.identity import deciding_keys
from batch_pipeline.loading.record_ids import record_ids
from batch_pipeline.loading.reference_fields import referred_resources
from batch_pipeline.loading.staging import FEW_ROWS, STEP_RULES, Staging
from batch_pipeline.payloads.equality import RowReader, without_rows
from batch_pipeline.payloads.formats import is_flat
from batch_pipeline.payloads.model import RawChunk
from batch_pipeline.payloads.parsed import from_table
from batch_pipeline.phases.attempt import Attempt
from batch_pipeline.phases.copies import write_small_copies
from batch_pipeline.phases.planning import TUNING, make_plan, require_valid_items
from batch_pipeline.records import errors
from batch_pipeline.records.cells import ReadingOptions
from batch_pipeline.records.check import CheckedChunk, RowRules
from batch_pipeline.records.fields import RuleContext
from batch_pipeline.records.resource import Resource
from batch_pipeline.storage import keys

# Each chunk of a large delete scans all records, so it has few chunks. But work can stop only between chunks.
LARGE_DELETE = 100_000  # items
DELETE_CHUNKS = 2
DELETE_CHUNK_LIMIT = 10  # in chunk_rows

MakeRows = Callable[[Attempt, CheckedChunk, RowRules], pa.Table]


def validate(attempt: Attempt) -> None:
    """Runs the phase unless it is done.

    Raises RefusedError: `no_items`, `delete_limit_exceeded`, or `no_valid_items` after it has written the errors files.
    """
    if attempt.is_done(PhaseName.validation):
        return
    facts = attempt.batch.facts
    if attempt.action is Action.overwrite and facts.items == 0 and not attempt.options.allow_empty:
        raise RefusedError(
            "no_items",
            "The upload has no items, and an overwrite would delete every record. "
            "If that is what you want, set allow_empty (and delete_limit).",
        )
    attempt.begin(PhaseName.validation, total=facts.items - facts.unreadable - facts.equal)
    staging = Staging(attempt.batch.id)
    fields = () if attempt.action is Action.delete else staged_fields(attempt.resource, attempt)
    with attempt.borrow(**TUNING) as connection:
        if attempt.action is Action.delete:
            staging.create_for_delete(connection, keep_changes=attempt.options.save_result)
            clears = _stage_items(attempt, connection, staging.plan, _listed_ids)
            staged = (staging.plan, staging.errors)
        else:
            staging.create(connection, attempt.resource, fields, keep_changes=attempt.options.save_result)
            clears = _stage_items(attempt, connection, staging.items, partial(_staged_items, fields=fields))
            staged = (staging.items, staging.errors)
        # This process is idle while the database makes the plan.
        with ThreadPoolExecutor(1) as copying:
            copied = copying.submit(write_small_copies, attempt.system, attempt.batch)
            if facts.items > FEW_ROWS:
                staging.index(connection, *staged)
            connection.commit()
            version = planned_version(connection, attempt.batch, referred_resources(attempt.resource, fields))
            chunks = chunk_ranges(facts.items, _chunk_rows(attempt, facts.items))
            store_chunks(connection, attempt.batch.id, PhaseName.processing, chunks)
            plan = make_plan(connection, attempt, facts.with_(fields=fields, clears=clears), PhaseName.validation)
            connection.commit()
            copied.result()
    counts = plan.counts
    attempt.complete(
        success=counts.accepted + counts.duplicates,
        error=counts.rejected,
        total=counts.accepted + counts.duplicates + counts.rejected,
        work=plan.facts.to_row(),
        plan_version=version,
    )
    require_valid_items(attempt, counts.accepted)
    attempt.move_to(BatchStatus.queued)


def _chunk_rows(attempt: Attempt, items: int) -> int:
    """Rows per chunk of processing. A large delete has larger chunks, because each chunk scans the records."""
    rows = attempt.system.settings.chunk_rows
    if attempt.action is not Action.delete or items <= LARGE_DELETE:
        return rows
    return rows * min(max(items // (DELETE_CHUNKS * rows), 1), DELETE_CHUNK_LIMIT)


def staged_fields(resource: Resource, attempt: Attempt) -> tuple[str, ...]:
    """The fields that items of a merge or overwrite can have, in the resource's order."""
    mapped = {header: name for name, header in attempt.options.column_mapping.items()}
    names = {mapped.get(column, column) for column in attempt.batch.facts.columns} | set(attempt.options.properties)
    names |= {resource.file_headers[name] for name in names & set(resource.file_headers)}
    return tuple(
        field.name
        for field in resource.fields
        if field.name in names or any(field.key_of(name) is not None for name in names)
    )


def parsed_chunks(attempt: Attempt) -> Iterator[RawChunk]:
    """The parsed chunks without repeated items; a thread reads the next chunk ahead."""
    store, batch = attempt.system.store, attempt.batch
    equal: RowReader | None = None
    if batch.facts.equal:
        path = attempt.scratch / "equal.parquet"
        store.download(keys.equal_rows(batch.id), path)
        equal = RowReader(path)
    with ThreadPoolExecutor(1) as reading:
        numbers = range(1, batch.facts.chunks + 1)
        ahead: Future[pa.Table] | None = None
        for number in numbers:
            current = ahead or reading.submit(store.read_table, keys.parsed_chunk(batch.id, number))
            if number < batch.facts.chunks:
                ahead = reading.submit(store.read_table, keys.parsed_chunk(batch.id, number + 1))
            chunk = from_table(current.result())
            yield chunk if equal is None else without_rows(chunk, equal)


def _stage_items(attempt: Attempt, connection: Connection, target: sql.Identifier, make_rows: MakeRows) -> bool:
    """Checks every item, and COPYs the rows that `make_rows` returns to `target`, and the errors to staging.

    A thread copies a chunk while the next one is checked. Returns whether any item clears a field.
    """
    options = attempt.options
    rules = RowRules(
        attempt.resource,
        ReadingOptions(
            mapping={header: name for name, header in options.column_mapping.items()},
            properties=options.properties,
            blank_clears=attempt.blank_clears or not is_flat(attempt.batch.facts.format),
        ),
        RuleContext(region=options.default_region or attempt.region),
        only_ids=attempt.action is Action.delete,
    )
    staging = Staging(attempt.batch.id)
    clears = False
    valid = invalid = 0
    with ThreadPoolExecutor(1) as copying:
        copied: Future[None] | None = None
        for number, chunk in enumerate(parsed_chunks(attempt), start=1):
            checked = rules.check(chunk)
            clears = clears or bool(checked.cleared.any())
            items = make_rows(attempt, checked, rules)
            found = _error_table(chunk, checked)
            if copied is not None:
                copied.result()
                attempt.advance(success=valid, error=invalid, chunk=number - 1, chunks=attempt.batch.facts.chunks)
            copied = copying.submit(_copy, connection, (target, items), (staging.errors, found))
            wrong = int(np.count_nonzero(checked.invalid))
            valid, invalid = valid + len(checked.rows) - wrong, invalid + wrong
        if copied is not None:
            copied.result()
    return clears


def _copy(connection: Connection, *tables: tuple[sql.Identifier, pa.Table]) -> None:
    for target, table in tables:
        copy_table(connection, target, table)


def _listed_ids(attempt: Attempt, checked: CheckedChunk, rules: RowRules) -> pa.Table:
    """The items of a delete, with the columns of `Staging.plan`."""
    del attempt, rules
    valid = pa.array(checked.invalid == 0)
    ids = checked.fields.get("id")
    if ids is None:  # no item of the chunk has one
        ids = pa.nulls(len(checked.rows), pa.string())
    return pa.table(
        {
            "row": checked.rows,
            "verdict": pc.if_else(valid, "a", "r"),
            "record_id": ids,
        }
    )


def _staged_items(attempt: Attempt, checked: CheckedChunk, rules: RowRules, *, fields: tuple[str, ...]) -> pa.Table:
    """The items of a merge or overwrite, with the columns of `Staging.items`."""
    batch = attempt.batch
    rows = checked.rows
    deciding = deciding_keys(attempt.resource, checked, rules)
    columns: dict[str, pa.Array] = {
        "row": rows,
        "kind": deciding.kinds,
        "cleared": pa.array(checked.cleared),
        "invalid": pa.array(checked.invalid),
        "new_id": record_ids(
            attempt.resource.id_prefix, batch_id=batch.id, arrived_at=batch.payload.arrived_at, rows=rows.to_numpy()
        ),
    }
    if attempt.action is Action.overwrite:
        columns["identified"] = deciding.identified
    for name in fields:
        column = checked.fields.get(name)
        columns[name] = pa.nulls(len(rows), attempt.resource.field(name).arrow_type) if column is None else column
    return pa.table(columns)


def _error_table(chunk: RawChunk, checked: CheckedChunk) -> pa.Table:
    """The chunk's errors, including its unreadable rows, with the columns of `Staging.errors`."""
    broken = chunk.unreadable
    unreadable = pa.table(
        [
            broken["row"],
            pa.repeat(pa.scalar("unreadable_row"), broken.num_rows),
            pa.nulls(broken.num_rows, pa.string()),
            broken["message"],
            pa.nulls(broken.num_rows, pa.string()),
        ],
        schema=errors.ERRORS_SCHEMA,
    )
    table = errors.combine([unreadable, checked.errors])
    return table.append_column("step", pa.repeat(pa.scalar(STEP_RULES, pa.int16()), table.num_rows))
