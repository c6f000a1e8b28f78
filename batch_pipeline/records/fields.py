"""Kinds of fields: how a cell becomes a value, which rules it obeys, and the column that stores it."""

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
        default: canonical text of the value that a new record gets, and one whose field is cleared; the column's
            default in PostgreSQL as well.
        sql_type: its column's type in PostgreSQL, as staged and stored.
        arrow_type: type of the values that `read` gives, which PostgreSQL takes for `sql_type` as text.
        is_number: within an object or list its values are numbers, not texts.
        is_column: the record's table has it as a column; otherwise it is kept in other tables.
        merges_by_key: what an item gives is a JSON object of the keys to change, null for those to remove.
        kinds: kinds of JSON values it may be given as.
        type_expectation: ends the sentence `field "value" …` where the kind is another.
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
        """Text of what a record has in the field that was never given, or was cleared; None: nothing."""
        return self.default

    def read(self, texts: pa.StringArray, context: RuleContext) -> Judged:
        """Cleaned texts -> the values to store, in their canonical form, and which texts are refused, and why."""
        del context
        return Judged(texts, {})

    def complaints(self, context: RuleContext) -> Mapping[Refusal, Complaint]:
        """What is said of a refused text, for each reason that `read` can have."""
        del context
        return {}

    def rules(self) -> tuple[Rule, ...]:
        """Rules on the canonical value."""
        return ()

    def key_of(self, header: str) -> str | None:
        """What a dotted header names within this field; None where it names nothing in it."""
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
    """The record's own id, of the resource's prefix."""

    prefix: str = ""

    def rules(self) -> tuple[Rule, ...]:
        """The form of an id."""
        return (rules.record_id(self.prefix),)


@dataclass(frozen=True)
class Email(Field):
    """A mailbox by RFC 5321/5322, as email-validator accepts it without looking it up; domain in lower case."""

    def read(self, texts: pa.StringArray, context: RuleContext) -> Judged:
        """The address with its domain in lower case."""
        return refused_for_format(texts, canonical_emails(texts).values)

    def complaints(self, context: RuleContext) -> Mapping[Refusal, Complaint]:
        """An address that is none."""
        expectation = "is no valid email address: write it as name@example.com"
        return {Refusal.FORMAT: Complaint("invalid_format", expectation)}


@dataclass(frozen=True)
class Phone(Field):
    """A phone number valid for its region, stored as E.164."""

    def read(self, texts: pa.StringArray, context: RuleContext) -> Judged:
        """The number as E.164."""
        return refused_for_format(texts, canonical_phones(texts, context.region).values)

    def complaints(self, context: RuleContext) -> Mapping[Refusal, Complaint]:
        """A number that can't be dialled."""
        expectation = f"is no valid phone number: write it as +14155550132, or as it is dialled within {context.region}"
        return {Refusal.FORMAT: Complaint("invalid_format", expectation)}


@dataclass(frozen=True)
class Boolean(Field):
    """true/false, yes/no or 1/0."""

    sql_type: ClassVar[str] = "boolean"
    arrow_type: ClassVar[pa.DataType] = pa.bool_()
    kinds: ClassVar[frozenset[CellKind]] = frozenset({CellKind.TEXT, CellKind.BOOLEAN, CellKind.NUMBER})
    type_expectation: ClassVar[str] = "must be true or false"

    def read(self, texts: pa.StringArray, context: RuleContext) -> Judged:
        """What the word means."""
        return refused_for_format(texts, canonical_booleans(texts))

    def complaints(self, context: RuleContext) -> Mapping[Refusal, Complaint]:
        """A word that is no boolean."""
        expectation = "must be true or false (yes/no and 1/0 are read as well)"
        return {Refusal.FORMAT: Complaint("invalid_type", expectation)}


@dataclass(frozen=True)
class Choice(Field):
    """One of some words, written exactly like that."""

    values: tuple[str, ...] = ()

    def rules(self) -> tuple[Rule, ...]:
        """Being one of them."""
        return (rules.one_of(self.values),)


@dataclass(frozen=True)
class ForeignId(Field):
    """The id of a thing that is kept elsewhere, of which only the format is checked."""

    prefix: str = ""

    def rules(self) -> tuple[Rule, ...]:
        """The form of the id."""
        return (rules.foreign_id(self.prefix),)


def refused_for_format(texts: pa.StringArray, values: pa.Array) -> Judged:
    """For kernels whose only reason to refuse a text is that it is none of theirs."""
    return Judged(values, {Refusal.FORMAT: as_mask(pc.and_(pc.is_valid(texts), pc.is_null(values)))})
