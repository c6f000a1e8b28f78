"""Masks over columns of texts, and running a slow function on distinct values only."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Mask = npt.NDArray[np.bool_]

# Validation and conversion of a chunk decide on the same values. A chunk has 50,000 items by default
# (Settings.chunk_rows), and the fast checks accept most of their values, so the other values of a chunk fit.
# A full cache with values of usual length takes about 20 MB.
CACHED_VALUES = 65_536


@dataclass(frozen=True)
class Canonical:
    """A column of values in canonical form.

    Attributes:
        values: string array, as long as the input; null where that is null or invalid.
    """

    values: pa.StringArray

    def invalid(self, texts: pa.StringArray) -> pa.BooleanArray:
        """Which of ``texts``, the kernel's input, are invalid: false, not null, for null."""
        return pc.and_(pc.is_valid(texts), pc.is_null(self.values))


def as_mask(booleans: pa.BooleanArray) -> Mask:
    """The array as numpy booleans; null becomes false."""
    filled = booleans.fill_null(False) if booleans.null_count else booleans
    mask: Mask = filled.to_numpy(zero_copy_only=False)
    return mask


def matches(texts: pa.StringArray, pattern: str) -> Mask:
    """Which texts match the RE2 ``pattern`` (anywhere, unless it is anchored). Null texts don't."""
    return as_mask(pc.match_substring_regex(texts, pattern=pattern))


def replace(texts: pa.StringArray, where: Mask, values: pa.StringArray) -> pa.StringArray:
    """``texts`` with the masked ones replaced by ``values``, in order."""
    return pc.replace_with_mask(texts, pa.array(where), values)


def decide_distinct(
    texts: pa.StringArray, accepted: Mask, decide: Callable[[pa.StringArray], pa.StringArray]
) -> pa.StringArray:
    """``texts`` with every value outside ``accepted`` replaced by the result of ``decide``.

    ``decide`` gets the distinct values that are neither accepted nor null, once each, and returns an array of the
    same length. It isn't called if there are none; then ``texts`` itself is returned.
    """
    left = ~accepted
    if texts.null_count:
        left &= as_mask(pc.is_valid(texts))
    if not left.any():
        return texts
    encoded = texts.filter(pa.array(left)).dictionary_encode()
    return replace(texts, left, decide(encoded.dictionary).take(encoded.indices))
