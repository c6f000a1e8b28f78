"""Errors of items that only the database can find: of their identity, and of their records as they would be stored.

The statements need the plan with the columns of `identity.Matching`.
"""

from psycopg import sql

from batch_pipeline.loading.identity import BY_ID, BY_NATURAL_KEY, Matching
from batch_pipeline.loading.merging import difference, merged_value
from batch_pipeline.loading.plan import WRITTEN_SINCE
from batch_pipeline.loading.record_checks import RecordChecks
from batch_pipeline.loading.reference_errors import note_left_members
from batch_pipeline.loading.references import Resolver
from batch_pipeline.loading.statements import FALSE, Statements
from batch_pipeline.records.errors import VALUE_CHARACTERS
from batch_pipeline.records.keyed import KeyedText

# Notes an error for each item `s` that meets the condition; `m` is its match.
_NOTE = """\
INSERT INTO {errors} (row, step, code, field, message, value)
SELECT s.row, {step}, {code}, {field}, coalesce({quote} || {value} || {sentence}, {plain}), {value}
FROM {plan} m
JOIN {items} s ON s.row = m.row
WHERE m.verdict <> 'u' AND {condition}
ORDER BY s.row"""

_NOTE_WRITTEN_SINCE = """\
INSERT INTO {errors} (row, step, code, field, message, value)
SELECT s.row, {step}, 'conflict', NULL,
       'a batch that arrived later (' || r.batch_id || ') has written the record since: ' || {advice}, NULL
FROM {plan} m
JOIN {items} s ON s.row = m.row
JOIN {records} r ON r.organization_id = %(organization)s AND r.id = m.record_id
WHERE m.verdict <> 'u' AND m.matches = 1 AND m.kind IS NOT NULL AND r.batch_id = ANY(%(newer)s) AND {changes}
ORDER BY s.row"""

_ID_NOT_FOUND = "m.kind = {by_id} AND m.matches = 0"

_EXTERNAL_ID_TAKEN = """\
m.kind = {by_id} AND s.external_id IS NOT NULL AND EXISTS (
    SELECT FROM {records} r
    WHERE r.organization_id = %(organization)s AND r.external_id = s.external_id AND r.id IS DISTINCT FROM m.record_id
)"""

_AMBIGUOUS = "m.kind = {kind} AND m.matches > 1"

_REQUIRED = "m.matches = 0 AND m.kind <> {by_id} AND {given} IS NULL AND (s.invalid >> {bit}) & 1 = 0"

_TOO_MANY_PAIRS = """\
m.record_id IS NOT NULL AND s.{name} IS NOT NULL AND (s.invalid >> {bit}) & 1 = 0 AND EXISTS (
    SELECT FROM {records} r
    WHERE r.organization_id = %(organization)s AND r.id = m.record_id
      AND (SELECT count(*) FROM jsonb_object_keys({merged})) > {most}
)"""

_NO_VALUE = sql.SQL("NULL::text")


class ItemErrors:
    """Notes the errors of one batch's open items."""

    def __init__(
        self,
        statements: Statements,
        matching: Matching,
        fields: tuple[str, ...],
        *,
        clears: bool,
        checks: RecordChecks,
        references: Resolver | None,
    ) -> None:
        self._statements = statements
        self._resource = statements.resource
        self._matching = matching
        self._fields = fields
        self._clears = clears
        self._checks = checks
        self._references = references

    def note_all(self, *, has_ambiguous: bool, has_unmatched: bool) -> None:
        """Adds all errors. References must have been resolved.

        `has_ambiguous`: a natural key has several records. `has_unmatched`: some items may have no record.
        """
        if self._statements.has_newer:
            self._note_written_since()
        if "id" in self._fields:
            self._note_ids()
        if has_ambiguous:
            self._note_ambiguous_keys()
        if has_unmatched:
            self._note_missing_fields()
        self._note_too_many_pairs()
        self._checks.note_errors()
        note_left_members(self._statements, self._fields, self._checks)

    def _note_written_since(self) -> None:
        """An item that would undo what a batch that arrived later wrote: the data of that batch are newer."""
        changes: sql.Composable = difference(self._resource, self._fields, clears=self._clears) or FALSE
        if self._references is not None:
            changes = sql.SQL("({} OR {})").format(changes, self._references.changed_rows())
        self._statements.note(_NOTE_WRITTEN_SINCE, advice=sql.Literal(WRITTEN_SINCE), changes=changes)

    def _note_ids(self) -> None:
        self._note(
            "id_not_found",
            "id",
            "no record of this organization has it: ids are made by this system, leave it empty to create",
            _ID_NOT_FOUND,
            value=sql.Identifier("s", "id"),
            by_id=sql.Literal(BY_ID),
        )
        if "external_id" in self._fields:
            self._note(
                "conflict",
                "external_id",
                "another record has it: it must be unique",
                _EXTERNAL_ID_TAKEN,
                value=sql.Identifier("s", "external_id"),
                by_id=sql.Literal(BY_ID),
            )

    def _note_ambiguous_keys(self) -> None:
        for place, key in enumerate(self._resource.natural_keys):
            column = key.columns[0]
            if column in self._fields:
                self._note(
                    "ambiguous_match",
                    column,
                    f"several records have the same {' and '.join(key.columns)}: name the record by its id",
                    _AMBIGUOUS,
                    value=sql.Identifier("s", column),
                    kind=sql.Literal(BY_NATURAL_KEY + place),
                )

    def _note_missing_fields(self) -> None:
        for bit, field in enumerate(self._resource.fields):
            if field.required:
                self._note(
                    "required",
                    field.name,
                    f"is missing: a new {self._resource.name} needs it, and no existing one is meant",
                    _REQUIRED,
                    by_id=sql.Literal(BY_ID),
                    given=self._matching.staged(field.name),
                    bit=sql.Literal(bit),
                )

    def _note_too_many_pairs(self) -> None:
        for bit, field in enumerate(self._resource.fields):
            if isinstance(field, KeyedText) and field.name in self._fields:
                self._note(
                    "too_many",
                    field.name,
                    f"would have more than {field.max_pairs} pairs in the record as stored",
                    _TOO_MANY_PAIRS,
                    name=sql.Identifier(field.name),
                    bit=sql.Literal(bit),
                    merged=merged_value(field, bit, clears=True),
                    most=sql.Literal(field.max_pairs),
                )

    def _note(
        self,
        code: str,
        field: str,
        expectation: str,
        condition: str,
        *,
        value: sql.Composable = _NO_VALUE,
        **holes: sql.Composable,
    ) -> None:
        """Notes an error for each item that meets the condition, a template with `holes`."""
        self._statements.note(
            _NOTE,
            code=sql.Literal(code),
            field=sql.Literal(field),
            quote=sql.Literal(f'{field} "'),
            sentence=sql.Literal(f'": {expectation}'),
            plain=sql.Literal(f"{field} {expectation}"),
            value=sql.SQL("left({}, {})").format(value, sql.Literal(VALUE_CHARACTERS)),
            condition=self._statements.compose(condition, **holes),
        )
