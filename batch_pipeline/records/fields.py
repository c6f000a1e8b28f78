"""Kinds of fields: how a cell becomes a value, which rules it obeys, and the column that stores it."""

from abc import ABC
from dataclasses import dataclass, field
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.payloads.model import CellKind
from batch_pipeline.records import rules
from batch_pipeline.records.rules import Rule
from batch_pipeline.records.values.boolean import canonical_booleans
from batch_pipeline.records.values.email import canonical_emails
from batch_pipeline.records.values.phone import canonical_phones


@dataclass(frozen=True)
class RuleContext:
    """What rules depend on beside the value.

    Attributes:
        region: ISO 3166 code by which national phone numbers are read.
    """

    region: str


@dataclass(frozen=True)
class Field(ABC):
    """A field of a record.

    Attributes:
        name: the field's name, which is also its column's.
        required: a record can't be without it.
        sql_type: its column's type in PostgreSQL, as staged and stored.
        kinds: kinds of JSON values it may be given as.
        type_expectation: ends the sentence `field "value" …` where the kind is another.
    """

    name: str
    required: bool = field(default=False, kw_only=True)

    sql_type: ClassVar[str] = "text"
    kinds: ClassVar[frozenset[CellKind]] = frozenset({CellKind.TEXT})
    type_expectation: ClassVar[str] = "must be a text"

    def read(self, values: pa.StringArray, context: RuleContext) -> pa.Array:
        """Cleaned text -> the value to store, in its canonical form; null where the text can't be one.

        A null made here from a text is reported by the rule `refusal`.
        """
        del context
        return values

    def refusal(self, context: RuleContext) -> Rule | None:
        """The rule that reports what `read` refuses; None where it refuses nothing."""
        del context
        return None

    def rules(self) -> tuple[Rule, ...]:
        """Rules on the canonical text."""
        return ()


@dataclass(frozen=True)
class Text(Field):
    """Text of at most `max_length` characters."""

    max_length: int = 255

    def rules(self) -> tuple[Rule, ...]:
        """Length and characters."""
        return (rules.at_most(self.max_length), rules.no_control_characters())


@dataclass(frozen=True)
class RecordId(Field):
    """The record's own id, of the resource's prefix."""

    prefix: str = ""

    def rules(self) -> tuple[Rule, ...]:
        """The form of an id."""
        return (rules.record_id(self.prefix),)


@dataclass(frozen=True)
class Email(Field):
    """A mailbox by RFC 5321/5322, as email-validator accepts it without looking it up; domain in lower case."""

    def read(self, values: pa.StringArray, context: RuleContext) -> pa.StringArray:
        """The address with its domain in lower case."""
        return canonical_emails(values).values

    def refusal(self, context: RuleContext) -> Rule:
        """An address that is none."""
        return rules.not_refused("invalid_format", "is no valid email address: write it as name@example.com")


@dataclass(frozen=True)
class Phone(Field):
    """A phone number valid for its region, stored as E.164."""

    def read(self, values: pa.StringArray, context: RuleContext) -> pa.StringArray:
        """The number as E.164."""
        return canonical_phones(values, context.region).values

    def refusal(self, context: RuleContext) -> Rule:
        """A number that can't be dialled."""
        return rules.not_refused(
            "invalid_format",
            f"is no valid phone number: write it as +14155550132, or as it is dialled within {context.region}",
        )


@dataclass(frozen=True)
class Boolean(Field):
    """true/false, yes/no or 1/0."""

    sql_type: ClassVar[str] = "boolean"
    kinds: ClassVar[frozenset[CellKind]] = frozenset({CellKind.TEXT, CellKind.BOOLEAN, CellKind.NUMBER})
    type_expectation: ClassVar[str] = "must be true or false"

    def read(self, values: pa.StringArray, context: RuleContext) -> pa.BooleanArray:
        """What the word means."""
        return canonical_booleans(values)

    def refusal(self, context: RuleContext) -> Rule:
        """A word that is no boolean."""
        return rules.not_refused("invalid_type", "must be true or false (yes/no and 1/0 are read as well)")


@dataclass(frozen=True)
class KeyedText(Field):
    """An object of named texts, merged key by key: `metadata`.

    Flat files give its keys as dotted headers (`metadata.colour`). A null value removes a key.
    """

    max_pairs: int = 25
    max_key_length: int = 100
    max_value_length: int = 500

    sql_type: ClassVar[str] = "jsonb"
    kinds: ClassVar[frozenset[CellKind]] = frozenset({CellKind.OBJECT})
    type_expectation: ClassVar[str] = "must be an object of names and texts"

    def key_of(self, header: str) -> str | None:
        """The key that a dotted header names, or None where the header is not of this field."""
        prefix = f"{self.name}."
        return header.removeprefix(prefix) if header.startswith(prefix) and header != prefix else None

    def key_rules(self) -> tuple[Rule, ...]:
        """Rules on each key."""
        return (rules.at_most(self.max_key_length), rules.no_control_characters())

    def value_rules(self) -> tuple[Rule, ...]:
        """Rules on each value."""
        return (rules.at_most(self.max_value_length), rules.no_control_characters())


def refused(given: pa.StringArray, read: pa.Array) -> pa.BooleanArray:
    """Which given texts a field's reading refused."""
    return pc.and_(pc.is_valid(given), pc.is_null(read))
