"""Applies the row rules to a batch's items, and stages the items and their errors."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql

from batch_pipeline.batches.model import Action, UnknownColumns
from batch_pipeline.database import Connection
from batch_pipeline.loading.identity import UNDECIDED, deciding_keys
from batch_pipeline.loading.record_ids import record_ids
from batch_pipeline.loading.staging import STEP_RULES, Part, Staging
from batch_pipeline.payloads.equality import RowReader, without_rows
from batch_pipeline.payloads.formats import is_flat
from batch_pipeline.payloads.model import RawChunk
from batch_pipeline.payloads.parsed import from_table
from batch_pipeline.phases.attempt import Attempt
from batch_pipeline.records import errors
from batch_pipeline.records.cells import ReadingOptions
from batch_pipeline.records.check import CheckedChunk, RowRules
from batch_pipeline.records.resource import Resource
from batch_pipeline.storage import keys

MakeRows = Callable[[Attempt, CheckedChunk, RowRules], pa.Table]


@dataclass(frozen=True)
class Staged:
    """What was staged.

    Attributes:
        parts: those of `Staging` that were filled.
        clears: whether any item clears a field.
        kinds: the kinds of deciding keys that items have, `UNDECIDED` among them if an item has none.
    """

    parts: tuple[Part, ...]
    clears: bool
    kinds: tuple[int, ...]


def stage_items(attempt: Attempt, connection: Connection, fields: tuple[str, ...]) -> Staged:
    """Makes the staged rows of all items and their errors, in the connection's transaction.

    `fields` are those of `staged_fields`.
    """
    if attempt.action is Action.delete:
        attempt.staging.create_for_delete(connection, keep_changes=attempt.options.save_result)
        return _stage(attempt, connection, "plan", _listed_ids)
    attempt.staging.create(connection, attempt.resource, fields, keep_changes=attempt.options.save_result)
    return _stage(attempt, connection, "items", partial(_staged_items, fields=fields))


def restore_items(attempt: Attempt) -> None:
    """Stages the items again if a crash of the database server has emptied their table."""
    facts, staging = attempt.batch.facts, attempt.staging
    has_logged_items = facts.shares_staging or attempt.action in (Action.delete, Action.undo)
    if has_logged_items or facts.items == facts.unreadable + facts.equal:
        return
    with attempt.borrow() as connection:
        if not staging.has_items(connection):
            connection.execute(sql.SQL("TRUNCATE {}").format(staging.items))  # COPY can write frozen rows then
            make_rows = partial(_staged_items, fields=facts.fields)
            _stage(attempt, connection, "items", make_rows, stages_errors=False)
        connection.commit()


def staged_fields(resource: Resource, attempt: Attempt) -> tuple[str, ...]:
    """The fields that items of a merge or overwrite can have, in the resource's order."""
    mapped = {header: name for name, header in attempt.batch.column_mapping.items()}
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


def _stage(
    attempt: Attempt,
    connection: Connection,
    target: Part,
    make_rows: MakeRows,
    *,
    stages_errors: bool = True,
) -> Staged:
    """Checks every item, and COPYs the rows that `make_rows` returns to the part `target`, and the errors to theirs.

    A thread copies a chunk while the next one is checked. Reports progress of the phase unless the errors are known.
    """
    options = attempt.options
    rules = RowRules(
        attempt.resource,
        ReadingOptions(
            mapping={header: name for name, header in attempt.batch.column_mapping.items()},
            properties=options.properties,
            blank_clears=attempt.blank_clears or not is_flat(attempt.batch.facts.format),
            ignores_unknown=options.unknown_columns is UnknownColumns.ignore,
        ),
        attempt.rule_context,
        only_ids=attempt.action is Action.delete,
    )
    clears = False
    kinds: set[int] = set()
    valid = invalid = 0
    with ThreadPoolExecutor(1) as copying:
        copied: Future[None] | None = None
        for number, chunk in enumerate(parsed_chunks(attempt), start=1):
            checked = rules.check(chunk)
            clears = clears or bool(checked.cleared.any())
            items = make_rows(attempt, checked, rules)
            if "kind" in items.column_names:
                kinds |= set(pc.unique(pc.fill_null(items["kind"], UNDECIDED)).to_pylist())
            rows: list[tuple[Part, pa.Table]] = [(target, items)]
            if stages_errors:
                rows.append(("errors", _error_table(chunk, checked)))
            if copied is not None:
                copied.result()
                if stages_errors:
                    attempt.advance(success=valid, error=invalid, chunk=number - 1, chunks=attempt.batch.facts.chunks)
            copied = copying.submit(_copy, attempt.staging, connection, *rows)
            wrong = int(np.count_nonzero(checked.invalid))
            valid, invalid = valid + len(checked.rows) - wrong, invalid + wrong
        if copied is not None:
            copied.result()
    parts: tuple[Part, ...] = (target, "errors") if stages_errors else (target,)
    return Staged(parts, clears, tuple(sorted(kinds)))


def _copy(staging: Staging, connection: Connection, *parts: tuple[Part, pa.Table]) -> None:
    for part, rows in parts:
        staging.copy(connection, part, rows)


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
