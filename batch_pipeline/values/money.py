"""Amounts of money: decimal numbers of at most two places, not below zero."""

import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.values.decimals import read_decimals
from batch_pipeline.values.judged import Judged, Refusal, judge
from batch_pipeline.values.masks import as_mask

MONEY_WHOLE_DIGITS = 15
MONEY_PLACES = 2


def canonical_money(texts: pa.StringArray) -> Judged:
    """Canonical amounts: ``1250.00``, always two places, no sign, no leading zeros; ``numeric`` reads them.

    `Refusal.PLACES` for more than two places, zeros included: ``12.500`` is 12,500 in some countries and 12.5 in
    others. `Refusal.RANGE` below zero, and from 10^15 on.
    """
    numbers = read_decimals(texts, whole_digits=MONEY_WHOLE_DIGITS, places=MONEY_PLACES, zeros_count=True)
    negative = as_mask(pc.less(numbers.values, pa.scalar(0, numbers.values.type)))
    return judge(
        texts,
        numbers.values.cast(pa.string()),
        {
            Refusal.FORMAT: numbers.malformed,
            Refusal.PLACES: numbers.too_precise,
            Refusal.RANGE: numbers.too_large | negative,
        },
    )
