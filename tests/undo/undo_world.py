"""One organization whose batches are run, and undone, phase by phase without Dagster."""

import dataclasses
import json
from dataclasses import asdict, dataclass
from typing import Any, LiteralString

from batch_runs import Row, arrived, as_csv, new_organization
from driving import run_attempt
from killing import run_killed_once
from psycopg import sql
from psycopg.rows import dict_row

from batch_pipeline.batches.model import Action, Batch, Starter
from batch_pipeline.batches.options import UndoOptions
from batch_pipeline.database import borrowed
from batch_pipeline.intake.undoing import request_undo
from batch_pipeline.storage import keys
from batch_pipeline.system import System

# What differs after a batch and its undo.
TRACES = ("updated_at", "batch_id")


@dataclass(frozen=True)
class UndoWorld:
    """The organization's batches and records."""

    system: System
    organization_id: str

    def run(
        self,
        rows: list[Row],
        *,
        resource: str = "contact",
        action: str = "merge",
        kill: int | None = None,
        **options: Any,
    ) -> Batch:
        """A batch of these rows, run to its end; completed. Killed before statement `kill` and run again."""
        payload = as_csv(rows) if resource == "contact" else json.dumps(rows).encode()
        name = "people.csv" if resource == "contact" else "groups.json"
        batch = arrived(
            self.system,
            self.organization_id,
            payload,
            name=name,
            resource=resource,
            action=Action(action),
            **{"blank_cells": "keep", **options},
        )
        return self._completed(batch, kill)

    def undo(self, batch: Batch, *, kill: int | None = None, **options: Any) -> Batch:
        """The undo of the batch, run to its end; completed. Killed before statement `kill` and run again."""
        return self._completed(self.requested(batch, **options), kill)

    def _completed(self, batch: Batch, kill: int | None) -> Batch:
        done = run_attempt(self.system, batch) if kill is None else run_killed_once(self.system, batch, kill)
        assert done.status == "completed", done.reason
        return done

    def requested(self, batch: Batch, **options: Any) -> Batch:
        """The undo of the batch, which waits to be run."""
        return request_undo(self.system, batch.id, starter=Starter.caller, options=UndoOptions(**options))

    def execute(self, statement: LiteralString | sql.Composed, *parameters: Any) -> list[Row]:
        """Executes a statement, as another program might; returns the rows if it has any."""
        with borrowed(self.system.engine) as connection:
            cursor = connection.cursor(row_factory=dict_row).execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []

    def rows(self, table: str) -> dict[Any, Row]:
        """The organization's rows by id (of links by both), without traces of who wrote them when."""
        query = sql.SQL("SELECT * FROM {} WHERE organization_id = %s").format(sql.Identifier(table))
        found = self.execute(query, self.organization_id)
        if table == "group_members":
            return {(row["group_id"], row["member_id"]): row["is_primary"] for row in found}
        return {row["id"]: {name: value for name, value in row.items() if name not in TRACES} for row in found}

    def contacts(self) -> dict[str, Row]:
        """The contacts by id, without traces of who wrote them when."""
        return self.rows("contacts")

    def by(self, external_id: str, table: str = "contacts") -> Row:
        """The record with the external id."""
        query = sql.SQL("SELECT * FROM {} WHERE organization_id = %s AND external_id = %s")
        (row,) = self.execute(query.format(sql.Identifier(table)), self.organization_id, external_id)
        return row

    def lines(self, batch: Batch) -> list[Row]:
        """What result.json says."""
        found: list[Row] = json.loads(self.system.store.read(keys.result_json(batch.id)))
        return found

    def outcomes(self, batch: Batch) -> list[tuple[int, str, str | None, str | None]]:
        """Row, outcome, field and who is in the way, of each line of result.json."""
        return [(line["row"], line["outcome"], line["field"], line["by"]) for line in self.lines(batch)]


def counts(batch: Batch) -> dict[str, int]:
    """The batch's counts that are not zero."""
    return {name: count for name, count in asdict(batch.stats).items() if count}


def undo_world(system: System, *, chunk_rows: int = 3) -> UndoWorld:
    """A new organization. Its batches have chunks of a few rows and two writers."""
    settings = system.settings.model_copy(update={"chunk_rows": chunk_rows, "database_writers": 2})
    return UndoWorld(dataclasses.replace(system, settings=settings), new_organization(system))
