"""Tracking numbers: their canonical form, and their check digits where the carrier is known."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.values.carriers import Carrier, carrier_code, carriers
from batch_pipeline.values.judged import Judged, Refusal, judge
from batch_pipeline.values.masks import Mask, as_mask, matches, replace

TRACKING_MIN_CHARACTERS = 4
TRACKING_MAX_CHARACTERS = 50

_BLANKS_AND_DASHES = r"[\s\p{Z}\p{Pd}\x{2212}]+"
_SANDBOX = r"^(?i)PKGX-[A-Z0-9]{7}-[A-Z0-9]{7}$"


def canonical_tracking_numbers(texts: pa.StringArray, names: pa.StringArray, *, sandbox: bool = False) -> Judged:
    """Canonical numbers: upper-case letters and digits, without the blanks and dashes of the text.

    A number is refused for its carrier only if it has a format of the carrier with a wrong check digit, and no
    other format of the carrier with the right one. Numbers in other formats are accepted: carriers use more
    formats than they publish.

    Args:
        texts: the numbers.
        names: each number's carrier as given, by code or name in any spelling; null or unknown where nothing
            more is checked.
        sandbox: whether ``PKGX-XXXXXXX-XXXXXXX`` is a number of any carrier; it keeps its dashes.

    `Refusal.FORMAT` for other characters; `Refusal.TOO_SHORT` under 4 characters and `Refusal.TOO_LONG` over 50;
    `Refusal.CHECKSUM` for a wrong check digit.
    """
    numbers = pc.ascii_upper(pc.replace_substring_regex(texts, pattern=_BLANKS_AND_DASHES, replacement=""))
    is_sandbox = matches(texts, _SANDBOX) if sandbox else np.zeros(len(texts), np.bool_)
    if is_sandbox.any():
        numbers = replace(numbers, is_sandbox, pc.ascii_upper(texts.filter(pa.array(is_sandbox))))
    lengths = pc.binary_length(numbers)
    malformed = as_mask(pc.is_valid(texts)) & ~matches(numbers, "^[A-Z0-9]*$") & ~is_sandbox
    too_short = as_mask(pc.less(lengths, TRACKING_MIN_CHARACTERS)) & ~malformed
    too_long = as_mask(pc.greater(lengths, TRACKING_MAX_CHARACTERS)) & ~malformed
    complete = as_mask(pc.is_valid(texts)) & ~malformed & ~too_short & ~too_long & ~is_sandbox
    return judge(
        texts,
        numbers,
        {
            Refusal.FORMAT: malformed,
            Refusal.TOO_SHORT: too_short,
            Refusal.TOO_LONG: too_long,
            Refusal.CHECKSUM: _wrong_check_digits(numbers, names, complete),
        },
    )


def _wrong_check_digits(numbers: pa.StringArray, names: pa.StringArray, complete: Mask) -> Mask:
    """Which of the ``complete`` numbers have a wrong check digit for their carrier."""
    wrong = np.zeros(len(numbers), np.bool_)
    encoded = names.dictionary_encode()
    codes = [carrier_code(name) for name in encoded.dictionary.to_pylist()]
    name_indices = encoded.indices.fill_null(len(codes)).to_numpy()
    for code in {code for code in codes if code}:
        of_carrier = np.array([*(other == code for other in codes), False])[name_indices]
        positions = np.flatnonzero(of_carrier & complete)
        wrong[positions] = _are_wrong(numbers.take(pa.array(positions)), carriers()[code])
    return wrong


def _are_wrong(numbers: pa.StringArray, carrier: Carrier) -> Mask:
    right = np.zeros(len(numbers), np.bool_)
    wrong = np.zeros(len(numbers), np.bool_)
    for known in carrier.formats:
        is_right, is_wrong = known.judge(numbers)
        right |= is_right
        wrong |= is_wrong
    return wrong & ~right
