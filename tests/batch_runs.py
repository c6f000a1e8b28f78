"""Helpers that make batches and run them in this process."""

import csv
import io
import itertools
import json
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString

import sqlalchemy as sa
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus
from driving import run_attempt
from psycopg import sql
from psycopg.rows import dict_row

from batch_pipeline.batches.accept import ArrivedPayload, NewBatch, accept
from batch_pipeline.batches.ids import new_batch_id
from batch_pipeline.batches.model import Action, Batch, Starter
from batch_pipeline.batches.options import BatchOptions
from batch_pipeline.batches.organizations import create_organization
from batch_pipeline.database import borrowed
from batch_pipeline.definitions import defs
from batch_pipeline.orchestration import tags
from batch_pipeline.orchestration.execute import execute_batch
from batch_pipeline.orchestration.requested_runs import run_config_of, run_tags_of
from batch_pipeline.storage import keys
from batch_pipeline.system import System

Row = dict[str, Any]


def as_csv(rows: Sequence[Row]) -> bytes:
    """The rows as a CSV file; its header has the keys of all rows, and a row without one has an empty cell."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def new_organization(system: System, region: str = "US") -> str:
    """An organization of a test's own."""
    return create_organization(system.engine, f"org-{secrets.token_hex(4)}", region).id


def accepted(
    engine: sa.Engine,
    organization_id: str | None,
    *,
    key: str | None = None,
    saved: bool = True,
    starter: Starter = Starter.caller,
    **values: Any,
) -> Batch:
    """A batch of contacts that was accepted, with a payload at this key or without one."""
    defaults = {
        "id": new_batch_id(),
        "resource": "contact",
        "action": Action.merge,
        "name": "people.csv",
        "options": BatchOptions(),
    }
    payload = None if key is None else ArrivedPayload(key, saved, starter)
    return accept(engine, NewBatch(organization_id=organization_id, **(defaults | values)), payload=payload).batch


def arrived(
    system: System,
    organization_id: str,
    payload: bytes,
    *,
    name: str = "people.csv",
    resource: str = "contact",
    action: Action = Action.merge,
    starter: Starter = Starter.caller,
    **options: Any,
) -> Batch:
    """A batch whose payload lies in storage and that awaits its run."""
    batch_id = new_batch_id()
    saved = bool(options.get("save_upload", True))
    key = keys.upload(batch_id, name, saved=saved)
    system.store.write(key, payload)
    return accepted(
        system.engine,
        organization_id,
        key=key,
        saved=saved,
        starter=starter,
        id=batch_id,
        resource=resource,
        action=action,
        name=name,
        options=BatchOptions(**options),
        source_key=name,
    )


def awaiting_upload(system: System, organization_id: str, *, seconds: float = 3600) -> Batch:
    """A batch of contacts that awaits its file for so many seconds more; its URL has run out where they are past."""
    expires_at = datetime.now(UTC) + timedelta(seconds=seconds)
    return accepted(system.engine, organization_id, upload_expires_at=expires_at)


@dataclass(frozen=True)
class Runner:
    """Runs merge batches of contacts for one organization, each to its end: their phases, without a run of Dagster.

    A run takes as long as all phases of a small batch: only tests of orchestration need it (`DagsterRunner`).
    """

    system: System
    organization_id: str

    def csv(self, *rows: Row, **options: Any) -> Batch:
        """A batch of a CSV file of these rows."""
        return self.bytes(as_csv(rows), **options)

    def json(self, *items: Any, **options: Any) -> Batch:
        """A batch of a JSON array of these items."""
        return self.bytes(json.dumps(items).encode(), name="people.json", **options)

    def bytes(self, payload: bytes, **options: Any) -> Batch:
        """A batch of this file."""
        return self.run(arrived(self.system, self.organization_id, payload, **options))

    def run(self, batch: Batch) -> Batch:
        """The batch, run to its end."""
        return run_attempt(self.system, batch)

    def contacts(self) -> list[Row]:
        """The organization's contacts, by name and id."""
        return contacts(self.system, self.organization_id)

    def records(self, table: str) -> list[Row]:
        """The organization's records in a table, by external id and id."""
        return records(self.system, self.organization_id, table)

    def one(self) -> Row:
        """The organization's only contact."""
        (found,) = self.contacts()
        return found

    def codes(self, batch: Batch) -> list[tuple[int, list[str]]]:
        """Each rejected item's row and its errors' codes."""
        return [(entry["row"], [error["code"] for error in entry["errors"]]) for entry in self.errors(batch)]

    def errors(self, batch: Batch) -> list[Row]:
        """What errors.json says."""
        assert batch.has_errors_file
        found: list[Row] = json.loads(self.system.store.read(keys.errors_json(batch.id)))
        return found

    def outcomes(self, batch: Batch) -> list[str]:
        """The outcome of each item, in the order of the upload."""
        return [entry["outcome"] for entry in self.results(batch)]

    def results(self, batch: Batch) -> list[Row]:
        """What result.json says."""
        assert batch.has_result_file
        found: list[Row] = json.loads(self.system.store.read(keys.result_json(batch.id)))
        return found


@dataclass(frozen=True)
class DagsterRunner(Runner):
    """As `Runner`, each batch in a run of Dagster, as `batch-pipeline run` does."""

    instance: DagsterInstance

    def run(self, batch: Batch) -> Batch:
        """The batch, run to its end."""
        return execute_batch(self.system, self.instance, batch)


def fetched(system: System, query: LiteralString | sql.Composed, parameters: Sequence[Any] = ()) -> list[Row]:
    """The rows of a query."""
    with borrowed(system.engine) as connection:
        return connection.cursor(row_factory=dict_row).execute(query, parameters).fetchall()


def reasons(system: System, batch: Batch) -> list[str]:
    """The codes of the batch's failures so far, in order."""
    query: LiteralString = (
        "SELECT reason ->> 'code' AS code FROM batch_transitions WHERE batch_id = %s AND reason IS NOT NULL"
        " ORDER BY number"
    )
    return [str(row["code"]) for row in fetched(system, query, (batch.id,))]


def counted(batch: Batch) -> dict[str, int]:
    """The statistics that are not zero, of a batch that must have completed."""
    assert batch.status == "completed", batch.reason
    return {name: count for name, count in asdict(batch.stats).items() if count}


def contacts(system: System, organization_id: str) -> list[Row]:
    """The organization's contacts, by name and id."""
    query: LiteralString = 'SELECT * FROM contacts WHERE organization_id = %s ORDER BY name COLLATE "C", id'
    return fetched(system, query, (organization_id,))


def records(system: System, organization_id: str, table: str) -> list[Row]:
    """The organization's records in a table, by external id and id."""
    query = sql.SQL('SELECT * FROM {} WHERE organization_id = %s ORDER BY external_id COLLATE "C", id')
    return fetched(system, query.format(sql.Identifier(table)), (organization_id,))


def insert_contacts(system: System, organization_id: str, *rows: Row) -> None:
    """Stores contacts past all rules, as another tool might."""
    insert_rows(system, organization_id, "contacts", rows)


def insert_rows(system: System, organization_id: str, table: str, rows: Sequence[Row]) -> None:
    """Stores records of any table past all rules; each row has the columns that it names."""
    with borrowed(system.engine) as connection, connection.cursor() as cursor:
        for columns, alike in itertools.groupby(rows, key=tuple):
            names = ("organization_id", *columns)
            cursor.executemany(
                sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
                    sql.Identifier(table),
                    sql.SQL(", ").join(map(sql.Identifier, names)),
                    sql.SQL(", ").join(sql.Placeholder() * len(names)),
                ),
                [(organization_id, *row.values()) for row in alike],
            )


def run_of(instance: DagsterInstance, batch: Batch, status: DagsterRunStatus) -> DagsterRun:
    """The run that the batch awaits, as Dagster has it: in this status, and executed by nobody."""
    return instance.create_run_for_job(
        defs.resolve_job_def(tags.JOB_NAME),
        run_config=run_config_of(batch),
        tags=run_tags_of(batch),
        status=status,
    )
