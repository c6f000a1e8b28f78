"""Which record each staged item means, and what follows: the plan.

Set-based throughout, in the database: each item is looked up by its deciding key alone, errors of identity and of the
record as it would be stored are noted, items that contradict each other are settled, and every item gets a verdict.
Rows of chunks that are done keep theirs, so the plan can be made anew for the rest when another batch wrote since.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from psycopg import sql

from batch_pipeline.batches.model import DuplicateHandling
from batch_pipeline.loading.staging import Connection, Staging
from batch_pipeline.records.check import CheckedChunk, RowRules
from batch_pipeline.records.errors import VALUE_CHARACTERS
from batch_pipeline.records.fields import KeyedText
from batch_pipeline.records.resource import NaturalKey, Resource

# Kinds of deciding keys, in the order in which they decide; natural keys follow by their place in the resource.
BY_ID = 0
BY_EXTERNAL_ID = 1
BY_NATURAL_KEY = 2

STEP_RULES = 0
STEP_PLAN = 1
STEP_WRITE = 2

# Lower-cases every script alike on every server; the index on a folded key uses the same expression.
FOLDING_COLLATION = "pg_c_utf8"


@dataclass(frozen=True)
class PlanCounts:
    """Items by verdict."""

    accepted: int
    duplicates: int
    rejected: int


def deciding_kinds(resource: Resource, checked: CheckedChunk, rules: RowRules) -> pa.Int16Array:
    """The kind of key that decides each item's identity; null where that key is not valid, so none can.

    An item carries a key also when its value is wrong: a mistyped email must not turn into another record by name.
    """
    count = len(checked.rows)

    def given(name: str) -> npt.NDArray[np.bool_]:
        column = checked.fields.get(name)
        if column is None:
            return np.zeros(count, np.bool_)
        return np.asarray(column.is_valid().to_numpy(zero_copy_only=False))

    def wrong(name: str) -> npt.NDArray[np.bool_]:
        return np.asarray((checked.invalid >> rules.bits[name]) & 1 == 1)

    kinds = np.full(count, -1, np.int16)
    open_items = np.ones(count, np.bool_)
    keys: list[tuple[int, str | None, tuple[str, ...]]] = [
        (BY_ID, "id", ("id",)),
        (BY_EXTERNAL_ID, "external_id", ("external_id",)),
    ]
    keys += [(BY_NATURAL_KEY + i, key.when, key.columns) for i, key in enumerate(resource.natural_keys)]
    for kind, when, columns in keys:
        carried = open_items if when is None else open_items & (given(when) | wrong(when))
        broken = np.zeros(count, np.bool_)
        for column in columns:
            broken |= wrong(column)
        kinds[carried & ~broken] = kind
        open_items = open_items & ~carried
    return pa.array(kinds, mask=kinds < 0)


class Planner:
    """Makes the plan of one batch, within the caller's transaction."""

    def __init__(
        self,
        connection: Connection,
        resource: Resource,
        staging: Staging,
        *,
        organization_id: str,
        fields: tuple[str, ...],
        handling: DuplicateHandling,
    ) -> None:
        self._connection = connection
        self._resource = resource
        self._staging = staging
        self._fields = fields
        self._handling = handling
        self._bits = {field.name: bit for bit, field in enumerate(resource.fields)}
        self._table = sql.Identifier("public", resource.table)
        self._parameters: dict[str, Any] = {"organization": organization_id, "done": "{}"}

    def plan(self) -> PlanCounts:
        """Decides every item that is in no finished chunk; replaces an earlier plan for those."""
        self._parameters["done"] = self._done_rows()
        self._execute("DELETE FROM {plan} WHERE NOT row <@ %(done)s::int8multirange")
        self._execute("DELETE FROM {errors} WHERE step = {step} AND NOT row <@ %(done)s::int8multirange")
        self._match()
        self._find_errors()
        self._settle_contradictions()
        self._settle_external_ids()
        self._write_verdicts()
        return self._counts()

    def _execute(self, statement: str, **parts: sql.Composable) -> None:
        self._connection.execute(self._compose(statement, **parts), self._parameters)

    def _compose(self, statement: str, **parts: sql.Composable) -> sql.Composed:
        return sql.SQL(statement).format(
            items=self._staging.items,
            plan=self._staging.plan,
            errors=self._staging.errors,
            records=self._table,
            step=sql.Literal(STEP_PLAN),
            **parts,
        )

    def _done_rows(self) -> str:
        row = self._connection.execute(
            "SELECT coalesce(range_agg(int8range(first_row, last_row, '[]')), '{}')::text FROM batch_chunks"
            " WHERE batch_id = %s AND done_at IS NOT NULL",
            (self._staging.batch_id,),
        ).fetchone()
        return "{}" if row is None else str(row[0])

    # ---- matching ----------------------------------------------------------------------------------------------

    def _match(self) -> None:
        """Temporary table `matched`: row, record_id (null: none), matches (records that the key has), target.

        `target` names what the item means: the record, or the new record of that key. Items that mean the same have
        the same target.
        """
        branches = [
            self._compose(
                """
                SELECT s.row, r.id AS record_id, CASE WHEN r.id IS NULL THEN 0 ELSE 1 END AS matches, s.kind,
                       ('r' || coalesce(r.id, s.id)) COLLATE "C" AS target
                FROM {items} s LEFT JOIN {records} r ON r.organization_id = %(organization)s AND r.id = s.id
                WHERE s.kind = {kind} AND NOT s.row <@ %(done)s::int8multirange
                """,
                kind=sql.Literal(BY_ID),
            )
        ] * ("id" in self._fields)
        if "external_id" in self._fields:
            branches.append(
                self._compose(
                    """
                    SELECT s.row, r.id, CASE WHEN r.id IS NULL THEN 0 ELSE 1 END, s.kind,
                           coalesce('r' || r.id, 'e' || s.external_id) COLLATE "C"
                    FROM {items} s
                    LEFT JOIN {records} r
                        ON r.organization_id = %(organization)s AND r.external_id = s.external_id
                    WHERE s.kind = {kind} AND NOT s.row <@ %(done)s::int8multirange
                    """,
                    kind=sql.Literal(BY_EXTERNAL_ID),
                )
            )
        branches += [
            self._match_natural_key(BY_NATURAL_KEY + place, key)
            for place, key in enumerate(self._resource.natural_keys)
            if key.when is None or key.when in self._fields
        ]
        self._connection.execute(
            sql.SQL(
                "CREATE TEMPORARY TABLE matched (row, record_id, matches, kind, target) ON COMMIT DROP AS {}"
            ).format(sql.SQL(" UNION ALL ").join(branches)),
            self._parameters,
        )
        self._connection.execute("ANALYZE matched")

    def _match_natural_key(self, kind: int, key: NaturalKey) -> sql.Composed:
        compared = [(self._record_key(column, key), self._staged_key(column, key)) for column in key.columns]
        conditions = [sql.SQL("{} = {}").format(record, staged) for record, staged in compared]
        if key.only_records_without is not None:
            conditions.append(sql.SQL("r.{} IS NULL").format(sql.Identifier(key.only_records_without)))
        elif key.fold_case:
            conditions += [sql.SQL("r.{} IS NOT NULL").format(sql.Identifier(c)) for c in key.columns]
        conditions.append(self._first_is_given(key))
        target = sql.SQL(", ").join(
            sql.SQL("coalesce({}, '')").format(staged) if not key.fold_case else staged for _, staged in compared
        )
        return self._compose(
            """
            SELECT s.row, min(r.id), count(r.id)::integer, s.kind,
                   coalesce('r' || min(r.id) COLLATE "C", concat_ws(E'\\x1f', {label}, {target}) COLLATE "C")
            FROM {items} s LEFT JOIN {records} r ON r.organization_id = %(organization)s AND {conditions}
            WHERE s.kind = {kind} AND NOT s.row <@ %(done)s::int8multirange
            GROUP BY s.row, s.kind, {target}
            """,
            conditions=sql.SQL(" AND ").join(conditions),
            label=sql.Literal(f"n{kind}"),
            target=target,
            kind=sql.Literal(kind),
        )

    def _record_key(self, column: str, key: NaturalKey) -> sql.Composed:
        return _key_expression(sql.SQL("r.{}").format(sql.Identifier(column)), key)

    def _staged_key(self, column: str, key: NaturalKey) -> sql.Composed:
        return _key_expression(self._staged(column), key)

    def _staged(self, column: str) -> sql.Composed:
        if column in self._fields:
            return sql.SQL("s.{}").format(sql.Identifier(column))
        return sql.SQL("NULL::{}").format(sql.SQL(self._resource.field(column).sql_type))

    def _first_is_given(self, key: NaturalKey) -> sql.Composed:
        return sql.SQL("{} IS NOT NULL").format(self._staged(key.columns[0]))

    # ---- errors ------------------------------------------------------------------------------------------------

    def _find_errors(self) -> None:
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
                    given=self._staged(field.name),
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
                    merged=merged_value(field.name, self._bits[field.name], keyed=True, clears=True),
                    most=sql.Literal(field.max_pairs),
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
        """Temporary tables `valid` (row, record_id, target) and `repeated` (row, first, last) of equal targets."""
        self._execute(
            """
            CREATE TEMPORARY TABLE valid ON COMMIT DROP AS
            SELECT m.row, m.record_id, m.target, m.kind FROM matched m JOIN {items} s ON s.row = m.row
            WHERE s.invalid = 0 AND NOT EXISTS (SELECT FROM {errors} e WHERE e.row = m.row)
            """
        )
        # Items of finished chunks have their records already; what is open must not mean the same ones.
        self._execute(
            """
            INSERT INTO valid
            SELECT p.row, p.record_id, 'r' || coalesce(p.record_id, s.new_id), NULL
            FROM {plan} p JOIN {items} s ON s.row = p.row
            WHERE p.verdict = 'a' AND p.row <@ %(done)s::int8multirange
            """
        )
        self._execute(
            """
            CREATE TEMPORARY TABLE repeated ON COMMIT DROP AS
            SELECT v.row, g.rows[1] AS first, g.rows[cardinality(g.rows)] AS last,
                   CASE WHEN v.row = g.rows[1] THEN g.rows[2] ELSE g.rows[1] END AS other
            FROM (SELECT target, array_agg(row ORDER BY row) AS rows FROM valid
                  WHERE target IN (SELECT target FROM valid GROUP BY target HAVING count(*) > 1)
                  GROUP BY target) g
            JOIN valid v ON v.target = g.target
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
            INSERT INTO {errors} (row, step, code, field, message, value)
            SELECT s.row, {step}, 'conflict', 'external_id',
                   'external_id "' || left(s.external_id, {cut})
                   || '": other items of this upload give it to another record: it must be unique',
                   left(s.external_id, {cut})
            FROM valid v JOIN {items} s ON s.row = v.row
            WHERE NOT v.row <@ %(done)s::int8multirange AND s.external_id IN (
                SELECT s.external_id FROM valid v JOIN {items} s ON s.row = v.row
                WHERE s.external_id IS NOT NULL GROUP BY s.external_id HAVING count(DISTINCT v.target) > 1)
            ORDER BY s.row
            """,
            cut=sql.Literal(VALUE_CHARACTERS),
        )

    def _write_verdicts(self) -> None:
        kept = {
            DuplicateHandling.ignore_all: sql.SQL("false"),
            DuplicateHandling.use_first: sql.SQL("d.row <> d.first"),
            DuplicateHandling.use_last: sql.SQL("d.row <> d.last"),
        }[self._handling]
        self._execute(
            """
            INSERT INTO {plan} (row, verdict, record_id)
            SELECT s.row,
                   CASE WHEN v.row IS NULL OR e.row IS NOT NULL THEN 'r' WHEN d.row IS NOT NULL THEN 'd' ELSE 'a' END
                       ::"char",
                   v.record_id
            FROM {items} s
            LEFT JOIN valid v ON v.row = s.row
            LEFT JOIN (SELECT DISTINCT row FROM {errors} WHERE step = {step}) e ON e.row = s.row
            LEFT JOIN repeated d ON d.row = s.row AND {dropped}
            WHERE NOT s.row <@ %(done)s::int8multirange
            ORDER BY s.row
            """,
            dropped=kept,
        )
        self._connection.execute(sql.SQL("ANALYZE {}").format(self._staging.plan))
        for table in ("matched", "valid", "repeated"):
            self._connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(table)))

    def _counts(self) -> PlanCounts:
        rows = self._connection.execute(
            self._compose("SELECT verdict::text, count(*) FROM {plan} GROUP BY verdict")
        ).fetchall()
        counts = {str(verdict): int(count) for verdict, count in rows}
        return PlanCounts(counts.get("a", 0), counts.get("d", 0), counts.get("r", 0))


def _key_expression(value: sql.Composed, key: NaturalKey) -> sql.Composed:
    """A key column as compared; the index on the records table has the same expression."""
    if key.fold_case:
        return sql.SQL("lower({} COLLATE {})").format(value, sql.Identifier(FOLDING_COLLATION))
    return sql.SQL("(coalesce({}, '') COLLATE \"C\")").format(value)


def _dotted(name: str) -> sql.Composable:
    """`s.column` as identifiers; anything else is our own constant SQL."""
    alias, dot, column = name.partition(".")
    return sql.Identifier(alias, column) if dot else sql.SQL(name)


def merged_value(name: str, bit: int, *, keyed: bool, clears: bool) -> sql.Composed:
    """A field of record `r` after item `s` was merged into it.

    Scalars are replaced where the item gives a value; objects merge key by key, a null removing one. `clears` says
    whether any item of the batch clears a field, which costs a test of the item's mask.
    """
    column = sql.Identifier(name)
    is_cleared = sql.SQL("(s.cleared >> {}) & 1 = 1").format(sql.Literal(bit))
    if keyed:
        base = sql.SQL("CASE WHEN {} THEN '{{}}'::jsonb ELSE r.{} END").format(is_cleared, column)
        if not clears:
            base = sql.SQL("r.{}").format(column)
        return sql.SQL("jsonb_strip_nulls(({}) || coalesce(s.{}, '{{}}'))").format(base, column)
    if clears:
        return sql.SQL("CASE WHEN {} THEN NULL ELSE coalesce(s.{c}, r.{c}) END").format(is_cleared, c=column)
    return sql.SQL("coalesce(s.{c}, r.{c})").format(c=column)
