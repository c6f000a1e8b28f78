"""Random sequences of merge, overwrite and delete batches, held to what a small model in memory says of contacts.

The real phases run on the real PostgreSQL and S3, with chunks of a few items and two writers.
"""

import dataclasses
import json
import secrets
from collections import defaultdict
from typing import Any

import psycopg
from batch_runs import arrived, insert_contacts, new_organization
from contacts_model import ContactsModel, Outcome
from driving import run_attempt
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from model_items import EMPTY, Format, Record, Upload
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from uploads import EMAILS, PHONES, STRANGER, first_records, payload, uploads, with_ids

from batch_pipeline.batches import model as product
from batch_pipeline.storage import keys
from batch_pipeline.system import System

BATCHES_OF_A_SEQUENCE = 2


class Database:
    """One connection that looks at what batches wrote."""

    def __init__(self, connection: psycopg.Connection[dict[str, Any]]) -> None:
        self._connection = connection

    def contacts(self, organization_id: str) -> dict[str, Record]:
        """Whole rows by id."""
        rows = self._connection.execute("SELECT * FROM contacts WHERE organization_id = %s", (organization_id,))
        return {row["id"]: row for row in rows}


def _stored(record: Record) -> Record:
    """A contact's row as the model has contacts."""
    return {name: record[name] for name in EMPTY}


def hold_to_the_model(system: System, upload_format: Format, *, sequences: int) -> None:
    """Runs so many sequences of batches, whose uploads have the format. Raises AssertionError for the shortest."""
    with psycopg.connect(system.database_url, autocommit=True, row_factory=dict_row) as connection:
        _hold_to_the_model(system, Database(connection), upload_format, sequences=sequences)


def _hold_to_the_model(system: System, database: Database, upload_format: Format, *, sequences: int) -> None:
    stranger = new_organization(system)
    insert_contacts(system, stranger, {"id": STRANGER, "name": "Stranger", "email": "ann@example.com"})
    strangers = database.contacts(stranger)

    class Batches(RuleBasedStateMachine):
        """Batches of one organization, each run to its end."""

        @initialize(records=first_records())
        def begin(self, records: dict[str, Record]) -> None:
            self.organization_id = new_organization(system)
            stored = [
                {"id": record_id, **record, "metadata": Jsonb(record.get("metadata", {}))}
                for record_id, record in records.items()
            ]
            insert_contacts(system, self.organization_id, *stored)
            self.model = ContactsModel(records, phones=PHONES, emails=EMAILS)
            self.stale: list[str] = []

        @rule(upload=uploads("merge", upload_format), chunk_rows=st.integers(2, 5))
        def merge(self, upload: Upload, chunk_rows: int) -> None:
            self._run(upload, chunk_rows)

        @rule(upload=uploads("overwrite", upload_format), chunk_rows=st.integers(2, 5))
        def overwrite(self, upload: Upload, chunk_rows: int) -> None:
            self._run(upload, chunk_rows)

        @rule(upload=uploads("delete", upload_format), chunk_rows=st.integers(2, 5))
        def delete(self, upload: Upload, chunk_rows: int) -> None:
            self._run(upload, chunk_rows)

        def _run(self, upload: Upload, chunk_rows: int) -> None:
            upload = with_ids(upload, list(self.model.records), self.stale)
            expected = self.model.expect(upload)
            before = database.contacts(self.organization_id)
            batch = run_upload(system, self.organization_id, upload, chunk_rows)
            new_ids = check_batch(system, batch, upload, expected)
            known = set(self.model.records)
            self.model.apply(expected, new_ids)
            self.stale += sorted(known - set(self.model.records))
            after = database.contacts(self.organization_id)
            assert {record_id: _stored(record) for record_id, record in after.items()} == self.model.records
            written = {expected.ids[row] or new_ids[row] for row in expected.writes}
            check_authorship(before, after, written, batch)
            assert database.contacts(stranger) == strangers

    run_state_machine_as_test(
        Batches,
        settings=settings(
            max_examples=sequences,
            stateful_step_count=BATCHES_OF_A_SEQUENCE,
            suppress_health_check=list(HealthCheck),
        ),
    )


def run_upload(
    system: System, organization_id: str, upload: Upload, chunk_rows: int, *, plan_only: bool = False
) -> product.Batch:
    """The upload as a batch, run to its end or to its plan. A large one has staging tables of its own."""
    sizes = {"chunk_rows": chunk_rows, "shared_staging_items": chunk_rows + 1, "database_writers": 2}
    small = dataclasses.replace(system, settings=system.settings.model_copy(update=sizes))
    batch = arrived(
        small,
        organization_id,
        payload(upload),
        name=f"contacts-{secrets.token_hex(4)}.{upload.format}",
        action=product.Action(upload.action),
        duplicate_handling=upload.duplicate_handling,
        blank_cells=upload.blank_cells,
        properties=dict(upload.properties),
        delete_limit=upload.delete_limit,
        reject_limit=upload.reject_limit,
        allow_empty=upload.allow_empty,
        save_result=True,
        plan_only=plan_only,
    )
    return run_attempt(small, batch)


def check_batch(system: System, batch: product.Batch, upload: Upload, expected: Outcome) -> dict[int, str]:
    """Holds the batch and its artifacts to what is expected of it; returns the ids of new records by row."""
    assert (batch.status, batch.reason and batch.reason.code) == (expected.status, expected.reason)
    assert dataclasses.asdict(batch.stats) == expected.stats()
    cleanup = batch.phase(product.PhaseName.cleanup)
    assert cleanup.status == expected.cleanup
    if batch.has_errors_file:
        entries = json.loads(system.store.read(keys.errors_json(batch.id)))
        found = {entry["row"]: sorted(error["code"] for error in entry["errors"]) for entry in entries}
        assert found == expected.errors
        check_summary(batch, entries)
    assert batch.has_errors_file == expected.has_errors_file == (batch.error_summary is not None)
    if batch.status == "failed":
        assert not batch.has_result_file
        return {}
    assert batch.stats.items_read == len(upload.items)
    assert (cleanup.reason or "").startswith("unidentified_items") == expected.unidentified
    assert cleanup.success == len(expected.overwritten)
    result = json.loads(system.store.read(keys.result_json(batch.id)))
    return _check_result(result, expected)


def check_summary(batch: product.Batch, entries: list[dict[str, Any]]) -> None:
    """Holds the summary of errors to the errors file: its errors by field and code."""
    assert batch.error_summary is not None
    grouped: dict[tuple[str | None, str], list[int]] = defaultdict(list)
    for entry in entries:
        for error in entry["errors"]:
            grouped[error["field"], error["code"]].append(entry["row"])
    groups = batch.error_summary["groups"]
    assert {(each["field"], each["code"]): (each["count"], each["rows"]) for each in groups} == {
        key: (len(rows), list(dict.fromkeys(rows))[:5]) for key, rows in grouped.items()
    }
    assert [each["count"] for each in groups] == sorted((each["count"] for each in groups), reverse=True)
    assert (batch.error_summary["errors"], batch.error_summary["others"]) == (sum(map(len, grouped.values())), 0)


def _check_result(result: list[dict[str, Any]], expected: Outcome) -> dict[int, str]:
    of_rows = [entry for entry in result if entry["row"] is not None]
    assert [(entry["row"], entry["outcome"]) for entry in of_rows] == sorted(expected.outcomes.items())
    removed = result[len(of_rows) :]
    assert {entry["outcome"] for entry in removed} <= {"overwritten"}
    assert sorted(entry["id"] for entry in removed) == sorted(expected.overwritten)
    ids = {entry["row"]: entry["id"] for entry in of_rows}
    new = {row: ids[row] for row, record_id in expected.ids.items() if record_id is None}
    assert {row: ids[row] for row in expected.ids if row not in new} == {
        row: record_id for row, record_id in expected.ids.items() if row not in new
    }
    return new


def check_authorship(
    before: dict[str, Record], after: dict[str, Record], written: set[str], batch: product.Batch
) -> None:
    """Records that the batch wrote name it and its time; all others are as they were, to the column."""
    for record_id, record in after.items():
        if record_id not in written:
            assert record == before[record_id]
            continue
        assert record["batch_id"] == batch.id
        if record_id in before:
            assert record["created_at"] == before[record_id]["created_at"]
            assert record["updated_at"] > before[record_id]["updated_at"]
