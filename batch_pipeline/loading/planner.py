"""The plan of a merge or overwrite: what happens to each staged item.

The steps: find the record of each item (`identity`), resolve references (`references`), note errors (`item_errors`),
settle items that contradict each other, write the verdicts, and for an overwrite list the records to delete
(`overwriting`).
"""

from psycopg import sql

from batch_pipeline.batches.model import Action, DuplicateHandling
from batch_pipeline.database import Connection
from batch_pipeline.loading.identity import Matching
from batch_pipeline.loading.item_errors import ItemErrors
from batch_pipeline.loading.overwriting import list_records_to_delete
from batch_pipeline.loading.plan import BatchPlanner, PlanCounts
from batch_pipeline.loading.record_checks import RecordChecks
from batch_pipeline.loading.reference_fields import references_of
from batch_pipeline.loading.references import Resolver
from batch_pipeline.loading.staging import FEW_ROWS, Staging
from batch_pipeline.loading.statements import FALSE, Composer
from batch_pipeline.records.errors import VALUE_CHARACTERS
from batch_pipeline.records.resource import Resource

# The accepted items of finished chunks have their records already. They are here so that no open item can get the same.
_MATCHED = """\
CREATE TEMPORARY TABLE matched ON COMMIT DROP AS
{matching}
UNION ALL
SELECT p.row, p.record_id, 1, NULL, 'r' || coalesce(p.record_id, s.new_id), 0
FROM {plan} p
JOIN {items} s ON s.row = p.row
WHERE p.verdict = 'a' AND p.row <@ %(done)s::int8multirange"""

# Valid items with the same target: each with the first, the last and one other row of its target.
_REPEATED = """\
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
FROM suspects s
JOIN targets t ON t.target = s.target"""

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
    FROM matched m
    JOIN {items} s ON s.row = m.row
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
ORDER BY g.row"""

_VERDICTS = """\
SELECT m.row,
       CASE WHEN m.kind IS NULL OR m.invalid <> 0
                 OR EXISTS (SELECT FROM {errors} e WHERE e.row = m.row) THEN 'r'
            WHEN d.row IS NOT NULL THEN 'd'
            ELSE 'a' END::"char" AS verdict,
       m.record_id
FROM matched m
LEFT JOIN repeated d ON d.row = m.row AND {dropped}
WHERE NOT m.row <@ %(done)s::int8multirange
UNION ALL
SELECT row, verdict, record_id FROM {plan} WHERE row <@ %(done)s::int8multirange
ORDER BY row"""

_DROPPED: dict[DuplicateHandling, sql.Composable] = {
    DuplicateHandling.ignore_all: FALSE,
    DuplicateHandling.use_first: sql.SQL("d.row <> d.first"),
    DuplicateHandling.use_last: sql.SQL("d.row <> d.last"),
}


class Planner(BatchPlanner):
    """Makes the plan of one merge or overwrite.

    `fields` are the staged ones. `clears`: some item of the batch clears a field.
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
        super().__init__(connection, resource, staging, organization_id=organization_id, handling=handling, newer=newer)
        self._action = action
        self._fields = fields
        self._matching = Matching(resource, staging, fields)
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
        self._match()
        if self._references is not None:
            self._references.resolve()
        self._errors.note_all()
        self._settle_contradictions()
        self._settle_external_ids()
        self._staging.replace_plan(
            self._statements.connection,
            verdicts_query(self._statements, self._handling),
            self._statements.parameters,
        )
        counts = self._count_verdicts()
        if self._action is Action.overwrite:
            return list_records_to_delete(self._statements, self._matching, counts)
        return counts

    def _match(self) -> None:
        """Makes the temporary table `matched`: `Matching.query`, and the accepted items of finished chunks."""
        matched = self._statements.execute(_MATCHED, matching=self._matching.query())
        if matched > FEW_ROWS:
            self._statements.execute("ANALYZE matched")

    def _settle_contradictions(self) -> None:
        """Makes the temporary table `repeated`: row, and the first, the last and one other row of its target."""
        self._statements.execute(_REPEATED)
        if self._handling is DuplicateHandling.ignore_all:
            self._statements.execute(_REJECT_REPEATED)

    def _settle_external_ids(self) -> None:
        """Rejects items of the batch that give one external id to several records."""
        if {"id", "external_id"} <= set(self._fields):
            self._statements.execute(_REJECT_SHARED_EXTERNAL_IDS, cut=sql.Literal(VALUE_CHARACTERS))


def verdicts_query(composer: Composer, handling: DuplicateHandling) -> sql.Composed:
    """The new plan: row, verdict and record_id of every item; rows of finished chunks are taken over."""
    return composer.compose(_VERDICTS, dropped=_DROPPED[handling])
