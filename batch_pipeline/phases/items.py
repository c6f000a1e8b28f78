"""Applies the row rules to a batch's items, and stages the items and their errors."""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql

from batch_pipeline.batches.locks import lock_staged
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
    create_staging(attempt, connection, fields)
    return _stage(attempt, connection, ItemStager(attempt, fields))


def create_staging(attempt: Attempt, connection: Connection, fields: tuple[str, ...]) -> None:
    """Makes the empty staged parts of the batch; removes those of an earlier attempt."""
    if attempt.batch.facts.shares_staging and attempt.batch.attempts == 1:
        lock_staged(connection, attempt.batch.id)  # for the next attempt
    elif attempt.action is Action.delete:
        attempt.staging.create_for_delete(connection, keep_changes=attempt.options.save_result)
    else:
        attempt.staging.create(connection, attempt.resource, fields, keep_changes=attempt.options.save_result)


def restore_items(attempt: Attempt) -> None:
    """Stages the items again if a crash of the database server has emptied their table."""
    facts, staging = attempt.batch.facts, attempt.staging
    has_logged_items = facts.shares_staging or attempt.action in (Action.delete, Action.undo)
    if has_logged_items or facts.items == facts.unreadable + facts.equal:
        return
    with attempt.borrow() as connection:
        if not staging.has_items(connection):
            attempt.refresh()  # a run that is superseded must not touch the tables of the newest one
            connection.execute(sql.SQL("TRUNCATE {}").format(staging.items))  # COPY can write frozen rows then
            _stage(attempt, connection, ItemStager(attempt, facts.fields), stages_errors=False)
        connection.commit()


def staged_fields(resource: Resource, attempt: Attempt) -> tuple[str, ...]:
    """The fields that items of the batch can have, in the resource's order. Those of a delete have none that counts."""
    if attempt.action is Action.delete:
        return ()
    mapped = {header: name for name, header in attempt.batch.column_mapping.items()}
    names = {mapped.get(column, column) for column in attempt.batch.facts.columns} | set(attempt.options.properties)
    names |= {resource.file_headers[name] for name in names & set(resource.file_headers)}
    return tuple(
        field.name
        for field in resource.fields
        if field.name in names or any(field.key_of(name) is not None for name in names)
    )


@dataclass(frozen=True)
class StagedChunk:
    """The rows of one parsed chunk after the row rules.

    Attributes:
        target: the part that the items go to.
        items: the items, with the columns of that part.
        errors: the errors, with the columns of `Staging.errors`.
        valid: number of items that break no rule.
        invalid: number of the others; unreadable rows count in neither.
        clears: whether any item clears a field.
        kinds: the kinds of deciding keys that items have.
    """

    target: Part
    items: pa.Table
    errors: pa.Table
    valid: int
    invalid: int
    clears: bool
    kinds: frozenset[int]


class ItemStager:
    """Reads parsed chunks and applies the row rules to them. For any number of threads: one at a time checks.

    `fields` are those of `staged_fields`; a delete has none.
    """

    def __init__(self, attempt: Attempt, fields: tuple[str, ...]) -> None:
        self._attempt = attempt
        self._fields = fields
        self._is_delete = attempt.action is Action.delete
        self._rules = _row_rules(attempt)
        self._equal = _equal_rows(attempt)
        self._lock = Lock()

    @property
    def target(self) -> Part:
        """The part that items are staged in."""
        return "plan" if self._is_delete else "items"

    def read(self, number: int) -> pa.Table:
        """The parsed chunk with this number."""
        return self._attempt.parsed_chunk(number)

    def check(self, parsed: pa.Table) -> StagedChunk:
        """The rows of a parsed chunk. Items that are equal to others of the batch are left out."""
        with self._lock:
            chunk = from_table(parsed)
            if self._equal is not None:
                chunk = without_rows(chunk, self._equal)
            checked = self._rules.check(chunk)
            if self._is_delete:
                items = _listed_ids(checked)
            else:
                items = _staged_items(self._attempt, checked, self._rules, self._fields)
            kinds: frozenset[int] = frozenset()
            if "kind" in items.column_names:
                kinds = frozenset(pc.unique(pc.fill_null(items["kind"], UNDECIDED)).to_pylist())
            wrong = int(np.count_nonzero(checked.invalid))
            return StagedChunk(
                self.target,
                items,
                _error_table(chunk, checked),
                valid=len(checked.rows) - wrong,
                invalid=wrong,
                clears=bool(checked.cleared.any()),
                kinds=kinds,
            )


def _row_rules(attempt: Attempt) -> RowRules:
    options = attempt.options
    return RowRules(
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


def _equal_rows(attempt: Attempt) -> RowReader | None:
    """The rows that repeat another one; None if there are none."""
    if attempt.batch.facts.equal == 0:
        return None
    path = attempt.scratch / "equal.parquet"
    attempt.system.store.download(keys.equal_rows(attempt.batch.id), path)
    return RowReader(path)


def _stage(attempt: Attempt, connection: Connection, stager: ItemStager, *, stages_errors: bool = True) -> Staged:
    """Checks every item, and COPYs the items to their part and the errors to theirs, in the connection's transaction.

    Threads read the next chunk and copy the last one while one is checked. Reports progress of the phase unless the
    errors are known.
    """
    chunks = attempt.batch.facts.chunks
    parts: tuple[Part, ...] = (stager.target, "errors") if stages_errors else (stager.target,)
    if chunks == 1:  # nothing to do meanwhile
        staged = stager.check(stager.read(1))
        copy_staged(attempt.staging, connection, staged, is_new=True, stages_errors=stages_errors)
        return Staged(parts, staged.clears, tuple(sorted(staged.kinds)))
    clears = False
    kinds: set[int] = set()
    valid = invalid = 0
    with ThreadPoolExecutor(1) as reading, ThreadPoolExecutor(1) as copying:
        ahead = reading.submit(stager.read, 1) if chunks else None
        copied: Future[None] | None = None
        for number in range(1, chunks + 1):
            assert ahead is not None  # noqa: S101 - there is a next chunk
            parsed = ahead.result()
            ahead = reading.submit(stager.read, number + 1) if number < chunks else None
            staged = stager.check(parsed)
            if copied is not None:
                copied.result()
                if stages_errors:
                    attempt.advance(success=valid, error=invalid, chunk=number - 1, chunks=chunks)
            copied = copying.submit(
                copy_staged, attempt.staging, connection, staged, is_new=True, stages_errors=stages_errors
            )
            clears, kinds = clears or staged.clears, kinds | staged.kinds
            valid, invalid = valid + staged.valid, invalid + staged.invalid
        if copied is not None:
            copied.result()
    return Staged(parts, clears, tuple(sorted(kinds)))


def copy_staged(
    staging: Staging, connection: Connection, staged: StagedChunk, *, is_new: bool, stages_errors: bool = True
) -> None:
    """COPYs the rows of a chunk. `is_new`: the parts were made in this transaction."""
    staging.copy(connection, staged.target, staged.items, is_new=is_new)
    if stages_errors:
        staging.copy(connection, "errors", staged.errors, is_new=is_new)


def _listed_ids(checked: CheckedChunk) -> pa.Table:
    """The items of a delete, with the columns of `Staging.plan`."""
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


def _staged_items(attempt: Attempt, checked: CheckedChunk, rules: RowRules, fields: tuple[str, ...]) -> pa.Table:
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
