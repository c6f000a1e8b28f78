"""Measures and coordinates: examples of the rules, and agreement with exact arithmetic."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judging import Kernel, judged

from batch_pipeline.values.judged import Refusal
from batch_pipeline.values.number import latitudes, longitudes, positive_numbers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", "1"),
        ("100", "100"),
        ("12.500", "12.5"),
        ("+0012.10", "12.1"),
        (".5", "0.5"),
        ("0.30000000000000004", "0.30000000000000004"),
        ("0.00000000000000000001", "0.00000000000000000001"),
        ("1.50000000000000000000000", "1.5"),
        ("1e-7", "0.0000001"),
        ("1.10e2", "110"),
        ("999999999999999.00000000000000000001", "999999999999999.00000000000000000001"),
        ("0", Refusal.RANGE),
        ("0.000", Refusal.RANGE),
        ("-0", Refusal.RANGE),
        ("-1.5", Refusal.RANGE),
        ("1000000000000000", Refusal.RANGE),
        ("0.000000000000000000001", Refusal.PLACES),
        ("1e-21", Refusal.PLACES),
        ("12,5", Refusal.FORMAT),
        ("12 kg", Refusal.FORMAT),
        ("1.", Refusal.FORMAT),
        ("", Refusal.FORMAT),
        ("NaN", Refusal.FORMAT),
        ("Infinity", Refusal.FORMAT),
    ],
)
def test_a_measure_is_a_number_above_zero_kept_exactly(text: str, expected: str | Refusal) -> None:
    assert judged(positive_numbers, text, "2.5") == [expected, "2.5"]


@pytest.mark.parametrize(
    ("kernel", "text", "expected"),
    [
        (latitudes, "0", "0"),
        (latitudes, "-0.0", "0"),
        (latitudes, "90", "90"),
        (latitudes, "-90.000", "-90"),
        (latitudes, "37.774929512345678", "37.774929512345678"),
        (latitudes, "90.00000000000000000001", Refusal.RANGE),
        (latitudes, "-90.1", Refusal.RANGE),
        (latitudes, "180", Refusal.RANGE),
        (latitudes, "1e400", Refusal.RANGE),
        (latitudes, "37° 46'", Refusal.FORMAT),
        (latitudes, "37.7N", Refusal.FORMAT),
        (longitudes, "180", "180"),
        (longitudes, "-180", "-180"),
        (longitudes, "-1e-9", "-0.000000001"),
        (longitudes, "180.0001", Refusal.RANGE),
        (longitudes, "-181", Refusal.RANGE),
        (longitudes, "west", Refusal.FORMAT),
    ],
)
def test_coordinates_have_their_ranges(kernel: Kernel, text: str, expected: str | Refusal) -> None:
    assert judged(kernel, text, "1") == [expected, "1"]


@given(st.lists(st.floats(-200, 200).map(str) | st.decimals(-200, 200, places=8).map(str)))
def test_coordinates_keep_their_value_exactly(texts: list[str]) -> None:
    for kernel, limit in ((latitudes, 90), (longitudes, 180)):
        once = judged(kernel, *texts)
        for text, verdict in zip(texts, once, strict=True):
            if isinstance(verdict, str):
                assert Decimal(verdict) == Decimal(text)
                assert abs(Decimal(text)) <= limit
            else:
                assert verdict is (Refusal.PLACES if abs(Decimal(text)) < 1 else Refusal.RANGE)
        accepted = [verdict for verdict in once if isinstance(verdict, str)]
        assert judged(kernel, *accepted) == accepted


@given(st.decimals(Decimal("1e-20"), Decimal("1e14")))
def test_equal_measures_are_written_alike(number: Decimal) -> None:
    verdict = judged(positive_numbers, f"{number:f}", f"0{number:f}0" if "." in f"{number:f}" else f"{number:f}.0")
    assert verdict[0] == verdict[1]
