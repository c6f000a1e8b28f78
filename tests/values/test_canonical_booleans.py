"""Booleans as people write them."""

import pyarrow as pa
import pytest

from batch_pipeline.values.boolean import canonical_booleans


@pytest.mark.parametrize("text", ["true", "True", "TRUE", "yes", "Yes", "1"])
def test_all_words_for_true_are_read(text: str) -> None:
    assert canonical_booleans(pa.array([text])).to_pylist() == [True]


@pytest.mark.parametrize("text", ["false", "False", "FALSE", "no", "nO", "0"])
def test_all_words_for_false_are_read(text: str) -> None:
    assert canonical_booleans(pa.array([text])).to_pylist() == [False]


@pytest.mark.parametrize("text", ["", "t", "y", "on", "2", "01", "1.0", "tru\u0435", "yes ", "null", "ﬀalse"])
def test_anything_else_is_null(text: str) -> None:
    assert canonical_booleans(pa.array([text])).to_pylist() == [None]


def test_columns_keep_their_order_and_missing_values() -> None:
    values = canonical_booleans(pa.array(["no", None, "maybe", "YES"]))
    assert values.type == pa.bool_()
    assert values.to_pylist() == [False, None, None, True]
    assert canonical_booleans(pa.array([], pa.string())).to_pylist() == []
    assert canonical_booleans(pa.array([None], pa.string())).to_pylist() == [None]
