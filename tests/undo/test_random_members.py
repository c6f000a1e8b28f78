"""Random sequences of batches of contacts and of groups with members, and undos of them, held to a stack model."""

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from stack_model import Move, Row, StackModel
from undo_world import UndoWorld, counts, undo_world

from batch_pipeline.batches.model import Batch
from batch_pipeline.system import System

SEQUENCES = 25
TABLES = {"contact": "contacts", "group": "groups"}
CONTACTS, GROUPS = "abc", "gh"

some_members = st.lists(st.sampled_from(CONTACTS), unique=True, max_size=3)
steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("groups"),
            st.dictionaries(st.sampled_from(GROUPS), st.tuples(some_members, some_members), min_size=1),
        ),
        st.tuples(
            st.just("contacts"),
            st.dictionaries(
                st.sampled_from(CONTACTS),
                st.tuples(st.sampled_from(["add", "remove", "set"]), st.lists(st.sampled_from(GROUPS), max_size=2)),
                min_size=1,
            ),
        ),
        st.tuples(st.just("delete"), st.sampled_from([*CONTACTS, *GROUPS])),
        st.tuples(st.just("undo"), st.sampled_from([1, 2, 3])),
        st.tuples(st.just("undo"), st.sampled_from([1, 2])),
    ),
    min_size=3,
    max_size=6,
)


class MembersModel:
    """Contacts, groups and members (by group and contact: m, or p for a primary one)."""

    def __init__(self) -> None:
        self.records = {"contact": StackModel(), "group": StackModel()}
        self.links = StackModel()

    def observe(self, resource: str, batch: str, before: dict[str, Any], after: dict[str, Any]) -> None:
        """Records what a batch of the resource has written."""
        self.records[resource].observe(batch, before[resource], after[resource])
        for pair in sorted({*before["links"], *after["links"]}):
            old, new = before["links"].get(pair), after["links"].get(pair)
            if old != new:
                self.links._move(batch, pair, "update", before=old)

    def undo(self, resource: str, batch: str, undo: str, now: dict[str, Any]) -> dict[str, Any]:
        """What is there after the undo; remembers it as written."""
        side = {"contact": 1, "group": 0}[resource]
        model = self.records[resource]
        created = {move.unit[0] for move in self._of(model, batch) if move.kind in ("create", "restore")}
        kept = {
            record
            for record in created
            if record in now[resource] and not self._is_only_its_own(record, side, batch, now)
        }
        moves = [move for move in self._of(self.links, batch) if move.unit[side] not in created]
        links = dict(now["links"])
        hidden = {record: row for record, row in now[resource].items() if record not in kept}
        writers = [move for move in model.moves if move.writer == batch and move.unit[0] in kept]
        for move in writers:
            move.writer = f"kept {batch}"
        records = model.undo(batch, undo, hidden).records
        for move in writers:
            move.writer = batch
        records |= {record: now[resource][record] for record in kept}
        other = now["group" if resource == "contact" else "contact"]
        for move in moves:
            pair = move.unit
            if pair[side] not in records or not self.links._is_on_top(move):
                continue
            if move.before is not None and pair not in links and pair[1 - side] not in other:
                continue
            self.links._move(undo, pair, "update", undoes=move, before=links.get(pair))
            links[pair] = move.before
        for pair in [pair for pair in links if pair[side] not in records]:
            mine = [move for move in self._of(self.links, batch) if move.unit == pair]
            self.links._move(undo, pair, "update", undoes=mine[-1] if mine else None, before=links[pair])
            links[pair] = None
        return {**now, resource: records, "links": {pair: state for pair, state in links.items() if state}}

    def _is_only_its_own(self, record: str, side: int, batch: str, now: dict[str, Any]) -> bool:
        """Whether all links of a record that the batch made are the batch's own, as it left them."""
        mine = {move.unit: move for move in self._of(self.links, batch) if move.unit[side] == record}
        there = {pair for pair in now["links"] if pair[side] == record}
        return there <= mine.keys() and all(self.links._is_on_top(move) for move in mine.values())

    @staticmethod
    def _of(model: StackModel, batch: str) -> list[Move]:
        return [move for move in model.moves if move.writer == batch]


def read(world: UndoWorld) -> dict[str, Any]:
    """All records, and the members."""
    links = {pair: "p" if is_primary else "m" for pair, is_primary in world.rows("group_members").items()}
    return {**{resource: world.rows(table) for resource, table in TABLES.items()}, "links": links}


def write(world: UndoWorld, kind: str, details: Any, now: dict[str, Any]) -> Batch | None:
    """Runs the step's batch; None if there is nothing to do."""
    if kind == "delete":
        resource = "contact" if details in CONTACTS else "group"
        ids = [record for record, row in now[resource].items() if row["external_id"] == details]
        return world.run([{"id": ids[0]}], resource=resource, action="delete") if ids else None
    there = {row["external_id"] for resource in TABLES for row in now[resource].values()}
    rows: list[Row] = []
    if kind == "groups":
        for name, (all_members, primary) in details.items():
            children = [each for each in all_members if each in there]
            marked = [each for each in primary if each in children]
            rows.append({"external_id": name, "name": name, "children": children, "primary": marked})
        return world.run(rows, resource="group")
    for name, (operation, named) in details.items():
        groups = [each for each in named if each in there]
        row = {"external_id": name, "name": name, "email": f"{name}@example.com"}
        rows.append(row | ({f"groups.{operation}": " ".join(groups)} if len(groups) == 1 else {}))
    return world.run(rows)


def has_written(batch: Batch) -> bool:
    return bool({"created", "updated", "deleted", "overwritten", "reversed", "restored"} & counts(batch).keys())


@pytest.mark.timeout(600)
def test_undo_of_members_does_what_the_stack_model_says(module_system: System) -> None:
    # Each example runs whole batches: to shrink one takes many minutes.
    @settings(max_examples=SEQUENCES, phases=[Phase.generate], suppress_health_check=list(HealthCheck), deadline=None)
    @given(steps=steps)
    def check(steps: list[tuple[str, Any]]) -> None:
        world, model, batches = undo_world(module_system, chunk_rows=2), MembersModel(), []
        first = ("contacts", {name: ("add", []) for name in CONTACTS}), ("groups", {"g": (["a", "b"], ["a"])})
        for kind, details in [*first, *steps]:
            now = read(world)
            if kind == "undo":
                if len(batches) < details:
                    continue
                undone = batches[-details]
                undo = world.undo(undone)
                assert read(world) == model.undo(str(undone.resource), undone.id, undo.id, now)
                batches += [undo] * has_written(undo)
                continue
            batch = write(world, kind, details, now)
            if batch is not None:
                model.observe(str(batch.resource), batch.id, now, read(world))
                batches += [batch] * has_written(batch)

    check()
