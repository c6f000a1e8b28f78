"""The ids that a batch gives to new records: repeatable, unique, in order, of the right form."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from batch_pipeline.batches.ids import is_batch_id, new_batch_id
from batch_pipeline.loading.record_ids import record_ids
from batch_pipeline.values.identifier import are_record_ids

ARRIVED = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
ROWS = np.arange(1, 20_001, dtype=np.int64)


def ids_of(rows: "np.typing.NDArray[np.int64]", batch_id: str, arrived_at: datetime = ARRIVED) -> list[str]:
    ids: list[str] = record_ids("ctct_", batch_id=batch_id, arrived_at=arrived_at, rows=rows).to_pylist()
    return ids


def test_a_repeated_attempt_gives_the_same_ids() -> None:
    batch_id = new_batch_id()

    assert ids_of(ROWS, batch_id) == ids_of(ROWS, batch_id)


def test_the_id_of_a_row_does_not_depend_on_other_rows() -> None:
    batch_id = new_batch_id()
    every = ids_of(ROWS, batch_id)

    assert ids_of(ROWS[5_000:5_010], batch_id) == every[5_000:5_010]
    assert ids_of(ROWS[::-1], batch_id) == every[::-1]


def test_ids_ascend_with_the_row_and_are_unique() -> None:
    ids = ids_of(ROWS, new_batch_id())

    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)


def test_ids_ascend_with_the_time_of_arrival() -> None:
    batch_id = new_batch_id()
    times = [ARRIVED + timedelta(microseconds=step) for step in (0, 1, 1_000, 10**9, 10**15)]
    firsts = [ids_of(ROWS[:1], batch_id, at)[0] for at in times]

    assert firsts == sorted(firsts)


def test_batches_that_arrive_in_the_same_microsecond_give_different_ids() -> None:
    assert not set(ids_of(ROWS, new_batch_id())) & set(ids_of(ROWS, new_batch_id()))


def test_new_ids_have_the_required_form() -> None:
    ids = pa.array(ids_of(ROWS, new_batch_id()))

    assert are_record_ids(ids, "ctct_").to_pylist() == [True] * len(ROWS)


@given(st.lists(st.integers(1, 58**6 - 1), max_size=20, unique=True).map(sorted))
def test_ids_are_unique_for_any_rows_far_beyond_the_limits(rows: list[int]) -> None:
    ids = ids_of(np.array(rows, np.int64), "batch_zzzzzzzzzzzzzzzzzzzzzz")

    assert ids == sorted(set(ids))
    assert len(ids) == len(rows)
    assert are_record_ids(pa.array(ids, pa.string()), "ctct_").to_pylist() == [True] * len(ids)


def test_batch_ids_are_valid_unique_and_in_order_of_time() -> None:
    ids = [new_batch_id() for _ in range(2_000)]

    assert all(map(is_batch_id, ids))
    assert len(set(ids)) == len(ids)
    times = [batch_id[:15] for batch_id in ids]
    assert times == sorted(times)


def test_other_texts_are_not_batch_ids() -> None:
    good = new_batch_id()

    for text in (
        "",
        "batch_",
        good[:-1],
        good + "1",
        good[:-1] + "0",
        good + "\n",
        " " + good,
        good.upper(),
        "x" + good,
    ):
        assert not is_batch_id(text)
