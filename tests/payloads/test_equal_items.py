"""Finding equal items, against a plain reading of the rule: equal in every field, after trimming and NFC."""

import tracemalloc
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batch_pipeline.payloads.equality import EqualItems, RowReader, write_rows
from batch_pipeline.payloads.model import UNREADABLE_SCHEMA, CellKind, RawChunk
from batch_pipeline.payloads.parsed import from_table, to_table

# Few different texts, so that equal items are frequent; the separators of the joined texts among them.
TEXTS = st.text("ab \x1b0123\t\x00", max_size=4) | st.sampled_from(
    ["", " ", "e\u0301", "\u00e9", "a\r\n", "a\n", "\x1b1", "\x1b2b\x1b1", "1", "\x1b31", "null", "🚚"]
)
CELLS = st.tuples(st.just(CellKind.TEXT), TEXTS) | st.sampled_from(
    [
        (CellKind.NULL, ""),
        (CellKind.NUMBER, "1"),
        (CellKind.BOOLEAN, "true"),
        (CellKind.ARRAY, "[]"),
        (CellKind.OBJECT, '{"a":"b"}'),
    ]
)
NAMES = st.sampled_from(["a", "b", "c", "a\x1b1", "a\x1b1x\x1b2b", ""])
Item = Mapping[str, tuple[CellKind, str]]
JSON_CHUNKS = st.lists(st.lists(st.dictionaries(NAMES, CELLS, max_size=3), max_size=5), max_size=4)


def chunk_of(items: Sequence[Item], first_row: int, *, reverse: bool = False) -> RawChunk:
    """The items as a JSON reader gives them, the columns in the order in which the fields come (or the reverse)."""
    names = list(dict.fromkeys(name for item in items for name in item))
    if reverse:
        names.reverse()
    columns, kinds = {}, {}
    for name in names:
        cells = [item.get(name, (None, None)) for item in items]
        columns[name] = pa.array([text for _, text in cells], pa.string())
        if any(kind not in (None, CellKind.TEXT) for kind, _ in cells):
            kinds[name] = pa.array([None if kind is None else int(kind) for kind, _ in cells], pa.uint8())
    rows = pa.array(range(first_row, first_row + len(items)), pa.int64())
    return RawChunk(rows, columns, kinds, UNREADABLE_SCHEMA.empty_table())


def repeated(chunks: Iterable[RawChunk], *, fields_vary: bool, keep_last: bool) -> list[int]:
    with TemporaryDirectory() as folder:
        with closing(EqualItems(Path(folder), fields_vary=fields_vary, keep_last=keep_last)) as equal:
            for chunk in chunks:
                equal.add(chunk)
            rows = [int(row) for found in equal.repeated_rows() for row in found]
        assert list(Path(folder).iterdir()) == []
    return rows


def expected(items: Sequence[object], *, keep_last: bool) -> list[int]:
    """The rows to drop, by comparing each item with every other."""
    kept: dict[object, int] = {}
    dropped = []
    for row, item in enumerate(items, start=1):
        if item in kept:
            dropped.append(kept[item] if keep_last else row)
        if item not in kept or keep_last:
            kept[item] = row
    return sorted(dropped)


def cleaned(text: str) -> str:
    lines = text.strip().replace("\r\n", "\n").replace("\r", "\n")
    return unicodedata.normalize("NFC", lines)


@given(chunks=JSON_CHUNKS, keep_last=st.booleans())
@example([[{"a": (CellKind.TEXT, "x"), "b": (CellKind.TEXT, "y")}, {"a\x1b1x\x1b2b": (CellKind.TEXT, "y")}]], False)
@example([[{"a": (CellKind.TEXT, "1")}, {"a": (CellKind.NUMBER, "1")}, {"a": (CellKind.TEXT, "1\x1b32")}]], False)
@example([[{}], [{"a": (CellKind.NULL, "")}, {}], [{"a": (CellKind.TEXT, "")}]], True)
def test_json_items_are_equal_where_every_field_is(chunks: list[list[Item]], keep_last: bool) -> None:
    raw, row = [], 1
    for number, items in enumerate(chunks):
        raw.append(chunk_of(items, row, reverse=number % 2 == 1))
        row += len(items)
    plain = [
        frozenset((name, kind, cleaned(text)) for name, (kind, text) in item.items())
        for items in chunks
        for item in items
    ]

    assert repeated(raw, fields_vary=True, keep_last=keep_last) == expected(plain, keep_last=keep_last)


@given(rows=st.lists(st.tuples(TEXTS, TEXTS, TEXTS), max_size=12), cut=st.integers(0, 12), keep_last=st.booleans())
@example([("a\x1b1b", "c", ""), ("a", "b\x1b1c", "")], 0, False)
def test_rows_of_a_flat_file_are_equal_where_every_cell_is(
    rows: list[tuple[str, str, str]], cut: int, keep_last: bool
) -> None:
    text = [[(CellKind.TEXT, cell) for cell in row] for row in rows]
    items: list[Item] = [dict(zip(("x", "y", "z"), cells, strict=True)) for cells in text]
    chunks = [chunk_of(items[:cut], 1), chunk_of(items[cut:], 1 + len(items[:cut]))]

    found = repeated(chunks, fields_vary=False, keep_last=keep_last)

    assert found == expected([tuple(map(cleaned, row)) for row in rows], keep_last=keep_last)


def same_items(chunks: int, items: int) -> Iterator[RawChunk]:
    """So many chunks of so many items each, all of which are equal."""
    for number in range(chunks):
        rows = pa.array(range(number * items + 1, (number + 1) * items + 1), pa.int64())
        yield RawChunk(rows, {"a": pa.repeat(pa.scalar("same"), items)}, {}, UNREADABLE_SCHEMA.empty_table())


def test_many_equal_items_leave_one_across_chunks() -> None:
    assert repeated(same_items(3, 1_000), fields_vary=True, keep_last=False) == list(range(2, 3_001))
    assert repeated(same_items(3, 1_000), fields_vary=True, keep_last=True) == list(range(1, 3_000))


def test_items_are_compared_across_chunks_of_which_each_repeats_itself() -> None:
    """Each item lies in each chunk twice, and many more lie in between, so that all partitions have some."""
    pattern = [f"{number}" for number in range(500)] * 2
    chunks = [chunk_of([{"a": (CellKind.TEXT, text)} for text in pattern], 1 + 1_000 * place) for place in range(3)]

    assert repeated(chunks, fields_vary=True, keep_last=False) == list(range(501, 3_001))
    assert repeated(chunks, fields_vary=True, keep_last=True) == list(range(1, 2_501))


@pytest.mark.parametrize("keep_last", [False, True])
def test_memory_does_not_grow_with_the_number_of_equal_items(tmp_path: Path, keep_last: bool) -> None:
    with closing(EqualItems(tmp_path, fields_vary=False, keep_last=keep_last)) as equal:
        for chunk in same_items(20, 50_000):
            equal.add(chunk)
        tracemalloc.start()
        try:
            dropped = write_rows(tmp_path / "rows", equal.repeated_rows())
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

    assert dropped == 999_999
    assert peak_bytes < 8_000_000, "8 bytes for each dropped row would be as much"


def test_no_rows_make_no_file(tmp_path: Path) -> None:
    assert write_rows(tmp_path / "rows", []) == 0
    assert not (tmp_path / "rows").exists()


@given(
    rows=st.lists(st.integers(1, 60), min_size=1, unique=True).map(sorted),
    list_length=st.integers(1, 7),
    parts=st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1),
)
def test_listed_rows_are_read_by_parts_in_any_order(
    rows: list[int], list_length: int, parts: list[tuple[int, int]]
) -> None:
    lists = [np.array(rows[start : start + list_length]) for start in range(0, len(rows), list_length)]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "rows"
        assert write_rows(path, lists) == len(rows)
        reader = RowReader(path)
        read = [reader.between(first, last).to_pylist() for first, last in parts]

    assert read == [[row for row in rows if first <= row <= last] for first, last in parts]


# ---- parsed chunks ----------------------------------------------------------------------------------------------

UNREADABLE = st.lists(st.tuples(TEXTS, TEXTS), max_size=3)


@given(
    items=st.lists(
        st.dictionaries(NAMES | st.sampled_from(["row", "!raw", "=a", "?a"]), CELLS, max_size=4), max_size=5
    ),
    broken=UNREADABLE,
)
def test_a_parsed_chunk_comes_back_from_parquet(items: list[Item], broken: list[tuple[str, str]]) -> None:
    readable = chunk_of(items, 1)
    rows = range(len(items) + 1, len(items) + 1 + len(broken))
    columns = [list(rows), [raw for raw, _ in broken], [message for _, message in broken]]
    chunk = RawChunk(readable.rows, readable.columns, readable.kinds, pa.table(columns, schema=UNREADABLE_SCHEMA))
    sink = pa.BufferOutputStream()
    pq.write_table(to_table(chunk), sink)

    back = from_table(pq.read_table(pa.BufferReader(sink.getvalue())))

    assert back.rows.equals(chunk.rows)
    assert list(back.columns) == list(chunk.columns)
    assert all(back.columns[name].equals(column) for name, column in chunk.columns.items())
    assert list(back.kinds) == list(chunk.kinds)
    assert all(back.kinds[name].equals(column) for name, column in chunk.kinds.items())
    assert back.unreadable.equals(chunk.unreadable)


@pytest.mark.parametrize("items", [[], [{}], [{}, {}]], ids=["none", "one", "two"])
def test_items_without_fields_are_items_all_the_same(items: list[Item]) -> None:
    back = from_table(to_table(chunk_of(items, 1)))

    assert back.rows.to_pylist() == list(range(1, len(items) + 1))
    assert back.columns == {}
