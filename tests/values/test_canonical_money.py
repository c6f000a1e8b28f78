"""Amounts of money: examples of the rule, and agreement with exact arithmetic."""

from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from judging import judged

from batch_pipeline.values.judged import Refusal
from batch_pipeline.values.money import MONEY_WHOLE_DIGITS, canonical_money


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", "0.00"),
        ("12", "12.00"),
        ("12.5", "12.50"),
        ("12.50", "12.50"),
        (".5", "0.50"),
        ("+3.10", "3.10"),
        ("0012.30", "12.30"),
        ("0" * 60 + "7", "7.00"),
        ("-0.00", "0.00"),
        ("0.29", "0.29"),
        ("1e2", "100.00"),
        ("1250E-2", "12.50"),
        ("12500e-3", "12.50"),
        ("0e999999999", "0.00"),
        ("999999999999999.99", "999999999999999.99"),
    ],
)
def test_an_amount_gets_two_places(text: str, expected: str) -> None:
    assert judged(canonical_money, text) == [expected]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        *[
            (text, Refusal.FORMAT)
            for text in [
                *["", "x", "-", ".", "5.", "1,000", "1,50", "1.000,50", "1 000", "$5", "5 USD", "5%", "1_000"],
                *[
                    "NaN",
                    "inf",
                    "0x10",
                    "1/2",
                    "٣",
                    "\uff11",
                    "--1",
                    "1e",
                    "e5",
                    "01e2",
                    "+1e2",
                    ".5e1",
                    "1\n",
                    "0" * 101,
                ],
            ]
        ],
        *[(text, Refusal.PLACES) for text in ["1.234", "12.500", "0.001", "-0.001", "1e-3", "1e-999999999999"]],
        *[(text, Refusal.RANGE) for text in ["-1", "-0.01", "1" + "0" * 15, "1e15", "1e999999999999", "-1e30"]],
    ],
)
def test_anything_else_is_refused_with_the_reason(text: str, reason: Refusal) -> None:
    assert judged(canonical_money, text, "1") == [reason, "1.00"]


@pytest.mark.parametrize("texts", [[], [None], [None, None]])
def test_columns_without_values_stay_as_they_are(texts: list[None]) -> None:
    assert canonical_money(pa.array(texts, pa.string())).values.to_pylist() == texts


amounts = st.decimals(min_value=-1000, max_value=10**17, places=2) | st.decimals(allow_nan=False, allow_infinity=False)


@given(
    st.lists(amounts.map(str) | amounts.map(lambda number: f"{number:.3f}") | st.text("0123456789.+-eE", max_size=9))
)
def test_an_accepted_amount_keeps_its_value(texts: list[str]) -> None:
    for text, verdict in zip(texts, judged(canonical_money, *texts), strict=True):
        if isinstance(verdict, str):
            assert Decimal(verdict) == Decimal(text)
            assert Decimal(verdict).as_tuple().exponent == -2
            assert 0 <= Decimal(verdict) < 10**MONEY_WHOLE_DIGITS
        elif verdict is Refusal.RANGE:
            assert not 0 <= Decimal(text) < 10**MONEY_WHOLE_DIGITS
        elif verdict is Refusal.PLACES:
            assert "." in text or "e" in text.lower()


@given(st.lists(st.decimals(min_value=0, max_value=10**15 - 1, places=2)))
def test_every_amount_is_accepted_and_its_canonical_form_is_itself(numbers: list[Decimal]) -> None:
    canonical = [f"{number:.2f}".replace("-", "") for number in numbers]
    assert judged(canonical_money, *[str(number) for number in numbers]) == canonical
    assert judged(canonical_money, *canonical) == canonical
