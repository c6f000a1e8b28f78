"""For the resources' pages: which values each kind of field accepts, and how they are stored."""

from functools import singledispatch

from batch_pipeline.records.fields import Boolean, Choice, Email, Field, ForeignId, Phone, RecordId, Text
from batch_pipeline.records.keyed import KeyedText
from batch_pipeline.records.lists import ListField, ScalarList
from batch_pipeline.records.object_lists import ObjectList
from batch_pipeline.records.objects import KeyedObject
from batch_pipeline.records.references import Belongs, MarkedMembers, Members
from batch_pipeline.records.typed_fields import (
    Currency,
    Latitude,
    Longitude,
    Measure,
    Moment,
    Money,
    TrackingNumber,
    Url,
)


@singledispatch
def value_text(field: Field) -> str:
    """The accepted values and how they are stored. A new kind of field needs one more registered function."""
    raise TypeError(f"no description of the kind {type(field).__name__}: register one with value_text")


@value_text.register
def _(field: Text) -> str:
    return f"text, at most {field.max_length:,} characters"


@value_text.register
def _(field: RecordId) -> str:
    return f"the record's own id, made by this system: `{field.prefix}` and 22 letters and digits"


@value_text.register
def _(field: Email) -> str:
    return "email address (RFC 5321/5322, without looking it up); stored with its domain in lower case"


@value_text.register
def _(field: Phone) -> str:
    return "phone number, international or as dialled within the batch's region; stored as E.164"


@value_text.register
def _(field: Boolean) -> str:
    return "true/false, yes/no or 1/0"


@value_text.register
def _(field: Choice) -> str:
    return f"one of {', '.join(f'`{value}`' for value in field.values)}"


@value_text.register
def _(field: ForeignId) -> str:
    return f"`{field.prefix}` and 1 to 64 letters, digits, `-` or `_`; only this is checked"


@value_text.register
def _(field: KeyedText) -> str:
    return (
        f"at most {field.max_pairs} pairs of names (to {field.max_key_length} characters) and texts "
        f"(to {field.max_value_length}), merged key by key; null removes a key. "
        f"Flat files: one column per key, `{field.name}.colour`"
    )


@value_text.register
def _(field: KeyedObject) -> str:
    by_text: dict[str, list[str]] = {}
    for key in field.keys:
        by_text.setdefault(value_text(key), []).append(f"`{key.name}`")
    keys = "; ".join(f"{', '.join(names)} ({text})" for text, names in by_text.items())
    return (
        f"an object with the keys {keys}; merged key by key, null removes a key. "
        f"Flat files: one column per key, `{field.name}.{field.keys[0].name}`"
    )


@value_text.register
def _(field: ScalarList) -> str:
    if field.min_items == field.max_items:
        elements = "; ".join(value_text(element) for element in field.elements)
        what = f"a list of exactly {field.max_items}: {elements}"
    else:
        what = f"a list of {_at_most(field)}, each {value_text(field.elements[0])}"
    equal = ", equal ones being one" if field.distinct else ""
    return (
        f"{what}{equal}; replaced as a whole. Flat files: one cell, comma-separated or a JSON array, or one column per "
        f"element, `{field.name}.0`"
    )


@value_text.register
def _(field: ObjectList) -> str:
    keys = "; ".join(f"`{key.name}` ({value_text(key)})" for key in field.keys)
    return (
        f"a list of {_at_most(field)}, each an object with the keys {keys}; replaced as a whole. "
        f"Flat files: one cell with a JSON array, or one column per value, `{field.name}.0.{field.keys[0].name}`"
    )


@value_text.register
def _(field: Belongs) -> str:
    return (
        f"the {field.target.table} that it belongs to, each by {field.target.ways}: `{{add, remove, set}}`, "
        "a plain list adds; repeated ones count once. Flat files: one cell, comma-separated or a JSON array, or the "
        f"columns {', '.join(f'`{field.name}.{operation}`' for operation in field.operations)}"
    )


@value_text.register
def _(field: Members) -> str:
    other = field.elsewhere
    also = f"; where `{other.field}` is {other.value}, ids: `{other.prefix}…`" if other else ""
    return (
        f"its members, exactly these: {field.target.table}, each by {field.target.ways}{also}. "
        "Flat files: one cell, comma-separated or a JSON array"
    )


@value_text.register
def _(field: MarkedMembers) -> str:
    return (
        f"which of the `{field.of}` are marked as `{field.link.mark}`, exactly these, given as there. "
        "Flat files: one cell, comma-separated or a JSON array"
    )


def _at_most(field: ListField) -> str:
    return f"at most {field.max_items:,}"


@value_text.register
def _(field: Money) -> str:
    return "amount of 0 or more, with at most two decimal places; kept as a decimal"


@value_text.register
def _(field: Currency) -> str:
    return "code of ISO 4217 in any case; stored in lower case"


@value_text.register
def _(field: Moment) -> str:
    return "time: epoch seconds, or ISO 8601 with an offset"


@value_text.register
def _(field: Url) -> str:
    return "http or https URL, at most 2,000 characters"


@value_text.register
def _(field: Measure) -> str:
    return "number above 0"


@value_text.register
def _(field: Latitude) -> str:
    return "latitude, -90 to 90"


@value_text.register
def _(field: Longitude) -> str:
    return "longitude, -180 to 180"


@value_text.register
def _(field: TrackingNumber) -> str:
    sandbox = "; sandbox numbers `PKGX-XXXXXXX-XXXXXXX` keep their dashes" if field.sandbox else ""
    return (
        "4 to 50 letters and digits, stored in upper case without blanks and dashes; its check digit is right where "
        f"[the carrier's formats](tracking-numbers.md) have one{sandbox}"
    )
