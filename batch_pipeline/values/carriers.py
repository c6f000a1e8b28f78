"""Carriers whose tracking numbers have a check digit, and the formats of these numbers.

`carriers.toml` has the facts and names their sources. The library `tracking-numbers` isn't used: its definitions are
of 2022, and it refuses services and formats that it doesn't list.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import cycle, islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.values.masks import Mask, matches
from batch_pipeline.values.text import first_characters


@dataclass(frozen=True)
class Format:
    """A format of tracking numbers with a check digit.

    Attributes:
        name: the carrier's own, or a description.
        pattern: what a number in canonical form matches as a whole (RE2).
        implied: digits that are summed before those of the number.
        weights: of the implied digits and the summed characters, from left to right.
        after: how many characters follow the check digit.
        digits: the check digit for each remainder of the sum, divided by the length of this.
        words: the algorithm in words, for the documentation.
        example: a published number.
    """

    name: str
    pattern: str
    implied: str
    weights: tuple[int, ...]
    after: int
    digits: str
    words: str
    example: str

    def judge(self, numbers: pa.StringArray) -> tuple[Mask, Mask]:
        """Which numbers have the format and the right check digit, and which have the format and a wrong one."""
        is_right = matches(numbers, f"^(?:{self.pattern})$")
        is_wrong = np.zeros(len(numbers), np.bool_)
        if not is_right.any():
            return is_right, is_wrong
        weights = self.weights[len(self.implied) :]
        count = len(weights) + 1
        end = -self.after if self.after else None
        characters = first_characters(
            pc.utf8_slice_codeunits(numbers.filter(pa.array(is_right)), -count - self.after, end), count
        )
        offset = sum(int(digit) * weight for digit, weight in zip(self.implied, self.weights, strict=False))
        total = np.full(len(characters), offset, np.int32)
        for place, weight in enumerate(weights):
            total += _VALUES[characters[:, place]] * np.int32(weight)
        expected = np.frombuffer(self.digits.encode(), np.uint8)[total % len(self.digits)]
        correct = characters[:, -1] == expected
        is_wrong[is_right] = ~correct
        is_right[is_right] = correct
        return is_right, is_wrong


@dataclass(frozen=True)
class Carrier:
    """A carrier: its code, its names in their usual spelling, and the formats that have a check digit."""

    code: str
    names: tuple[str, ...]
    formats: tuple[Format, ...]


@cache
def carriers() -> Mapping[str, Carrier]:
    """The carriers of `carriers.toml` by code."""
    data = tomllib.loads(resources.files(__package__).joinpath("carriers.toml").read_text(encoding="utf-8"))
    algorithms, listed = data["check_digits"], data["carriers"]
    return {
        code: Carrier(
            code,
            tuple(facts["names"]),
            tuple(
                _format(entry, algorithms[entry["check_digit"]])
                for source in (code, *facts.get("with", ()))
                for entry in listed[source]["formats"]
            ),
        )
        for code, facts in listed.items()
    }


def carrier_code(name: str) -> str | None:
    """The code of a carrier by its code or a name of it in any spelling (`FedEx`, `fed_ex`); None for others."""
    return _codes_by_name().get(_squeezed(name))


def _format(entry: Mapping[str, Any], algorithm: Mapping[str, Any]) -> Format:
    implied = entry.get("implied", "")
    weights = tuple(islice(cycle(algorithm["weights"]), len(implied) + entry["summed"]))
    return Format(
        name=entry["name"],
        pattern=entry["pattern"],
        implied=implied,
        weights=weights[::-1],
        after=entry.get("after", 0),
        digits=algorithm["digits"],
        words=algorithm["words"],
        example=entry["example"],
    )


@cache
def _codes_by_name() -> dict[str, str]:
    return {_squeezed(name): carrier.code for carrier in carriers().values() for name in (carrier.code, *carrier.names)}


def _squeezed(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())


def _value(code: int) -> int:
    return code - ord("0") if code <= ord("9") else (code - 3) % 10


_VALUES = np.array([_value(code) for code in range(128)], np.int32)
