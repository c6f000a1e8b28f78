"""Rules between the fields of a record, which hold for the record as it would be stored, not for the item alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from psycopg import sql

# From each field's value, as an expression, to a condition.
Violated = Callable[[Mapping[str, sql.Composable]], sql.Composable]


@dataclass(frozen=True)
class RecordRule:
    """A rule between fields, judged in the database.

    Attributes:
        code: error code of an item that would break it.
        field: the field that is named.
        expectation: what would be right; ends the sentence `field …`.
        fields: those that it looks at.
        violated: true for a record that breaks the rule; null counts as false.
        by_giving: fields whose values or keys, given by an item, can break it.
        by_clearing: fields that break it when they are cleared.
        by_creating: whether a new record can break it whatever its item carries.
    """

    code: str
    field: str
    expectation: str
    fields: tuple[str, ...]
    violated: Violated
    by_giving: tuple[str, ...] = ()
    by_clearing: tuple[str, ...] = ()
    by_creating: bool = False


def condition(template: str) -> Violated:
    """The condition of a template that names the fields in braces: `{status} = 'disposed'`."""
    statement = sql.SQL(template)
    return lambda values: statement.format(**values)
