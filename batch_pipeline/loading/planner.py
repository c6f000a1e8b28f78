"""The plan of a merge or overwrite: what happens to each staged item. Made set-based, in one transaction.

Each item is looked up (`identity`), errors of identity and of the record as it would be stored are noted, items that
contradict each other are settled, and every item gets a verdict. Rows of chunks that are done keep theirs, so the
plan can be made anew for the rest when another batch wrote since.
"""

from dataclasses import replace
from typing import Any

from psycopg import sql

from batch_pipeline.batches.model import Action, DuplicateHandling
from batch_pipeline.loading.chunks import done_rows
from batch_pipeline.loading.identity import BY_ID, BY_NATURAL_KEY, Matching
from batch_pipeline.loading.memberships import references_of
from batch_pipeline.loading.merging import difference, merged_value
from batch_pipeline.loading.plan import PlanCounts, count_verdicts
from batch_pipeline.loading.record_checks import RecordChecks
from batch_pipeline.loading.references import Resolver, members_left
from batch_pipeline.loading.staging import FEW_ROWS, STEP_PLAN, Connection, Staging
from batch_pipeline.records.errors import VALUE_CHARACTERS
from batch_pipeline.records.keyed import KeyedText
from batch_pipeline.records.resource import Resource


class Planner:
    """Makes the plan of one batch, within the caller's transaction.

    `newer` are the batches that arrived later than this one and have written: what they wrote is not undone.
    """

    def __init__(
        self,
        connection: Connection,
        resource: Resource,
        staging: Staging,
        *,
        organization_id: str,
        action: Action,
        fields: tuple[str, ...],
        clears: bool,
        handling: DuplicateHandling,
        newer: list[str],
    ) -> None:
        self._connection = connection
        self._resource = resource
        self._staging = staging
        self._action = action
        self._fields = fields
        self._clears = clears
        self._handling = handling
        self._bits = {field.name: bit for bit, field in enumerate(resource.fields)}
        self._matching = Matching(resource, staging, fields)
        self._table = sql.Identifier("public", resource.table)
        self._parameters: dict[str, Any] = {
            "organization": organization_id,
            "batch": staging.batch_id,
            "done": done_rows(connection, staging.batch_id),
            "newer": newer,
        }
        self._checks = RecordChecks(resource, staging, fields, clears=clears)
        self._references: Resolver | None = None
        if references_of(resource, fields):
            self._references = Resolver(
                connection, resource, staging, fields, parameters=self._parameters, checks=self._checks
            )

    def plan(self) -> PlanCounts:
        """Decides every item that is in no finished chunk; replaces an earlier plan for those."""
        self._execute("DELETE FROM {errors} WHERE step = {step} AND NOT row <@ %(done)s::int8multirange")
        self._match()
        if self._references is not None:
            self._references.resolve()
        self._find_errors()
        self._settle_contradictions()
        self._settle_external_ids()
        self._write_verdicts()
        return self._counts()

    def _execute(self, statement: str, **parts: sql.Composable) -> int:
        """Returns the number of rows that the statement made or changed."""
        return self._connection.execute(self._compose(statement, **parts), self._parameters).rowcount

    def _compose(self, statement: str, **parts: sql.Composable) -> sql.Composed:
        return sql.SQL(statement).format(
            items=self._staging.items,
            plan=self._staging.plan,
            errors=self._staging.errors,
            records=self._table,
            step=sql.Literal(STEP_PLAN),
            **parts,
        )

    def _match(self) -> None:
        """Temporary table `matched`: `Matching.query`, and the accepted items of finished chunks.

        Those have their records already; they are there so that no open item may mean the same ones.
        """
        matched = self._execute(
            """
            CREATE TEMPORARY TABLE matched ON COMMIT DROP AS
            {matching}
            UNION ALL
            SELECT p.row, p.record_id, 1, NULL, 'r' || coalesce(p.record_id, s.new_id), 0
            FROM {plan} p JOIN {items} s ON s.row = p.row
            WHERE p.verdict = 'a' AND p.row <@ %(done)s::int8multirange
            """,
            matching=self._matching.query(),
        )
        if matched > FEW_ROWS:
            self._execute("ANALYZE matched")

    # ---- errors ------------------------------------------------------------------------------------------------

    def _find_errors(self) -> None:
        if self._parameters["newer"]:
            self._spare_newer_records()
        if "id" in self._fields:
            self._add_errors(
                "id_not_found",
                "id",
                "no record of this organization has it: ids are made by this system, leave it empty to create",
                "s.id",
                "m.kind = {kind} AND m.matches = 0",
                kind=sql.Literal(BY_ID),
            )
            if "external_id" in self._fields:
                self._add_errors(
                    "conflict",
                    "external_id",
                    "another record has it: it must be unique",
                    "s.external_id",
                    """m.kind = {kind} AND s.external_id IS NOT NULL AND EXISTS (
                        SELECT FROM {records} r
                        WHERE r.organization_id = %(organization)s AND r.external_id = s.external_id
                          AND r.id IS DISTINCT FROM m.record_id)""",
                    kind=sql.Literal(BY_ID),
                )
        for place, key in enumerate(self._resource.natural_keys):
            column = key.columns[0]
            if column in self._fields:
                self._add_errors(
                    "ambiguous_match",
                    column,
                    "several records have the same " + " and ".join(key.columns) + ": name the record by its id",
                    f"s.{column}",
                    "m.kind = {kind} AND m.matches > 1",
                    kind=sql.Literal(BY_NATURAL_KEY + place),
                )
        for field in self._resource.fields:
            if field.required:
                self._add_errors(
                    "required",
                    field.name,
                    f"is missing: a new {self._resource.name} needs it, and no existing one is meant",
                    "NULL::text",
                    "m.matches = 0 AND m.kind <> {kind} AND {given} IS NULL AND (s.invalid >> {bit}) & 1 = 0",
                    kind=sql.Literal(BY_ID),
                    given=self._matching.staged(field.name),
                    bit=sql.Literal(self._bits[field.name]),
                )
            if isinstance(field, KeyedText) and field.name in self._fields:
                self._add_errors(
                    "too_many",
                    field.name,
                    f"would have more than {field.max_pairs} pairs in the record as stored",
                    "NULL::text",
                    """m.record_id IS NOT NULL AND s.{name} IS NOT NULL AND (s.invalid >> {bit}) & 1 = 0
                       AND EXISTS (
                        SELECT FROM {records} r
                        WHERE r.organization_id = %(organization)s AND r.id = m.record_id
                          AND (SELECT count(*) FROM jsonb_object_keys({merged})) > {most})""",
                    name=sql.Identifier(field.name),
                    bit=sql.Literal(self._bits[field.name]),
                    merged=merged_value(field, self._bits[field.name], clears=True),
                    most=sql.Literal(field.max_pairs),
                )

        self._checks.note_errors(self._connection, self._parameters)
        for statement in members_left(self._resource, self._staging, self._fields, self._checks):
            self._connection.execute(statement, self._parameters)

    def _spare_newer_records(self) -> None:
        """An item that would undo what a later-arrived batch wrote is rejected: that batch's data are newer."""
        changes: sql.Composable = difference(self._resource, self._fields, clears=self._clears) or sql.SQL("false")
        if self._references is not None:
            changes = sql.SQL("({} OR {})").format(changes, self._references.changed_rows())
        self._execute(
            """
            INSERT INTO {errors} (row, step, code, field, message, value)
            SELECT s.row, {step}, 'conflict', NULL,
                   'a batch that arrived later (' || r.batch_id || ') has written the record since:'
                   || ' nothing newer is undone, upload the item again if it is meant', NULL
            FROM matched m JOIN {items} s ON s.row = m.row
            JOIN {records} r ON r.organization_id = %(organization)s AND r.id = m.record_id
            WHERE m.matches = 1 AND m.kind IS NOT NULL AND r.batch_id = ANY(%(newer)s) AND {changes}
            ORDER BY s.row
            """,
            changes=changes,
        )

    def _add_errors(
        self, code: str, field: str, expectation: str, value: str, condition: str, **parts: sql.Composable
    ) -> None:
        """Notes an error for each item that meets the condition (over `s`, the item, and `m`, its match)."""
        shown = sql.SQL("left({}, {})").format(_dotted(value), sql.Literal(VALUE_CHARACTERS))
        self._connection.execute(
            self._compose(
                "INSERT INTO {errors} (row, step, code, field, message, value)"
                " SELECT s.row, {step}, {code}, {field}, coalesce({label} || {shown} || {sentence}, {plain}), {shown}"
                " FROM matched m JOIN {items} s ON s.row = m.row WHERE {condition} ORDER BY s.row",
                condition=self._compose(condition, **parts),
                code=sql.Literal(code),
                field=sql.Literal(field),
                label=sql.Literal(f'{field} "'),
                sentence=sql.Literal(f'": {expectation}'),
                plain=sql.Literal(f"{field} {expectation}"),
                shown=shown,
            ),
            self._parameters,
        )

    # ---- items among themselves ----------------------------------------------------------------------------------

    def _settle_contradictions(self) -> None:
        """Temporary table `repeated`: row, and first, last and one other row of the valid items of its target."""
        self._execute(
            """
            CREATE TEMPORARY TABLE repeated ON COMMIT DROP AS
            WITH suspects AS (
                SELECT m.row, m.target FROM matched m
                WHERE m.target IN (SELECT target FROM matched GROUP BY target HAVING count(*) > 1)
                  AND m.invalid = 0 AND NOT EXISTS (SELECT FROM {errors} e WHERE e.row = m.row)
            ), targets AS (
                SELECT target, array_agg(row ORDER BY row) AS rows FROM suspects GROUP BY target HAVING count(*) > 1
            )
            SELECT s.row, t.rows[1] AS first, t.rows[cardinality(t.rows)] AS last,
                   CASE WHEN s.row = t.rows[1] THEN t.rows[2] ELSE t.rows[1] END AS other
            FROM suspects s JOIN targets t ON t.target = s.target
            """
        )
        if self._handling is DuplicateHandling.ignore_all:
            self._execute(
                """
                INSERT INTO {errors} (row, step, code, field, message, value)
                SELECT d.row, {step}, 'duplicate_key', NULL,
                       'the item means the same record as row ' || d.other
                       || ' but differs from it: keep one, or choose use_first or use_last', NULL
                FROM repeated d WHERE NOT d.row <@ %(done)s::int8multirange ORDER BY d.row
                """
            )

    def _settle_external_ids(self) -> None:
        """An external id may go to one record only, also within a batch."""
        if not {"id", "external_id"} <= set(self._fields):
            return
        self._execute(
            """
            WITH given AS (
                SELECT s.row, s.external_id, m.target FROM matched m JOIN {items} s ON s.row = m.row
                WHERE s.external_id IS NOT NULL
                  AND m.invalid = 0 AND NOT EXISTS (SELECT FROM {errors} e WHERE e.row = m.row)
            )
            INSERT INTO {errors} (row, step, code, field, message, value)
            SELECT g.row, {step}, 'conflict', 'external_id',
                   'external_id "' || left(g.external_id, {cut})
                   || '": other items of this upload give it to another record: it must be unique',
                   left(g.external_id, {cut})
            FROM given g
            WHERE NOT g.row <@ %(done)s::int8multirange AND g.external_id IN (
                SELECT external_id FROM given GROUP BY external_id HAVING count(DISTINCT target) > 1)
            ORDER BY g.row
            """,
            cut=sql.Literal(VALUE_CHARACTERS),
        )

    def _write_verdicts(self) -> None:
        """Makes the plan table anew; what finished chunks did is taken over."""
        dropped = {
            DuplicateHandling.ignore_all: sql.SQL("false"),
            DuplicateHandling.use_first: sql.SQL("d.row <> d.first"),
            DuplicateHandling.use_last: sql.SQL("d.row <> d.last"),
        }[self._handling]
        query = self._compose(
            """
            SELECT m.row,
                   CASE WHEN m.kind IS NULL OR m.invalid <> 0 OR EXISTS (SELECT FROM {errors} e WHERE e.row = m.row)
                        THEN 'r' WHEN d.row IS NOT NULL THEN 'd' ELSE 'a' END::"char" AS verdict,
                   m.record_id
            FROM matched m LEFT JOIN repeated d ON d.row = m.row AND {dropped}
            WHERE NOT m.row <@ %(done)s::int8multirange
            UNION ALL
            SELECT row, verdict, record_id FROM {plan} WHERE row <@ %(done)s::int8multirange
            ORDER BY row
            """,
            dropped=dropped,
        )
        self._staging.replace_plan(self._connection, query, self._parameters)

    def _counts(self) -> PlanCounts:
        verdicts = count_verdicts(self._connection, self._staging)
        return self._doom(verdicts) if self._action is Action.overwrite else verdicts

    # ---- cleanup -------------------------------------------------------------------------------------------------

    def _doom(self, counts: PlanCounts) -> PlanCounts:
        """Lists the records that an overwrite deletes: all but those that any item of the upload may mean.

        Spared are the records of accepted items, those that share any key with a rejected item, what this batch
        itself has made, and what batches that arrived later have written.
        """
        unidentified = self._one(
            "SELECT count(*) FROM {plan} p JOIN {items} s ON s.row = p.row WHERE p.verdict = 'r' AND NOT s.identified"
        )
        spared = [
            self._compose(
                """
                SELECT r.id FROM {plan} p JOIN {items} s ON s.row = p.row
                JOIN {records} r ON r.organization_id = %(organization)s AND {same_key}
                WHERE p.verdict = 'r'
                """,
                same_key=condition,
            )
            for condition in (self._matching.same_key_conditions() if counts.rejected else [])
        ]
        spared.append(self._compose("SELECT record_id FROM {plan} WHERE verdict = 'a' AND record_id IS NOT NULL"))
        query = self._compose(
            """
            SELECT row_number() OVER (ORDER BY r.id) AS number, r.id, r.external_id
            FROM {records} r
            WHERE r.organization_id = %(organization)s AND {nothing_unidentified}
              AND r.batch_id IS DISTINCT FROM %(batch)s AND (r.batch_id IS NULL OR r.batch_id <> ALL(%(newer)s))
              AND NOT EXISTS (SELECT FROM ({spared}) AS spared (id) WHERE spared.id = r.id)
            ORDER BY number
            """,
            nothing_unidentified=sql.Literal(unidentified == 0),
            spared=sql.SQL(" UNION ALL ").join(spared),
        )
        self._staging.replace_doomed(self._connection, query, self._parameters)
        doomed = self._one("SELECT count(*) FROM {doomed}", doomed=self._staging.doomed)
        return replace(counts, doomed=doomed, unidentified=unidentified)

    def _one(self, statement: str, **parts: sql.Composable) -> int:
        row = self._connection.execute(self._compose(statement, **parts), self._parameters).fetchone()
        return 0 if row is None else int(row[0])


def _dotted(name: str) -> sql.Composable:
    """`s.column` as identifiers; anything else is our own constant SQL."""
    alias, dot, column = name.partition(".")
    return sql.Identifier(alias, column) if dot else sql.SQL(name)
