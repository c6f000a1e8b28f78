"""Tracking numbers: their canonical form, and whether they are numbers of their carrier.

Numbers of the commonest formats are accepted by arithmetic on whole columns. About all others of a known carrier
`carriers.judge_number` decides.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.values.carriers import carrier_code, judge_number
from batch_pipeline.values.judged import Judged, Refusal, judge
from batch_pipeline.values.masks import Mask, as_mask, matches, replace
from batch_pipeline.values.text import first_characters

TRACKING_MIN_CHARACTERS = 4
TRACKING_MAX_CHARACTERS = 50

_BLANKS_AND_DASHES = r"[\s\p{Z}\p{Pd}\x{2212}]+"
_SANDBOX = r"^(?i)PKGX-[A-Z0-9]{7}-[A-Z0-9]{7}$"


@dataclass(frozen=True)
class Format:
    """A format of fixed length whose check digit stands last.

    Attributes:
        pattern: what numbers of the format match.
        start: where the characters that the check digit is computed of begin.
        weights: one for each of these characters.
        moduli: the sum's remainders are taken by these, one after the other.
        complement: whether the check digit is what the sum lacks to a multiple of the modulus.
    """

    pattern: str
    start: int
    weights: tuple[int, ...]
    moduli: tuple[int, ...]
    complement: bool

    def accepts(self, numbers: pa.StringArray) -> Mask:
        """Which numbers have the format and the right check digit."""
        accepted = matches(numbers, self.pattern)
        if accepted.any():
            chosen = numbers.filter(pa.array(accepted))
            characters = first_characters(chosen, self.start + len(self.weights) + 1)[:, self.start :]
            total = np.zeros(len(chosen), np.int32)
            for place, weight in enumerate(self.weights):
                total += _values(characters[:, place]) * weight
            for modulus in self.moduli:
                total %= modulus
            check = -total % self.moduli[-1] if self.complement else total
            accepted[accepted] = check == _values(characters[:, -1])
        return accepted


def _mod10(pattern: str, start: int, pair: tuple[int, int], count: int) -> Format:
    return Format(pattern, start, (pair * count)[:count], (10,), complement=True)


_FORMATS: Mapping[str, tuple[Format, ...]] = {
    "ups": (_mod10("^1Z[A-Z0-9]{15}[0-9]$", 2, (1, 2), 15),),
    "usps": (
        _mod10("^9[1-5][0-9]{20}$", 0, (3, 1), 21),
        _mod10("^(?:03|71|73|77|81)[0-9]{18}$", 0, (3, 1), 19),
    ),
    "fedex": (
        Format("^[0-9]{12}$", 0, (3, 1, 7, 3, 1, 7, 3, 1, 7, 3, 1), (11, 10), complement=False),
        _mod10("^[0-9]{15}$", 0, (1, 3), 14),
        _mod10("^96[0-9]{20}$", 7, (1, 3), 14),
    ),
    # The remainder by seven of the number that the digits form.
    "dhl": tuple(
        Format(f"^[0-9]{{{digits + 1}}}$", 0, tuple(10**place % 7 for place in reversed(range(digits))), (7,), False)
        for digits in (9, 10)
    ),
}


def canonical_tracking_numbers(texts: pa.StringArray, carriers: pa.StringArray, *, sandbox: bool = False) -> Judged:
    """Canonical numbers: upper-case letters and digits, without the blanks and dashes of the text.

    Args:
        texts: the numbers.
        carriers: of each number its carrier as given, in any case and spelling; null or unknown where there is
            nothing more to check.
        sandbox: whether ``PKGX-XXXXXXX-XXXXXXX`` is a number, of whatever carrier; it keeps its dashes.

    `Refusal.FORMAT` for other characters, or where a known carrier has no such numbers; `Refusal.TOO_SHORT` under 4
    characters and `Refusal.TOO_LONG` over 50; `Refusal.CHECKSUM` for a wrong check digit.
    """
    numbers = pc.ascii_upper(pc.replace_substring_regex(texts, pattern=_BLANKS_AND_DASHES, replacement=""))
    is_sandbox = matches(texts, _SANDBOX) if sandbox else np.zeros(len(texts), np.bool_)
    if is_sandbox.any():
        numbers = replace(numbers, is_sandbox, pc.ascii_upper(texts.filter(pa.array(is_sandbox))))
    lengths = pc.binary_length(numbers)
    malformed = as_mask(pc.is_valid(texts)) & ~matches(numbers, "^[A-Z0-9]*$") & ~is_sandbox
    too_short = as_mask(pc.less(lengths, TRACKING_MIN_CHARACTERS)) & ~malformed
    too_long = as_mask(pc.greater(lengths, TRACKING_MAX_CHARACTERS)) & ~malformed
    asked = as_mask(pc.is_valid(texts)) & ~malformed & ~too_short & ~too_long & ~is_sandbox
    wrong = _judge_by_carrier(numbers, carriers, asked)
    return judge(
        texts,
        numbers,
        {
            Refusal.FORMAT: malformed | wrong[Refusal.FORMAT],
            Refusal.TOO_SHORT: too_short,
            Refusal.TOO_LONG: too_long,
            Refusal.CHECKSUM: wrong[Refusal.CHECKSUM],
        },
    )


def accepts_tracking_numbers(numbers: pa.StringArray, carrier: str) -> Mask:
    """Which numbers are certainly the carrier's. Of the others nothing is said: the library has to be asked."""
    accepted = np.zeros(len(numbers), np.bool_)
    for known in _FORMATS.get(carrier, ()):
        accepted |= known.accepts(numbers)
    return accepted


def _judge_by_carrier(numbers: pa.StringArray, carriers: pa.StringArray, asked: Mask) -> dict[Refusal, Mask]:
    """Where numbers in ``asked`` aren't those of their known carrier, and why."""
    wrong = {reason: np.zeros(len(numbers), np.bool_) for reason in (Refusal.FORMAT, Refusal.CHECKSUM)}
    names = carriers.dictionary_encode()
    codes = [carrier_code(name) for name in names.dictionary.to_pylist()]
    of_row = names.indices.fill_null(len(codes)).to_numpy()
    for code in sorted({code for code in codes if code}):
        of_carrier = np.array([*(known == code for known in codes), False])[of_row]
        positions = np.flatnonzero(of_carrier & asked)
        chosen = numbers.take(pa.array(positions))
        left = ~accepts_tracking_numbers(chosen, code)
        encoded = chosen.filter(pa.array(left)).dictionary_encode()
        answers = [judge_number(number, code) for number in encoded.dictionary.to_pylist()]
        for reason, mask in wrong.items():
            holds = np.array([answer is reason for answer in answers], np.bool_)
            mask[positions[left]] = holds[encoded.indices.to_numpy()]
    return wrong


def _values(characters: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """What digits and capital letters count in a check digit: letters as UPS has them."""
    return _VALUES[characters]


def _value(code: int) -> int:
    return code - ord("0") if code <= ord("9") else (code - 3) % 10


_VALUES = np.array([_value(code) for code in range(128)], np.int32)
