"""Which records the references of staged items mean: set-based look-ups, for the planner and in its transaction.

Each distinct text is looked up once. What cannot be resolved, or contradicts itself or the record as it would be
stored, becomes an error of the item; the rest is kept for `memberships` to write.
"""

from collections.abc import Iterator
from typing import Any

from psycopg import sql

from batch_pipeline.loading.look_ups import look_ups
from batch_pipeline.loading.memberships import changes_query, replaces
from batch_pipeline.loading.merging import initial_value
from batch_pipeline.loading.record_checks import RecordChecks
from batch_pipeline.loading.staging import STEP_PLAN, Connection, Staging
from batch_pipeline.records.errors import VALUE_CHARACTERS
from batch_pipeline.records.links import ADD, MARK, REMOVE, Elsewhere
from batch_pipeline.records.references import ADDED_AND_REMOVED, MarkedMembers, Members, References
from batch_pipeline.records.resource import Resource
from batch_pipeline.values.identifier import BASE58_ALPHABET, RECORD_ID_CHARACTERS, REFERENCE_ID_MAX_CHARACTERS


class Resolver:
    """Resolves the references of one batch's open items; needs the planner's table `matched`.

    `parameters` are the planner's: `organization`, `done` and `newer`.
    """

    def __init__(
        self,
        connection: Connection,
        resource: Resource,
        staging: Staging,
        fields: tuple[str, ...],
        *,
        parameters: dict[str, Any],
        checks: RecordChecks,
    ) -> None:
        self._connection = connection
        self._resource = resource
        self._staging = staging
        self._fields = fields
        self._references = [field for name in fields if isinstance(field := resource.field(name), References)]
        self._bits = {field.name: bit for bit, field in enumerate(resource.fields)}
        self._parameters = parameters
        self._checks = checks

    def resolve(self) -> None:
        """Notes every error of references, and keeps what they mean in `Staging.members`."""
        self._explode()
        self._look_up()
        self._reject_unresolved()
        self._reject_malformed()
        self._reject_contradictions()
        self._keep()
        for field in self._references:
            if isinstance(field, MarkedMembers):
                self._reject_marks_of_others(field)
        if self._parameters["newer"]:
            self._spare_newer_links()
        for table in ("mentioned", "texts", "named", "referred"):
            self._execute("DROP TABLE {table}", table=sql.Identifier(table))

    def changed_rows(self) -> sql.Composed:
        """Condition: whether item `s` would change any link; the items' references must have been resolved."""
        return self._compose("s.row IN (SELECT row FROM ({changes}) AS c)", changes=self._changes())

    # ---- looking up ----------------------------------------------------------------------------------------------

    def _explode(self) -> None:
        """Temporary table `mentioned`: row, field (its bit), operation, position, text, is_elsewhere."""
        branches = [
            self._compose(
                """
                SELECT s.row, {bit}::smallint AS field, o.operation, e.position, e.text COLLATE "C" AS text,
                       {is_elsewhere} AS is_elsewhere
                FROM matched m JOIN {items} s ON s.row = m.row {record}
                CROSS JOIN LATERAL jsonb_each(s.{name}) AS o (operation, list)
                CROSS JOIN LATERAL jsonb_array_elements_text(o.list) WITH ORDINALITY AS e (text, position)
                WHERE NOT s.row <@ %(done)s::int8multirange AND s.{name} IS NOT NULL AND {is_known}
                """,
                bit=sql.Literal(self._bits[field.name]),
                name=sql.Identifier(field.name),
                **self._place_of(field),
            )
            for field in self._references
        ]
        self._execute(
            "CREATE TEMPORARY TABLE mentioned ON COMMIT DROP AS {all}", all=sql.SQL(" UNION ALL ").join(branches)
        )
        self._execute("ANALYZE mentioned")

    def _place_of(self, field: References) -> dict[str, sql.Composable]:
        """Whether a field's references are to things kept elsewhere, what that needs, and whether it can be told."""
        elsewhere = self._elsewhere(field)
        if elsewhere is None:
            return {"is_elsewhere": sql.SQL("false"), "record": sql.SQL(""), "is_known": sql.SQL("true")}
        return {
            "is_elsewhere": sql.SQL("{} = {}").format(
                self._checks.stored_value(elsewhere.field), sql.Literal(elsewhere.value)
            ),
            "record": self._compose(
                "LEFT JOIN {records} r ON r.organization_id = %(organization)s AND r.id = m.record_id"
            ),
            "is_known": sql.SQL("(s.invalid >> {}) & 1 = 0").format(sql.Literal(self._bits[elsewhere.field])),
        }

    def _elsewhere(self, field: References) -> Elsewhere | None:
        if isinstance(field, MarkedMembers):
            field = self._members_of(field)
        return field.elsewhere if isinstance(field, Members) else None

    def _members_of(self, field: MarkedMembers) -> Members:
        members = self._resource.field(field.of)
        if not isinstance(members, Members):
            raise TypeError(f"{field.name} marks members of {field.of}, which is no field of members")
        return members

    def _look_up(self) -> None:
        """Temporary table `referred`: `mentioned` with the id that is meant, and how many records the text names."""
        targets = list(dict.fromkeys(field.target for field in self._references))
        places = {field.name: targets.index(field.target) for field in self._references}
        place = sql.SQL("CASE field {} END").format(
            sql.SQL(" ").join(
                sql.SQL("WHEN {} THEN {}").format(self._bits[name], place) for name, place in places.items()
            )
        )
        forms = [
            sql.SQL("WHEN {} THEN text ~ {}").format(
                number, sql.Literal(f"^{target.id_prefix}[{BASE58_ALPHABET}]{{{RECORD_ID_CHARACTERS}}}$")
            )
            for number, target in enumerate(targets)
        ]
        self._execute(
            """
            CREATE TEMPORARY TABLE texts ON COMMIT DROP AS
            SELECT place, text, CASE place {forms} END AS is_id
            FROM (SELECT DISTINCT {place} AS place, text FROM mentioned WHERE NOT is_elsewhere) AS t
            """,
            place=place,
            forms=sql.SQL(" ").join(forms),
        )
        self._execute("ANALYZE texts")
        found = [query for number, target in enumerate(targets) for query in look_ups(number, target)]
        self._execute(
            "CREATE TEMPORARY TABLE named ON COMMIT DROP AS {found}", found=sql.SQL(" UNION ALL ").join(found)
        )
        self._execute("ANALYZE named")
        self._execute(
            """
            CREATE TEMPORARY TABLE referred ON COMMIT DROP AS
            SELECT m.*, CASE WHEN m.is_elsewhere THEN m.text WHEN n.matches = 1 THEN n.id END AS target,
                   coalesce(n.matches, 0) AS matches
            FROM mentioned m LEFT JOIN named n ON NOT m.is_elsewhere AND n.text = m.text AND n.place = {place}
            """,
            place=place,
        )
        self._execute("ANALYZE referred")

    # ---- errors --------------------------------------------------------------------------------------------------

    def _reject_unresolved(self) -> None:
        for field in self._references:
            self._note(field, "reference_not_found", field.target.not_found, "NOT f.is_elsewhere AND f.matches = 0")
            self._note(field, "ambiguous_match", field.target.ambiguous, "NOT f.is_elsewhere AND f.matches > 1")

    def _reject_malformed(self) -> None:
        for field in self._references:
            elsewhere = self._elsewhere(field)
            if elsewhere is not None:
                self._note(
                    field,
                    "invalid_format",
                    elsewhere.malformed,
                    "f.is_elsewhere AND f.text !~ {form}",
                    form=sql.Literal(f"^{elsewhere.prefix}[A-Za-z0-9_-]{{1,{REFERENCE_ID_MAX_CHARACTERS}}}$"),
                )

    def _reject_contradictions(self) -> None:
        for field in self._references:
            if REMOVE in field.operations:
                self._note(
                    field,
                    "conflict",
                    ADDED_AND_REMOVED,
                    """f.operation = {add} AND EXISTS (
                        SELECT FROM referred x WHERE x.row = f.row AND x.field = f.field
                          AND x.operation = {remove} AND x.target = f.target)""",
                    add=sql.Literal(ADD),
                    remove=sql.Literal(REMOVE),
                )

    def _reject_marks_of_others(self, field: MarkedMembers) -> None:
        """What is marked must be a member of the record as it would be stored."""
        members = self._members_of(field)
        link = field.link
        bit = self._bits[members.name]
        staged = members.name in self._fields
        self._note(
            field,
            "conflict",
            field.not_a_member,
            """f.target IS NOT NULL AND NOT EXISTS (
                    SELECT FROM referred x WHERE x.row = f.row AND x.field = {bit} AND x.target = f.target)
               AND EXISTS (
                    SELECT FROM matched m JOIN {items} s ON s.row = m.row
                    WHERE m.row = f.row AND (s.invalid >> {bit}) & 1 = 0 AND ({replaced} OR NOT EXISTS (
                        SELECT FROM {links} g WHERE g.organization_id = %(organization)s
                          AND g.{own} = m.record_id AND g.{other} = f.target)))""",
            bit=sql.Literal(bit),
            replaced=replaces(members, bit) if staged else sql.SQL("false"),
            links=sql.Identifier("public", link.table),
            own=sql.Identifier(link.own),
            other=sql.Identifier(link.other),
        )

    def _spare_newer_links(self) -> None:
        """A link that a later-arrived batch may have written, from its other side, is not undone."""
        field = self._references[0]
        self._execute(
            """
            INSERT INTO {errors} (row, step, code, field, message, value)
            SELECT DISTINCT ON (c.row) c.row, {step}, 'conflict', {name},
                   {label} || c.other || '": a batch that arrived later (' || o.batch_id || ') has written it since:'
                   || ' nothing newer is undone, upload the item again if it is meant', c.other
            FROM ({changes}) AS c
            JOIN {others} o ON o.organization_id = %(organization)s AND o.id = c.other
            WHERE o.batch_id = ANY(%(newer)s)
            ORDER BY c.row, c.other
            """,
            changes=self._changes(),
            name=sql.Literal(field.name),
            label=sql.Literal(f'{field.name} "'),
            others=sql.Identifier("public", field.target.table),
        )

    def _note(self, field: References, code: str, expectation: str, condition: str, **parts: sql.Composable) -> None:
        """Notes an error for each reference `f` of the field that meets the condition, once however often repeated."""
        self._execute(
            """
            INSERT INTO {errors} (row, step, code, field, message, value)
            SELECT row, {step}, {code}, {name}, {label} || left(text, {cut}) || {sentence}, left(text, {cut})
            FROM (SELECT f.row, f.text, min(f.position) AS position FROM referred f
                  WHERE f.field = {bit_of_field} AND {condition} GROUP BY f.row, f.text) AS found
            ORDER BY row, position
            """,
            bit_of_field=sql.Literal(self._bits[field.name]),
            condition=self._compose(condition, **parts),
            code=sql.Literal(code),
            name=sql.Literal(field.name),
            label=sql.Literal(f'{field.name} "'),
            sentence=sql.Literal(f'": {expectation}'),
            cut=sql.Literal(VALUE_CHARACTERS),
        )

    # ---- what is kept --------------------------------------------------------------------------------------------

    def _keep(self) -> None:
        """Replaces `Staging.members` by what the open items' references mean; those of finished chunks are done."""
        query = self._compose(
            """
            SELECT DISTINCT row,
                   (CASE operation WHEN {remove} THEN 'r' WHEN {mark} THEN 'm' ELSE 'a' END)::"char" AS role,
                   target, is_elsewhere
            FROM referred WHERE target IS NOT NULL ORDER BY row
            """,
            remove=sql.Literal(REMOVE),
            mark=sql.Literal(MARK),
        )
        self._staging.replace_members(self._connection, query, self._parameters)

    def _changes(self) -> sql.Composed:
        meant = self._compose(
            "{items} s JOIN matched m ON m.row = s.row AND m.record_id IS NOT NULL"
            " WHERE m.matches = 1 AND NOT s.row <@ %(done)s::int8multirange"
        )
        return changes_query(self._resource, self._staging, self._fields, meant, own=sql.SQL("m.record_id"))

    def _execute(self, statement: str, **parts: sql.Composable) -> None:
        self._connection.execute(self._compose(statement, **parts), self._parameters)

    def _compose(self, statement: str, **parts: sql.Composable) -> sql.Composed:
        return sql.SQL(statement).format(
            items=self._staging.items,
            errors=self._staging.errors,
            records=sql.Identifier("public", self._resource.table),
            step=sql.Literal(STEP_PLAN),
            **parts,
        )


def members_left(
    resource: Resource, staging: Staging, fields: tuple[str, ...], checks: RecordChecks
) -> Iterator[sql.Composed]:
    """Statements that reject items after which a record's members would be of the wrong kind.

    Its members must be given as well then, be it none. An item can be such without carrying any references. Their
    parameters are the planner's; they need its table `matched`.
    """
    for bit, field in enumerate(resource.fields):
        if not isinstance(field, Members) or field.elsewhere is None or field.elsewhere.field not in fields:
            continue
        decides = resource.field(field.elsewhere.field)
        yield sql.SQL(
            """
            INSERT INTO {errors} (row, step, code, field, message, value)
            SELECT s.row, {step}, 'conflict', {name}, {message}, NULL
            FROM matched m JOIN {items} s ON s.row = m.row
            JOIN {records} r ON r.organization_id = %(organization)s AND r.id = m.record_id
            WHERE NOT s.row <@ %(done)s::int8multirange AND m.matches = 1
              AND ({stored} = {value}) <> ({before} = {value}) AND NOT {replaced}
              AND EXISTS (SELECT FROM {links} g WHERE g.organization_id = %(organization)s AND g.{own} = r.id)
            ORDER BY s.row
            """
        ).format(
            errors=staging.errors,
            items=staging.items,
            records=sql.Identifier("public", resource.table),
            step=sql.Literal(STEP_PLAN),
            name=sql.Literal(decides.name),
            message=sql.Literal(f"{decides.name} {field.left_behind}"),
            stored=checks.stored_value(decides.name),
            before=sql.SQL("coalesce(r.{}, {})").format(sql.Identifier(decides.name), initial_value(decides)),
            value=sql.Literal(field.elsewhere.value),
            replaced=replaces(field, bit) if field.name in fields else sql.SQL("false"),
            links=sql.Identifier("public", field.link.table),
            own=sql.Identifier(field.link.own),
        )
