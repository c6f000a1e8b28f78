"""Parquet files whose page headers and footers state false sizes and counts: no row is lost, and no size is trusted."""

from typing import Any

import pytest
from parquet_parts import (
    COLUMN_VALUES,
    FILE_ROWS,
    GROUP_BYTES,
    GROUP_ROWS,
    PAGE_BYTES,
    PAGE_DATA,
    PAGE_STORED_BYTES,
    PAGE_VALUES,
    column_of,
    group_of,
    one_page,
    with_footer,
    with_page_header,
)
from thrift_compact import ThriftStruct

TEXTS = [f"person {number}" for number in range(10)]
TWO_GB = 2**31 - 1


@pytest.mark.parametrize(
    ("field", "stated", "code"),
    [
        pytest.param(PAGE_BYTES, TWO_GB, "too_large", id="2 GB once decompressed"),
        pytest.param(PAGE_BYTES, 1000, "unreadable_file", id="more than it decompresses to"),
        pytest.param(PAGE_BYTES, 50, "unreadable_file", id="less than it decompresses to"),
        pytest.param(PAGE_BYTES, -1, "unreadable_file", id="less than nothing"),
        pytest.param(PAGE_STORED_BYTES, TWO_GB, "too_large", id="2 GB stored"),
    ],
)
def test_a_page_header_with_a_false_size_is_refused(refusal_of, field, stated, code):
    def change(header: ThriftStruct) -> None:
        assert header[field] != stated
        header[field] = stated

    assert refusal_of(with_page_header(one_page(TEXTS), change)).code == code


@pytest.mark.parametrize("stated", [3, -1])
def test_a_page_header_with_fewer_values_than_rows_is_refused(refusal_of, stated):
    def change(header: ThriftStruct) -> None:
        header[PAGE_DATA][PAGE_VALUES] = stated

    assert refusal_of(with_page_header(one_page(TEXTS), change)).code == "unreadable_file"


FALSE_COUNTS = {
    "more rows in all than its row groups": {"file": 11},
    "fewer rows in all than its row groups": {"file": 9},
    "less than no rows": {"file": -1},
    "more rows than the pages have": {"file": 11, "group": 11, "values": 11},
    "fewer rows than values": {"file": 7, "group": 7},
    "no rows, but values": {"file": 0, "group": 0},
    "less than no rows in a row group": {"group": -10},
    "more rows in a row group than in all": {"group": 2**60, "values": 2**60},
    "less than no values": {"values": -1},
}


def with_counts(data: bytes, *, file: int | None = None, group: int | None = None, values: int | None = None) -> bytes:
    def change(footer: ThriftStruct) -> None:
        for struct, field, stated in (
            (footer, FILE_ROWS, file),
            (group_of(footer), GROUP_ROWS, group),
            (column_of(footer), COLUMN_VALUES, values),
        ):
            if stated is not None:
                struct[field] = stated

    return with_footer(data, change)


@pytest.mark.parametrize("counts", FALSE_COUNTS.values(), ids=FALSE_COUNTS)
def test_a_footer_with_false_counts_is_refused_or_no_row_is_lost(read_upload, refusal_of, counts: dict[str, Any]):
    data = with_counts(one_page(TEXTS), **counts)
    if counts == FALSE_COUNTS["more rows in a row group than in all"]:
        assert [item["a"] for item in read_upload(data).items.values()] == TEXTS
    else:
        assert refusal_of(data).code == "unreadable_file"


def test_more_rows_than_a_batch_may_have_are_refused_before_reading(refusal_of):
    refusal = refusal_of(with_counts(one_page(TEXTS), file=2**60))
    assert (refusal.code, "BATCH_MAX_ITEMS" in refusal.message) == ("too_large", True)


@pytest.mark.parametrize("stated", [-1, 1, 2**60])
def test_a_false_size_of_a_row_group_changes_nothing(read_upload, stated):
    def change(footer: ThriftStruct) -> None:
        group_of(footer)[GROUP_BYTES] = stated

    reading = read_upload(with_footer(one_page(TEXTS), change))
    assert [item["a"] for item in reading.items.values()] == TEXTS
