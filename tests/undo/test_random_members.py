"""Random sequences of batches of contacts and of groups with members, and undos of them, held to a stack model.

The real phases run on the real PostgreSQL and S3. Some batches are killed on the way and run again.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import pytest
from examples import examples
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from stack_model import Move, Row, StackModel
from undo_world import UndoWorld, counts, undo_world

from batch_pipeline.batches.model import Batch
from batch_pipeline.system import System

SEQUENCES = examples(4, thorough=500)
TABLES = {"contact": "contacts", "group": "groups"}
LINKS = {"contact": "groups", "group": "children"}  # the field of the members
CONTACTS, GROUPS = "abc", "gh"

Line = tuple[str, str | None, str]  # a record's id, a field, the outcome

some_members = st.lists(st.sampled_from(CONTACTS), unique=True, max_size=3)
# The statement before which the process is killed; a batch of a few items executes about so many.
kills = st.one_of(st.none(), st.none(), st.none(), st.integers(1, 80))
steps = st.one_of(
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
    st.tuples(st.just("outside"), st.sampled_from(CONTACTS)),
    st.tuples(st.just("undo"), st.sampled_from([1, 2, 3])),
    st.tuples(st.just("undo"), st.sampled_from([1, 2])),
)
sequences = st.lists(st.tuples(steps, kills), min_size=2, max_size=5)


@dataclass
class Expected:
    """What an undo is expected to leave: all there is after it, and each line of its result."""

    now: dict[str, Any]
    lines: set[Line] = field(default_factory=set)

    def counts(self) -> dict[str, int]:
        """The statistics that are not zero: each record once for each of its outcomes."""
        of_record: dict[str, set[str]] = defaultdict(set)
        whole = {record for record, name, _ in self.lines if name is None}
        for record, name, outcome in self.lines:
            if name is None or record not in whole:
                of_record[record].add(outcome)
        # A member that is gone is no outcome of the record that it was a member of.
        return dict(
            Counter(outcome for outcomes in of_record.values() for outcome in (outcomes - {"gone"} or outcomes))
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

    def undo(self, resource: str, batch: str, undo: str, now: dict[str, Any]) -> Expected:
        """What the undo does; remembers it as written."""
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
        undone = model.undo(batch, undo, hidden)
        records = undone.records
        lines: set[Line] = {(record, name, outcome) for record, name, outcome, _ in undone.lines}
        lines |= {(record, None, "kept") for record in kept}
        for move in writers:
            move.writer = batch
        records |= {record: now[resource][record] for record in kept}
        other = now["group" if resource == "contact" else "contact"]
        deleted = {move.unit[0] for move in self._of(model, batch) if move.kind == "delete"}
        restored = {record for record, _, outcome in lines if outcome == "restored"}
        for move in moves:
            pair = move.unit
            line = pair[side], f"{LINKS[resource]}.{pair[1 - side]}"
            has_line = pair[side] not in deleted or pair[side] in restored
            if pair[side] not in records:
                lines |= {(*line, "gone")} if has_line else set()
                continue
            if not self.links._is_on_top(move):
                lines |= {(*line, "kept")} if has_line else set()
                continue
            if move.before is not None and pair not in links and pair[1 - side] not in other:
                lines |= {(*line, "gone")} if has_line else set()
                continue
            lines |= {(*line, "reversed")} if has_line else set()
            self.links._move(undo, pair, "update", undoes=move, before=links.get(pair))
            links[pair] = move.before
        for pair in [pair for pair in links if pair[side] not in records]:
            mine = [move for move in self._of(self.links, batch) if move.unit == pair]
            self.links._move(undo, pair, "update", undoes=mine[-1] if mine else None, before=links[pair])
            links[pair] = None
        return Expected(
            {**now, resource: records, "links": {pair: state for pair, state in links.items() if state}}, lines
        )

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


def write(world: UndoWorld, kind: str, details: Any, now: dict[str, Any], kill: int | None) -> Batch | None:
    """Runs the step's batch; None if there is nothing to do."""
    if kind == "delete":
        resource = "contact" if details in CONTACTS else "group"
        ids = [record for record, row in now[resource].items() if row["external_id"] == details]
        return world.run([{"id": ids[0]}], resource=resource, action="delete", kill=kill) if ids else None
    there = {row["external_id"] for resource in TABLES for row in now[resource].values()}
    rows: list[Row] = []
    if kind == "groups":
        for name, (all_members, primary) in details.items():
            children = [each for each in all_members if each in there]
            marked = [each for each in primary if each in children]
            rows.append({"external_id": name, "name": name, "children": children, "primary": marked})
        return world.run(rows, resource="group", kill=kill)
    for name, (operation, named) in details.items():
        groups = [each for each in named if each in there]
        row = {"external_id": name, "name": name, "email": f"{name}@example.com"}
        rows.append(row | ({f"groups.{operation}": " ".join(groups)} if len(groups) == 1 else {}))
    return world.run(rows, kill=kill)


def written_counts(resource: str, batch: Batch, before: dict[str, Any], after: dict[str, Any]) -> dict[str, int]:
    """What the batch's statistics are, by the records and their members before and after it."""
    side = {"contact": 1, "group": 0}[resource]
    old, new = before[resource], after[resource]
    links = {pair[side] for pair in {*before["links"], *after["links"]} if _differs("links", pair, before, after)}
    changed = {record for record in old.keys() & new.keys() if old[record] != new[record] or record in links}
    found = {"created": len(new.keys() - old.keys()), "updated": len(changed), "deleted": len(old.keys() - new.keys())}
    return {name: count for name, count in found.items() if count} | (
        {"unchanged": batch.stats.unchanged} if batch.stats.unchanged else {}
    )


def _differs(kind: str, key: Any, before: dict[str, Any], after: dict[str, Any]) -> bool:
    return bool(before[kind].get(key) != after[kind].get(key))


class Sequence:
    """One organization's sequence. Batches are undone by how long ago they ran."""

    def __init__(self, system: System) -> None:
        self.world = undo_world(system, chunk_rows=2)
        self.model = MembersModel()
        self.batches: list[tuple[Batch, dict[str, Any]]] = []  # each with what was there before it
        self.nobody_wrote_since = True

    def run(self, steps: list[tuple[tuple[str, Any], int | None]]) -> None:
        first = ("contacts", {name: ("add", []) for name in CONTACTS}), ("groups", {"g": (["a", "b"], ["a"])})
        for (kind, details), kill in [*((step, None) for step in first), *steps]:
            now = read(self.world)
            if kind == "undo":
                self._undo(details, now, kill)
            elif kind == "outside":
                self._write_outside(details, now)
            else:
                batch = write(self.world, kind, details, now, kill)
                if batch is not None:
                    after = read(self.world)
                    resource = str(batch.resource)
                    assert counts(batch) == written_counts(resource, batch, now, after)
                    self.model.observe(resource, batch.id, now, after)
                    self._keep(batch, now, after)

    def _write_outside(self, name: str, now: dict[str, Any]) -> None:
        ids = [record for record, row in now["contact"].items() if row["external_id"] == name]
        if ids:
            self.world.execute("UPDATE contacts SET notes = coalesce(notes, '') || 'x' WHERE id = %s", ids[0])
            self.model.records["contact"].observe(None, now["contact"], read(self.world)["contact"])
            self.nobody_wrote_since = False

    def _undo(self, back: int, now: dict[str, Any], kill: int | None) -> None:
        if len(self.batches) < back:
            return
        undone, before_it = self.batches[-back]
        undo = self.world.undo(undone, kill=kill)
        after = read(self.world)
        expected = self.model.undo(str(undone.resource), undone.id, undo.id, now)
        assert after == expected.now
        assert {(line["id"], line["field"], line["outcome"]) for line in self.world.lines(undo)} == expected.lines
        assert counts(undo) == expected.counts()
        if back == 1 and self.nobody_wrote_since:
            # Also of the undo of an undo: what the undone batch had written is there again.
            assert after == before_it
        self._keep(undo, now, after)

    def _keep(self, batch: Batch, before: dict[str, Any], after: dict[str, Any]) -> None:
        if after != before:
            self.batches.append((batch, before))
            self.nobody_wrote_since = True


@pytest.mark.timeout(3600)  # half an hour with the profile `thorough`
def test_undo_of_members_does_what_the_stack_model_says(module_system: System) -> None:
    # Each example runs whole batches: to shrink one takes many minutes.
    @settings(max_examples=SEQUENCES, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(steps=sequences)
    def check(steps: list[tuple[tuple[str, Any], int | None]]) -> None:
        Sequence(module_system).run(steps)

    check()
