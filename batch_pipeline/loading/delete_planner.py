"""The plan of a delete: which listed records exist, and which are listed twice.

Only the id of an item counts, so the plan needs none of what a merge's does: its rows are staged as the plan itself,
with the ids that they name, and only exceptions are worked out. Set-based, in the caller's transaction.
"""

from typing import Any

from psycopg import sql

from batch_pipeline.batches.model import DuplicateHandling
from batch_pipeline.loading.chunks import done_rows
from batch_pipeline.loading.plan import PlanCounts, count_verdicts
from batch_pipeline.loading.staging import STEP_PLAN, Connection, Staging
from batch_pipeline.records.errors import VALUE_CHARACTERS
from batch_pipeline.records.resource import Resource

# Rows of the plan `p` that are still open, in no finished chunk, and name a record, whatever else is wrong with them.
_OPEN = "NOT p.row <@ %(done)s::int8multirange AND p.record_id IS NOT NULL"


class DeletePlanner:
    """Makes the plan of one delete.

    Rows of chunks that are done keep their verdict, so the plan can be made anew for the rest. `newer` are the batches
    that arrived later than this one and have written: what they wrote is not undone.
    """

    def __init__(
        self,
        connection: Connection,
        resource: Resource,
        staging: Staging,
        *,
        organization_id: str,
        handling: DuplicateHandling,
        newer: list[str],
    ) -> None:
        self._connection = connection
        self._staging = staging
        self._keeps_last = handling is DuplicateHandling.use_last
        self._records = sql.Identifier("public", resource.table)
        self._parameters: dict[str, Any] = {
            "organization": organization_id,
            "done": done_rows(connection, staging.batch_id),
            "newer": newer,
        }

    def plan(self) -> PlanCounts:
        """Decides every item that is in no finished chunk."""
        self._forget()
        if self._parameters["newer"]:
            self._reject(
                "conflict",
                None,
                sql.SQL(
                    "'a batch that arrived later (' || r.batch_id || ') has written the record since:'"
                    " || ' nothing newer is undone, upload the item again if it is meant'"
                ),
                "JOIN {records} r ON r.organization_id = %(organization)s AND r.id = p.record_id"
                " WHERE {open} AND r.batch_id = ANY(%(newer)s)",
            )
        if not self._is_all_plain():
            self._drop_repeated()
            self._reject(
                "id_not_found",
                "id",
                sql.SQL("'id \"' || left(p.record_id, {}) || {}").format(
                    sql.Literal(VALUE_CHARACTERS),
                    sql.Literal('": no record of this organization has it: ids are made by this system'),
                ),
                "WHERE {open} AND p.verdict <> 'd' AND NOT EXISTS"
                " (SELECT FROM {records} r WHERE r.organization_id = %(organization)s AND r.id = p.record_id)",
            )
        return count_verdicts(self._connection, self._staging)

    def _forget(self) -> None:
        """Takes back what an earlier plan found; what the row rules found stays."""
        self._execute("DELETE FROM {errors} WHERE step = {step} AND NOT row <@ %(done)s::int8multirange")
        self._execute(
            "UPDATE {plan} p SET verdict = 'a'"
            " WHERE {open} AND p.verdict <> 'a' AND NOT EXISTS (SELECT FROM {errors} e WHERE e.row = p.row)"
        )

    def _is_all_plain(self) -> bool:
        """Whether each open item names a record that exists and that no other item names: one look at everything."""
        named = self._one("SELECT count(*) FROM {plan} p WHERE {open}")
        found = self._one(
            "SELECT count(*) FROM {records} r WHERE r.organization_id = %(organization)s"
            " AND EXISTS (SELECT FROM {plan} p WHERE {open} AND p.record_id = r.id)"
        )
        return named == found

    def _drop_repeated(self) -> None:
        """Items that name the same record say the same: one of them stays, that of a finished chunk in any case.

        Those that name no record are none of them: each is reported.
        """
        self._execute(
            """
            WITH named AS (
                SELECT p.row, p.record_id, p.row <@ %(done)s::int8multirange AS is_done,
                       row_number() OVER (PARTITION BY p.record_id
                           ORDER BY p.row <@ %(done)s::int8multirange DESC, {order}) AS place
                FROM {plan} p
                WHERE p.verdict = 'a' AND p.record_id IN (
                    SELECT record_id FROM {plan} WHERE verdict = 'a' GROUP BY record_id HAVING count(*) > 1)
            )
            UPDATE {plan} p SET verdict = 'd' FROM named n
            WHERE n.row = p.row AND n.place > 1 AND NOT n.is_done
              AND (EXISTS (SELECT FROM named d WHERE d.record_id = n.record_id AND d.is_done)
                OR EXISTS (SELECT FROM {records} r WHERE r.organization_id = %(organization)s AND r.id = n.record_id))
            """,
            order=sql.SQL("p.row DESC") if self._keeps_last else sql.SQL("p.row"),
        )

    def _reject(self, code: str, field: str | None, message: sql.Composable, which: str) -> None:
        """Rejects the plan's rows `p` that the rest of the query selects."""
        self._execute(
            "WITH found AS (INSERT INTO {errors} (row, step, code, field, message, value)"
            " SELECT p.row, {step}, {code}, {field}, {message}, {value} FROM {plan} p {which} ORDER BY p.row"
            " RETURNING row) UPDATE {plan} p SET verdict = 'r' FROM found WHERE found.row = p.row",
            code=sql.Literal(code),
            field=sql.Literal(field),
            message=message,
            value=sql.SQL("NULL") if field is None else sql.SQL("left(p.record_id, {})").format(VALUE_CHARACTERS),
            which=self._compose(which),
        )

    def _one(self, statement: str) -> int:
        row = self._connection.execute(self._compose(statement), self._parameters).fetchone()
        return 0 if row is None else int(row[0])

    def _execute(self, statement: str, **parts: sql.Composable) -> None:
        self._connection.execute(self._compose(statement, **parts), self._parameters)

    def _compose(self, statement: str, **parts: sql.Composable) -> sql.Composed:
        return sql.SQL(statement).format(
            plan=self._staging.plan,
            errors=self._staging.errors,
            records=self._records,
            step=sql.Literal(STEP_PLAN),
            open=sql.SQL(_OPEN),
            **parts,
        )
