"""A new batch of the items that another one rejected: `retry --failed-rows`."""

import json
from typing import Any

import psycopg
import pytest
from batch_runs import Row, Runner, arrived, as_csv, insert_contacts, new_organization

from batch_pipeline.batches.model import Action, Batch, Starter
from batch_pipeline.errors import NotFoundError, StateError
from batch_pipeline.intake.rejected_items import create_from_rejected
from batch_pipeline.system import System


@pytest.fixture
def run(system: System) -> Runner:
    return Runner(system, new_organization(system))


def _retry(run: Runner, batch: Batch) -> Batch:
    """A batch of the rejected items, run to its end."""
    made = create_from_rejected(run.system, batch.id, starter=Starter.caller)
    assert (made.retry_of, made.status, made.awaits_run) == (batch.id, "requested", Starter.caller)
    assert run.system.ledger.get(batch.id) == batch
    return run.run(made)


def _payload(run: Runner, batch: Batch) -> Any:
    return json.loads(run.system.store.read(str(batch.upload_key)), parse_float=str, parse_int=str)


@pytest.fixture
def forbid(system: System) -> Any:
    """The database refuses contacts with these notes until it is told otherwise."""

    def forbid(notes: str | None) -> None:
        with psycopg.connect(system.database_url) as connection:
            connection.execute("ALTER TABLE contacts DROP CONSTRAINT IF EXISTS forbidden")
            if notes is not None:
                connection.execute(
                    psycopg.sql.SQL("ALTER TABLE contacts ADD CONSTRAINT forbidden CHECK (notes <> {})").format(
                        psycopg.sql.Literal(notes)
                    )
                )

    return forbid


def test_rejected_rows_are_written_after_the_cause_is_fixed(run: Runner, forbid: Any) -> None:
    """Cells that a spreadsheet might run keep their meaning through the errors file and back."""
    forbid("wait")
    odd: list[Row] = [
        {"external_id": "a", "name": "'=quoted", "phone": "+1 415 555 2671", "notes": "wait"},
        {"external_id": "b", "name": "=SUM(A1)", "phone": "", "notes": "wait"},
        {"external_id": "c", "name": '-5, "x"\n@y', "phone": "", "notes": "wait"},
    ]
    first = run.csv({"external_id": "z", "name": "Zoe", "phone": "", "notes": "go"}, *odd)
    assert (first.stats.created, first.stats.rejected) == (1, 3)
    forbid(None)
    again = _retry(run, first)
    assert (again.status, again.stats.created, again.stats.items_read) == ("completed", 3, 3)
    names = {record["external_id"]: (record["name"], record["phone"]) for record in run.contacts()}
    assert names == {
        "a": ("'=quoted", "+14155552671"),
        "b": ("=SUM(A1)", None),
        "c": ('-5, "x"\n@y', None),
        "z": ("Zoe", None),
    }


def test_a_row_that_could_not_be_read_is_left_out(run: Runner) -> None:
    payload = b'external_id,name,email\na,Ada,bad\nb,Bob\nc,Cy,c@example.com\n"open,Dan,d@example.com\n'
    first = run.bytes(payload)
    assert (first.stats.created, first.stats.rejected) == (1, 3)
    again = _retry(run, first)
    assert (again.facts.items, again.reason and again.reason.code) == (1, "no_valid_items")
    assert run.codes(again) == [(1, ["invalid_format"])]


def test_json_items_keep_their_original_text(run: Runner, forbid: Any) -> None:
    """Numbers keep their digits, null is not the same as nothing, and nested values stay nested."""
    items = (
        b'[{"external_id": "a", "name": "Ada", "notes": "wait", "email": null, '
        b'"metadata": {"s": "\\u0041 \\"q\\""}},\n'
        b'{"external_id": "b", "name": "Bob", "notes": "wait"}, {"external_id": "c", "name": "Cy", "email": "bad", '
        b'"metadata": {"n": 12345678901234567890.10, "m": 1e2}}, {"external_id": "d", "name": "Dan"}]'
    )
    insert_contacts(
        run.system,
        run.organization_id,
        {"id": "ctct_" + "3" * 22, "external_id": "a", "name": "A", "email": "a@example.com"},
        {"id": "ctct_" + "4" * 22, "external_id": "b", "name": "B", "email": "b@example.com"},
    )
    forbid("wait")
    first = run.bytes(items, name="people.json")
    assert (first.stats.created, first.stats.rejected) == (1, 3)
    forbid(None)
    made = create_from_rejected(run.system, first.id, starter=Starter.caller)
    assert _payload(run, made) == json.loads(items, parse_float=str, parse_int=str)[:3]
    again = run.run(made)
    assert (again.status, again.stats.updated) == ("completed", 2)
    found = {record["external_id"]: (record["name"], record["email"], record["metadata"]) for record in run.contacts()}
    assert found == {
        "a": ("Ada", None, {"s": 'A "q"'}),
        "b": ("Bob", "b@example.com", {}),
        "d": ("Dan", None, {}),
    }


def test_rows_of_an_overwrite_are_merged_and_their_empty_cells_clear(run: Runner, forbid: Any) -> None:
    run.csv(
        {"external_id": "a", "name": "Ada", "email": "ada@example.com", "notes": ""},
        {"external_id": "b", "name": "Bob", "email": "bob@example.com", "notes": ""},
    )
    forbid("wait")
    rows = [
        {"external_id": "a", "name": "Ada", "email": "", "notes": "wait"},
        {"external_id": "b", "name": "Bobby", "email": "", "notes": "go"},
    ]
    first = run.csv(*rows, action=Action.overwrite, delete_limit="0", allow_empty=True)
    assert (first.stats.updated, first.stats.rejected, first.stats.overwritten) == (1, 1, 0)
    run.csv({"external_id": "later", "name": "Later"})
    forbid(None)
    again = _retry(run, first)
    assert (again.action, again.stats.updated) == (Action.merge, 1)
    kept = {name: again.options[name] for name in ("blank_cells", "delete_limit", "allow_empty")}
    assert kept == {"blank_cells": "clear", "delete_limit": None, "allow_empty": False}
    found = {record["external_id"]: record["email"] for record in run.contacts()}
    assert found == {"a": None, "b": None, "later": None}


def test_rejected_rows_of_a_delete_are_deleted(run: Runner) -> None:
    record_id = "ctct_" + "3" * 22
    insert_contacts(run.system, run.organization_id, {"id": "ctct_" + "4" * 22, "name": "Gone"})
    first = run.csv({"id": record_id}, {"id": "ctct_" + "4" * 22}, action=Action.delete)
    assert (first.stats.deleted, first.stats.rejected) == (1, 1)
    insert_contacts(run.system, run.organization_id, {"id": record_id, "name": "Here now"})
    again = _retry(run, first)
    assert (again.action, again.stats.deleted) == (Action.delete, 1)
    assert run.contacts() == []


def test_rows_rejected_again_can_be_retried_again(run: Runner, forbid: Any) -> None:
    forbid("wait")
    first = run.csv(
        {"external_id": "a", "name": "Ada", "phone": "+1 415 555 2671", "notes": "wait"},
        {"external_id": "b", "name": "Bob", "phone": "", "notes": "wait"},
        {"external_id": "c", "name": "Cy", "phone": "", "notes": "go"},
    )
    second = create_from_rejected(run.system, first.id, starter=Starter.caller)
    second = run.run(second)
    assert (second.status, second.stats.rejected) == ("completed", 2)
    forbid(None)
    third = _retry(run, second)
    assert (third.status, third.stats.created, third.retry_of) == ("completed", 2, second.id)
    assert sorted(record["phone"] or "" for record in run.contacts()) == ["", "", "+14155552671"]


def test_options_and_name_are_copied_from_the_batch(run: Runner) -> None:
    options = {"properties": {"notes": "from here"}, "column_mapping": {"name": "Full name"}, "save_upload": False}
    payload = as_csv([{"external_id": "a", "Full name": "Ada", "email": "bad"}, {"external_id": "b", "Full name": "B"}])
    batch = arrived(run.system, run.organization_id, payload, name="x" * 127, **options)
    first = run.run(batch)
    made = create_from_rejected(run.system, first.id, starter=Starter.launcher)
    assert {name: made.options[name] for name in options} == options
    assert made.name == "x" * (127 - len(" (rejected items)")) + " (rejected items)"
    assert (made.awaits_run, made.has_upload_file) == (Starter.launcher, False)


def test_the_rejected_items_of_a_batch_have_no_reject_limit(run: Runner) -> None:
    """The limit was one of the whole upload; a percentage of the rejected items is another number."""
    rows = [{"name": name, "email": ""} for name in ("Ada", "Bob", "Cy")]
    first = run.csv(*rows, {"name": "", "email": "d@example.com"}, {"name": "Eve", "email": "bad"}, reject_limit="40%")
    assert (first.status, first.stats.rejected) == ("completed", 2)
    insert_contacts(
        run.system, run.organization_id, {"id": "ctct_" + "5" * 22, "name": "Dan", "email": "d@example.com"}
    )
    again = _retry(run, first)
    assert (again.status, again.stats.unchanged, again.stats.rejected) == ("completed", 1, 1)
    assert again.options["reject_limit"] == "none"


@pytest.mark.parametrize("limit", ["0", "40%"])
def test_a_batch_that_rejected_too_many_items_is_only_retried_as_a_whole(run: Runner, limit: str) -> None:
    """Its valid items are not written: a batch of the rejected ones would leave them out."""
    first = run.csv({"name": "Ada", "email": ""}, {"name": "Eve", "email": "bad"}, reject_limit=limit)
    assert (first.reason and first.reason.code, first.has_errors_file) == ("reject_limit_exceeded", True)
    with pytest.raises(StateError) as raised:
        create_from_rejected(run.system, first.id, starter=Starter.caller)
    assert raised.value.code == "nothing_written"
    assert run.system.ledger.find(organization_id=run.organization_id) == [first]


def test_without_rejected_items_there_is_nothing_to_retry(run: Runner) -> None:
    clean = run.csv({"name": "Ada"})
    unreadable = run.bytes(b"name,notes\nAda,x\nBob\n")
    waiting = arrived(run.system, run.organization_id, b"name\nAda\n")
    count = len(run.system.ledger.find())
    for batch in (clean, waiting, unreadable):
        with pytest.raises(StateError) as raised:
            create_from_rejected(run.system, batch.id, starter=Starter.caller)
        assert raised.value.code == "nothing_rejected"
    with pytest.raises(NotFoundError):
        create_from_rejected(run.system, "batch_" + "1" * 22, starter=Starter.caller)
    assert len(run.system.ledger.find()) == count
