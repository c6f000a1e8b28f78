"""Random sequences of merges, overwrites, deletes, outside writes and undos, held to a stack model in memory.

The loading layer runs alone (`engine`). `tests/model` has the phases, uploads and kills as well, in fewer steps.
"""

from typing import Any

import pytest
from engine import Engine, Row
from examples import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stack_model import StackModel

from batch_pipeline.database import connect
from batch_pipeline.system import System

# Few records, fields and values, so that many writes meet in one field.
NAMES = ("a", "b", "c")
SEQUENCES = examples(20, thorough=500)

fields = st.fixed_dictionaries(
    {"name": st.sampled_from(["Ann", "Bob", "Cid"])},
    optional={
        "email": st.sampled_from(["p@example.com", "q@example.com"]),
        "metadata": st.dictionaries(st.sampled_from("kl"), st.sampled_from(["1", "2", "3", None]), max_size=2),
    },
)
items = st.dictionaries(st.sampled_from(NAMES), fields, min_size=1, max_size=3)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("merge"), items),
        st.tuples(st.just("merge"), items),
        st.tuples(st.just("overwrite"), items),
        st.tuples(st.just("delete"), st.sets(st.sampled_from(NAMES), min_size=1)),
        st.tuples(st.just("rename"), st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES))),
        st.tuples(st.just("rename"), st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES))),
        st.tuples(st.just("outside"), st.tuples(st.sampled_from(NAMES), st.sampled_from(["Ann", "Dee"]))),
        st.tuples(st.just("undo"), st.sampled_from([2, 3, 4])),
        st.tuples(st.just("undo"), st.sampled_from([2, 1])),
        st.tuples(st.just("undo"), st.just(1)),
    ),
    min_size=5,
    max_size=9,
)
FIRST = {name: {"name": first, "metadata": {"k": "0"}} for name, first in (("a", "Ann"), ("b", "Bob"))}


@pytest.mark.timeout(900)  # 500 sequences, with the profile `thorough`, take about three minutes on one core
def test_undo_does_what_the_stack_model_says(module_system: System) -> None:
    with connect(module_system.database_url, autocommit=True) as connection:

        @settings(max_examples=SEQUENCES, suppress_health_check=list(HealthCheck))
        @given(steps=steps)
        def check(steps: list[tuple[str, Any]]) -> None:
            Sequence(Engine(connection)).run(steps)

        check()


class Sequence:
    """One organization's sequence. Batches are undone by how long ago they ran."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.model = StackModel()
        self.batches: list[tuple[str, dict[str, Row]]] = []  # each with the contacts before it
        self.nobody_wrote_since = True
        self.now = engine.contacts()

    def run(self, steps: list[tuple[str, Any]]) -> None:
        for kind, details in [("merge", FIRST), *steps]:
            if kind == "undo":
                if len(self.batches) >= details:
                    self._undo(details)
                continue
            writer = self._write(kind, details)
            before, self.now = self.now, self.engine.contacts()
            self.model.observe(writer, before, self.now)
            if writer is not None:
                self.batches.append((writer, before))
            self.nobody_wrote_since = writer is not None or (self.nobody_wrote_since and self.now == before)

    def _write(self, kind: str, details: Any) -> str | None:
        ids = {row["external_id"]: record_id for record_id, row in self.now.items()}
        if kind in ("merge", "overwrite"):
            rows = [{"external_id": name, **values} for name, values in details.items()]
            return self.engine.merge(rows, overwrite=kind == "overwrite")
        if kind == "delete":
            return self.engine.delete([ids[name] for name in sorted(details) if name in ids])
        if kind == "rename":
            old, new = details
            return self.engine.merge([{"id": ids[old], "external_id": new}] if old in ids else [])
        name, value = details
        if name in ids:
            self.engine.write_outside(ids[name], "name", value)
        return None

    def _undo(self, back: int) -> None:
        undone, before_it = self.batches[-back]
        did = self.engine.undo(undone)
        expected = self.model.undo(undone, did.batch_id, self.now)
        before, self.now = self.now, self.engine.contacts()
        assert self.now == expected.records
        assert {(line["id"], line["field"], line["outcome"], line["by"]) for line in did.lines} == expected.lines
        assert did.counts == expected.counts()
        if back == 1 and self.nobody_wrote_since:
            # Also of the undo of an undo: what the undone batch had written is there again.
            assert self.now == before_it
        self.batches.append((did.batch_id, before))
        self.nobody_wrote_since = True
