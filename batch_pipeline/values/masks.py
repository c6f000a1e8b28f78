"""Masks over columns of texts, and running a slow function on distinct values only."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Mask = npt.NDArray[np.bool_]

# Validation and conversion of a chunk ask for the same values, one after the other. A chunk has 50,000 items
# by default (Settings.chunk_rows) and most of their values never come here, so that a chunk's leftovers fit;
# full of values of usual length a cache of this size takes about 20 MB.
CACHED_VALUES = 65_536


@dataclass(frozen=True)
class Canonical:
    """A column of values in canonical form.

    Attributes:
        values: string array, as long as the input; null where that is null or invalid.
    """

    values: pa.StringArray

    def invalid(self, texts: pa.StringArray) -> pa.BooleanArray:
        """Which of ``texts``, the input that gave this, are invalid: false, not null, for null."""
        return pc.and_(pc.is_valid(texts), pc.is_null(self.values))


def as_mask(booleans: pa.BooleanArray) -> Mask:
    """The array as numpy booleans, null counting as false."""
    filled = booleans.fill_null(False) if booleans.null_count else booleans
    mask: Mask = filled.to_numpy(zero_copy_only=False)
    return mask


def matches(texts: pa.StringArray, pattern: str) -> Mask:
    """Which texts match the RE2 ``pattern`` (anywhere, unless it is anchored). Null texts don't."""
    return as_mask(pc.match_substring_regex(texts, pattern=pattern))


def replace(texts: pa.StringArray, where: Mask, values: pa.StringArray) -> pa.StringArray:
    """``texts`` with those in ``where`` replaced by ``values``, one after the other."""
    return pc.replace_with_mask(texts, pa.array(where), values)


def decide_distinct(
    texts: pa.StringArray, accepted: Mask, decide: Callable[[pa.StringArray], pa.StringArray]
) -> pa.StringArray:
    """``texts`` with every value outside ``accepted`` replaced by what ``decide`` makes of it.

    ``decide`` gets the distinct values that are neither accepted nor null, once each, and gives an array of
    the same length. If there are none it isn't called, and ``texts`` itself is the answer.
    """
    left = ~accepted
    if texts.null_count:
        left &= as_mask(pc.is_valid(texts))
    if not left.any():
        return texts
    encoded = texts.filter(pa.array(left)).dictionary_encode()
    return replace(texts, left, decide(encoded.dictionary).take(encoded.indices))
