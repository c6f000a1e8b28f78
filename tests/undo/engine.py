"""Batches of contacts written by the loading layer alone: planner and writers, without files, phases or Dagster.

Ten times as fast as a whole batch, so that random sequences can be many.
"""

import itertools
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from batch_pipeline.batches.ids import new_batch_id
from batch_pipeline.batches.locks import Turn
from batch_pipeline.batches.model import Action, DuplicateHandling, PhaseName
from batch_pipeline.database import Connection
from batch_pipeline.loading.chunks import ChunkWriter, chunk_ranges, done_rows, next_chunk, store_chunks
from batch_pipeline.loading.delete_planner import DeletePlanner
from batch_pipeline.loading.deleting import CleanupWriter, DeleteWriter
from batch_pipeline.loading.identity import BY_EXTERNAL_ID, BY_ID
from batch_pipeline.loading.merging import MergeWriter
from batch_pipeline.loading.own_staging import OwnStaging
from batch_pipeline.loading.planner import Planner
from batch_pipeline.loading.record_ids import record_ids
from batch_pipeline.loading.shared_staging import SharedStaging
from batch_pipeline.loading.staging import STAGED_BATCH, Staging
from batch_pipeline.loading.undo_lines import stage_lines
from batch_pipeline.loading.undo_outcome import counts_query, lines_query
from batch_pipeline.loading.undo_planner import UndoPlanner
from batch_pipeline.loading.undo_statements import UndoStatements
from batch_pipeline.loading.undo_writer import UndoWriter
from batch_pipeline.records.contact import CONTACT

Row = dict[str, Any]
FIELDS = ("id", "external_id", "name", "email", "phone", "notes", "metadata")
BEGAN = datetime.now(UTC) - timedelta(days=1)


@dataclass
class UndoRun:
    """What an undo did."""

    batch_id: str
    counts: dict[str, int]
    lines: list[Row]


@dataclass
class Engine:
    """The contacts of one organization. The connection is in autocommit mode."""

    connection: Connection
    chunk_rows: int = 2
    organization_id: str = field(default_factory=lambda: f"org-{secrets.token_hex(6)}")
    _arrivals: dict[str, datetime] = field(default_factory=dict)
    _batches: Any = field(default_factory=lambda: itertools.count(1))
    _moments: Any = field(default_factory=lambda: itertools.count(1))

    def contacts(self) -> dict[str, Row]:
        """The contacts by id, without traces of who wrote them when."""
        cursor = self.connection.cursor(row_factory=dict_row)
        rows = cursor.execute("SELECT * FROM contacts WHERE organization_id = %s", (self.organization_id,))
        return {row["id"]: {k: v for k, v in row.items() if k not in ("updated_at", "batch_id")} for row in rows}

    def merge(self, items: list[Row], *, overwrite: bool = False) -> str:
        """Merges the items, or overwrites; an item means a contact by its id, else by its external id."""
        staging, turn = self._begin()
        self._stage(staging, items)
        planner = Planner(
            self.connection,
            CONTACT,
            staging,
            organization_id=self.organization_id,
            action=Action.overwrite if overwrite else Action.merge,
            items=len(items),
            has_gaps=False,
            fields=FIELDS,
            clears=False,
            kinds=(BY_ID, BY_EXTERNAL_ID),
            keeps_unchanged=True,
            handling=DuplicateHandling.ignore_all,
            newer=[],
        )
        with self.connection.transaction():
            counts = planner.plan()
        writer = MergeWriter(
            self.connection,
            CONTACT,
            staging,
            turn,
            fields=FIELDS,
            clears=False,
            accepts_valid=counts.accepts_valid,
            keep_changes=False,
            logs=True,
        )
        self._write(writer, len(items))
        if overwrite:
            self._write(CleanupWriter(self.connection, CONTACT, staging, turn, newer=[], logs=True), counts.to_delete)
        staging.drop(self.connection)
        return staging.batch_id

    def delete(self, ids: list[str]) -> str:
        """Deletes the contacts."""
        staging, turn = self._begin()
        staging.create_for_delete(self.connection)
        with self.connection.cursor() as cursor:
            cursor.executemany(
                sql.SQL("INSERT INTO {} (row, verdict, record_id) VALUES (%s, 'a', %s)").format(staging.plan),
                list(enumerate(ids, start=1)),
            )
        planner = DeletePlanner(
            self.connection,
            CONTACT,
            staging,
            organization_id=self.organization_id,
            handling=DuplicateHandling.ignore_all,
            newer=[],
        )
        with self.connection.transaction():
            planner.plan()
        self._write(DeleteWriter(self.connection, CONTACT, staging, turn, keep_changes=False, logs=True), len(ids))
        staging.drop(self.connection)
        return staging.batch_id

    def write_outside(self, record_id: str, name: str, value: Any) -> None:
        """Changes a field as another program does."""
        self.connection.execute(
            sql.SQL("UPDATE contacts SET {} = %s WHERE organization_id = %s AND id = %s").format(sql.Identifier(name)),
            (value, self.organization_id, record_id),
        )

    def undo(self, batch_id: str) -> UndoRun:
        """Undoes the batch."""
        staging, turn = self._begin()
        parameters = {
            "organization": self.organization_id,
            "batch": staging.batch_id,
            "undone": batch_id,
            "since": BEGAN,
            "done": done_rows(self.connection, staging.batch_id),
        }
        statements = UndoStatements(self.connection, CONTACT, staging, parameters)
        with self.connection.transaction():
            lines = stage_lines(statements, undone_arrived_at=self._arrivals[batch_id])
            UndoPlanner(statements).plan()
        self._write(UndoWriter(self.connection, CONTACT, staging, turn, parameters), lines)
        cursor = self.connection.cursor(row_factory=dict_row)
        counts = cursor.execute(counts_query(statements)).fetchone() or {}
        whole = {**parameters, "first": 1, "last": max(lines, 1)}
        result = cursor.execute(lines_query(statements), whole).fetchall()
        staging.drop(self.connection)
        return UndoRun(staging.batch_id, {name: count for name, count in counts.items() if count}, result)

    def _begin(self) -> tuple[Staging, Turn]:
        batch_id = new_batch_id()
        self._arrivals[batch_id] = BEGAN + timedelta(seconds=next(self._moments))
        row = self.connection.execute(
            "INSERT INTO turns (organization_id, resource, fence, holder) VALUES (%s, 'contact', 1, %s)"
            " ON CONFLICT (organization_id, resource) DO UPDATE SET fence = turns.fence + 1, holder = excluded.holder"
            " RETURNING fence, version",
            (self.organization_id, batch_id),
        ).fetchone()
        assert row is not None
        self.connection.execute("SELECT set_config(%s, %s, false)", (STAGED_BATCH, batch_id))
        is_large = next(self._batches) % 5 == 0
        staging = OwnStaging(batch_id) if is_large else SharedStaging(batch_id, "contact")
        return staging, Turn(self.organization_id, "contact", batch_id, row[0], row[1])

    def _stage(self, staging: Staging, items: list[Row]) -> None:
        with self.connection.transaction():
            staging.create(self.connection, CONTACT, FIELDS)
            rows = np.arange(1, len(items) + 1)
            new_ids = record_ids(
                "ctct_", batch_id=staging.batch_id, arrived_at=self._arrivals[staging.batch_id], rows=rows
            )
            columns = ("row", "kind", "cleared", "invalid", "new_id", "identified", *FIELDS)
            with self.connection.cursor() as cursor:
                cursor.executemany(
                    sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
                        staging.items,
                        sql.SQL(", ").join(map(sql.Identifier, columns)),
                        sql.SQL(", ").join(sql.Placeholder() * len(columns)),
                    ),
                    [
                        (
                            *(row, BY_ID if "id" in item else BY_EXTERNAL_ID, 0, 0, new_id, True),
                            *map(item.get, FIELDS[:-1]),
                            Jsonb(item["metadata"]) if "metadata" in item else None,
                        )
                        for row, new_id, item in zip(rows.tolist(), new_ids.to_pylist(), items, strict=True)
                    ],
                )

    def _write(self, writer: ChunkWriter, rows: int) -> None:
        batch_id, phase = writer._turn.batch_id, PhaseName(writer.phase)
        with self.connection.transaction():
            store_chunks(self.connection, batch_id, phase, chunk_ranges(rows, self.chunk_rows))
        while chunk := next_chunk(self.connection, batch_id, phase):
            writer.write(chunk)
