"""The plan of a merge or overwrite: what happens to each staged item.

The steps: find the record of each item and compare the two (`identity`), resolve references (`references`), note errors
(`item_errors`), settle items that contradict each other, and for an overwrite list the records to delete
(`overwriting`). Items that change nothing take part only in what concerns every item.

A large merge by a unique key has a sparse plan, in which they have no row: to write and sort a million such rows takes
nearly as long as to find out that they change nothing.
"""

from collections.abc import Collection
from dataclasses import replace

from psycopg import sql

from batch_pipeline.batches.model import Action, DuplicateHandling
from batch_pipeline.database import Connection
from batch_pipeline.loading.identity import Matching
from batch_pipeline.loading.item_errors import ItemErrors
from batch_pipeline.loading.overwriting import list_records_to_delete
from batch_pipeline.loading.own_staging import FEW_ROWS
from batch_pipeline.loading.plan import COUNT_ITEMS, COUNT_ROWS, BatchPlanner, PlanCounts
from batch_pipeline.loading.record_checks import RecordChecks
from batch_pipeline.loading.reference_fields import references_of
from batch_pipeline.loading.references import Resolver
from batch_pipeline.loading.staging import Staging
from batch_pipeline.loading.statements import UNION_ALL, Composer
from batch_pipeline.records.errors import VALUE_CHARACTERS
from batch_pipeline.records.resource import Resource

# Without a UNION, workers sort what they have matched.
_MATCHED = """\
{matching}
ORDER BY row"""

# Rows of finished chunks keep their verdicts. They are here so that no open item can get the same record.
_FINISHED = """\
SELECT p.row, p.verdict, p.record_id, NULL, 1,
       CASE WHEN p.verdict IN ('a', 'u') THEN hashtextextended(coalesce(p.record_id, s.new_id), 1) END
FROM {plan} p
JOIN {items} s ON s.row = p.row
WHERE p.row <@ %(done)s::int8multirange"""

# An item that several records have the natural key of keeps one row. It is an error, whether it changes one or not.
_COLLAPSE = """\
WITH several AS (
    SELECT row, count(*) AS matches, min(ctid) AS kept FROM {plan} GROUP BY row HAVING count(*) > 1
), dropped AS (
    DELETE FROM {plan} p USING several v WHERE p.row = v.row AND p.ctid <> v.kept
)
UPDATE {plan} p SET matches = least(v.matches, 2), verdict = CASE WHEN p.verdict = 'r' THEN 'r' ELSE 'a' END
FROM several v WHERE p.ctid = v.kept"""

_REJECT_WITH_ERRORS = """\
UPDATE {plan} p SET verdict = 'r'
WHERE p.verdict <> 'r' AND NOT p.row <@ %(done)s::int8multirange
  AND p.row IN (SELECT row FROM {errors} WHERE step = {step})"""

_COUNT_REPEATED = """
UNION ALL
SELECT NULL, NULL, count(target) - count(DISTINCT target), NULL FROM {plan} WHERE verdict <> 'r'"""

# The sort is here because a worker shares it: PostgreSQL sorts for a count in one process.
_COUNT_REPEATED_KEYS = """\
SELECT count(*) - count(DISTINCT hash)
FROM (SELECT hashtextextended(s.{key}, 0) AS hash FROM {items} s WHERE s.kind = {kind} ORDER BY 1) AS keys"""

# Valid items with the same target: each with the first, the last and one other row of its target.
_REPEATED = """\
CREATE TEMPORARY TABLE repeated ON COMMIT DROP AS
WITH suspects AS (
    SELECT m.row, coalesce('r' || m.record_id, {key}, 'r' || s.new_id) AS target
    FROM {plan} m
    JOIN {items} s ON s.row = m.row
    WHERE m.verdict <> 'r'
      AND m.target IN (SELECT target FROM {plan} WHERE verdict <> 'r' GROUP BY target HAVING count(*) > 1)
), targets AS (
    SELECT target, array_agg(row ORDER BY row) AS rows FROM suspects GROUP BY target HAVING count(*) > 1
)
SELECT s.row, t.rows[1] AS first, t.rows[cardinality(t.rows)] AS last,
       CASE WHEN s.row = t.rows[1] THEN t.rows[2] ELSE t.rows[1] END AS other
FROM suspects s
JOIN targets t ON t.target = s.target"""

_DROP_REPEATED = """\
UPDATE {plan} p SET verdict = 'd'
FROM repeated d
WHERE d.row = p.row AND d.row <> d.{kept} AND NOT d.row <@ %(done)s::int8multirange"""

_REJECT_REPEATED = """\
INSERT INTO {errors} (row, step, code, field, message, value)
SELECT d.row, {step}, 'duplicate_key', NULL,
       'the item means the same record as row ' || d.other
       || ' but differs from it: keep one, or choose use_first or use_last', NULL
FROM repeated d
WHERE NOT d.row <@ %(done)s::int8multirange
ORDER BY d.row"""

_REJECT_SHARED_EXTERNAL_IDS = """\
WITH given AS (
    SELECT s.row, s.external_id, m.target
    FROM {plan} m
    JOIN {items} s ON s.row = m.row
    WHERE s.external_id IS NOT NULL AND m.verdict IN ('a', 'u')
)
INSERT INTO {errors} (row, step, code, field, message, value)
SELECT g.row, {step}, 'conflict', 'external_id',
       'external_id "' || left(g.external_id, {cut})
       || '": other items of this upload give it to another record: it must be unique',
       left(g.external_id, {cut})
FROM given g
WHERE NOT g.row <@ %(done)s::int8multirange AND g.external_id IN (
    SELECT external_id FROM given GROUP BY external_id HAVING count(DISTINCT target) > 1)
ORDER BY g.row"""

_KEPT = {DuplicateHandling.use_first: sql.SQL("first"), DuplicateHandling.use_last: sql.SQL("last")}


class Planner(BatchPlanner):
    """Makes the plan of one merge or overwrite.

    `items` is the number of staged items, `fields` are their fields. `has_gaps`: some rows of the upload have no item.
    `clears`: some item of the batch clears a field. `keeps_unchanged`: the plan has a row for each unchanged item.
    """

    def __init__(
        self,
        connection: Connection,
        resource: Resource,
        staging: Staging,
        *,
        organization_id: str,
        action: Action,
        items: int,
        has_gaps: bool,
        fields: tuple[str, ...],
        clears: bool,
        kinds: Collection[int] | None,
        keeps_unchanged: bool,
        handling: DuplicateHandling,
        newer: list[str],
        is_first: bool = False,
    ) -> None:
        super().__init__(
            connection,
            resource,
            staging,
            organization_id=organization_id,
            handling=handling,
            newer=newer,
            is_first=is_first,
        )
        self._action = action
        self._items = items
        self._has_gaps = has_gaps
        self._fields = fields
        self._keeps_unchanged = keeps_unchanged
        self._matching = Matching(
            resource, staging, fields, clears=clears, kinds=kinds, has_done=self._statements.has_done
        )
        checks = RecordChecks(self._statements, fields, clears=clears)
        self._references: Resolver | None = None
        if references_of(resource, fields):
            self._references = Resolver(self._statements, fields, checks=checks)
        self._errors = ItemErrors(
            self._statements,
            self._matching,
            fields,
            clears=clears,
            checks=checks,
            references=self._references,
        )

    def plan(self) -> PlanCounts:
        """Decides every item that is in no finished chunk; replaces an earlier plan for those."""
        self._forget_errors()
        is_sparse = self._can_be_sparse()
        rows = self._match(is_sparse=is_sparse)
        has_ambiguous = rows > self._items
        if has_ambiguous:
            self._statements.execute(_COLLAPSE)
        counted = ""
        if is_sparse and rows < self._items:
            counted = COUNT_ITEMS if self._has_gaps else COUNT_ROWS
        # No two items have one key. But after a chunk was written, somebody may have moved a key from record to record.
        can_repeat = not is_sparse or self._matching.has_done
        counts = self._count_verdicts(counted + _COUNT_REPEATED if can_repeat else counted)
        if self._items > FEW_ROWS:
            self._staging.analyze(self._statements.connection, "plan")
        if self._references is not None:
            self._references.resolve()
        changed = self._reject_wrong_items(counts, has_ambiguous=has_ambiguous)
        if counts.repeated:
            changed += self._settle_contradictions()
        changed += self._settle_external_ids()
        counts = self._count_verdicts(counted) if changed else replace(counts, accepts_valid=True)
        if self._action is Action.overwrite:
            return list_records_to_delete(self._statements, self._matching, counts)
        return counts

    def _can_be_sparse(self) -> bool:
        """Whether nothing needs the rows of unchanged items.

        Neither other items nor an overwrite, a reference or a reader of the plan do. A natural key does: several
        records may have it, which is an error even if the item changes none of them.
        """
        key = self._matching.unique_key()
        if (
            self._keeps_unchanged
            or self._action is not Action.merge
            or self._references is not None
            or {"id", "external_id"} <= set(self._fields)
            or key is None
        ):
            return False
        kind, column = key
        repeated = self._statements.count(_COUNT_REPEATED_KEYS, key=sql.Identifier(column), kind=sql.Literal(kind))
        return repeated == 0

    def _match(self, *, is_sparse: bool) -> int:
        """Makes the plan with the verdicts that follow from the item and its record alone. Returns its rows."""
        return self._statements.replace(
            "plan",
            ("row", "verdict", "record_id", "kind", "matches", "target"),
            matched_query(self._statements, self._matching, is_sparse=is_sparse),
            is_ready=False,
            is_new=self._is_first,
        )

    def _reject_wrong_items(self, counts: PlanCounts, *, has_ambiguous: bool) -> int:
        """Rejects items that break rules which only the database can check. Returns the number of changed verdicts.

        `counts`: of the verdicts so far. Items that change nothing break none of these rules.
        """
        if counts.accepted == counts.unchanged and not counts.rejected:
            return 0
        self._errors.note_all(has_ambiguous=has_ambiguous, has_unmatched=counts.new + counts.rejected > 0)
        return self._reject_with_errors()

    def _settle_contradictions(self) -> int:
        """Settles items with the same target. Returns the number of changed verdicts.

        Makes the temporary table `repeated`: row, and the first, the last and one other row of its target.
        """
        self._statements.execute(_REPEATED, key=self._matching.key_text())
        if self._handling is DuplicateHandling.ignore_all:
            self._statements.note(_REJECT_REPEATED)
            return self._reject_with_errors()
        return self._statements.execute(_DROP_REPEATED, kept=_KEPT[self._handling])

    def _settle_external_ids(self) -> int:
        """Rejects items of the batch that give one external id to several records. Returns their number."""
        if not {"id", "external_id"} <= set(self._fields):
            return 0
        self._statements.note(_REJECT_SHARED_EXTERNAL_IDS, cut=sql.Literal(VALUE_CHARACTERS))
        return self._reject_with_errors()

    def _reject_with_errors(self) -> int:
        """Rejects the items that errors have been noted for. Returns their number."""
        return self._statements.execute(_REJECT_WITH_ERRORS) if self._statements.has_noted else 0


def matched_query(composer: Composer, matching: Matching, *, is_sparse: bool = False) -> sql.Composed:
    """The new plan: the columns of `Matching`, in the order of rows; rows of finished chunks are taken over."""
    parts = [matching.query(is_sparse=is_sparse)]
    if matching.has_done:
        parts.append(composer.compose(_FINISHED))
    return composer.compose(_MATCHED, matching=UNION_ALL.join(parts))
