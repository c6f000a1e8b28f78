"""What a plan comes to, whichever planner made it."""

from dataclasses import dataclass

from psycopg import sql

from batch_pipeline.loading.staging import Connection, Staging


@dataclass(frozen=True)
class PlanCounts:
    """Items by verdict; for an overwrite also what cleanup is to do.

    Attributes:
        doomed: records that cleanup is to delete.
        unidentified: rejected items without any readable key, because of which nothing is to be deleted.
    """

    accepted: int
    duplicates: int
    rejected: int
    doomed: int = 0
    unidentified: int = 0


def count_verdicts(connection: Connection, staging: Staging) -> PlanCounts:
    """The items of the plan by verdict."""
    rows = connection.execute(
        sql.SQL("SELECT verdict::text, count(*) FROM {} GROUP BY verdict").format(staging.plan)
    ).fetchall()
    counts = {str(verdict): int(count) for verdict, count in rows}
    return PlanCounts(counts.get("a", 0), counts.get("d", 0), counts.get("r", 0))


def count_records(connection: Connection, table: str, organization_id: str) -> int:
    """How many records of a resource's table the organization has now."""
    row = connection.execute(
        sql.SQL("SELECT count(*) FROM {} WHERE organization_id = %s").format(sql.Identifier("public", table)),
        (organization_id,),
    ).fetchone()
    return 0 if row is None else int(row[0])
