"""errors.csv and errors.json give back any text exactly, in order, one entry a row."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from rejected_samples import csv_chunk, error_table, read_csv, write_errors

from batch_pipeline.payloads.artifacts import RejectedChunk

TEXTS = (
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    | st.text("=+-@\t\r\n'\",; a\\\x00\x1f\x7f\u2028🚚", max_size=6)
)  # fmt: skip
NAMES = st.lists(TEXTS, min_size=1, max_size=4, unique_by=str.strip).filter(
    lambda names: not {name.strip() for name in names} & {"_row", "_errors", "_codes", "_raw"}
)


@dataclass
class Rejected:
    columns: list[str]
    items: dict[int, list[str]]
    raws: dict[int, str]
    errors: dict[int, list[tuple[str, str | None, str, str | None]]]

    def chunk(self, rows: list[int]) -> RejectedChunk:
        return RejectedChunk(
            csv_chunk(
                self.columns,
                {row: self.items[row] for row in rows if row in self.items},
                {row: self.raws[row] for row in rows if row in self.raws},
            ),
            error_table([(row, *error) for row in rows for error in self.errors[row]]),
        )


@st.composite
def rejected(draw: st.DrawFn) -> Rejected:
    columns = draw(NAMES)
    rows = sorted(draw(st.sets(st.integers(1, 40), max_size=10)))
    cells = st.lists(TEXTS, min_size=len(columns), max_size=len(columns))
    error = st.tuples(TEXTS, st.none() | TEXTS, TEXTS, st.none() | TEXTS)
    items: dict[int, list[str]] = {}
    raws: dict[int, str] = {}
    for row in rows:
        if draw(st.integers(0, 3)):
            items[row] = draw(cells)
        else:
            raws[row] = draw(TEXTS)
    errors = {row: draw(st.lists(error, min_size=1, max_size=3)) for row in rows}
    return Rejected(columns, items, raws, errors)


@given(given_rows=rejected(), cut=st.integers(0, 10))
def test_both_files_read_back_as_what_was_rejected(given_rows: Rejected, cut: int) -> None:
    rows = sorted(given_rows.errors)
    chunks = [given_rows.chunk(rows[:cut]), given_rows.chunk(rows[cut:])]
    csv_bytes, json_bytes = write_errors(chunks, given_rows.columns, has_unreadable=True)

    header, lines = read_csv(csv_bytes)
    assert header == [*given_rows.columns, "_row", "_errors", "_codes", "_raw"]
    assert lines == [
        [
            *given_rows.items.get(row, [""] * len(given_rows.columns)),
            str(row),
            "; ".join(message for _, _, message, _ in given_rows.errors[row]),
            "; ".join(code for code, _, _, _ in given_rows.errors[row]),
            given_rows.raws.get(row, ""),
        ]
        for row in rows
    ]

    def item(row: int) -> dict[str, str]:
        if row in given_rows.raws:
            return {"_raw": given_rows.raws[row]}
        return dict(zip(given_rows.columns, given_rows.items[row], strict=True))

    names = ("code", "field", "message", "value")
    assert json.loads(json_bytes) == [
        {
            "row": row,
            "item": item(row),
            "errors": [dict(zip(names, error, strict=True)) for error in given_rows.errors[row]],
        }
        for row in rows
    ]
    assert write_errors([given_rows.chunk(rows)], given_rows.columns, has_unreadable=True) == (csv_bytes, json_bytes)


@given(rows=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6))
def test_errors_csv_uploaded_again_is_read_as_the_same_items(
    read_upload: Callable[..., Any], rows: list[tuple[str, str]]
) -> None:
    items = {number * 3: row for number, row in enumerate(rows, 1)}
    errors = error_table(
        [(row, "conflict", None, f"{first}; {second}", None) for row, (first, second) in items.items()]
    )
    csv_bytes, _ = write_errors([RejectedChunk(csv_chunk(["name", "=x"], items, {}), errors)], ["name", "=x"])
    reading = read_upload(csv_bytes, "errors.csv")
    assert reading.is_errors_file
    assert reading.columns == ("name", "=x")
    assert list(reading.items.values()) == [{"name": first, "=x": second} for first, second in rows]
    assert not reading.raws
