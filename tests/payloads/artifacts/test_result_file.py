"""result.json: exact bytes, order, any text."""

import io
import json

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from batch_pipeline.payloads.artifacts import RESULT_SCHEMA, ResultWriter
from batch_pipeline.payloads.texts import PIECE_BYTES

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.text('"\\\x00\n🚚', max_size=4)


def written(*tables: pa.Table) -> bytes:
    file = io.BytesIO()
    with ResultWriter(file) as writer:
        for table in tables:
            writer.write(table)
    return file.getvalue()


def table(*rows: tuple[int | None, str, str | None, str | None]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [()] * len(RESULT_SCHEMA)
    return pa.table([list(column) for column in columns], schema=RESULT_SCHEMA)


def test_outcomes_are_written_one_a_line_those_of_cleanup_without_row() -> None:
    first = table((1, "created", "ctct_1", None), (2, "rejected", None, 'A "1"'))
    assert written(first, table(), table((None, "overwritten", "ctct_2", "B\t"))) == (
        b"[\n"
        b'{"row":1,"outcome":"created","id":"ctct_1","external_id":null},\n'
        b'{"row":2,"outcome":"rejected","id":null,"external_id":"A \\"1\\""},\n'
        b'{"row":null,"outcome":"overwritten","id":"ctct_2","external_id":"B\\t"}\n'
        b"]\n"
    )


def test_without_items_the_file_is_an_empty_array() -> None:
    assert written() == written(table()) == b"[]\n"


def test_columns_are_taken_by_name() -> None:
    shuffled = table((1, "created", "x", "y")).select(["external_id", "id", "outcome", "row"])
    assert json.loads(written(shuffled)) == [{"row": 1, "outcome": "created", "id": "x", "external_id": "y"}]


def test_much_text_in_one_table_is_complete() -> None:
    rows = [(row, "rejected", None, f"{row}" + "x" * (PIECE_BYTES // 20)) for row in range(1, 50)]
    assert [(entry["row"], entry["external_id"]) for entry in json.loads(written(table(*rows)))] == [
        (row, text) for row, _, _, text in rows
    ]


@given(
    rows=st.lists(st.tuples(st.none() | st.integers(1, 9), TEXTS, st.none() | TEXTS, st.none() | TEXTS)),
    cut=st.integers(0, 5),
)
def test_any_text_is_read_back(rows: list[tuple[int | None, str, str | None, str | None]], cut: int) -> None:
    expected = [dict(zip(RESULT_SCHEMA.names, row, strict=True)) for row in rows]
    at_once = written(table(*rows))
    assert json.loads(at_once) == expected
    assert written(table(*rows[:cut]), table(*rows[cut:])) == at_once
