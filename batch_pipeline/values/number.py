"""Measures and coordinates: decimal numbers, kept exactly."""

from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.values.decimals import Decimals, plain_texts, read_decimals
from batch_pipeline.values.judged import Judged, Refusal, judge
from batch_pipeline.values.masks import Mask, as_mask

NUMBER_WHOLE_DIGITS = 15
NUMBER_PLACES = 20  # a float of JSON may have 17 and more
LATITUDE_LIMIT = 90
LONGITUDE_LIMIT = 180


def positive_numbers(texts: pa.StringArray) -> Judged:
    """Canonical numbers above zero: ``12.5``, in plain notation without zeros at the ends.

    `Refusal.PLACES` for more than 20 places without zeros at the end, `Refusal.RANGE` for zero and less, and for
    10^15 and more.
    """
    numbers = _read(texts)
    return _judge(texts, numbers, as_mask(pc.less_equal(numbers.values, _limit(numbers, 0))))


def latitudes(texts: pa.StringArray) -> Judged:
    """Canonical latitudes, -90 to 90 degrees, in the form of `positive_numbers`, with the same refusals."""
    return _within(texts, LATITUDE_LIMIT)


def longitudes(texts: pa.StringArray) -> Judged:
    """Canonical longitudes, -180 to 180 degrees, in the form of `positive_numbers`, with the same refusals."""
    return _within(texts, LONGITUDE_LIMIT)


def _within(texts: pa.StringArray, limit: int) -> Judged:
    numbers = _read(texts)
    return _judge(texts, numbers, as_mask(pc.greater(pc.abs(numbers.values), _limit(numbers, limit))))


def _read(texts: pa.StringArray) -> Decimals:
    return read_decimals(texts, whole_digits=NUMBER_WHOLE_DIGITS, places=NUMBER_PLACES)


def _limit(numbers: Decimals, limit: int) -> pa.Decimal128Scalar:
    return pa.scalar(Decimal(limit), numbers.values.type)


def _judge(texts: pa.StringArray, numbers: Decimals, outside: Mask) -> Judged:
    return judge(
        texts,
        plain_texts(numbers.values),
        {
            Refusal.FORMAT: numbers.malformed,
            Refusal.PLACES: numbers.too_precise,
            Refusal.RANGE: numbers.too_large | outside,
        },
    )
