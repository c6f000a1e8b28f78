"""What planning has in common for all actions: its counts and the base of both planners."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from psycopg import sql

from batch_pipeline.batches.model import DuplicateHandling
from batch_pipeline.database import Connection
from batch_pipeline.loading.chunks import done_rows
from batch_pipeline.loading.staging import Staging
from batch_pipeline.loading.statements import Statements
from batch_pipeline.records.resource import Resource

# The message for an item that would undo what a batch that arrived later wrote, after the quoted id of that batch.
WRITTEN_SINCE = "nothing newer is undone, upload the item again if it is meant"


@dataclass(frozen=True)
class PlanCounts:
    """Items by verdict; for an overwrite also what cleanup does.

    Attributes:
        to_delete: records that cleanup, or an undo, is to delete.
        unidentified: rejected items without any readable key. If there is one, cleanup deletes nothing.
    """

    accepted: int
    duplicates: int
    rejected: int
    to_delete: int = 0
    unidentified: int = 0


class BatchPlanner(ABC):
    """Makes the plan of one batch: a verdict for each item. Set-based, in the caller's transaction.

    Rows of finished chunks keep their verdicts, so the plan can be made anew for the rest when another batch has
    written in the meantime. `newer` are the ids of batches that arrived later and have written records: the plan undoes
    nothing that they wrote.
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
                "done": done_rows(connection, staging.batch_id),
                "newer": newer,
            },
        )

    @abstractmethod
    def plan(self) -> PlanCounts:
        """Decides every item that is in no finished chunk; replaces an earlier plan for those."""

    def _forget_errors(self) -> None:
        """Removes the errors that an earlier plan found; the errors of row rules stay."""
        self._statements.execute("DELETE FROM {errors} WHERE step = {step} AND NOT row <@ %(done)s::int8multirange")

    def _count_verdicts(self) -> PlanCounts:
        rows = self._statements.connection.execute(
            sql.SQL("SELECT verdict::text, count(*) FROM {} GROUP BY verdict").format(self._staging.plan)
        ).fetchall()
        counts = {str(verdict): int(count) for verdict, count in rows}
        return PlanCounts(counts.get("a", 0) + counts.get("u", 0), counts.get("d", 0), counts.get("r", 0))


def count_records(connection: Connection, table: str, organization_id: str) -> int:
    """The number of records that the organization has now in a resource's table."""
    row = connection.execute(
        sql.SQL("SELECT count(*) FROM {} WHERE organization_id = %s").format(sql.Identifier("public", table)),
        (organization_id,),
    ).fetchone()
    return 0 if row is None else int(row[0])
