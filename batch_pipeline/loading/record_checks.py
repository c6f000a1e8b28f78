"""Finds the items that would break rules between the fields of their records, merged as they would be stored."""

from collections.abc import Iterator

from psycopg import sql

from batch_pipeline.loading.identity import BY_ID
from batch_pipeline.loading.merging import initial_value, merged_value
from batch_pipeline.loading.staging import STEP_PLAN, Staging
from batch_pipeline.records.record_rules import RecordRule
from batch_pipeline.records.resource import Resource


class RecordChecks:
    """The statements that note the errors of a batch's items; they read the planner's temporary table `matched`."""

    def __init__(self, resource: Resource, staging: Staging, fields: tuple[str, ...], *, clears: bool) -> None:
        self._resource = resource
        self._staging = staging
        self._fields = fields
        self._clears = clears
        self._bits = {field.name: bit for bit, field in enumerate(resource.fields)}

    def statements(self) -> Iterator[sql.Composed]:
        """One statement for each rule that an item of the batch can break. Their parameter: `organization`."""
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
        return sql.SQL(
            """
            INSERT INTO {errors} (row, step, code, field, message, value)
            SELECT s.row, {step}, {code}, {field}, {message}, NULL
            FROM matched m JOIN {items} s ON s.row = m.row
            LEFT JOIN {records} r ON r.organization_id = %(organization)s AND r.id = m.record_id
            WHERE m.matches = CASE WHEN m.kind = {by_id} OR m.record_id IS NOT NULL THEN 1 ELSE 0 END
              AND m.kind IS NOT NULL AND s.invalid & {mask} = 0 AND ({touched}) AND {violated}
            ORDER BY s.row
            """
        ).format(
            errors=self._staging.errors,
            items=self._staging.items,
            records=sql.Identifier("public", self._resource.table),
            step=sql.Literal(STEP_PLAN),
            code=sql.Literal(rule.code),
            field=sql.Literal(rule.field),
            message=sql.Literal(f"{rule.field} {rule.expectation}"),
            by_id=sql.Literal(BY_ID),
            mask=sql.Literal(sum(1 << self._bits[name] for name in rule.fields)),
            touched=touched,
            violated=rule.violated({name: self.stored_value(name) for name in rule.fields}),
        )
