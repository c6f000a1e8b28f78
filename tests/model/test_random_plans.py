"""For any records, upload and action: the plan is what the model says, writes nothing, and applying does exactly that.

If batches come between, applying either does what a run at that moment would do, or shows exactly what is different.
"""

import json
from typing import Any

import psycopg
import pytest
from batch_runs import insert_contacts, new_organization
from contacts_model import ContactsModel, Outcome
from driving import run_attempt
from examples import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_items import EMPTY, Record, Upload
from psycopg.types.json import Jsonb
from sequences import check_batch, run_upload
from uploads import EMAILS, PHONES, first_records, uploads, with_ids

from batch_pipeline.batches.model import Batch, Starter
from batch_pipeline.batches.states import BatchStatus
from batch_pipeline.storage import keys
from batch_pipeline.system import System

OUTCOMES = {
    "created": "create",
    "updated": "update",
    "unchanged": "unchanged",
    "deleted": "delete",
    "rejected": "reject",
    "duplicate": "duplicate",
}
REFUSED_FOR_ITEMS = ("no_valid_items", "reject_limit_exceeded")
Effect = dict[Any, Any]  # by row, or by the id of a record that an overwrite deletes


def any_upload() -> st.SearchStrategy[Upload]:
    """Of each action and format."""
    return st.one_of(
        *(uploads(action, form) for action in ("merge", "overwrite", "delete") for form in ("csv", "json"))
    )


def effect(expected: Outcome, records: dict[str, Record]) -> Effect:
    """What the batch does to these records, by row and by deleted record."""
    found: Effect = {
        row: (OUTCOMES[outcome], expected.ids.get(row), _changes(expected, row, records))
        for row, outcome in expected.outcomes.items()
    }
    return found | {record_id: ("overwrite", record_id, {}) for record_id in expected.overwritten}


def _changes(expected: Outcome, row: int, records: dict[str, Record]) -> dict[str, tuple[Any, Any]]:
    after = expected.writes.get(row)
    if after is None:
        return {}
    before = records[str(expected.ids[row])] if expected.ids[row] is not None else EMPTY
    return {name: (before[name], after[name]) for name in EMPTY if before[name] != after[name]}


def rows_of(system: System, organization_id: str) -> list[tuple[Any, ...]]:
    """Every contact with the transaction and the place of its newest version: any write changes them."""
    with psycopg.connect(system.database_url) as connection:
        return connection.execute(
            "SELECT id, xmin::text, ctid::text FROM contacts WHERE organization_id = %s ORDER BY id", (organization_id,)
        ).fetchall()


def plan_lines(system: System, batch: Batch) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(system.store.read(keys.plan_json(batch.id)))
    return found


def check_plan(system: System, batch: Batch, expected: Outcome, records: dict[str, Record]) -> None:
    """Holds counts, fields, deletions and the lines to the model."""
    assert batch.plan is not None
    wanted = effect(expected, records)
    lines = plan_lines(system, batch)
    shown = {
        line["id"] if line["row"] is None else line["row"]: (
            line["outcome"],
            None if line["outcome"] in ("create", "reject", "duplicate") else line["id"],
            {
                change["field"]: (EMPTY[change["field"]] if line["outcome"] == "create" else change["before"],
                                  change["after"])
                for change in line["changes"]
            },
        )
        for line in lines
        if line["row"] is not None or line["outcome"] == "overwrite"
    }  # fmt: skip
    assert {
        place: (outcome, None if outcome in ("reject", "duplicate") else record_id, changes)
        for place, (outcome, record_id, changes) in wanted.items()
    } == shown
    counts = batch.plan["counts"]
    assert counts == {name: sum(line[0] == name for line in wanted.values()) for name in counts}
    updates = [changes for outcome, _, changes in wanted.values() if outcome == "update"]
    names = {name for changes in updates for name in changes}
    assert batch.plan["fields"] == {name: sum(name in changes for changes in updates) for name in names}
    assert {sample["field"] for sample in batch.plan["samples"]} == names
    errors = {line["row"]: sorted(error["code"] for error in line["errors"]) for line in lines if line["errors"]}
    assert errors == expected.errors


@pytest.mark.timeout(3600)  # half an hour with the profile `thorough`
def test_a_plan_is_what_applying_does_whatever_came_between(module_system: System) -> None:
    system = module_system

    @settings(max_examples=examples(6, thorough=500), suppress_health_check=list(HealthCheck))
    @given(first_records(), any_upload(), st.lists(any_upload(), max_size=2), st.booleans())
    def check(records: dict[str, Record], upload: Upload, others: list[Upload], again: bool) -> None:
        organization_id = new_organization(system)
        stored = [
            {"id": record_id, **record, "metadata": Jsonb(record.get("metadata", {}))}
            for record_id, record in records.items()
        ]
        insert_contacts(system, organization_id, *stored)
        model = ContactsModel(records, phones=PHONES, emails=EMAILS)
        upload = with_ids(upload, list(model.records), [])
        expected = model.expect(upload)
        before = rows_of(system, organization_id)

        batch = run_upload(system, organization_id, upload, 3, plan_only=True)

        assert rows_of(system, organization_id) == before
        if expected.status == "failed":
            check_batch(system, batch, upload, expected)
            return
        assert batch.status == BatchStatus.planned
        check_plan(system, batch, expected, model.records)
        first = effect(expected, model.records)
        for other in others:
            _run_other(system, organization_id, model, other)
        now = model.expect(upload)
        requested = system.ledger.request_apply(batch.id, Starter.caller)
        applied = run_attempt(system, requested)
        if now.status == "failed":
            if now.reason in REFUSED_FOR_ITEMS:  # the plan that rejects them is shown first
                assert applied.status == BatchStatus.planned
                errors = {line["row"]: line["errors"] for line in plan_lines(system, applied) if line["errors"]}
                assert {row: sorted(each["code"] for each in found) for row, found in errors.items()} == now.errors
                applied = run_attempt(system, system.ledger.request_apply(batch.id, Starter.caller))
            assert (applied.status, applied.reason and applied.reason.code) == ("failed", now.reason)
            return
        second = effect(now, model.records)
        if second != first:
            assert applied.status == BatchStatus.planned
            check_plan(system, applied, now, model.records)
            _check_difference(system, applied, first, second)
            applied = run_attempt(system, system.ledger.request_apply(batch.id, Starter.caller))
        else:
            assert applied.plan is not None
            assert batch.plan is not None
            assert applied.plan["digest"] == batch.plan["digest"]
        new_ids = check_batch(system, applied, upload, now)
        planned_ids = {line["row"]: line["id"] for line in plan_lines(system, applied)}
        assert new_ids == {row: planned_ids[row] for row in new_ids}

    check()


def _run_other(system: System, organization_id: str, model: ContactsModel, upload: Upload) -> None:
    """Another batch, run to its end, in the database and in the model."""
    upload = with_ids(upload, list(model.records), [])
    expected = model.expect(upload)
    model.apply(expected, check_batch(system, run_upload(system, organization_id, upload, 3), upload, expected))


def _check_difference(system: System, batch: Batch, first: Effect, second: Effect) -> None:
    """The plan lists exactly the rows and deletions that are different now, and the lines have what was shown."""
    assert batch.plan is not None
    different = {place for place in first.keys() | second.keys() if _line(first, place) != _line(second, place)}
    found = {each["id"] if each["row"] is None else each["row"]: each for each in batch.plan["difference"]}
    assert set(found) == different
    for place, each in found.items():
        assert (each["was"] or {}).get("outcome") == _line(first, place)[0]
        assert (each["now"] or {}).get("outcome") == _line(second, place)[0]
    lines = plan_lines(system, batch)
    assert {line["id"] if line["row"] is None else line["row"] for line in lines if "was" in line} == different


def _line(found: Effect, place: Any) -> tuple[Any, ...]:
    """A rejected item and a duplicate have no record in a plan's line that could differ."""
    outcome, record_id, changes = found.get(place, (None, None, None))
    return outcome, None if outcome in ("reject", "duplicate") else record_id, changes
