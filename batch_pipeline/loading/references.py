"""Finds the records that the references of staged items name. Set-based, for the planner and in its transaction.

Each distinct text is looked up once. An item gets an error (`reference_errors`) if a reference can't be resolved, or
contradicts another one or the record as it would be stored. `memberships` writes the rest.
"""

from psycopg import sql

from batch_pipeline.loading.link_statements import changed_links
from batch_pipeline.loading.look_ups import look_ups
from batch_pipeline.loading.record_checks import RecordChecks
from batch_pipeline.loading.reference_errors import ReferenceErrors
from batch_pipeline.loading.reference_fields import elsewhere_of, references_of
from batch_pipeline.loading.statements import FALSE, NOTHING, TRUE, UNION_ALL, Statements, indented
from batch_pipeline.records.links import MARK, REMOVE
from batch_pipeline.records.references import References
from batch_pipeline.values.identifier import BASE58_ALPHABET, RECORD_ID_CHARACTERS

_OPEN_ITEMS = """\
{items} s
    JOIN {plan} m ON m.row = s.row AND m.record_id IS NOT NULL
    WHERE m.matches = 1 AND NOT s.row <@ %(done)s::int8multirange"""

_CHANGED_ROWS = """\
s.row IN (
    SELECT row FROM (
        {changed_links}
    ) AS c
)"""

_MENTIONED = """\
CREATE TEMPORARY TABLE mentioned ON COMMIT DROP AS
{mentioned}"""

_MENTIONED_IN = """\
SELECT s.row, {bit}::smallint AS field, o.operation, e.position, e.text COLLATE "C" AS text,
       {is_elsewhere} AS is_elsewhere
FROM {plan} m
JOIN {items} s ON s.row = m.row
{stored}CROSS JOIN LATERAL jsonb_each(s.{name}) AS o (operation, list)
CROSS JOIN LATERAL jsonb_array_elements_text(o.list) WITH ORDINALITY AS e (text, position)
WHERE NOT s.row <@ %(done)s::int8multirange AND s.{name} IS NOT NULL AND {is_known}"""

_STORED = """\
LEFT JOIN {records} r ON r.organization_id = %(organization)s AND r.id = m.record_id
"""

_TEXTS = """\
CREATE TEMPORARY TABLE texts ON COMMIT DROP AS
SELECT place, text, CASE place {forms} END AS is_id
FROM (SELECT DISTINCT {place} AS place, text FROM mentioned WHERE NOT is_elsewhere) AS t"""

_NAMED = """\
CREATE TEMPORARY TABLE named ON COMMIT DROP AS
{found}"""

_REFERRED = """\
CREATE TEMPORARY TABLE referred ON COMMIT DROP AS
SELECT m.*, CASE WHEN m.is_elsewhere THEN m.text WHEN n.matches = 1 THEN n.id END AS target,
       coalesce(n.matches, 0) AS matches
FROM mentioned m
LEFT JOIN named n ON NOT m.is_elsewhere AND n.text = m.text AND n.place = {place}"""

_MEMBERS = """\
SELECT DISTINCT row,
       (CASE operation WHEN {remove} THEN 'r' WHEN {mark} THEN 'm' ELSE 'a' END)::"char" AS role,
       target, is_elsewhere
FROM referred
WHERE target IS NOT NULL
ORDER BY row"""


class Resolver:
    """Resolves the references of one batch's open items. Needs the plan with the columns of `identity.Matching`."""

    def __init__(self, statements: Statements, fields: tuple[str, ...], *, checks: RecordChecks) -> None:
        self._statements = statements
        self._resource = statements.resource
        self._fields = fields
        self._references = references_of(statements.resource, fields)
        self._checks = checks
        self._errors = ReferenceErrors(statements, fields)

    def resolve(self) -> None:
        """Notes every error of references, and writes the resolved ones into `Staging.members`."""
        self._find_mentioned()
        self._look_up()
        self._errors.note_own()
        self._keep()
        self._errors.note_marks_of_others()
        if self._statements.has_newer:
            self._errors.note_written_since(self._changed_links())
        for table in ("mentioned", "texts", "named", "referred"):
            self._statements.execute("DROP TABLE {table}", table=sql.Identifier(table))

    def changed_rows(self) -> sql.Composed:
        """Condition: item `s` would change a link. The items' references must have been resolved."""
        return self._statements.compose(_CHANGED_ROWS, changed_links=indented(self._changed_links(), 8))

    def _changed_links(self) -> sql.Composed:
        meant = self._statements.compose(_OPEN_ITEMS)
        return changed_links(self._resource, self._statements.staging, self._fields, meant, own=sql.SQL("m.record_id"))

    def _find_mentioned(self) -> None:
        """Makes the temporary table `mentioned`, one row a reference.

        Columns: row, field (its bit), operation, position (in its list), text, is_elsewhere.
        """
        mentioned = [
            self._statements.compose(
                _MENTIONED_IN,
                bit=sql.Literal(self._statements.bits[field.name]),
                name=sql.Identifier(field.name),
                **self._place_of(field),
            )
            for field in self._references
        ]
        self._statements.execute(_MENTIONED, mentioned=UNION_ALL.join(mentioned))
        self._statements.execute("ANALYZE mentioned")

    def _place_of(self, field: References) -> dict[str, sql.Composable]:
        """Conditions: the field's references are to things kept elsewhere; the field that decides this is valid."""
        elsewhere = elsewhere_of(self._resource, field)
        if elsewhere is None:
            return {"is_elsewhere": FALSE, "stored": NOTHING, "is_known": TRUE}
        return {
            "is_elsewhere": sql.SQL("{} = {}").format(
                self._checks.stored_value(elsewhere.field), sql.Literal(elsewhere.value)
            ),
            "stored": self._statements.compose(_STORED),
            "is_known": sql.SQL("(s.invalid >> {}) & 1 = 0").format(
                sql.Literal(self._statements.bits[elsewhere.field])
            ),
        }

    def _look_up(self) -> None:
        """Makes the temporary table `referred`: `mentioned` with two more columns.

        target is the id of the named record, null where none or several have the name; matches is their number.
        """
        targets = list(dict.fromkeys(field.target for field in self._references))
        place = sql.SQL("CASE field {} END").format(
            sql.SQL(" ").join(
                sql.SQL("WHEN {} THEN {}").format(self._statements.bits[field.name], targets.index(field.target))
                for field in self._references
            )
        )
        forms = [
            sql.SQL("WHEN {} THEN text ~ {}").format(
                number, sql.Literal(f"^{target.id_prefix}[{BASE58_ALPHABET}]{{{RECORD_ID_CHARACTERS}}}$")
            )
            for number, target in enumerate(targets)
        ]
        self._statements.execute(_TEXTS, place=place, forms=sql.SQL(" ").join(forms))
        self._statements.execute("ANALYZE texts")
        found = [query for number, target in enumerate(targets) for query in look_ups(number, target)]
        self._statements.execute(_NAMED, found=UNION_ALL.join(found))
        self._statements.execute("ANALYZE named")
        self._statements.execute(_REFERRED, place=place)
        self._statements.execute("ANALYZE referred")

    def _keep(self) -> None:
        """Replaces `Staging.members` by the resolved references of open items; chunks that are done need none."""
        query = self._statements.compose(_MEMBERS, remove=sql.Literal(REMOVE), mark=sql.Literal(MARK))
        self._statements.replace("members", ("row", "role", "target", "is_elsewhere"), query)
