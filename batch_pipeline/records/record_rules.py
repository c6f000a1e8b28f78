"""Rules between the fields of a record. They apply to the record as it would be stored, not to the item alone."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql

from batch_pipeline.records.rules import Complaint
from batch_pipeline.values.judged import Judged, Refusal

# (each field's value as an expression) -> condition
Violated = Callable[[Mapping[str, sql.Composable]], sql.Composable]


@dataclass(frozen=True)
class RecordRule:
    """A rule between fields that the database checks.

    Attributes:
        code: error code of an item that would break it.
        field: the field that the error names.
        expectation: what would be right; ends the sentence `field …`.
        fields: the fields in the rule.
        violated: true for a record that breaks the rule; null counts as false.
        by_giving: fields whose values or keys, given by an item, can break it.
        by_clearing: fields that break it when they are cleared.
        by_creating: whether any new record can break it.
        needs: a field that every record that breaks the rule has. With an index on the records that have it, the rule
            is cheap for uploads without the field.
    """

    code: str
    field: str
    expectation: str
    fields: tuple[str, ...]
    violated: Violated
    by_giving: tuple[str, ...] = ()
    by_clearing: tuple[str, ...] = ()
    by_creating: bool = False
    needs: str | None = None


def condition(template: str) -> Violated:
    """The condition of a template that names the fields in braces: `{status} = 'disposed'`."""
    statement = sql.SQL(template)
    return lambda values: statement.format(**values)


@dataclass(frozen=True)
class ArrowRule:
    """A rule on the text of a field that depends on the text of another; a function judges whole Arrow columns.

    Attributes:
        field: the field that is judged; errors name it.
        depends_on: the other field; a record without it is not judged.
        judge: (texts of `field`, texts of `depends_on`), both canonical and without nulls -> what is refused.
        complaints: the error for each reason of a refusal.
    """

    field: str
    depends_on: str
    judge: Callable[[pa.StringArray, pa.StringArray], Judged]
    complaints: Mapping[Refusal, Complaint]

    def failures(self, texts: pa.StringArray, others: pa.StringArray) -> Iterator[tuple[Complaint, pa.Int64Array]]:
        """The errors and the positions of the texts that have them; positions where either is null have none."""
        places = pc.indices_nonzero(pc.and_(pc.is_valid(texts), pc.is_valid(others)))
        if len(places) == 0:
            return
        judged = self.judge(texts.take(places), others.take(places))
        for reason, complaint in self.complaints.items():
            yield complaint, places.take(pc.indices_nonzero(judged.invalid(reason)))
