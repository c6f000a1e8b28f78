"""The result of kernels that can refuse a value for more than one reason."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.values.masks import Mask, as_mask


class Refusal(Enum):
    """Why a value is refused.

    FORMAT: the text is not a value of this kind. PLACES: too many decimal places. RANGE: outside of the allowed
    range. TOO_SHORT, TOO_LONG: too few or too many characters. CHECKSUM: the check digit is wrong.
    """

    FORMAT = auto()
    PLACES = auto()
    RANGE = auto()
    TOO_SHORT = auto()
    TOO_LONG = auto()
    CHECKSUM = auto()


@dataclass(frozen=True)
class Judged:
    """A column of values in canonical form.

    Attributes:
        values: as long as the input; null where that is null or refused.
        refused: the mask for each reason that the kernel knows. A refused value has exactly one reason.
    """

    values: pa.Array
    refused: Mapping[Refusal, Mask]

    def invalid(self, *reasons: Refusal) -> pa.BooleanArray:
        """Which values are refused for one of the reasons (for any without arguments); false, not null, for null."""
        found = np.zeros(len(self.values), np.bool_)
        for reason in reasons or self.refused:
            found |= self.refused[reason]
        return pa.array(found)


def judge(texts: pa.StringArray, canonical: pa.Array, reasons: Mapping[Refusal, Mask]) -> Judged:
    """The result for ``texts``, from their possible canonical forms and the reasons against them.

    If several reasons hold for a value, the first one counts. Null is not refused.
    """
    left = as_mask(pc.is_valid(texts))
    refused: dict[Refusal, Mask] = {}
    for reason, mask in reasons.items():
        refused[reason] = mask & left
        left &= ~mask
    if not left.all():
        canonical = pc.if_else(pa.array(left), canonical, pa.scalar(None, canonical.type))
    return Judged(canonical, refused)


def judge_distinct(texts: pa.StringArray, asked: Mask, decide: Callable[[str], str | Refusal]) -> Judged:
    """The result for the texts in ``asked``; all others are null and not refused.

    ``decide`` returns the canonical form of a text, or the reason to refuse it. It is called once for each distinct
    text.
    """
    encoded = texts.filter(pa.array(asked)).dictionary_encode()
    answers = [decide(text) for text in encoded.dictionary.to_pylist()]
    indices = encoded.indices.to_numpy()
    canonical = pa.array([answer if isinstance(answer, str) else None for answer in answers], pa.string())
    values = pc.replace_with_mask(pa.nulls(len(texts), pa.string()), pa.array(asked), canonical.take(encoded.indices))
    refused: dict[Refusal, Mask] = {}
    for reason in {answer for answer in answers if isinstance(answer, Refusal)}:
        mask = np.zeros(len(texts), np.bool_)
        mask[asked] = np.array([answer is reason for answer in answers])[indices]
        refused[reason] = mask
    return Judged(values, refused)
