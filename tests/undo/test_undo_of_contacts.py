"""What an undo does with each record and field of a batch of contacts."""

import pytest
from batch_runs import Row
from driving import run_attempt
from undo_world import UndoWorld, counts, undo_world

from batch_pipeline.batches.model import Starter
from batch_pipeline.system import System

PEOPLE: list[Row] = [
    {"external_id": "a", "name": "Ann", "email": "ann@example.com", "phone": "", "metadata.team": "red"},
    {"external_id": "b", "name": "Bob", "email": "", "phone": "+14155550132", "metadata.team": "blue"},
    {"external_id": "c", "name": "Cid", "email": "cid@example.com", "phone": "", "metadata.team": ""},
    {"external_id": "d", "name": "Dee", "email": "dee@example.com", "phone": "", "metadata.team": ""},
]


@pytest.fixture
def world(module_system: System) -> UndoWorld:
    return undo_world(module_system)


def test_undoing_the_newest_batch_leaves_the_records_as_they_were(world: UndoWorld) -> None:
    world.run(PEOPLE)
    before = world.contacts()
    newest = world.run(
        [
            {"external_id": "a", "name": "Anna", "metadata.team": "green", "metadata.room": "7"},
            {"external_id": "b", "name": "Bob", "notes": "n"},
            {"external_id": "z", "name": "Zoe"},
        ],
        action="overwrite",
    )
    assert counts(newest) == {"created": 1, "updated": 2, "overwritten": 2}
    undo = world.undo(newest)
    assert world.contacts() == before
    assert counts(undo) == {"reversed": 2, "deleted": 1, "restored": 2}
    assert (undo.action, undo.undo_of, undo.items) == ("undo", newest.id, 5)
    assert [phase.status for phase in undo.phases] == ["skipped", "completed", "completed", "skipped"]
    assert {
        row["batch_id"]
        for row in world.execute("SELECT batch_id FROM contacts WHERE organization_id = %s", world.organization_id)
    } == {undo.id}


def test_a_field_that_a_later_batch_changed_is_kept_and_the_others_are_reversed(world: UndoWorld) -> None:
    world.run(PEOPLE)
    batch = world.run([{"external_id": "a", "name": "Anna", "metadata.team": "green", "metadata.room": "7"}])
    later = world.run([{"external_id": "a", "metadata.room": "8", "notes": "new"}])
    undo = world.undo(batch)
    ann = world.by("a")
    assert (ann["name"], ann["metadata"], ann["notes"]) == ("Ann", {"team": "red", "room": "8"}, "new")
    assert world.outcomes(undo) == [
        (1, "reversed", "name", None),
        (1, "kept", "metadata.room", later.id),
        (1, "reversed", "metadata.team", None),
    ]
    assert counts(undo) == {"reversed": 1, "kept": 1}


def test_a_field_that_another_program_changed_is_kept(world: UndoWorld) -> None:
    world.run(PEOPLE)
    batch = world.run([{"external_id": "a", "name": "Anna", "notes": "x"}])
    world.execute("UPDATE contacts SET name = 'Annika' WHERE id = %s", world.by("a")["id"])
    undo = world.undo(batch)
    assert (world.by("a")["name"], world.by("a")["notes"]) == ("Annika", None)
    assert world.outcomes(undo) == [(1, "kept", "name", None), (1, "reversed", "notes", None)]


def test_a_created_record_is_deleted_unless_somebody_changed_it_since(world: UndoWorld) -> None:
    batch = world.run(PEOPLE)
    later = world.run([{"external_id": "b", "notes": "call"}])
    world.execute("UPDATE contacts SET notes = 'x' WHERE id = %s", world.by("c")["id"])
    undo = world.undo(batch)
    assert sorted(row["external_id"] for row in world.contacts().values()) == ["b", "c"]
    assert world.outcomes(undo) == [
        (1, "deleted", None, None),
        (2, "kept", None, later.id),
        (3, "kept", None, None),
        (4, "deleted", None, None),
    ]
    assert [line["external_id"] for line in world.lines(undo)] == ["a", "b", "c", "d"]


def test_a_deleted_record_is_restored_unless_one_of_its_keys_is_taken(world: UndoWorld) -> None:
    world.run(PEOPLE)
    before = world.contacts()
    ids = {row["external_id"]: record_id for record_id, row in before.items()}
    batch = world.run([{"id": ids[name]} for name in "abcd"], action="delete")
    world.run(
        [
            {"external_id": "b", "name": "Another Bob"},
            {"external_id": "y", "name": "Yan", "email": "CID@example.com"},
            {"external_id": "x", "name": "Dee"},
        ]
    )
    taken = {name: world.by(name)["id"] for name in "by"}
    undo = world.undo(batch)
    assert world.outcomes(undo) == [
        (1, "restored", None, None),
        (2, "conflict", None, taken["b"]),
        (3, "conflict", None, taken["y"]),
        (4, "restored", None, None),
    ]
    assert counts(undo) == {"restored": 2, "conflict": 2}
    after = world.contacts()
    assert {ids[name]: after[ids[name]] for name in "ad"} == {ids[name]: before[ids[name]] for name in "ad"}


def test_an_external_id_that_is_taken_by_now_is_a_conflict(world: UndoWorld) -> None:
    world.run(PEOPLE)
    ann = world.by("a")["id"]
    batch = world.run([{"id": ann, "external_id": "a2", "notes": "x"}])
    world.run([{"external_id": "a", "name": "Another Ann"}])
    undo = world.undo(batch)
    taken = world.by("a")["id"]
    assert world.outcomes(undo) == [(1, "conflict", "external_id", taken), (1, "reversed", "notes", None)]
    assert world.by("a2")["notes"] is None


def test_a_record_that_is_gone_by_now_is_named(world: UndoWorld) -> None:
    world.run(PEOPLE)
    batch = world.run(
        [
            {"external_id": "a", "name": "Anna"},
            {"external_id": "c", "notes": "x"},
            {"external_id": "n", "name": "New"},
        ]
    )
    world.execute("DELETE FROM contacts WHERE id = %s", world.by("a")["id"])
    world.run([{"external_id": "b", "name": "Bobby"}])
    deletion = world.run([{"id": world.by(name)["id"]} for name in "nc"], action="delete")
    undo = world.undo(batch)
    assert world.outcomes(undo) == [
        (1, "gone", "name", None),
        (2, "gone", "notes", deletion.id),
        (3, "gone", None, deletion.id),
    ]
    assert counts(undo) == {"gone": 3}


def test_the_undo_of_an_undo_is_a_redo_and_the_batch_can_be_undone_again(world: UndoWorld) -> None:
    world.run(PEOPLE)
    before = world.contacts()
    batch = world.run([{"external_id": "a", "name": "Anna"}, {"external_id": "z", "name": "Zoe"}], action="overwrite")
    after = world.contacts()
    undo = world.undo(batch)
    redo = world.undo(undo)
    assert world.contacts() == after
    assert counts(redo) == {"reversed": 1, "deleted": 3, "restored": 1}
    again = world.undo(batch)
    assert world.contacts() == before
    assert counts(again) == {"reversed": 1, "deleted": 1, "restored": 3}
    twice = world.undo(batch)
    assert world.contacts() == before
    assert counts(twice) == {"kept": 4, "gone": 1}


def test_undoing_several_batches_in_reverse_order_is_exact(world: UndoWorld) -> None:
    states, batches = [world.contacts()], []
    for rows, action in (
        (PEOPLE, "merge"),
        ([{"external_id": "a", "name": "Anna"}, {"external_id": "b", "notes": "x"}], "overwrite"),
        ([{"external_id": "a", "name": "Annika", "metadata.room": "1"}, {"external_id": "q", "name": "Quy"}], "merge"),
    ):
        batches.append(world.run(rows, action=action))
        states.append(world.contacts())
    for batch, state in zip(reversed(batches), reversed(states[:-1]), strict=True):
        world.undo(batch)
        assert world.contacts() == state


def test_a_record_that_a_batch_wrote_without_the_log_is_kept(world: UndoWorld) -> None:
    world.run(PEOPLE)
    batch = world.run([{"external_id": "a", "name": "Anna"}, {"external_id": "z", "name": "Zoe"}])
    off = world.system.settings.model_copy(update={"changes": False})
    silent = UndoWorld(world.system.__class__(**{**vars(world.system), "settings": off}), world.organization_id)
    later = silent.run([{"external_id": "a", "notes": "x"}, {"external_id": "z", "notes": "x"}])
    undo = world.undo(batch)
    assert world.outcomes(undo) == [(1, "kept", "name", later.id), (2, "kept", None, later.id)]


def test_a_planned_undo_shows_what_it_would_do_and_applying_does_that(world: UndoWorld) -> None:
    world.run(PEOPLE)
    batch = world.run(
        [{"external_id": "a", "name": "Anna", "metadata.team": "green"}, {"external_id": "z", "name": "Zoe"}],
        action="overwrite",
        blank_cells="keep",
    )
    world.run([{"external_id": "a", "metadata.team": "white"}])
    ids = {name: world.by(name)["id"] for name in "az"}
    before = world.contacts()
    planned = run_attempt(world.system, world.requested(batch, plan_only=True))
    assert planned.status == "planned"
    assert planned.plan is not None
    assert {name: count for name, count in planned.plan["counts"].items() if count} == {
        "update": 1,
        "delete": 1,
        "restore": 3,
    }
    assert planned.plan["samples"] == [
        {"row": 1, "id": ids["a"], "field": "name", "before": "Anna", "after": "Ann"},
    ]
    assert planned.plan["deletions"] == [{"id": ids["z"], "external_id": "z"}]
    assert world.contacts() == before
    applied = run_attempt(world.system, world.system.ledger.request_apply(planned.id, Starter.caller))
    assert (applied.status, counts(applied)) == ("completed", {"reversed": 1, "kept": 1, "deleted": 1, "restored": 3})


def test_a_planned_undo_that_would_do_something_else_by_now_is_shown_again(world: UndoWorld) -> None:
    world.run(PEOPLE)
    batch = world.run([{"external_id": "a", "name": "Anna", "notes": "n"}])
    planned = run_attempt(world.system, world.requested(batch, plan_only=True))
    later = world.run([{"external_id": "a", "notes": "later"}])

    again = run_attempt(world.system, world.system.ledger.request_apply(planned.id, Starter.caller))

    assert (again.status, world.by("a")["name"]) == ("planned", "Anna")
    assert again.plan is not None
    assert [sample["field"] for sample in again.plan["samples"]] == ["name"]
    (difference,) = again.plan["difference"]
    assert [change["field"] for change in difference["was"]["changes"]] == ["name", "notes"]
    applied = run_attempt(world.system, world.system.ledger.request_apply(planned.id, Starter.caller))
    assert world.outcomes(applied) == [(1, "reversed", "name", None), (1, "kept", "notes", later.id)]


def test_a_batch_without_the_log_is_kept_after_a_later_logged_one(world: UndoWorld) -> None:
    world.run(PEOPLE)
    batch = world.run([{"external_id": "a", "name": "Anna"}])
    off = world.system.settings.model_copy(update={"changes": False})
    silent = UndoWorld(world.system.__class__(**{**vars(world.system), "settings": off}), world.organization_id)
    unlogged = silent.run([{"external_id": "a", "name": "Annika"}])
    world.run([{"external_id": "a", "notes": "x"}])
    undo = world.undo(batch)
    assert world.by("a")["name"] == "Annika"
    assert world.outcomes(undo) == [(1, "kept", "name", unlogged.id)]


def test_nulls_that_another_program_wrote_into_an_object_are_kept(world: UndoWorld) -> None:
    world.run(PEOPLE)
    batch = world.run([{"external_id": "a", "metadata.room": "7"}])
    metadata = '{"team": "red", "room": "7", "none": null, "nested": {"none": null}}'
    world.execute("UPDATE contacts SET metadata = %s WHERE id = %s", metadata, world.by("a")["id"])
    world.undo(batch)
    assert world.by("a")["metadata"] == {"team": "red", "none": None, "nested": {"none": None}}
