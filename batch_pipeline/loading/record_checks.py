"""Finds the items that would break rules between the fields of their records, merged as they would be stored."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from psycopg import sql

from batch_pipeline.loading.identity import BY_ID
from batch_pipeline.loading.merging import initial_value, merged_value
from batch_pipeline.loading.staging import STEP_PLAN, Connection, Staging, copy_table, fetch_table
from batch_pipeline.records import errors
from batch_pipeline.records.record_rules import ArrowRule, RecordRule
from batch_pipeline.records.resource import Resource

# Records fetched at once for rules that the database can't judge.
FETCHED_ROWS = 50_000
FETCHED = pa.schema([("row", pa.int64()), ("text", pa.string()), ("other", pa.string())])


class RecordChecks:
    """Notes the errors of a batch's items; reads the planner's temporary table `matched`."""

    def __init__(self, resource: Resource, staging: Staging, fields: tuple[str, ...], *, clears: bool) -> None:
        self._resource = resource
        self._staging = staging
        self._fields = fields
        self._clears = clears
        self._bits = {field.name: bit for bit, field in enumerate(resource.fields)}

    def note_errors(self, connection: Connection, parameters: dict[str, Any]) -> None:
        """Adds the errors of all rules that items of the batch can break. Of the parameters it needs `organization`."""
        for statement in self._statements():
            connection.execute(statement, parameters)
        for rule in self._resource.arrow_rules:
            if {rule.field, rule.depends_on} & set(self._fields):
                self._note_arrow_errors(connection, rule, parameters)

    def _statements(self) -> Iterator[sql.Composed]:
        for rule in self._resource.record_rules:
            touched = self._touched(rule)
            if touched:
                yield self._statement(rule, sql.SQL(" OR ").join(touched))

    def stored_value(self, name: str) -> sql.Composed:
        """A field of the record that item `s` would make of record `r`, or of a new one where that is null."""
        field = self._resource.field(name)
        if name in self._fields:
            value = merged_value(field, self._bits[name], clears=self._clears)
        else:
            value = sql.SQL("r.{}").format(sql.Identifier(name))
        return value if field.initial is None else sql.SQL("coalesce({}, {})").format(value, initial_value(field))

    def is_cleared(self, name: str) -> sql.Composed:
        """Whether item `s` clears the field."""
        return sql.SQL("(s.cleared >> {}) & 1 = 1").format(sql.Literal(self._bits[name]))

    def _touched(self, rule: RecordRule) -> list[sql.Composed]:
        """By what items can break the rule."""
        touched = [
            sql.SQL("s.{} IS NOT NULL").format(sql.Identifier(name)) for name in rule.by_giving if name in self._fields
        ]
        if self._clears:
            touched += [self.is_cleared(name) for name in rule.by_clearing if name in self._fields]
        if rule.by_creating:
            touched.append(sql.SQL("m.record_id IS NULL").format())
        return touched

    def _statement(self, rule: RecordRule, touched: sql.Composed) -> sql.Composed:
        needed = None
        if rule.needs is not None and rule.needs not in self._fields:  # so only stored records can have it
            field = self._resource.field(rule.needs)
            needed = sql.SQL("r.{} <> {}").format(sql.Identifier(rule.needs), initial_value(field))
        return sql.SQL(
            """
            INSERT INTO {errors} (row, step, code, field, message, value)
            SELECT s.row, {step}, {code}, {field}, {message}, NULL
            FROM matched m JOIN {items} s ON s.row = m.row
            {with_records} r ON r.organization_id = %(organization)s AND r.id = m.record_id AND {needed}
            WHERE m.matches = CASE WHEN m.kind = {by_id} OR m.record_id IS NOT NULL THEN 1 ELSE 0 END
              AND m.kind IS NOT NULL AND s.invalid & {mask} = 0 AND ({touched}) AND {violated}
            ORDER BY s.row
            """
        ).format(
            errors=self._staging.errors,
            items=self._staging.items,
            with_records=sql.SQL("{} JOIN {}").format(
                sql.SQL("LEFT" if needed is None else "INNER"), sql.Identifier("public", self._resource.table)
            ),
            needed=sql.SQL("true") if needed is None else needed,
            step=sql.Literal(STEP_PLAN),
            code=sql.Literal(rule.code),
            field=sql.Literal(rule.field),
            message=sql.Literal(f"{rule.field} {rule.expectation}"),
            by_id=sql.Literal(BY_ID),
            mask=sql.Literal(sum(1 << self._bits[name] for name in rule.fields)),
            touched=touched,
            violated=rule.violated({name: self.stored_value(name) for name in rule.fields}),
        )

    def _note_arrow_errors(self, connection: Connection, rule: ArrowRule, parameters: dict[str, Any]) -> None:
        """Judges the items that carry one of the two fields together with what their records have of the other."""
        names = (rule.field, rule.depends_on)
        given = [sql.SQL("s.{}").format(sql.Identifier(name)) for name in names if name in self._fields]
        query = sql.SQL(
            """
            SELECT s.row, {text}, {other}
            FROM matched m JOIN {items} s ON s.row = m.row
            JOIN {records} r ON r.organization_id = %(organization)s AND r.id = m.record_id
            WHERE m.matches = 1 AND m.kind IS NOT NULL AND s.invalid & {mask} = 0 AND num_nonnulls({given}) = 1
              AND {text} IS NOT NULL AND {other} IS NOT NULL AND s.row > %(after)s
            ORDER BY s.row LIMIT {limit}
            """
        ).format(
            text=self.stored_value(rule.field),
            other=self.stored_value(rule.depends_on),
            items=self._staging.items,
            records=sql.Identifier("public", self._resource.table),
            mask=sql.Literal(sum(1 << self._bits[name] for name in names)),
            given=sql.SQL(", ").join(given),
            limit=sql.Literal(FETCHED_ROWS),
        )
        after = 0
        while True:
            fetched = fetch_table(connection, query, {**parameters, "after": after}, FETCHED).combine_chunks()
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
                copy_table(connection, self._staging.errors, table.append_column("step", step), is_new=False)
            if fetched.num_rows < FETCHED_ROWS:
                return
            after = fetched["row"][-1].as_py()
