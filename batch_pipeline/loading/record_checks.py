"""Finds the items that would break rules between the fields of their records, merged as they would be stored."""

from collections.abc import Iterator

import pyarrow as pa
from psycopg import sql

from batch_pipeline.loading.bulk_copy import fetch_table
from batch_pipeline.loading.identity import BY_ID
from batch_pipeline.loading.merging import initial_value, merged_value
from batch_pipeline.loading.staging import STEP_PLAN
from batch_pipeline.loading.statements import TRUE, Statements
from batch_pipeline.records import errors
from batch_pipeline.records.record_rules import ArrowRule, RecordRule

# Records fetched at once for rules that the database can't judge.
FETCHED_ROWS = 50_000
FETCHED = pa.schema([("row", pa.int64()), ("text", pa.string()), ("other", pa.string())])

_NOTE_VIOLATIONS = """\
INSERT INTO {errors} (row, step, code, field, message, value)
SELECT s.row, {step}, {code}, {field}, {message}, NULL
FROM {plan} m
JOIN {items} s ON s.row = m.row
{join} JOIN {records} r ON r.organization_id = %(organization)s AND r.id = m.record_id AND {needed}
WHERE m.matches = CASE WHEN m.kind = {by_id} OR m.record_id IS NOT NULL THEN 1 ELSE 0 END
  AND m.verdict <> 'u' AND m.kind IS NOT NULL AND s.invalid & {mask} = 0 AND ({touched}) AND {violated}
ORDER BY s.row"""

_FETCH = """\
SELECT s.row, {text}, {other}
FROM {plan} m
JOIN {items} s ON s.row = m.row
JOIN {records} r ON r.organization_id = %(organization)s AND r.id = m.record_id
WHERE m.verdict <> 'u' AND m.matches = 1 AND m.kind IS NOT NULL AND s.invalid & {mask} = 0 AND num_nonnulls({given}) = 1
  AND {text} IS NOT NULL AND {other} IS NOT NULL AND s.row > %(after)s
ORDER BY s.row LIMIT {limit}"""


# Without statistics of the records, PostgreSQL expects nearly all of them to have the value, and joins all.
_HAS_NEEDED = """\
SELECT count(*) FROM (
    SELECT FROM {records} r WHERE r.organization_id = %(organization)s AND {needed} LIMIT 1
) AS found"""


class RecordChecks:
    """Notes the errors of a batch's items. Reads the plan. Leaves out items that change nothing."""

    def __init__(self, statements: Statements, fields: tuple[str, ...], *, clears: bool) -> None:
        self._statements = statements
        self._resource = statements.resource
        self._fields = fields
        self._clears = clears

    def note_errors(self) -> None:
        """Adds the errors of all rules that items of the batch can break."""
        for rule in self._resource.record_rules:
            touched = list(self._touched(rule))
            if touched:
                self._note_violations(rule, sql.SQL(" OR ").join(touched))
        for arrow_rule in self._resource.arrow_rules:
            if {arrow_rule.field, arrow_rule.depends_on} & set(self._fields):
                self._note_arrow_errors(arrow_rule)

    def stored_value(self, name: str) -> sql.Composed:
        """The value of a field after item `s` was merged into record `r`, or into a new record where `r` is null."""
        field = self._resource.field(name)
        if name in self._fields:
            value = merged_value(field, self._statements.bits[name], clears=self._clears)
        else:
            value = sql.SQL("r.{}").format(sql.Identifier(name))
        return value if field.initial is None else sql.SQL("coalesce({}, {})").format(value, initial_value(field))

    def _touched(self, rule: RecordRule) -> Iterator[sql.Composed]:
        """Conditions: item `s` does something that can break the rule."""
        for name in rule.by_giving:
            if name in self._fields:
                yield sql.SQL("s.{} IS NOT NULL").format(sql.Identifier(name))
        for name in rule.by_clearing if self._clears else ():
            if name in self._fields:
                yield sql.SQL("(s.cleared >> {}) & 1 = 1").format(sql.Literal(self._statements.bits[name]))
        if rule.by_creating:
            yield sql.SQL("m.record_id IS NULL").format()

    def _mask(self, *names: str) -> sql.Literal:
        return sql.Literal(sum(1 << self._statements.bits[name] for name in names))

    def _note_violations(self, rule: RecordRule, touched: sql.Composed) -> None:
        join = sql.SQL("LEFT")
        needed: sql.Composable = TRUE
        if rule.needs is not None and rule.needs not in self._fields:  # only stored records can have a value in it
            join = sql.SQL("INNER")
            needed = sql.SQL("r.{} <> {}").format(
                sql.Identifier(rule.needs), initial_value(self._resource.field(rule.needs))
            )
            if self._statements.count(_HAS_NEEDED, needed=needed) == 0:
                return
        self._statements.note(
            _NOTE_VIOLATIONS,
            join=join,
            needed=needed,
            code=sql.Literal(rule.code),
            field=sql.Literal(rule.field),
            message=sql.Literal(f"{rule.field} {rule.expectation}"),
            by_id=sql.Literal(BY_ID),
            mask=self._mask(*rule.fields),
            touched=touched,
            violated=rule.violated({name: self.stored_value(name) for name in rule.fields}),
        )

    def _note_arrow_errors(self, rule: ArrowRule) -> None:
        """Judges the items that give one of the two fields, together with their record's value of the other."""
        connection = self._statements.connection
        names = (rule.field, rule.depends_on)
        given = [sql.SQL("s.{}").format(sql.Identifier(name)) for name in names if name in self._fields]
        query = self._statements.compose(
            _FETCH,
            text=self.stored_value(rule.field),
            other=self.stored_value(rule.depends_on),
            mask=self._mask(*names),
            given=sql.SQL(", ").join(given),
            limit=sql.Literal(FETCHED_ROWS),
        )
        after = 0
        while True:
            parameters = {**self._statements.parameters, "after": after}
            fetched = fetch_table(connection, query, parameters, FETCHED).combine_chunks()
            for complaint, places in rule.failures(*(fetched[name].combine_chunks() for name in ("text", "other"))):
                found = fetched.take(places)
                table = errors.item_errors(
                    rows=found["row"].combine_chunks(),
                    code=complaint.code,
                    field=rule.field,
                    expectation=complaint.expectation,
                    values=found["text"].combine_chunks(),
                )
                step = pa.repeat(pa.scalar(STEP_PLAN, pa.int16()), table.num_rows)
                self._statements.staging.copy(connection, "errors", table.append_column("step", step), is_new=False)
                self._statements.has_noted = True
            if fetched.num_rows < FETCHED_ROWS:
                return
            after = fetched["row"][-1].as_py()
