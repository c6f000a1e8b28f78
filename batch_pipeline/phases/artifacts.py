"""Writes a batch's artifacts: errors.csv, errors.json and result.json. Writing is repeatable."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow.compute as pc
from psycopg import sql

from batch_pipeline.batches.model import Action, PhaseName
from batch_pipeline.database import Connection
from batch_pipeline.loading.bulk_copy import fetch_table
from batch_pipeline.payloads.artifacts import (
    RESULT_SCHEMA,
    ErrorsWriter,
    RejectedChunk,
    ResultWriter,
    flattened_columns,
)
from batch_pipeline.payloads.formats import is_flat
from batch_pipeline.payloads.model import RawChunk
from batch_pipeline.payloads.parsed import from_table, select
from batch_pipeline.phases.attempt import Attempt
from batch_pipeline.phases.error_summary import ErrorSummary
from batch_pipeline.records.errors import ERRORS_SCHEMA
from batch_pipeline.storage import keys

Rejected = tuple[RejectedChunk, int]  # and the last upload row of the parsed chunk that it comes from


def write_errors(attempt: Attempt, phase: PhaseName) -> dict[str, Any]:
    """Writes errors.csv and errors.json from the parsed items and the staged errors; reports progress for the phase.

    Returns the summary of the errors (`ErrorSummary.to_json`).
    """
    summary = ErrorSummary(attempt.resource, attempt.rule_context)
    batch, store = attempt.batch, attempt.system.store
    columns = list(batch.facts.columns)
    with (
        attempt.writing(phase, "errors.csv, errors.json", total=batch.facts.items) as advance,
        attempt.borrow_untimed() as connection,
    ):
        if not is_flat(batch.facts.format):
            rejected = (chunk.items for chunk, _ in _rejected(attempt, connection))
            columns = flattened_columns(columns, rejected, max_columns=attempt.system.settings.max_columns)
        csv_path, json_path = attempt.scratch / "errors.csv", attempt.scratch / "errors.json"
        with (
            csv_path.open("wb") as csv_file,
            json_path.open("wb") as json_file,
            ErrorsWriter(csv_file, json_file, columns=columns, has_unreadable=batch.facts.unreadable > 0) as writer,
        ):
            for chunk, last_row in _prefetched(_rejected(attempt, connection)):
                writer.write(chunk)
                summary.add(chunk)
                advance(last_row)
        files = {keys.errors_csv(batch.id): csv_path, keys.errors_json(batch.id): json_path}
        with ThreadPoolExecutor(len(files)) as uploading:
            list(uploading.map(store.upload, files.values(), files))
    return summary.to_json()


def _prefetched(chunks: Iterator[Rejected]) -> Iterator[Rejected]:
    """The same chunks; a thread fetches the next one while the caller processes one."""
    with ThreadPoolExecutor(1) as fetching:
        coming = fetching.submit(next, chunks, None)
        while (chunk := coming.result()) is not None:
            coming = fetching.submit(next, chunks, None)
            yield chunk


def _chunks(attempt: Attempt) -> Iterator[tuple[RawChunk, int, int]]:
    """Each parsed chunk with the first and the last upload row that it covers; together they cover every row."""
    first = 1
    for number in range(1, attempt.batch.facts.chunks + 1):
        table = attempt.parsed_chunk(number)
        last = first + table.num_rows - 1
        yield from_table(table), first, last
        first = last + 1


def _rejected(attempt: Attempt, connection: Connection) -> Iterator[Rejected]:
    """The rejected items as uploaded, with their errors, in upload order."""
    query = sql.SQL(
        "SELECT row, code, field, message, value FROM {} WHERE row BETWEEN %(first)s AND %(last)s"
        " ORDER BY row, step, number"
    ).format(attempt.staging.errors)
    for chunk, first, last in _chunks(attempt):
        found = fetch_table(connection, query, {"first": first, "last": last}, ERRORS_SCHEMA)
        if found.num_rows:
            items = select(chunk, pc.is_in(chunk.rows, value_set=found["row"].combine_chunks()))
            yield RejectedChunk(items, found), last


def write_result(attempt: Attempt) -> None:
    """Writes result.json: the outcome of each upload row, in upload order, then the records that cleanup deleted."""
    items, to_delete = attempt.batch.facts.items, attempt.batch.facts.to_delete
    query, overwritten = _result_query(attempt), _overwritten_query(attempt)
    path = attempt.scratch / "result.json"
    step = attempt.system.settings.chunk_rows
    with attempt.writing(PhaseName.cleanup, "result.json", total=items + to_delete) as advance:
        with attempt.borrow_untimed() as connection, path.open("wb") as file, ResultWriter(file) as writer:
            for first in range(1, items + 1, step):
                last = min(first + step - 1, items)
                parameters = {"first": first, "last": last, "organization": attempt.organization_id}
                writer.write(fetch_table(connection, query, parameters, RESULT_SCHEMA))
                advance(last)
            for first in range(1, to_delete + 1, step):
                last = min(first + step - 1, to_delete)
                writer.write(fetch_table(connection, overwritten, {"first": first, "last": last}, RESULT_SCHEMA))
                advance(items + last)
        attempt.system.store.upload(path, keys.result_json(attempt.batch.id))


def _result_query(attempt: Attempt) -> sql.Composed:
    staging = attempt.staging
    deletes = attempt.action is Action.delete
    staged_external_id = "s.external_id" if "external_id" in attempt.batch.facts.fields else "NULL::text"
    staged_items = "LEFT JOIN {items} s ON s.row = n.row AND s.row BETWEEN %(first)s AND %(last)s"
    return sql.SQL(
        """
        SELECT n.row,
               CASE WHEN p.verdict = 'a' AND p.record_id IS NULL THEN 'created'
                    WHEN p.verdict = 'a' AND c.row IS NOT NULL THEN {changed}
                    WHEN p.verdict IN ('a', 'u') THEN 'unchanged'
                    WHEN p.verdict = 'r' OR p.row IS NULL AND EXISTS (SELECT FROM {errors} e WHERE e.row = n.row)
                    THEN 'rejected' ELSE 'duplicate' END AS outcome,
               CASE WHEN p.verdict = 'a' THEN coalesce(p.record_id, {new_id})
                    WHEN p.verdict IN ('u', 'd') THEN p.record_id END,
               coalesce({external_id}, c.external_id, r.external_id)
        FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n (row)
        LEFT JOIN {plan} p ON p.row = n.row AND p.row BETWEEN %(first)s AND %(last)s
        {staged_items}
        LEFT JOIN {changes} c ON c.row = n.row AND c.row BETWEEN %(first)s AND %(last)s
        LEFT JOIN {records} r ON r.organization_id = %(organization)s AND r.id = p.record_id
        ORDER BY n.row
        """
    ).format(
        changed=sql.Literal("deleted" if deletes else "updated"),
        new_id=sql.SQL("NULL" if deletes else "s.new_id"),
        staged_items=sql.SQL("" if deletes else staged_items).format(items=staging.items),
        plan=staging.plan,
        errors=staging.errors,
        changes=staging.changes,
        records=sql.Identifier("public", attempt.resource.table),
        external_id=sql.SQL(staged_external_id),
    )


def _overwritten_query(attempt: Attempt) -> sql.Composed:
    return sql.SQL(
        "SELECT NULL::bigint, 'overwritten', id, external_id FROM {}"
        " WHERE number BETWEEN %(first)s AND %(last)s ORDER BY number"
    ).format(attempt.staging.to_delete)
