"""The plan of a delete: which listed records exist, and which are listed twice.

Only the id of an item counts. The rows are staged as the plan itself, with the ids that they name, and the planner
looks for exceptions only.
"""

from psycopg import sql

from batch_pipeline.batches.model import DuplicateHandling
from batch_pipeline.loading.plan import WRITTEN_SINCE, BatchPlanner, PlanCounts
from batch_pipeline.records.errors import VALUE_CHARACTERS

# Rows of the plan `p` that are in no finished chunk and have a readable id, whatever else is wrong with them.
_OPEN = "NOT p.row <@ %(done)s::int8multirange AND p.record_id IS NOT NULL"

_ACCEPT_OPEN = """\
UPDATE {plan} p SET verdict = 'a'
WHERE {open} AND p.verdict <> 'a' AND NOT EXISTS (SELECT FROM {errors} e WHERE e.row = p.row)"""

_REJECT = """\
WITH found AS (
    INSERT INTO {errors} (row, step, code, field, message, value)
    SELECT p.row, {step}, {code}, {field}, {message}, {value}
    FROM {rejected}
    ORDER BY p.row
    RETURNING row
)
UPDATE {plan} p SET verdict = 'r' FROM found WHERE found.row = p.row"""

_WRITTEN_SINCE_ROWS = """\
{plan} p JOIN {records} r ON r.organization_id = %(organization)s AND r.id = p.record_id
    WHERE {open} AND r.batch_id = ANY(%(newer)s)"""

_MISSING_ROWS = """\
{plan} p
    WHERE {open} AND p.verdict <> 'd'
      AND NOT EXISTS (SELECT FROM {records} r WHERE r.organization_id = %(organization)s AND r.id = p.record_id)"""

_COUNT_OPEN = "SELECT count(*) FROM {plan} p WHERE {open}"

_COUNT_FOUND = """\
SELECT count(*) FROM {records} r
WHERE r.organization_id = %(organization)s
  AND EXISTS (SELECT FROM {plan} p WHERE {open} AND p.record_id = r.id)"""

# An item of a finished chunk is kept in any case. Items whose record does not exist are all reported, not dropped.
_DROP_REPEATED = """\
WITH named AS (
    SELECT p.row, p.record_id, p.row <@ %(done)s::int8multirange AS is_done,
           row_number() OVER (
               PARTITION BY p.record_id ORDER BY p.row <@ %(done)s::int8multirange DESC, {order}
           ) AS place
    FROM {plan} p
    WHERE p.verdict = 'a' AND p.record_id IN (
        SELECT record_id FROM {plan} WHERE verdict = 'a' GROUP BY record_id HAVING count(*) > 1
    )
)
UPDATE {plan} p SET verdict = 'd' FROM named n
WHERE n.row = p.row AND n.place > 1 AND NOT n.is_done
  AND (
    EXISTS (SELECT FROM named d WHERE d.record_id = n.record_id AND d.is_done)
    OR EXISTS (SELECT FROM {records} r WHERE r.organization_id = %(organization)s AND r.id = n.record_id)
  )"""


class DeletePlanner(BatchPlanner):
    """Makes the plan of one delete."""

    def plan(self) -> PlanCounts:
        """Decides every item that is in no finished chunk; replaces an earlier plan for those."""
        self._forget_errors()
        self._execute(_ACCEPT_OPEN)
        if self._statements.has_newer:
            self._reject(
                "conflict",
                _WRITTEN_SINCE_ROWS,
                sql.SQL(
                    "'a batch that arrived later (' || r.batch_id || ') has written the record since:' || {}"
                ).format(sql.Literal(f" {WRITTEN_SINCE}")),
            )
        if not self._all_exist_once():
            self._execute(
                _DROP_REPEATED,
                order=sql.SQL("p.row DESC" if self._handling is DuplicateHandling.use_last else "p.row"),
            )
            self._reject(
                "id_not_found",
                _MISSING_ROWS,
                sql.SQL("'id \"' || left(p.record_id, {}) || {}").format(
                    sql.Literal(VALUE_CHARACTERS),
                    sql.Literal('": no record of this organization has it: ids are made by this system'),
                ),
                shows_id=True,
            )
        return self._count_verdicts()

    def _all_exist_once(self) -> bool:
        """Whether each open item names an existing record that no other item names. One pass over everything."""
        open_rows = sql.SQL(_OPEN)
        return self._statements.count(_COUNT_OPEN, open=open_rows) == self._statements.count(
            _COUNT_FOUND, open=open_rows
        )

    def _reject(self, code: str, rejected: str, message: sql.Composable, *, shows_id: bool = False) -> None:
        """Rejects rows of the plan `p`; `rejected` is the template of the text after FROM."""
        self._execute(
            _REJECT,
            code=sql.Literal(code),
            field=sql.Literal("id" if shows_id else None),
            message=message,
            value=sql.SQL("left(p.record_id, {})").format(VALUE_CHARACTERS) if shows_id else sql.SQL("NULL"),
            rejected=self._statements.compose(rejected, open=sql.SQL(_OPEN)),
        )

    def _execute(self, template: str, **holes: sql.Composable) -> None:
        self._statements.execute(template, open=sql.SQL(_OPEN), **holes)
