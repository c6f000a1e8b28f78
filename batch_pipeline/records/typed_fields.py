"""Kinds of fields for amounts of money, currencies, times, numbers, URLs and tracking numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from batch_pipeline.payloads.model import CellKind
from batch_pipeline.records.fields import Field, RuleContext, refused_for_format
from batch_pipeline.records.rules import Complaint
from batch_pipeline.values.currency import canonical_currencies
from batch_pipeline.values.judged import Judged, Refusal
from batch_pipeline.values.moment import canonical_moments
from batch_pipeline.values.money import canonical_money
from batch_pipeline.values.number import latitudes, longitudes, positive_numbers
from batch_pipeline.values.tracking import (
    TRACKING_MAX_CHARACTERS,
    TRACKING_MIN_CHARACTERS,
    canonical_tracking_numbers,
)
from batch_pipeline.values.url import URL_MAX_CHARACTERS, canonical_urls

_TEXT_OR_NUMBER = frozenset({CellKind.TEXT, CellKind.NUMBER})


@dataclass(frozen=True)
class Money(Field):
    """An amount of money: a decimal of at least 0, with at most two places."""

    sql_type: ClassVar[str] = "numeric(17,2)"
    kinds: ClassVar[frozenset[CellKind]] = _TEXT_OR_NUMBER
    type_expectation: ClassVar[str] = "must be a number"

    def read(self, texts: pa.StringArray, context: RuleContext) -> Judged:
        """The amount with two places."""
        return canonical_money(texts)

    def complaints(self, context: RuleContext) -> Mapping[Refusal, Complaint]:
        """Not an amount, or one that can't be stored."""
        return {
            Refusal.FORMAT: Complaint("invalid_format", "is not an amount: write it as 1250.00"),
            Refusal.PLACES: Complaint("invalid_format", "has more than two decimal places"),
            Refusal.RANGE: Complaint("out_of_range", "must be 0 or more, and less than 10^15"),
        }


@dataclass(frozen=True)
class Currency(Field):
    """A currency code of ISO 4217, stored in lower case."""

    def read(self, texts: pa.StringArray, context: RuleContext) -> Judged:
        """The code in lower case."""
        return refused_for_format(texts, canonical_currencies(texts))

    def complaints(self, context: RuleContext) -> Mapping[Refusal, Complaint]:
        """Not a currency code."""
        expectation = "is not a currency: use an ISO 4217 code, for example usd"
        return {Refusal.FORMAT: Complaint("not_allowed", expectation)}


@dataclass(frozen=True)
class Moment(Field):
    """A time: epoch seconds, or ISO 8601 with an offset."""

    sql_type: ClassVar[str] = "timestamptz"
    kinds: ClassVar[frozenset[CellKind]] = _TEXT_OR_NUMBER
    type_expectation: ClassVar[str] = "must be epoch seconds or a text of ISO 8601"

    def read(self, texts: pa.StringArray, context: RuleContext) -> Judged:
        """The time in UTC."""
        return canonical_moments(texts)

    def complaints(self, context: RuleContext) -> Mapping[Refusal, Complaint]:
        """Not a time, or one that can't be stored."""
        expectation = "is not a time: write it as 2026-01-31T12:30:00Z, with another offset, or as epoch seconds"
        return {
            Refusal.FORMAT: Complaint("invalid_format", expectation),
            Refusal.PLACES: Complaint("invalid_format", "is more exact than a microsecond"),
            Refusal.RANGE: Complaint("out_of_range", "must lie in the years 1 to 9999"),
        }


@dataclass(frozen=True)
class Url(Field):
    """An http or https URL."""

    def read(self, texts: pa.StringArray, context: RuleContext) -> Judged:
        """The URL as given."""
        return canonical_urls(texts)

    def complaints(self, context: RuleContext) -> Mapping[Refusal, Complaint]:
        """Not a URL, or too long."""
        return {
            Refusal.TOO_LONG: Complaint("too_long", f"is longer than {URL_MAX_CHARACTERS:,} characters"),
            Refusal.FORMAT: Complaint("invalid_format", "is not a URL: write it as https://example.com/path"),
        }


@dataclass(frozen=True)
class _Number(Field):
    """A number in an object or list, kept exactly, as a decimal."""

    is_number: ClassVar[bool] = True
    kinds: ClassVar[frozenset[CellKind]] = _TEXT_OR_NUMBER
    type_expectation: ClassVar[str] = "must be a number"
    range_expectation: ClassVar[str]

    def complaints(self, context: RuleContext) -> Mapping[Refusal, Complaint]:
        """Not a number, or out of range."""
        return {
            Refusal.FORMAT: Complaint("invalid_format", "is not a number: write it as 12.5"),
            Refusal.PLACES: Complaint("invalid_format", "has more than 20 decimal places"),
            Refusal.RANGE: Complaint("out_of_range", self.range_expectation),
        }


@dataclass(frozen=True)
class Measure(_Number):
    """A number above zero."""

    range_expectation: ClassVar[str] = "must be more than 0, and less than 10^15"

    def read(self, texts: pa.StringArray, context: RuleContext) -> Judged:
        """The number without leading and trailing zeros."""
        return positive_numbers(texts)


@dataclass(frozen=True)
class Latitude(_Number):
    """Degrees north."""

    range_expectation: ClassVar[str] = "must be a latitude, from -90 to 90"

    def read(self, texts: pa.StringArray, context: RuleContext) -> Judged:
        """The number without leading and trailing zeros."""
        return latitudes(texts)


@dataclass(frozen=True)
class Longitude(_Number):
    """Degrees east."""

    range_expectation: ClassVar[str] = "must be a longitude, from -180 to 180"

    def read(self, texts: pa.StringArray, context: RuleContext) -> Judged:
        """The number without leading and trailing zeros."""
        return longitudes(texts)


@dataclass(frozen=True)
class TrackingNumber(Field):
    """A tracking number: letters and digits, stored in upper case without blanks and dashes.

    The rule `check_digit_of_carrier` judges the check digit.

    Attributes:
        sandbox: whether `PKGX-XXXXXXX-XXXXXXX` is valid, and keeps its dashes.
    """

    sandbox: bool = False

    def read(self, texts: pa.StringArray, context: RuleContext) -> Judged:
        """The number in its canonical form."""
        return canonical_tracking_numbers(texts, pa.nulls(len(texts), pa.string()), sandbox=self.sandbox)

    def complaints(self, context: RuleContext) -> Mapping[Refusal, Complaint]:
        """Not a tracking number."""
        bounds = f"must have {TRACKING_MIN_CHARACTERS} to {TRACKING_MAX_CHARACTERS} letters and digits"
        return {
            Refusal.FORMAT: Complaint("invalid_format", "may have letters, digits, blanks and dashes only"),
            Refusal.TOO_SHORT: Complaint("too_short", bounds),
            Refusal.TOO_LONG: Complaint("too_long", bounds),
        }
