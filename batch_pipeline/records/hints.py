"""What a sender can do about an error: hints for values of a known wrong form, and what a field expects.

A hint never contains the value, so it can be shown where values must not be.
"""

import re
from collections.abc import Iterator
from functools import singledispatch

from batch_pipeline.records.fields import Boolean, Choice, Email, Field, Phone, RuleContext
from batch_pipeline.records.header_names import header_names, nearest
from batch_pipeline.records.lists import ScalarList
from batch_pipeline.records.nested import Nested
from batch_pipeline.records.object_lists import ObjectList
from batch_pipeline.records.objects import KeyedObject
from batch_pipeline.records.resource import Resource
from batch_pipeline.records.typed_fields import Currency, Latitude, Longitude, Measure, Moment, Money

WRONG_VALUES = frozenset({"invalid_format", "invalid_type", "not_allowed", "out_of_range"})

# Errors that do not depend on the kind of field.
_BY_CODE = {
    "duplicate_key": "keep one of the items, or set duplicate_handling to use_first or use_last",
    "id_not_found": "leave id empty to create the record, or identify the record by external_id",
    "reference_not_found": "create the record first, or correct the reference",
    "ambiguous_match": "identify the record by its id",
    "unreadable_row": "give each row as many cells as the header and quote cells that contain the delimiter; "
    "give each JSON item as one object without repeated keys",
    "too_many": "give fewer",
}

_DAY_FIRST = re.compile(r"\d{1,2}[./-]\d{1,2}[./-]\d{2,4}\b.*")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_WITHOUT_OFFSET = re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2}([.,]\d+)?)?")
_DECIMAL_COMMA = re.compile(r"-?(\d{1,3}([.' ]\d{3})+|\d+),(\d{1,2}|\d{4,})|-?\d{1,3}([.' ]\d{3})+,\d{3}")
_THOUSANDS = re.compile(r"-?\d{1,3}((,\d{3})+\.\d+|(,\d{3}){2,}|([' ]\d{3})+(\.\d+)?)")
_WITH_CURRENCY = re.compile(r"([$€£¥]|[A-Za-z]{3})\s*-?[\d.,' ]+|-?[\d.,' ]+\s*([$€£¥]|[A-Za-z]{3})")
_CURRENCY_SIGNS = {"€": "eur", "£": "gbp", "₹": "inr", "₩": "krw", "₽": "rub", "₺": "try"}
_NATIONAL_NUMBER = re.compile(r"(?!00)[\d(][\d\s()./-]{4,}")
_SEVERAL_ADDRESSES = re.compile(r"\S+@\S+[;,\s]+\S+@\S+.*", re.DOTALL)
_NAME_AND_ADDRESS = re.compile(r".*<\s*\S+@\S+\s*>|mailto:.*", re.IGNORECASE)
_YES_OR_NO = frozenset({"y", "n", "t", "f", "on", "off", "x", "ja", "nein", "oui", "non", "si", "sí", "wahr", "falsch"})


def field_at(resource: Resource, path: str | None) -> Field | None:
    """The field of an error's path (`name`, `sender.email`, `parcels.0.weight`); None if there is no one field."""
    if path is None:
        return None
    name, _, rest = path.partition(".")
    field = next((each for each in resource.fields if each.name == name), None)
    if not rest or field is None:
        return field
    if isinstance(field, KeyedObject):
        return next((key for key in field.keys if key.name == rest), None)
    place, _, key_name = rest.partition(".")
    if isinstance(field, ObjectList):
        return next((key for key in field.keys if key.name == key_name), None)
    if isinstance(field, ScalarList) and place.isdecimal():
        return field.elements[min(int(place), len(field.elements) - 1)]
    return None


def hint(field: Field, code: str, value: str, context: RuleContext) -> str | None:
    """What would make this wrong value right; None if that is uncertain."""
    return _hint(field, value.strip(), context) if code in WRONG_VALUES else None


def expected(resource: Resource, path: str | None, code: str, context: RuleContext) -> str | None:
    """What is expected wherever the field has an error of this code; None if nothing is certain."""
    if code in _BY_CODE:
        return _BY_CODE[code]
    if code == "unknown_field":
        return _known_name(resource, str(path))
    field = field_at(resource, path)
    if code == "required" and path is not None:
        default = f", or a default for all items (properties: {path})" if resource.takes_default(path) else ""
        return "give the id of each record" if path == "id" else f"give a value{default}"
    texts = dict.fromkeys(_expectations(resource, field, path, code, context))
    if code == "conflict" and len(texts) > 1:  # which of them applies is in each message
        return None
    return "; or ".join(map(_advice, texts)) or None


def _known_name(resource: Resource, path: str) -> str:
    name, dot, rest = path.partition(".")
    begin = name + dot if dot else ""
    known = (each.removeprefix(begin) for each in header_names(resource) if each.startswith(begin))
    found = nearest(rest if dot else path, known)
    if found is not None:
        return f"did you mean {begin}{found}?"
    return "remove or rename it" if rest else "remove or rename it, or set unknown_columns to ignore"


def _expectations(
    resource: Resource, field: Field | None, path: str | None, code: str, context: RuleContext
) -> Iterator[str]:
    if field is not None:
        yield from (each.expectation for each in field.complaints(context).values() if each.code == code)
        yield from (each.expectation for each in field.rules() if each.code == code)
        if code == "invalid_type" and isinstance(field, Nested):
            yield field.type_expectation
    yield from (rule.expectation for rule in resource.record_rules if (rule.field, rule.code) == (path, code))


def _advice(expectation: str) -> str:
    """The end of an error's sentence as advice: "is not a time: write it as …" -> "write it as …"."""
    advice = expectation.partition(": ")[2] or expectation
    for begin in ("is longer than ", "has more than "):
        advice = advice.replace(begin, "at most ")
    return advice


@singledispatch
def _hint(field: Field, value: str, context: RuleContext) -> str | None:
    """A hint for a value of this kind of field. Kinds without hints need no function."""
    del field, value, context
    return None


@_hint.register
def _(field: Choice, value: str, context: RuleContext) -> str | None:
    del context
    found = nearest(value, field.values)
    return None if found is None else f"use {found}"


@_hint.register
def _(field: Currency, value: str, context: RuleContext) -> str | None:
    del field, context
    return f"use {_CURRENCY_SIGNS[value]}" if value in _CURRENCY_SIGNS else None


@_hint.register
def _(field: Moment, value: str, context: RuleContext) -> str | None:
    del field, context
    if _DATE.fullmatch(value):
        return "add a time and an offset: 2026-01-31T00:00:00Z"
    if _WITHOUT_OFFSET.fullmatch(value):
        return "add an offset: 2026-01-31T12:30:00Z or 2026-01-31T12:30:00+01:00"
    return "write the year first: 2026-01-31T12:30:00Z" if _DAY_FIRST.fullmatch(value) else None


@_hint.register(Money)
@_hint.register(Measure)
@_hint.register(Latitude)
@_hint.register(Longitude)
def _(field: Field, value: str, context: RuleContext) -> str | None:
    del context
    if _DECIMAL_COMMA.fullmatch(value):
        return "write a decimal point and no thousands separators: 1250.00"
    if _THOUSANDS.fullmatch(value):
        return "leave out thousands separators: 1250.00"
    if isinstance(field, Money) and _WITH_CURRENCY.fullmatch(value):
        return "leave out the currency: it has a field of its own"
    return None


@_hint.register
def _(field: Phone, value: str, context: RuleContext) -> str | None:
    del field
    if _NATIONAL_NUMBER.fullmatch(value):
        return f"numbers without + are read as those of {context.region}: set default_region, or write +14155550132"
    return None


@_hint.register
def _(field: Boolean, value: str, context: RuleContext) -> str | None:
    del field, context
    return "use true or false" if value.casefold() in _YES_OR_NO else None


@_hint.register
def _(field: Email, value: str, context: RuleContext) -> str | None:
    del field, context
    if _SEVERAL_ADDRESSES.fullmatch(value):
        return "give one address; alternate_emails takes others"
    return "give the address alone: name@example.com" if _NAME_AND_ADDRESS.fullmatch(value) else None
