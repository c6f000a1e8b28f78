"""Kinds of fields: how a text becomes a value, the rules on the value, and the column that stores it."""

from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.payloads.model import CellKind
from batch_pipeline.records import rules
from batch_pipeline.records.rules import Complaint, Rule
from batch_pipeline.values.boolean import canonical_booleans
from batch_pipeline.values.email import canonical_emails
from batch_pipeline.values.judged import Judged, Refusal
from batch_pipeline.values.masks import as_mask
from batch_pipeline.values.phone import canonical_phones


@dataclass(frozen=True)
class RuleContext:
    """Facts that rules need in addition to the value.

    Attributes:
        region: ISO 3166 code of the region of national phone numbers.
    """

    region: str


@dataclass(frozen=True)
class Field(ABC):
    """A field of a record.

    Attributes:
        name: name of the field and of its column.
        required: every record must have a value.
        default: canonical text of the value of a new record, and of a record whose field is cleared. It is also the
            column's default in PostgreSQL.
        sql_type: type of the column in PostgreSQL, staged and stored.
        arrow_type: type of the values that `read` returns. PostgreSQL reads their text as `sql_type`.
        is_number: the values are numbers in JSON objects and lists, not texts.
        is_column: the resource's table has a column for it; otherwise another table stores it.
        merges_by_key: an item gives a JSON object with the keys to change; null removes a key.
        kinds: kinds of JSON values that are accepted.
        type_expectation: ends the message `field "value" …` for another kind.
    """

    name: str
    required: bool = field(default=False, kw_only=True)
    default: str | None = field(default=None, kw_only=True)

    sql_type: ClassVar[str] = "text"
    arrow_type: ClassVar[pa.DataType] = pa.string()
    is_number: ClassVar[bool] = False
    is_column: ClassVar[bool] = True
    merges_by_key: ClassVar[bool] = False
    kinds: ClassVar[frozenset[CellKind]] = frozenset({CellKind.TEXT})
    type_expectation: ClassVar[str] = "must be a text"

    @property
    def initial(self) -> str | None:
        """Text of the stored value if the field was never given, or was cleared; None: null."""
        return self.default

    def read(self, texts: pa.StringArray, context: RuleContext) -> Judged:
        """Cleaned texts -> the canonical values to store (`arrow_type`), and for each reason the refused texts."""
        del context
        return Judged(texts, {})

    def complaints(self, context: RuleContext) -> Mapping[Refusal, Complaint]:
        """The error for each reason for which `read` can refuse a text."""
        del context
        return {}

    def rules(self) -> tuple[Rule, ...]:
        """Rules on the canonical value."""
        return ()

    def key_of(self, header: str) -> str | None:
        """The part of this field that a dotted header names; None if it names none."""
        del header
        return None

    def takes_default(self, header: str) -> bool:
        """Whether a batch may give a default value under this header."""
        return header == self.name


@dataclass(frozen=True)
class Text(Field):
    """Text of at most `max_length` characters."""

    max_length: int = 255

    def rules(self) -> tuple[Rule, ...]:
        """Length and characters."""
        return (rules.at_most(self.max_length), rules.no_control_characters())


@dataclass(frozen=True)
class RecordId(Field):
    """The record's own id, with the resource's prefix."""

    prefix: str = ""

    def rules(self) -> tuple[Rule, ...]:
        """The form of an id."""
        return (rules.record_id(self.prefix),)


@dataclass(frozen=True)
class Email(Field):
    """A mailbox by RFC 5321/5322, as email-validator accepts it without DNS look-ups; domain in lower case."""

    def read(self, texts: pa.StringArray, context: RuleContext) -> Judged:
        """The address with its domain in lower case."""
        return refused_for_format(texts, canonical_emails(texts).values)

    def complaints(self, context: RuleContext) -> Mapping[Refusal, Complaint]:
        """Not an address."""
        expectation = "is not a valid email address: write it as name@example.com"
        return {Refusal.FORMAT: Complaint("invalid_format", expectation)}


@dataclass(frozen=True)
class Phone(Field):
    """A phone number valid for its region, stored as E.164."""

    def read(self, texts: pa.StringArray, context: RuleContext) -> Judged:
        """The number as E.164."""
        return refused_for_format(texts, canonical_phones(texts, context.region).values)

    def complaints(self, context: RuleContext) -> Mapping[Refusal, Complaint]:
        """Not a valid number."""
        expectation = (
            f"is not a valid phone number: write it as +14155550132, or as it is dialled within {context.region}"
        )
        return {Refusal.FORMAT: Complaint("invalid_format", expectation)}


@dataclass(frozen=True)
class Boolean(Field):
    """true/false, yes/no or 1/0."""

    sql_type: ClassVar[str] = "boolean"
    arrow_type: ClassVar[pa.DataType] = pa.bool_()
    kinds: ClassVar[frozenset[CellKind]] = frozenset({CellKind.TEXT, CellKind.BOOLEAN, CellKind.NUMBER})
    type_expectation: ClassVar[str] = "must be true or false"

    def read(self, texts: pa.StringArray, context: RuleContext) -> Judged:
        """The boolean that the word means."""
        return refused_for_format(texts, canonical_booleans(texts))

    def complaints(self, context: RuleContext) -> Mapping[Refusal, Complaint]:
        """Not a boolean."""
        expectation = "must be true or false (yes/no and 1/0 are read as well)"
        return {Refusal.FORMAT: Complaint("invalid_type", expectation)}


@dataclass(frozen=True)
class Choice(Field):
    """One of some words, in exactly this spelling."""

    values: tuple[str, ...] = ()

    def rules(self) -> tuple[Rule, ...]:
        """One of the words."""
        return (rules.one_of(self.values),)


@dataclass(frozen=True)
class ForeignId(Field):
    """The id of a thing that this system does not keep. Only its format is checked."""

    prefix: str = ""

    def rules(self) -> tuple[Rule, ...]:
        """The form of the id."""
        return (rules.foreign_id(self.prefix),)


def refused_for_format(texts: pa.StringArray, values: pa.Array) -> Judged:
    """Texts without a value are refused for their format. For kernels that have no other reason."""
    return Judged(values, {Refusal.FORMAT: as_mask(pc.and_(pc.is_valid(texts), pc.is_null(values)))})
