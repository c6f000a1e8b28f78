"""Carriers whose tracking numbers are known, and what the library `tracking_numbers` says of a number.

The library's definitions stem from the open collection `tracking_number_data`. Where it is stricter than the
carriers are, or fails, this is said here.
"""

import re
from functools import lru_cache

import tracking_numbers
from tracking_numbers.definition import TrackingNumberDefinition
from tracking_numbers.types import TrackingNumber

from batch_pipeline.values.judged import Refusal
from batch_pipeline.values.masks import CACHED_VALUES

# Names that people give to carriers, beside the library's codes and names. What a carrier's other branches number
# (DHL eCommerce, DHL Paket) is not known: their names are left out on purpose.
_FURTHER_NAMES = {
    "dhl express": "dhl",
    "federal express": "fedex",
    "fedex express": "fedex",
    "fedex ground": "fedex",
    "united parcel service": "ups",
    "us postal service": "usps",
    "us post": "usps",
    "amazon logistics": "amazon",
    "upu s10": "s10",
}
# Designated operators of the Universal Postal Union, which carry each other's items under the numbers of its
# standard S10.
_POSTAL_CARRIERS = ("usps", "dhl")
# To the library a UPS number is wrong if its service is none of 26. The collection names services only to describe
# them; UPS has many more, and numbers with these are seen every day.
_DESCRIPTIVE = {"ups": "Service Type"}


def carrier_code(name: str) -> str | None:
    """The code of a known carrier, by its code or name in any spelling (`FedEx`, `fed_ex`); None for others."""
    return _codes_by_name().get(_squeezed(name))


@lru_cache(maxsize=CACHED_VALUES)
def judge_number(number: str, carrier: str) -> Refusal | None:
    """Why the library refuses a number of a known carrier: FORMAT or CHECKSUM; None where it accepts it.

    Args:
        number: in canonical form.
        carrier: a code, as `carrier_code` gives it.
    """
    has_checksum_error = False
    for definition in _definitions()[carrier]:
        # Upper-case is canonical here, but the library knows CDL's hexadecimal numbers in lower case only.
        for written in (number, number.lower()):
            errors = _errors(definition, written)
            if errors is not None and not errors:
                return None
            has_checksum_error |= errors == {"checksum"}
    return Refusal.CHECKSUM if has_checksum_error else Refusal.FORMAT


def _errors(definition: TrackingNumberDefinition, number: str) -> set[str] | None:
    """What is wrong with a number of the definition's format; None for a number of another format."""
    try:
        tested: TrackingNumber | None = definition.test(number)
    except ValueError:
        # The format of UPS has a letter as check digit, too, which the library then can't read as a number.
        return {"checksum"}
    if tested is None:
        return None
    return {name for name, _ in tested.validation_errors} - {_DESCRIPTIVE.get(definition.courier.code)}


@lru_cache(maxsize=1)
def _definitions() -> dict[str, list[TrackingNumberDefinition]]:
    """The library's definitions by carrier."""
    definitions: dict[str, list[TrackingNumberDefinition]] = {}
    for definition in tracking_numbers.DEFINITIONS:
        definitions.setdefault(definition.courier.code, []).append(definition)
    for carrier in _POSTAL_CARRIERS:
        definitions[carrier] += definitions["s10"]
    return definitions


@lru_cache(maxsize=1)
def _codes_by_name() -> dict[str, str]:
    names = {_squeezed(name): code for name, code in _FURTHER_NAMES.items()}
    for definition in tracking_numbers.DEFINITIONS:
        courier = definition.courier
        names |= {_squeezed(courier.code): courier.code, _squeezed(courier.name): courier.code}
    return names


def _squeezed(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())
