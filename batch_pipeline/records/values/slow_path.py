"""What the kernels with a slow path share: their result, and running a function over distinct values only."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Mask = npt.NDArray[np.bool_]

# Validation and conversion of a chunk ask for the same values, one after the other. A chunk has 50,000 items by
# default (settings.chunk_rows) and most of them never come here, so that this holds a chunk's leftovers; full of
# values of usual length it takes about 20 MB.
CACHED_VALUES = 65_536


@dataclass(frozen=True)
class Canonical:
    """A column of values in canonical form.

    Attributes:
        values: string array; null where the input is null or invalid. A value is invalid where the input is not
            null and this is.
    """

    values: pa.StringArray

    def invalid(self, texts: pa.StringArray) -> pa.BooleanArray:
        """Which of ``texts``, the input that gave this, are invalid: never null, false where the input is null."""
        return pc.and_(pc.is_valid(texts), pc.is_null(self.values))


def as_mask(booleans: pa.BooleanArray) -> Mask:
    """The array as numpy booleans, null counting as false."""
    filled = booleans.fill_null(False) if booleans.null_count else booleans
    mask: Mask = filled.to_numpy(zero_copy_only=False)
    return mask


def matches(texts: pa.StringArray, pattern: str) -> Mask:
    """Which texts match the RE2 ``pattern`` (anywhere, unless it is anchored). Null texts don't."""
    return as_mask(pc.match_substring_regex(texts, pattern=pattern))


def decide_distinct(
    texts: pa.StringArray, accepted: Mask, decide: Callable[[pa.StringArray], pa.StringArray]
) -> pa.StringArray:
    """``texts`` with every value outside ``accepted`` replaced by what ``decide`` makes of it.

    ``decide`` gets the distinct values that are neither accepted nor null, once each, and gives an array of the
    same length.
    """
    left = ~accepted
    if texts.null_count:
        left &= as_mask(pc.is_valid(texts))
    if not left.any():
        return texts
    mask = pa.array(left)
    encoded = texts.filter(mask).dictionary_encode()
    return pc.replace_with_mask(texts, mask, decide(encoded.dictionary).take(encoded.indices))
