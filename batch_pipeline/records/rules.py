"""Row rules: vectorised pandera checks of values, each with an error code and an error text.

A rule checks whole Arrow columns. Null means "no value" and always passes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pandas as pd
import pandera.pandas as pandera
import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.values.identifier import are_record_ids, are_reference_ids
from batch_pipeline.values.text import character_lengths, has_control_characters

# dtypes of the frames that schemas check. They are Arrow-backed: a frame made from an Arrow table copies nothing.
TEXT = pd.ArrowDtype(pa.string())
FLAG = pd.ArrowDtype(pa.bool_())


@dataclass(frozen=True)
class Rule:
    """One rule of one field.

    Attributes:
        code: error code of an item (`records.md`).
        expectation: what would be right; ends the sentence `field "value" …`.
        accepts: the field's values -> bool; null counts as accepted.
    """

    code: str
    expectation: str
    accepts: Callable[[pa.Array], pa.BooleanArray]

    def check(self) -> pandera.Check:
        """The rule as a pandera check; its failures have the rule's code."""
        return pandera.Check(self._passes, name=self.code, error=self.code)

    def refuses_any(self, column: pa.Array) -> bool:
        """Whether the column has a value that the rule does not accept."""
        return pc.all(self.accepts(column)).as_py() is False

    def _passes(self, series: "pd.Series[str]") -> "pd.Series[bool]":
        accepted = pc.fill_null(self.accepts(arrow_column(series)), True)
        return pd.Series(accepted.to_numpy(zero_copy_only=False), index=series.index)


def arrow_column(series: "pd.Series[str]") -> pa.Array:
    """The Arrow array under an Arrow-backed series."""
    column = pa.array(series.array)
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def at_most(characters: int) -> Rule:
    """At most this number of Unicode code points."""
    return Rule(
        "too_long",
        f"is longer than {characters:,} characters",
        lambda texts: pc.less_equal(character_lengths(texts), characters),
    )


def no_control_characters() -> Rule:
    """No control character other than tab and line feed."""
    return Rule(
        "invalid_format",
        "has control characters: only tab and line feed are allowed",
        lambda texts: pc.invert(has_control_characters(texts)),
    )


def record_id(prefix: str) -> Rule:
    """The form of an id that this system made."""
    return Rule(
        "id_malformed",
        f"is not an id of this resource: ids are {prefix} and 22 letters and digits, made by this system",
        lambda texts: are_record_ids(texts, prefix),
    )


def foreign_id(prefix: str) -> Rule:
    """The form of an id of something that another system keeps."""
    return Rule(
        "id_malformed",
        f"is not an id of this kind: it must be {prefix} and 1 to 64 letters, digits, - or _",
        lambda texts: are_reference_ids(texts, prefix),
    )


def one_of(values: tuple[str, ...]) -> Rule:
    """One of the words, in this case."""
    return Rule(
        "not_allowed",
        f"must be one of {', '.join(values)}",
        lambda texts: pc.or_kleene(pc.is_null(texts), pc.is_in(texts, value_set=pa.array(values, pa.string()))),
    )


@dataclass(frozen=True)
class Complaint:
    """The error for a value that a field refused to read.

    Attributes:
        code: error code of an item.
        expectation: what would be right; ends the sentence `field "value" …`.
    """

    code: str
    expectation: str

    def rule(self) -> Rule:
        """The rule of a column of flags: true where a value was refused."""
        return Rule(self.code, self.expectation, pc.invert)


def failures(schema: pandera.DataFrameSchema, columns: dict[str, pa.Array]) -> Iterator[tuple[str, str, pa.Int64Array]]:
    """The failures of the schema's checks: (column, error code, positions), in the schema's order.

    Applies the checks one by one: of a whole schema, pandera describes each failure in several data frames, which takes
    longer than to find it. Raises KeyError for a column that the schema does not have.
    """
    if unknown := columns.keys() - schema.columns.keys():
        raise KeyError(*unknown)
    frame = pa.table(columns).to_pandas(types_mapper=pd.ArrowDtype) if columns else {}
    for name in (name for name in schema.columns if name in columns):
        for check in schema.columns[name].checks:
            passed = check(frame[name]).check_output  # without nulls
            if not passed.all():
                yield name, str(check.error), pa.array(passed.index[~passed].to_numpy())
