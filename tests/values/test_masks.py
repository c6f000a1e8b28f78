"""Deciding on distinct values only."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.values.masks import decide_distinct


def test_each_distinct_value_is_decided_once_for_all_its_positions() -> None:
    asked: list[list[str]] = []

    def decide(texts: pa.StringArray) -> pa.StringArray:
        asked.append(texts.to_pylist())
        return pc.if_else(pc.equal(texts, "b"), None, pc.utf8_upper(texts))

    texts = pa.array(["ok", "b", "a", None, "b", "a", "ok"])
    accepted = np.array([True, False, False, False, False, False, True])
    assert decide_distinct(texts, accepted, decide).to_pylist() == ["ok", None, "A", None, None, "A", "ok"]
    assert asked == [["b", "a"]]


def test_accepted_texts_are_returned_as_they_are() -> None:
    def decide(_: pa.StringArray) -> pa.StringArray:
        raise AssertionError("nothing is left to decide")

    texts = pa.array(["a", None])
    assert decide_distinct(texts, np.array([True, False]), decide) is texts
