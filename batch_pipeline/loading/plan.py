"""What planning has in common for all actions: its counts and the base of both planners."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from psycopg import sql

from batch_pipeline.batches.model import DuplicateHandling, PhaseName
from batch_pipeline.database import Connection
from batch_pipeline.loading.chunks import Planned, done_rows
from batch_pipeline.loading.staging import Staging
from batch_pipeline.loading.statements import Statements
from batch_pipeline.records.resource import Resource

# The message for an item that would undo what a batch that arrived later wrote, after the quoted id of that batch.
WRITTEN_SINCE = "nothing newer is undone, upload the item again if it is meant"


# Counts all items of the plan, and stores the counts of each chunk. All chunks but the last have as many rows as the
# first. A rejected item of a finished chunk is one that the plan rejected, or one that the database refused.
_COUNT_PLAN = """\
WITH verdicts AS MATERIALIZED (
    SELECT (row - 1) / (
               SELECT last_row - first_row + 1 FROM batch_chunks
               WHERE batch_id = %(batch)s AND phase = %(phase)s AND number = 0
           ) AS number, verdict, count(*) AS items, count(record_id) AS existing
    FROM {plan}
    GROUP BY 1, 2
), counted AS MATERIALIZED (
    SELECT number,
           coalesce(sum(items - existing) FILTER (WHERE verdict = 'a'), 0)::bigint AS new,
           coalesce(sum(existing) FILTER (WHERE verdict = 'a'), 0)::bigint AS existing,
           coalesce(sum(items) FILTER (WHERE verdict = 'u'), 0)::bigint AS unchanged,
           coalesce(sum(items) FILTER (WHERE verdict = 'r'), 0)::bigint AS rejected,
           coalesce(sum(items) FILTER (WHERE verdict = 'd'), 0)::bigint AS duplicates
    FROM batch_chunks LEFT JOIN verdicts USING (number)
    WHERE batch_id = %(batch)s AND phase = %(phase)s
    GROUP BY number
), noted AS (
    UPDATE batch_chunks c SET
        planned_new = n.new, planned_existing = n.existing, planned_unchanged = n.unchanged,
        planned_rejected = n.rejected - c.failed, planned_duplicates = n.duplicates
    FROM counted n
    WHERE c.batch_id = %(batch)s AND c.phase = %(phase)s AND c.number = n.number
)
SELECT coalesce(sum(items - existing) FILTER (WHERE verdict = 'a'), 0)::bigint,
       coalesce(sum(existing) FILTER (WHERE verdict = 'a'), 0)::bigint,
       coalesce(sum(items) FILTER (WHERE verdict = 'u'), 0)::bigint,
       coalesce(sum(items) FILTER (WHERE verdict = 'r'), 0)::bigint,
       coalesce(sum(items) FILTER (WHERE verdict = 'd'), 0)::bigint
FROM verdicts"""


@dataclass(frozen=True)
class PlanCounts:
    """Items by verdict; for an overwrite also what cleanup does.

    Attributes:
        unchanged: accepted items that change nothing.
        to_delete: records that cleanup, or an undo, is to delete.
        unidentified: rejected items without any readable key. If there is one, cleanup deletes nothing.
    """

    accepted: int
    duplicates: int
    rejected: int
    unchanged: int = 0
    to_delete: int = 0
    unidentified: int = 0


class BatchPlanner(ABC):
    """Makes the plan of one batch: a verdict for each item. Set-based, in the caller's transaction.

    Rows of finished chunks keep their verdicts, so the plan can be made anew for the rest when another batch has
    written in the meantime. `newer` are the ids of batches that arrived later and have written records: the plan undoes
    nothing that they wrote. `is_first`: the staged rows are new, so there is no earlier plan, and no finished chunk.
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
        is_first: bool = False,
    ) -> None:
        self._is_first = is_first
        self._resource = resource
        self._staging = staging
        self._handling = handling
        self._statements = Statements(
            connection,
            resource,
            staging,
            {
                "organization": organization_id,
                "batch": staging.batch_id,
                "done": "{}" if is_first else done_rows(connection, staging.batch_id),
                "newer": newer,
            },
        )

    @abstractmethod
    def plan(self) -> PlanCounts:
        """Decides every item that is in no finished chunk; replaces an earlier plan for those."""

    def _forget_errors(self) -> None:
        """Removes the errors that an earlier plan found; the errors of row rules stay."""
        if not self._is_first:
            self._statements.execute("DELETE FROM {errors} WHERE step = {step} AND NOT row <@ %(done)s::int8multirange")

    def _count_verdicts(self) -> PlanCounts:
        row = self._statements.connection.execute(
            self._statements.compose(_COUNT_PLAN), {**self._statements.parameters, "phase": PhaseName.processing.value}
        ).fetchone()
        planned = Planned() if row is None else Planned(*row)
        return PlanCounts(planned.accepted, planned.duplicates, planned.rejected, unchanged=planned.unchanged)


def count_records(connection: Connection, table: str, organization_id: str) -> int:
    """The number of records that the organization has now in a resource's table."""
    row = connection.execute(
        sql.SQL("SELECT count(*) FROM {} WHERE organization_id = %s").format(sql.Identifier("public", table)),
        (organization_id,),
    ).fetchone()
    return 0 if row is None else int(row[0])
