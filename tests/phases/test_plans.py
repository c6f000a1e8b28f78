"""Plan, then apply: a planned batch shows what it would do and writes nothing; applying does exactly that."""

import csv
import io
import json
from typing import Any

import psycopg
import pytest
from batch_runs import Row, Runner, insert_contacts, new_organization
from dagster import DagsterInstance
from staged_rows import staged_rows
from worlds import World, record_id

from batch_pipeline.batches.model import Action, Batch, IfChanged, Starter
from batch_pipeline.batches.states import BatchStatus
from batch_pipeline.errors import StateError
from batch_pipeline.orchestration.reconciling import cancel_batch, reconcile
from batch_pipeline.storage import keys
from batch_pipeline.system import System


@pytest.fixture(scope="module")
def system_settings() -> dict[str, str]:
    return {"BATCH_CHUNK_ROWS": "3"}


@pytest.fixture
def runner(module_system: System) -> Runner:
    return Runner(module_system, new_organization(module_system))


def stored(runner: Runner, *rows: Row) -> None:
    """Contacts that are there before, with the external ids and names given."""
    insert_contacts(
        runner.system,
        runner.organization_id,
        *({"id": record_id("contacts", row["external_id"] + runner.organization_id[-4:]), **row} for row in rows),
    )


def apply(runner: Runner, batch: Batch, if_changed: IfChanged = IfChanged.fail) -> Batch:
    requested = runner.system.ledger.request_apply(batch.id, Starter.caller, if_changed=if_changed)
    return runner.run(requested)


def plan_of(batch: Batch) -> dict[str, Any]:
    assert batch.plan is not None
    return batch.plan


def lines(runner: Runner, batch: Batch) -> list[Row]:
    """What plan.json says."""
    found: list[Row] = json.loads(runner.system.store.read(keys.plan_json(batch.id)))
    return found


def writes(runner: Runner) -> list[tuple[str, int, int, int]]:
    """Rows that were ever inserted, updated and deleted in each table of records, links and changes."""
    runner.system.engine.dispose()  # a session reports its counts at the latest when it ends
    with psycopg.connect(runner.system.database_url) as connection:
        return connection.execute(
            "SELECT relname, n_tup_ins, n_tup_upd, n_tup_del FROM pg_stat_user_tables"
            " WHERE schemaname = 'public'"
            " AND relname ~ '^(contacts|groups|group_members|shipments|trackers|assets)$|_changes' ORDER BY relname"
        ).fetchall()


def test_a_planned_batch_shows_counts_fields_and_samples_and_writes_nothing(runner: Runner) -> None:
    stored(runner, {"external_id": "a", "name": "Ann", "notes": "old"}, {"external_id": "b", "name": "Bob"})
    before, written = runner.contacts(), writes(runner)

    batch = runner.csv(
        {"external_id": "a", "name": "Ann", "notes": "new"},
        {"external_id": "b", "name": "Bob", "notes": ""},
        {"external_id": "c", "name": "Cid", "notes": ""},
        {"external_id": "c", "name": "Cid", "notes": ""},
        {"external_id": "d", "name": "", "notes": ""},
        plan_only=True,
    )

    assert (batch.status, batch.reason) == (BatchStatus.planned, None)
    plan = plan_of(batch)
    assert plan["counts"] == {
        "create": 1, "update": 1, "unchanged": 1, "delete": 0, "overwrite": 0, "reject": 1, "duplicate": 1,
    }  # fmt: skip
    assert plan["fields"] == {"notes": 1}
    (sample,) = plan["samples"]
    assert (sample["row"], sample["field"], sample["before"], sample["after"]) == (1, "notes", "old", "new")
    assert plan["deletions"] == []
    assert plan["expires_at"] - plan["made_at"] == 24 * 3600
    assert (runner.contacts(), writes(runner)) == (before, written)


def test_the_plan_files_have_a_line_for_each_item_with_its_changes_or_errors(runner: Runner) -> None:
    stored(runner, {"external_id": "a", "name": "Ann"})

    batch = runner.csv(
        {"external_id": "a", "name": "Anna"}, {"external_id": "=b", "name": "Bob"}, {"external_id": "c", "name": ""},
        plan_only=True,
    )  # fmt: skip

    found = lines(runner, batch)
    assert [(line["row"], line["outcome"], line["external_id"]) for line in found] == [
        (1, "update", "a"), (2, "create", "=b"), (3, "reject", "c"),
    ]  # fmt: skip
    assert found[0]["changes"] == [{"field": "name", "before": "Ann", "after": "Anna"}]
    assert {"field": "name", "before": None, "after": "Bob"} in found[1]["changes"]
    assert [error["code"] for error in found[2]["errors"]] == ["required"]
    text = runner.system.store.read(keys.plan_csv(batch.id)).decode()
    table = list(csv.DictReader(io.StringIO(text)))
    assert [(row["row"], row["outcome"], row["external_id"]) for row in table] == [
        ("1", "update", "a"), ("2", "create", "'=b"), ("3", "reject", "c"),
    ]  # fmt: skip
    assert json.loads(table[0]["changes"]) == found[0]["changes"]


def test_applying_does_what_the_plan_says_with_the_same_ids(runner: Runner) -> None:
    stored(runner, {"external_id": "a", "name": "Ann"}, {"external_id": "b", "name": "Bob"})
    rows = [{"external_id": name, "name": name.upper()} for name in "abcdefg"]
    batch = runner.csv(*rows, plan_only=True, save_result=True)

    done = apply(runner, batch)

    assert (done.status, done.id) == (BatchStatus.completed, batch.id)
    assert (done.stats.created, done.stats.updated) == (5, 2)
    planned = {(line["row"], line["id"]) for line in lines(runner, batch)}
    assert planned == {(line["row"], line["id"]) for line in runner.results(done)}
    assert {row["id"] for row in runner.contacts()} == {identifier for _, identifier in planned}


@pytest.mark.parametrize("action", [Action.overwrite, Action.delete])
def test_the_plan_lists_the_records_that_would_be_deleted(runner: Runner, action: Action) -> None:
    stored(runner, *({"external_id": name, "name": name.upper()} for name in "abcde"))
    ids = {row["external_id"]: row["id"] for row in runner.contacts()}
    rows = [{"id": ids["a"]}] if action is Action.delete else [{"external_id": "a", "name": "A"}]

    batch = runner.csv(*rows, action=action, plan_only=True)

    gone = {"a"} if action is Action.delete else set("bcde")
    plan = plan_of(batch)
    assert {each["external_id"] for each in plan["deletions"]} == gone
    assert plan["counts"]["delete" if action is Action.delete else "overwrite"] == len(gone)
    apply(runner, batch)
    assert {row["external_id"] for row in runner.contacts()} == set("abcde") - gone


def test_a_changed_plan_is_not_written_but_shown_with_the_difference(runner: Runner) -> None:
    stored(runner, {"external_id": "a", "name": "Ann"}, {"external_id": "b", "name": "Bob"})
    batch = runner.csv({"external_id": "a", "name": "Anna"}, {"external_id": "b", "name": "Bobby"}, plan_only=True)
    runner.csv({"external_id": "a", "name": "Anna"})
    between = runner.contacts()

    again = apply(runner, batch)

    assert (again.status, again.reason) == (BatchStatus.planned, None)
    assert runner.contacts() == between
    plan = plan_of(again)
    assert plan["digest"] != plan_of(batch)["digest"]
    ((row, was, now),) = [(each["row"], each["was"], each["now"]) for each in plan["difference"]]
    assert (row, was["outcome"], now["outcome"]) == (1, "update", "unchanged")
    assert [line.get("was", {}).get("outcome") for line in lines(runner, again)] == ["update", None]
    assert apply(runner, again).status == BatchStatus.completed
    assert [row["name"] for row in runner.contacts()] == ["Anna", "Bobby"]


def test_a_change_from_outside_of_batches_changes_the_plan_too(runner: Runner) -> None:
    stored(runner, {"external_id": "a", "name": "Ann"})
    batch = runner.csv({"external_id": "a", "name": "Anna"}, plan_only=True)
    with psycopg.connect(runner.system.database_url) as connection:
        connection.execute("UPDATE contacts SET name = 'Other' WHERE organization_id = %s", (runner.organization_id,))

    again = apply(runner, batch)

    assert again.status == BatchStatus.planned
    (difference,) = plan_of(again)["difference"]
    assert difference["now"]["changes"] == [{"field": "name", "before": "Other", "after": "Anna"}]


def test_replan_writes_the_new_plan_and_shows_it(runner: Runner) -> None:
    batch = runner.csv({"external_id": "a", "name": "Anna"}, plan_only=True)
    runner.csv({"external_id": "a", "name": "Ann"})

    done = apply(runner, batch, IfChanged.replan)

    assert (done.status, done.stats.updated) == (BatchStatus.completed, 1)
    assert plan_of(done)["counts"]["update"] == 1
    assert runner.one()["name"] == "Anna"


def test_a_batch_that_changes_other_records_does_not_change_the_plan(runner: Runner) -> None:
    batch = runner.csv({"external_id": "a", "name": "Anna"}, plan_only=True)
    runner.csv({"external_id": "z", "name": "Zoe"})

    done = apply(runner, batch)

    assert (done.status, done.stats.created) == (BatchStatus.completed, 1)
    assert plan_of(done)["digest"] == plan_of(batch)["digest"]


def test_a_planned_batch_blocks_nobody_and_can_be_cancelled_or_planned_again(
    runner: Runner, module_instance: DagsterInstance
) -> None:
    batch = runner.csv({"external_id": "a", "name": "Anna"}, plan_only=True)
    assert runner.csv({"external_id": "b", "name": "Bob"}).status == BatchStatus.completed

    cancelled = cancel_batch(runner.system, module_instance, batch.id)
    assert cancelled.status == BatchStatus.failed
    with pytest.raises(StateError, match="only planned"):
        runner.system.ledger.request_apply(batch.id, Starter.caller)
    again = runner.run(runner.system.ledger.request_rerun(batch.id, Starter.caller))

    assert again.status == BatchStatus.planned
    assert plan_of(again)["digest"] == plan_of(batch)["digest"]
    assert [row["external_id"] for row in runner.contacts()] == ["b"]


def test_a_plan_expires_and_its_staged_rows_go(runner: Runner, module_instance: DagsterInstance) -> None:
    batch = runner.csv({"external_id": "a", "name": "Anna"}, plan_only=True)
    with psycopg.connect(runner.system.database_url) as connection:
        connection.execute("UPDATE batches SET plan_expires_at = now() WHERE id = %s", (batch.id,))
    with pytest.raises(StateError, match="has expired"):
        runner.system.ledger.request_apply(batch.id, Starter.caller)

    reconcile(runner.system, module_instance)

    ended = runner.system.ledger.get(batch.id)
    assert ended.status == BatchStatus.expired
    assert ended.reason is not None
    assert ended.reason.code == "plan_expired"
    assert staged_rows(runner.system.database_url, batch.id) == {}
    assert runner.contacts() == []


def test_another_digest_than_the_shown_one_is_refused(runner: Runner) -> None:
    batch = runner.csv({"external_id": "a", "name": "Anna"}, plan_only=True)

    with pytest.raises(StateError) as caught:
        runner.system.ledger.request_apply(batch.id, Starter.caller, digest="0" * 64)

    assert caught.value.code == "plan_changed"
    assert runner.system.ledger.get(batch.id).status == BatchStatus.planned


def test_members_that_join_and_leave_are_in_the_plan(module_system: System) -> None:
    world = World.new(module_system)
    runner = Runner(module_system, world.organization_id)
    world.insert("contacts", *({"external_id": name, "name": name} for name in ("ann", "bob", "cid")))
    world.insert("groups", {"external_id": "team", "name": "Team"})
    world.join("team", "ann", "bob")
    ann, bob, cid = (record_id("contacts", name) for name in ("ann", "bob", "cid"))

    batch = runner.json({"external_id": "team", "children": ["bob", "cid"]}, resource="group", plan_only=True)

    assert plan_of(batch)["fields"] == {"children": 1}
    assert lines(runner, batch)[0]["changes"] == [{"field": "children", "before": [ann], "after": [cid]}]
    assert apply(runner, batch).stats.updated == 1
    with psycopg.connect(module_system.database_url) as connection:
        members = connection.execute(
            "SELECT member_id FROM group_members WHERE organization_id = %s", (world.organization_id,)
        ).fetchall()
    assert {member for (member,) in members} == {bob, cid}


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        pytest.param([{"external_id": n, "name": "x" + n} for n in "abc"], "most_records_change", id="most change"),
        pytest.param([{"external_id": n, "name": f"note {n}"} for n in "abcde"], "column_shifted", id="shifted"),
        pytest.param([{"external_id": n, "notes": ""} for n in "ab"], "field_emptied", id="emptied"),
        pytest.param([{"external_id": n, "name": ""} for n in "xyz"] + [{"external_id": "w", "name": "W"}],
                     "mostly_rejected", id="rejected"),
        pytest.param([{"external_id": n, "name": n} for n in "vwxyz"], "mostly_new", id="new"),
    ],
)  # fmt: skip
def test_a_plan_warns_of_a_valid_but_wrong_file(runner: Runner, rows: list[Row], code: str) -> None:
    stored(runner, *({"external_id": name, "name": name.upper(), "notes": f"note {name}"} for name in "abcde"))

    batch = runner.csv(*rows, blank_cells="clear", plan_only=True)

    assert code in {warning["code"] for warning in plan_of(batch)["warnings"]}


def test_an_ordinary_plan_has_no_warning(runner: Runner) -> None:
    stored(runner, *({"external_id": name, "name": name.upper(), "notes": f"note {name}"} for name in "abcdefgh"))

    batch = runner.csv({"external_id": "a", "notes": "called"}, {"external_id": "z", "name": "Zoe"}, plan_only=True)

    assert plan_of(batch)["warnings"] == []
