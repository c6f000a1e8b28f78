"""Currencies."""

import pyarrow as pa
import pycountry
import pytest

from batch_pipeline.values.currency import canonical_currencies


def canonical(*texts: str | None) -> list[str | None]:
    return canonical_currencies(pa.array(texts, pa.string())).to_pylist()


def test_a_code_in_any_case_becomes_lower_case() -> None:
    assert canonical("usd", "EUR", "Jpy", None) == ["usd", "eur", "jpy", None]


@pytest.mark.parametrize(
    "text", ["", "us", "usdd", "840", "$", "dollar", "zzz", "us d", "\uff55\uff53\uff44", "\u0131ls"]
)
def test_anything_else_becomes_null(text: str) -> None:
    assert canonical(text, "usd") == [None, "usd"]


def test_every_code_of_the_standard_is_known_and_its_canonical_form_is_itself() -> None:
    codes = [currency.alpha_3 for currency in pycountry.currencies]
    once = canonical(*codes)
    assert once == [code.lower() for code in codes]
    assert canonical(*once) == once
