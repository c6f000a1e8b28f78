"""Random sequences of batches of contacts, of their undos and of outside writes, held to two small models in memory.

`ContactsModel` predicts what a merge, overwrite or delete does, `StackModel` what an undo does. The real phases run on
the real PostgreSQL and S3, with chunks of a few items and two writers. Some batches are killed and run again.
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
from examples import examples
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from killing import run_killed_once
from model_items import EMPTY, Format, Record, Upload
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from stack_model import StackModel
from uploads import EMAILS, NAMES, PHONES, STRANGER, first_records, payload, uploads, with_ids

from batch_pipeline.batches import model as product
from batch_pipeline.batches.options import UndoOptions
from batch_pipeline.intake.undoing import request_undo
from batch_pipeline.storage import keys
from batch_pipeline.system import System

STEPS_OF_A_SEQUENCE = 4
SEQUENCES = examples(5, thorough=250)
TRACES = ("updated_at", "batch_id")  # what differs after a batch and its undo

chunk_rows = st.integers(2, 5)
# The statement before which the process is killed; a batch of a few items executes about so many.
kills = st.one_of(st.none(), st.none(), st.integers(1, 80))


class Database:
    """One connection that looks at what batches wrote, and writes as another program does."""

    def __init__(self, connection: psycopg.Connection[dict[str, Any]]) -> None:
        self._connection = connection

    def contacts(self, organization_id: str) -> dict[str, Record]:
        """Whole rows by id."""
        rows = self._connection.execute("SELECT * FROM contacts WHERE organization_id = %s", (organization_id,))
        return {row["id"]: row for row in rows}

    def write(self, organization_id: str, record_id: str, name: str, value: str) -> None:
        """Changes a field of a contact."""
        self._connection.execute(
            sql.SQL("UPDATE contacts SET {} = %s WHERE organization_id = %s AND id = %s").format(sql.Identifier(name)),
            (value, organization_id, record_id),
        )


def _stored(record: Record) -> Record:
    """A contact's row as the model has contacts."""
    return {name: record[name] for name in EMPTY}


def without_traces(records: dict[str, Record]) -> dict[str, Record]:
    """The contacts without who wrote them when."""
    return {
        record_id: {name: value for name, value in record.items() if name not in TRACES}
        for record_id, record in records.items()
    }


def hold_to_the_models(system: System, upload_format: Format) -> None:
    """Runs sequences of batches whose uploads have the format. Raises AssertionError for the shortest that differs."""
    with psycopg.connect(system.database_url, autocommit=True, row_factory=dict_row) as connection:
        _hold_to_the_models(system, Database(connection), upload_format)


def _hold_to_the_models(system: System, database: Database, upload_format: Format) -> None:
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
            self.stack = StackModel()
            self.stale: list[str] = []
            self.now = database.contacts(self.organization_id)
            # Batches that wrote, each with the contacts before it.
            self.written: list[tuple[product.Batch, dict[str, Record]]] = []
            self.nobody_wrote_since = True

        @rule(upload=uploads("merge", upload_format), chunk_rows=chunk_rows, kill=kills)
        def merge(self, upload: Upload, chunk_rows: int, kill: int | None) -> None:
            self._run(upload, chunk_rows, kill)

        @rule(upload=uploads("overwrite", upload_format), chunk_rows=chunk_rows, kill=kills)
        def overwrite(self, upload: Upload, chunk_rows: int, kill: int | None) -> None:
            self._run(upload, chunk_rows, kill)

        @rule(upload=uploads("delete", upload_format), chunk_rows=chunk_rows, kill=kills)
        def delete(self, upload: Upload, chunk_rows: int, kill: int | None) -> None:
            self._run(upload, chunk_rows, kill)

        @precondition(lambda self: self.model.records)
        @rule(place=st.integers(0, 5), name=st.sampled_from(NAMES))
        def write_outside(self, place: int, name: str) -> None:
            record_id = sorted(self.model.records)[place % len(self.model.records)]
            database.write(self.organization_id, record_id, "name", name)
            self.nobody_wrote_since = False
            self.model.records[record_id]["name"] = name
            self.stack.observe(None, *map(without_traces, self._look()))

        @precondition(lambda self: self.written)
        @rule(back=st.integers(1, 3), chunk_rows=chunk_rows, kill=kills)
        def undo(self, back: int, chunk_rows: int, kill: int | None) -> None:
            self._undo(min(back, len(self.written)), chunk_rows, kill)

        @precondition(lambda self: self.written)
        @rule(chunk_rows=chunk_rows, kill=kills)
        def undo_the_newest(self, chunk_rows: int, kill: int | None) -> None:
            self._undo(1, chunk_rows, kill)

        def _run(self, upload: Upload, chunk_rows: int, kill: int | None) -> None:
            upload = with_ids(upload, list(self.model.records), self.stale)
            expected = self.model.expect(upload)
            batch = run_upload(system, self.organization_id, upload, chunk_rows, kill=kill)
            new_ids = check_batch(system, batch, upload, expected)
            known = set(self.model.records)
            self.model.apply(expected, new_ids)
            self.stale += sorted(known - set(self.model.records))
            before, after = self._look()
            written = {expected.ids[row] or new_ids[row] for row in expected.writes}
            check_authorship(before, after, written, batch)
            self.stack.observe(batch.id, without_traces(before), without_traces(after))
            self._keep(batch, before)

        def _undo(self, back: int, chunk_rows: int, kill: int | None) -> None:
            undone, before_it = self.written[-back]
            small = with_small_parts(system, chunk_rows)
            requested = request_undo(small, undone.id, starter=product.Starter.caller, options=UndoOptions())
            undo = run_attempt(small, requested) if kill is None else run_killed_once(small, requested, kill)
            expected = self.stack.undo(undone.id, undo.id, without_traces(self.now))
            before, after = self._look(undo_of=expected.records)
            assert (undo.status, undo.reason) == ("completed", None)
            assert {name: count for name, count in dataclasses.asdict(undo.stats).items() if count} == expected.counts()
            result = json.loads(system.store.read(keys.result_json(undo.id)))
            assert {(line["id"], line["field"], line["outcome"], line["by"]) for line in result} == expected.lines
            written = {record_id for record_id, record in after.items() if record != before.get(record_id)}
            check_authorship(before, after, written, undo)
            if back == 1 and self.nobody_wrote_since:
                # Also of the undo of an undo: what the undone batch had written is there again.
                assert without_traces(after) == without_traces(before_it)
            self._keep(undo, before)

        def _look(self, undo_of: dict[str, Record] | None = None) -> tuple[dict[str, Record], dict[str, Record]]:
            """The contacts before and after the step, once they are what the models say."""
            before, self.now = self.now, database.contacts(self.organization_id)
            if undo_of is not None:
                assert without_traces(self.now) == undo_of
                self.stale += sorted(before.keys() - self.now.keys())
                self.model.records = {record_id: _stored(record) for record_id, record in self.now.items()}
            assert {record_id: _stored(record) for record_id, record in self.now.items()} == self.model.records
            assert database.contacts(stranger) == strangers
            return before, self.now

        def _keep(self, batch: product.Batch, before: dict[str, Record]) -> None:
            if without_traces(self.now) != without_traces(before):
                self.written.append((batch, before))
                self.nobody_wrote_since = True

    run_state_machine_as_test(
        Batches,
        settings=settings(
            max_examples=SEQUENCES,
            stateful_step_count=1 + STEPS_OF_A_SEQUENCE,  # `begin` counts as a step
            suppress_health_check=list(HealthCheck),
        ),
    )


def with_small_parts(system: System, chunk_rows: int) -> System:
    """The system with such chunks and two writers. A batch larger than a chunk has staging tables of its own."""
    sizes = {"chunk_rows": chunk_rows, "shared_staging_items": chunk_rows + 1, "database_writers": 2}
    return dataclasses.replace(system, settings=system.settings.model_copy(update=sizes))


def run_upload(
    system: System,
    organization_id: str,
    upload: Upload,
    chunk_rows: int,
    *,
    plan_only: bool = False,
    kill: int | None = None,
) -> product.Batch:
    """The upload as a batch, run to its end or to its plan; killed before statement `kill` and run again."""
    small = with_small_parts(system, chunk_rows)
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
    return run_attempt(small, batch) if kill is None else run_killed_once(small, batch, kill)


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
