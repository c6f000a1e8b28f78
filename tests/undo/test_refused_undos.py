"""Which batches can't be undone, and batches that wrote only a part of their items."""

import dataclasses
from typing import Any

import pytest
from batch_runs import arrived, as_csv
from driving import run_attempt
from undo_world import UndoWorld, counts, undo_world

from batch_pipeline.batches.model import Batch, Starter
from batch_pipeline.batches.states import BatchStatus, Reason
from batch_pipeline.errors import StateError, SupersededError
from batch_pipeline.loading import log_support
from batch_pipeline.loading.chunks import ChunkWriter
from batch_pipeline.system import System

PEOPLE = [{"external_id": name, "name": name} for name in "abcdefg"]


@pytest.fixture
def world(module_system: System) -> UndoWorld:
    return undo_world(module_system)


def code_of_refusal(world: UndoWorld, batch: Batch) -> str:
    with pytest.raises(StateError) as refused:
        world.requested(batch)
    assert refused.value.message.endswith(".") or refused.value.message.endswith("cancel it.")
    return refused.value.code


def test_live_planned_and_fruitless_batches_can_not_be_undone(world: UndoWorld) -> None:
    waiting = arrived(world.system, world.organization_id, as_csv(PEOPLE))
    assert code_of_refusal(world, waiting) == "not_undoable"
    world.system.ledger.end(waiting.id, BatchStatus.failed, Reason("cancelled", "Stopped."))
    assert code_of_refusal(world, waiting) == "not_undoable"  # it wrote nothing
    planned = run_attempt(world.system, arrived(world.system, world.organization_id, as_csv(PEOPLE), plan_only=True))
    assert (planned.status, code_of_refusal(world, planned)) == ("planned", "not_undoable")


def test_a_batch_whose_changes_are_too_old_can_not_be_undone(world: UndoWorld) -> None:
    batch = world.run(PEOPLE)
    world.execute(
        "UPDATE batch_chunks SET done_at = done_at - make_interval(days => 31) WHERE batch_id = %s AND number = 1",
        batch.id,
    )
    assert code_of_refusal(world, batch) == "changes_expired"


def test_an_undo_whose_changes_expire_before_it_is_planned_fails_and_writes_nothing(world: UndoWorld) -> None:
    batch = world.run(PEOPLE)
    before = world.by("a")
    undo = world.requested(batch)
    world.execute("UPDATE batch_chunks SET done_at = done_at - make_interval(days => 31) WHERE batch_id = %s", batch.id)

    done = run_attempt(world.system, undo)

    assert (done.status, done.reason and done.reason.code) == ("failed", "changes_expired")
    assert world.by("a") == before


def test_a_batch_without_a_log_can_not_be_undone(world: UndoWorld) -> None:
    settings = world.system.settings.model_copy(update={"changes": False})
    silent = UndoWorld(dataclasses.replace(world.system, settings=settings), world.organization_id)
    batch = silent.run(PEOPLE)
    assert code_of_refusal(world, batch) == "changes_off"
    assert code_of_refusal(silent, world.run([{"external_id": "a", "name": "A"}])) == "changes_off"


def test_an_older_server_can_not_undo(world: UndoWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = world.run(PEOPLE)
    monkeypatch.setattr(log_support, "MINIMUM_VERSION", 990_000)
    assert code_of_refusal(world, batch) == "needs_postgresql_18"


def test_what_a_cancelled_batch_wrote_is_taken_back_and_its_retry_writes_the_rest(
    world: UndoWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.run(PEOPLE[:2])
    before = world.contacts()
    batch = arrived(world.system, world.organization_id, as_csv([{**row, "notes": "n"} for row in PEOPLE]))
    write = ChunkWriter.write

    def cancelled_after_the_first(writer: ChunkWriter, chunk: Any) -> Any:
        if chunk.number > 0:
            world.system.ledger.end(batch.id, BatchStatus.failed, Reason("cancelled", "Stopped."))
            raise SupersededError("superseded", "The batch has ended.")
        return write(writer, chunk)

    settings = world.system.settings.model_copy(update={"database_writers": 1})
    with monkeypatch.context() as patch:
        patch.setattr(ChunkWriter, "write", cancelled_after_the_first)
        ended = run_attempt(dataclasses.replace(world.system, settings=settings), batch)
    assert (ended.status, len(world.contacts())) == ("failed", 3)

    undo = world.undo(ended)

    assert world.contacts() == before
    assert counts(undo) == {"reversed": 2, "deleted": 1}
    retried = run_attempt(world.system, world.system.ledger.request_rerun(ended.id, Starter.caller))
    assert retried.status == "completed"
    assert sorted(row["external_id"] for row in world.contacts().values()) == ["a", "b", "d", "e", "f", "g"]


def test_what_another_program_writes_between_plan_and_writing_is_kept(
    world: UndoWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.run(PEOPLE[:3])
    batch = world.run([{**row, "name": row["name"].upper(), "notes": "n"} for row in PEOPLE[:5]])
    ids = {name: world.by(name)["id"] for name in "abcde"}
    write = ChunkWriter.write

    def after_others(writer: ChunkWriter, chunk: Any) -> Any:
        if chunk.number == 0:
            world.execute("UPDATE contacts SET notes = 'x' WHERE id = ANY(%s)", [ids["a"], ids["d"]])
            world.execute("DELETE FROM contacts WHERE id = ANY(%s)", [ids["b"], ids["e"]])
        return write(writer, chunk)

    settings = world.system.settings.model_copy(update={"database_writers": 1})
    undo = world.requested(batch)
    with monkeypatch.context() as patch:
        patch.setattr(ChunkWriter, "write", after_others)
        done = run_attempt(dataclasses.replace(world.system, settings=settings), undo)

    assert {(line["external_id"] or line["id"], line["outcome"]) for line in world.lines(done)} == {
        ("a", "kept"),
        (ids["b"], "gone"),
        ("c", "reversed"),
        ("d", "kept"),
        (ids["e"], "gone"),
    }
    assert counts(done) == {"reversed": 1, "kept": 2, "gone": 2}
    assert [(row["name"], row["notes"]) for row in (world.by("a"), world.by("c"), world.by("d"))] == [
        ("A", "x"),
        ("c", None),
        ("D", "x"),
    ]


def test_an_outside_write_before_the_turn_is_kept_by_field(world: UndoWorld) -> None:
    world.run(PEOPLE[:1])
    batch = world.run([{"external_id": "a", "name": "A", "notes": "n"}])

    def write_outside() -> None:
        world.execute("UPDATE contacts SET notes = 'x' WHERE id = %s", world.by("a")["id"])

    done = run_attempt(world.system, world.requested(batch), once_validated=write_outside)
    assert world.outcomes(done) == [(1, "reversed", "name", None), (1, "kept", "notes", None)]
