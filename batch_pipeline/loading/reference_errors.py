"""Errors of references: texts that name no record or several, and links that contradict each other or the record.

The statements need the temporary table `referred` (see `references`) and the plan (see `identity.Matching`).
"""

from psycopg import sql

from batch_pipeline.loading.merging import initial_value
from batch_pipeline.loading.plan import WRITTEN_SINCE
from batch_pipeline.loading.record_checks import RecordChecks
from batch_pipeline.loading.reference_fields import elsewhere_of, members_of, references_of, replaces
from batch_pipeline.loading.statements import FALSE, Statements, indented
from batch_pipeline.records.errors import VALUE_CHARACTERS
from batch_pipeline.records.links import ADD, REMOVE
from batch_pipeline.records.references import ADDED_AND_REMOVED, MarkedMembers, Members, References
from batch_pipeline.values.identifier import REFERENCE_ID_MAX_CHARACTERS

# Notes an error for each reference `f` of a field that meets the condition, once however often an item repeats it.
_NOTE = """\
INSERT INTO {errors} (row, step, code, field, message, value)
SELECT row, {step}, {code}, {name}, {quote} || left(text, {cut}) || {sentence}, left(text, {cut})
FROM (
    SELECT f.row, f.text, min(f.position) AS position FROM referred f
    WHERE f.field = {field} AND {condition}
    GROUP BY f.row, f.text
) AS found
ORDER BY row, position"""

_NOT_FOUND = "NOT f.is_elsewhere AND f.matches = 0"

_AMBIGUOUS = "NOT f.is_elsewhere AND f.matches > 1"

_MALFORMED = "f.is_elsewhere AND f.text !~ {form}"

_ADDED_AND_REMOVED = """\
f.operation = {add} AND EXISTS (
    SELECT FROM referred x
    WHERE x.row = f.row AND x.field = f.field AND x.operation = {remove} AND x.target = f.target
)"""

_NOT_A_MEMBER = """\
f.target IS NOT NULL AND NOT EXISTS (
    SELECT FROM referred x WHERE x.row = f.row AND x.field = {members} AND x.target = f.target
) AND EXISTS (
    SELECT FROM {plan} m JOIN {items} s ON s.row = m.row
    WHERE m.row = f.row AND (s.invalid >> {members}) & 1 = 0 AND ({replaced} OR NOT EXISTS (
        SELECT FROM {links} g
        WHERE g.organization_id = %(organization)s AND g.{own} = m.record_id AND g.{other} = f.target
    ))
)"""

_NOTE_WRITTEN_SINCE = """\
INSERT INTO {errors} (row, step, code, field, message, value)
SELECT DISTINCT ON (c.row) c.row, {step}, 'conflict', {name},
       {quote} || c.other || '": a batch that arrived later (' || o.batch_id || ') has written it since: ' || {advice},
       c.other
FROM (
    {changed_links}
) AS c
JOIN {others} o ON o.organization_id = %(organization)s AND o.id = c.other
WHERE o.batch_id = ANY(%(newer)s)
ORDER BY c.row, c.other"""

_NOTE_LEFT_MEMBERS = """\
INSERT INTO {errors} (row, step, code, field, message, value)
SELECT s.row, {step}, 'conflict', {name}, {message}, NULL
FROM {plan} m
JOIN {items} s ON s.row = m.row
JOIN {records} r ON r.organization_id = %(organization)s AND r.id = m.record_id
WHERE NOT s.row <@ %(done)s::int8multirange AND m.matches = 1
  AND ({after} = {value}) <> ({before} = {value}) AND NOT {replaced}
  AND EXISTS (SELECT FROM {links} g WHERE g.organization_id = %(organization)s AND g.{own} = r.id)
ORDER BY s.row"""


class ReferenceErrors:
    """Notes the errors of the references of one batch's open items."""

    def __init__(self, statements: Statements, fields: tuple[str, ...]) -> None:
        self._statements = statements
        self._resource = statements.resource
        self._fields = fields
        self._references = references_of(statements.resource, fields)

    def note_own(self) -> None:
        """Adds the errors that concern one field of one item: not found, ambiguous, malformed, contradictory."""
        for field in self._references:
            self._note(field, "reference_not_found", field.target.not_found, _NOT_FOUND)
            self._note(field, "ambiguous_match", field.target.ambiguous, _AMBIGUOUS)
        for field in self._references:
            elsewhere = elsewhere_of(self._resource, field)
            if elsewhere is not None:
                form = sql.Literal(f"^{elsewhere.prefix}[A-Za-z0-9_-]{{1,{REFERENCE_ID_MAX_CHARACTERS}}}$")
                self._note(field, "invalid_format", elsewhere.malformed, _MALFORMED, form=form)
        for field in self._references:
            if REMOVE in field.operations:
                self._note(
                    field,
                    "conflict",
                    ADDED_AND_REMOVED,
                    _ADDED_AND_REMOVED,
                    add=sql.Literal(ADD),
                    remove=sql.Literal(REMOVE),
                )

    def note_marks_of_others(self) -> None:
        """Adds errors for marked records that would not be members of the record as stored."""
        for field in self._references:
            if not isinstance(field, MarkedMembers):
                continue
            members = members_of(self._resource, field)
            bit = self._statements.bits[members.name]
            self._note(
                field,
                "conflict",
                field.not_a_member,
                _NOT_A_MEMBER,
                members=sql.Literal(bit),
                replaced=replaces(members, bit) if members.name in self._fields else FALSE,
                links=sql.Identifier("public", field.link.table),
                own=sql.Identifier(field.link.own),
                other=sql.Identifier(field.link.other),
            )

    def note_written_since(self, changed_links: sql.Composed) -> None:
        """Adds errors for links that a batch that arrived later may have written from the other side."""
        field = self._references[0]
        self._statements.note(
            _NOTE_WRITTEN_SINCE,
            changed_links=indented(changed_links),
            name=sql.Literal(field.name),
            quote=sql.Literal(f'{field.name} "'),
            advice=sql.Literal(WRITTEN_SINCE),
            others=sql.Identifier("public", field.target.table),
        )

    def _note(self, field: References, code: str, expectation: str, condition: str, **holes: sql.Composable) -> None:
        self._statements.note(
            _NOTE,
            field=sql.Literal(self._statements.bits[field.name]),
            condition=self._statements.compose(condition, **holes),
            code=sql.Literal(code),
            name=sql.Literal(field.name),
            quote=sql.Literal(f'{field.name} "'),
            sentence=sql.Literal(f'": {expectation}'),
            cut=sql.Literal(VALUE_CHARACTERS),
        )


def note_left_members(statements: Statements, fields: tuple[str, ...], checks: RecordChecks) -> None:
    """Adds errors for items that change the kind of a record's members, but do not give the new members.

    These items need not have references themselves.
    """
    for bit, field in enumerate(statements.resource.fields):
        if not isinstance(field, Members) or field.elsewhere is None or field.elsewhere.field not in fields:
            continue
        decides = statements.resource.field(field.elsewhere.field)
        statements.note(
            _NOTE_LEFT_MEMBERS,
            name=sql.Literal(decides.name),
            message=sql.Literal(f"{decides.name} {field.left_behind}"),
            after=checks.stored_value(decides.name),
            before=sql.SQL("coalesce(r.{}, {})").format(sql.Identifier(decides.name), initial_value(decides)),
            value=sql.Literal(field.elsewhere.value),
            replaced=replaces(field, bit) if field.name in fields else FALSE,
            links=sql.Identifier("public", field.link.table),
            own=sql.Identifier(field.link.own),
        )
