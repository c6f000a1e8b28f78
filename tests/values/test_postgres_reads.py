"""PostgreSQL reads canonical forms as the values that were meant."""

from decimal import Decimal

import pyarrow as pa
import pytest
from judging import Kernel

from batch_pipeline.database import connect
from batch_pipeline.values.moment import EARLIEST, LATEST, SECOND, canonical_moments
from batch_pipeline.values.money import canonical_money
from batch_pipeline.values.number import longitudes, positive_numbers


def test_moments_are_read_as_timestamptz_to_the_microsecond(database_url: str) -> None:
    meant = [EARLIEST, -1, 0, 1, 1_700_000_000 * SECOND + 123_456, LATEST]
    texts = [f"{'-' if value < 0 else ''}{abs(value) // SECOND}.{abs(value) % SECOND:06}" for value in meant]
    canonical = canonical_moments(pa.array(texts)).values.to_pylist()
    assert None not in canonical
    # The session's time zone must not matter.
    query = "SELECT (extract(epoch FROM moment::timestamptz) * 1000000)::bigint FROM unnest(%s::text[]) AS moment"
    with connect(database_url) as connection:
        connection.execute("SET TIME ZONE 'Asia/Kathmandu'")
        assert [row[0] for row in connection.execute(query, (canonical,))] == meant


@pytest.mark.parametrize(
    ("canonical", "texts"),
    [
        (canonical_money, ["0", ".5", "0012.3", "1e2", "999999999999999.99"]),
        (positive_numbers, ["0.1", "1e-20", "999999999999999.00000000000000000001", "100", "2.50"]),
        (longitudes, ["-180", "0.30000000000000004", "-1e-9", "0"]),
    ],
)
def test_numbers_are_read_exactly(database_url: str, canonical: Kernel, texts: list[str]) -> None:
    forms = canonical(pa.array(texts)).values.to_pylist()
    query = "SELECT form::numeric, (form::jsonb)::numeric, form::jsonb::text FROM unnest(%s::text[]) AS form"
    with connect(database_url) as connection:
        rows = connection.execute(query, (forms,)).fetchall()
    assert [row[0] for row in rows] == [row[1] for row in rows] == [Decimal(text) for text in texts]
    assert [row[2] for row in rows] == forms
