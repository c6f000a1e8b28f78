"""Reads scalar fields, and checks all of them in one frame with a pandera schema.

Used for the fields of items, and for the fields of their lists' elements.
"""

from collections.abc import Mapping

import pandas as pd
import pandera.pandas as pandera
import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.records import rules
from batch_pipeline.records.cells import AddErrors, Cells
from batch_pipeline.records.fields import Field, RuleContext
from batch_pipeline.values.judged import Refusal


class ScalarRules:
    """The row rules of scalar fields, by their headers.

    `schema` has a column for each field that has rules, of the field's `arrow_type`, and a bool column
    `{header}:{reason}` for each reason for which the field refuses texts. A frame need not have all columns.
    """

    def __init__(self, fields: Mapping[str, Field], context: RuleContext) -> None:
        self.fields = fields
        self._context = context
        self._headers: dict[str, str] = {}
        self._expectations: dict[tuple[str, str], str] = {}
        self._rules: dict[str, tuple[rules.Rule, ...]] = {}  # by the column of the schema
        columns: dict[str, pandera.Column] = {}
        for name, field in fields.items():
            rules_of_field = field.rules()
            if rules_of_field:
                checks = [rule.check() for rule in rules_of_field]
                self._rules[name] = tuple(rules_of_field)
                columns[name] = pandera.Column(pd.ArrowDtype(field.arrow_type), checks, nullable=True, required=False)
                self._headers[name] = name
                self._expectations |= {(name, rule.code): rule.expectation for rule in rules_of_field}
            for reason, complaint in field.complaints(context).items():
                flag = _flag(name, reason)
                rule = complaint.rule()
                self._rules[flag] = (rule,)
                columns[flag] = pandera.Column(rules.FLAG, rule.check(), required=False)
                self._headers[flag] = name
                self._expectations[flag, complaint.code] = complaint.expectation
        self.schema = pandera.DataFrameSchema(columns, strict=True)

    def read(self, cells: Mapping[str, Cells], add_errors: AddErrors) -> dict[str, pa.Array]:
        """The values to store, for the fields that have cells; null if there is no value or it is refused.

        Raises TypeError if a field reads values of another type than its `arrow_type`: pandera sees only some columns.
        """
        values: dict[str, pa.Array] = {}
        columns: dict[str, pa.Array] = {}
        for name, field in self.fields.items():
            if name not in cells:
                continue
            judged = field.read(cells[name].values, self._context)
            if judged.values.type != field.arrow_type:
                raise TypeError(f"field {name} reads {judged.values.type}, its type is {field.arrow_type}")
            values[name] = judged.values
            if name in self._headers:
                columns[name] = judged.values
            for reason, mask in judged.refused.items():
                flag = _flag(name, reason)
                if flag in self._headers or mask.any():  # pandera raises for a reason without a complaint
                    columns[flag] = pa.array(mask)
        # pandera takes 1 ms for each column, however few values it has: it gets those with a failure.
        suspects = {name: column for name, column in columns.items() if self._may_fail(name, column)}
        for column, code, places in rules.failures(self.schema, suspects):
            name = self._headers[column]
            add_errors(places, code, name, self._expectations[column, code], cells[name].raw.take(places))
        return values

    def _may_fail(self, name: str, column: pa.Array) -> bool:
        return name not in self._rules or any(rule.refuses_any(column) for rule in self._rules[name])


def of_kinds(field: Field, name: str, cells: Cells, add_errors: AddErrors) -> Cells:
    """The cells without values of a wrong kind; adds an error for each of those."""
    if cells.kinds is None:
        return cells
    allowed = pa.array([int(kind) for kind in field.kinds], pa.uint8())
    right = pc.fill_null(pc.or_kleene(pc.is_null(cells.kinds), pc.is_in(cells.kinds, allowed)), True)
    wrong = pc.indices_nonzero(pc.invert(right))
    if len(wrong) == 0:
        return cells
    add_errors(wrong, "invalid_type", name, field.type_expectation, cells.raw.take(wrong))
    return cells.take_valid(right)


def _flag(name: str, reason: Refusal) -> str:
    return f"{name}:{reason.name.lower()}"
