"""Writing the plan, chunk by chunk: each chunk's records, outcome and errors in one transaction.

A chunk is a range of upload rows. What the database refuses is narrowed down to single items by halving, under
savepoints, so that one bad item costs only itself.
"""

from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import errors, sql
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from batch_pipeline.batches.turns import Turn, check_fence
from batch_pipeline.loading.merging import merged_value
from batch_pipeline.loading.planner import STEP_WRITE
from batch_pipeline.loading.staging import Connection, Staging
from batch_pipeline.records.fields import KeyedText
from batch_pipeline.records.resource import Resource

# What a table, its constraints or triggers say about particular values; anything else is no item's fault.
REFUSALS = (
    psycopg.DataError,
    psycopg.IntegrityError,
    errors.RaiseException,
    errors.ProgramLimitExceeded,
)
TRANSIENT = (errors.SerializationFailure, errors.DeadlockDetected, errors.LockNotAvailable)
TRANSIENT_ATTEMPTS = 5


@dataclass(frozen=True)
class Chunk:
    """A range of upload rows, both ends included."""

    number: int
    first_row: int
    last_row: int


@dataclass(frozen=True)
class ChunkOutcome:
    """What a chunk did to the records, in items."""

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    deleted: int = 0
    failed: int = 0

    def __add__(self, other: "ChunkOutcome") -> "ChunkOutcome":
        return ChunkOutcome(
            self.created + other.created,
            self.updated + other.updated,
            self.unchanged + other.unchanged,
            self.deleted + other.deleted,
            self.failed + other.failed,
        )


def chunk_ranges(items: int, chunk_rows: int) -> list[Chunk]:
    """The boundaries of the chunks of an upload of `items` rows."""
    return [
        Chunk(number, first, min(first + chunk_rows - 1, items))
        for number, first in enumerate(range(1, items + 1, chunk_rows))
    ]


def store_chunks(connection: Connection, batch_id: str, chunks: list[Chunk]) -> None:
    """Stores the chunk boundaries of a new plan; an earlier plan's are dropped."""
    connection.execute("DELETE FROM batch_chunks WHERE batch_id = %s", (batch_id,))
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO batch_chunks (batch_id, number, first_row, last_row) VALUES (%s, %s, %s, %s)",
            [(batch_id, chunk.number, chunk.first_row, chunk.last_row) for chunk in chunks],
        )


def open_chunks(connection: Connection, batch_id: str) -> list[Chunk]:
    """The chunks that are not done yet, in order."""
    rows = connection.execute(
        "SELECT number, first_row, last_row FROM batch_chunks WHERE batch_id = %s AND done_at IS NULL ORDER BY number",
        (batch_id,),
    )
    return [Chunk(*row) for row in rows]


def done_outcome(connection: Connection, batch_id: str) -> ChunkOutcome:
    """The sum of what the finished chunks did."""
    row = connection.execute(
        "SELECT coalesce(sum(created), 0)::bigint, coalesce(sum(updated), 0)::bigint,"
        " coalesce(sum(unchanged), 0)::bigint, coalesce(sum(deleted), 0)::bigint, coalesce(sum(failed), 0)::bigint"
        " FROM batch_chunks WHERE batch_id = %s AND done_at IS NOT NULL",
        (batch_id,),
    ).fetchone()
    return ChunkOutcome(*row) if row is not None else ChunkOutcome()


class ChunkWriter:
    """Writes chunks of one batch over one connection."""

    def __init__(
        self,
        connection: Connection,
        resource: Resource,
        staging: Staging,
        turn: Turn,
        *,
        fields: tuple[str, ...],
        clears: bool,
        keep_changes: bool,
    ) -> None:
        self._connection = connection
        self._staging = staging
        self._turn = turn
        self._keep_changes = keep_changes
        self._insert = _insert_statement(resource, staging, fields)
        self._update = _update_statement(resource, staging, fields, clears=clears)
        self._parameters: dict[str, Any] = {
            "organization": turn.organization_id,
            "batch": turn.batch_id,
        }

    @retry(
        retry=retry_if_exception_type(TRANSIENT),
        stop=stop_after_attempt(TRANSIENT_ATTEMPTS),
        wait=wait_random_exponential(multiplier=0.05, max=2),
        reraise=True,
    )
    def write(self, chunk: Chunk) -> ChunkOutcome:
        """Writes a chunk and commits it with its outcome. Raises SupersededError where the turn is lost."""
        with self._connection.transaction():
            check_fence(self._connection, self._turn)
            outcome = self._write_rows(chunk.first_row, chunk.last_row)
            marked = self._connection.execute(
                "UPDATE batch_chunks SET done_at = clock_timestamp(),"
                " created = %s, updated = %s, unchanged = %s, deleted = %s, failed = %s"
                " WHERE batch_id = %s AND number = %s AND done_at IS NULL",
                (
                    outcome.created,
                    outcome.updated,
                    outcome.unchanged,
                    outcome.deleted,
                    outcome.failed,
                    self._turn.batch_id,
                    chunk.number,
                ),
            )
            if marked.rowcount != 1:
                raise RuntimeError(f"chunk {chunk.number} of {self._turn.batch_id} was done already")
        return outcome

    def _write_rows(self, first: int, last: int) -> ChunkOutcome:
        try:
            with self._connection.transaction():
                return self._merge_rows(first, last)
        except REFUSALS as refusal:
            if first < last:
                middle = (first + last) // 2
                return self._write_rows(first, middle) + self._write_rows(middle + 1, last)
            return self._reject(first, refusal)

    def _merge_rows(self, first: int, last: int) -> ChunkOutcome:
        parameters = {**self._parameters, "first": first, "last": last}
        created = self._connection.execute(self._insert, parameters).rowcount
        existing = self._connection.execute(
            sql.SQL(
                "SELECT count(*) FROM {} WHERE row BETWEEN %(first)s AND %(last)s AND verdict = 'a'"
                " AND record_id IS NOT NULL"
            ).format(self._staging.plan),
            parameters,
        ).fetchone()
        meant = int(existing[0]) if existing is not None else 0
        updated = 0
        if meant:
            statement = self._update
            if self._keep_changes:
                statement = sql.SQL(
                    "WITH updated AS ({} RETURNING s.row) INSERT INTO {} SELECT row FROM updated"
                ).format(self._update, self._staging.changes)
            updated = self._connection.execute(statement, parameters).rowcount
        return ChunkOutcome(created=created, updated=updated, unchanged=meant - updated)

    def _reject(self, row: int, refusal: psycopg.Error) -> ChunkOutcome:
        """Notes that the database refused an item. Its own words may quote the customer's data: they go there only."""
        said = " ".join((refusal.diag.message_primary or type(refusal).__name__).split())
        self._connection.execute(
            sql.SQL("INSERT INTO {} (row, step, code, field, message) VALUES (%s, %s, 'write_failed', %s, %s)").format(
                self._staging.errors
            ),
            (row, STEP_WRITE, refusal.diag.column_name, f"the database refused the item: {said}"),
        )
        changed = self._connection.execute(
            sql.SQL("UPDATE {} SET verdict = 'r' WHERE row = %s AND verdict = 'a'").format(self._staging.plan),
            (row,),
        )
        return ChunkOutcome(failed=changed.rowcount)


def _insert_statement(resource: Resource, staging: Staging, fields: tuple[str, ...]) -> sql.Composed:
    """Creates the records of a range of rows."""
    names = [name for name in fields if name != "id"]
    values = [
        sql.SQL("jsonb_strip_nulls(coalesce(s.{}, '{{}}'))").format(sql.Identifier(name))
        if isinstance(resource.field(name), KeyedText)
        else sql.SQL("s.{}").format(sql.Identifier(name))
        for name in names
    ]
    return sql.SQL(
        "INSERT INTO {records} (organization_id, id, batch_id, {columns})"
        " SELECT %(organization)s, s.new_id, %(batch)s, {values}"
        " FROM {items} s JOIN {plan} p ON p.row = s.row"
        " WHERE s.row BETWEEN %(first)s AND %(last)s AND p.row BETWEEN %(first)s AND %(last)s"
        " AND p.verdict = 'a' AND p.record_id IS NULL"
    ).format(
        records=sql.Identifier("public", resource.table),
        columns=sql.SQL(", ").join(map(sql.Identifier, names)),
        values=sql.SQL(", ").join(values),
        items=staging.items,
        plan=staging.plan,
    )


def _update_statement(resource: Resource, staging: Staging, fields: tuple[str, ...], *, clears: bool) -> sql.Composed:
    """Merges a range of rows into the records that they mean; a record that would stay the same is not written."""
    bits = {field.name: bit for bit, field in enumerate(resource.fields)}
    names = [name for name in fields if name != "id"]
    merged = [
        merged_value(name, bits[name], keyed=isinstance(resource.field(name), KeyedText), clears=clears)
        for name in names
    ]
    return sql.SQL(
        "UPDATE {records} r SET {assignments}, updated_at = now(), batch_id = %(batch)s"
        " FROM {items} s JOIN {plan} p ON p.row = s.row"
        " WHERE s.row BETWEEN %(first)s AND %(last)s AND p.row BETWEEN %(first)s AND %(last)s"
        " AND p.verdict = 'a' AND r.organization_id = %(organization)s AND r.id = p.record_id"
        " AND ({current}) IS DISTINCT FROM ({merged})"
    ).format(
        records=sql.Identifier("public", resource.table),
        assignments=sql.SQL(", ").join(
            sql.SQL("{} = {}").format(sql.Identifier(name), value) for name, value in zip(names, merged, strict=True)
        ),
        items=staging.items,
        plan=staging.plan,
        current=sql.SQL(", ").join(sql.Identifier("r", name) for name in names),
        merged=sql.SQL(", ").join(merged),
    )
