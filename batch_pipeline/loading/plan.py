"""What planning has in common for all actions: its counts and the base of both planners."""

from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from dataclasses import dataclass

from psycopg import sql

from batch_pipeline.batches.model import DuplicateHandling, PhaseName
from batch_pipeline.database import Connection
from batch_pipeline.loading.chunks import done_rows
from batch_pipeline.loading.staging import Staging
from batch_pipeline.loading.statements import Statements
from batch_pipeline.records.resource import Resource

# The message for an item that would undo what a batch that arrived later wrote, after the quoted id of that batch.
WRITTEN_SINCE = "nothing newer is undone, upload the item again if it is meant"


# All chunks but the last have as many rows as the first. A statement of its own, because PostgreSQL uses workers only
# for one that writes nothing. For a plan without statistics: with them PostgreSQL expects a group for each row, and
# counts in one process.
_COUNT_VERDICTS = """\
SELECT (row - 1) / (
           SELECT last_row - first_row + 1 FROM batch_chunks
           WHERE batch_id = %(batch)s AND phase = %(phase)s AND number = 0
       ) AS number, verdict, count(*) AS items, count(record_id) AS existing
FROM {plan}
GROUP BY 1, 2{further}"""

# The items of each chunk, for a plan without rows for unchanged ones: two further parts, of which the second is for an
# upload that has an item in each row.
COUNT_ITEMS = """
UNION ALL
SELECT (row - 1) / (
           SELECT last_row - first_row + 1 FROM batch_chunks
           WHERE batch_id = %(batch)s AND phase = %(phase)s AND number = 0
       ), NULL, count(*), NULL
FROM {items}
GROUP BY 1"""
COUNT_ROWS = """
UNION ALL
SELECT number, NULL, last_row - first_row + 1, NULL
FROM batch_chunks
WHERE batch_id = %(batch)s AND phase = %(phase)s"""

# A rejected item of a finished chunk is one that the plan rejected, or one that the database refused.
_NOTE_COUNTS = """\
WITH counted AS (
    SELECT chunk.number, planned.*
    FROM batch_chunks chunk LEFT JOIN unnest(
        %(numbers)s::integer[], %(new)s::bigint[], %(existing)s::bigint[], %(unchanged)s::bigint[],
        %(rejected)s::bigint[], %(duplicates)s::bigint[]
    ) AS planned (of_number, new, existing, unchanged, rejected, duplicates) ON of_number = chunk.number
    WHERE chunk.batch_id = %(batch)s AND chunk.phase = %(phase)s
)
UPDATE batch_chunks c SET
    planned_new = coalesce(n.new, 0), planned_existing = coalesce(n.existing, 0),
    planned_unchanged = coalesce(n.unchanged, 0), planned_rejected = coalesce(n.rejected, 0) - c.failed,
    planned_duplicates = coalesce(n.duplicates, 0)
FROM counted n
WHERE c.batch_id = %(batch)s AND c.phase = %(phase)s AND c.number = n.number"""

_UNWRITTEN = {"u": "unchanged", "r": "rejected", "d": "duplicates"}  # verdicts of items that write nothing


@dataclass(frozen=True)
class PlanCounts:
    """Items by verdict; for an overwrite also what cleanup does.

    Attributes:
        new: accepted items that create records.
        unchanged: accepted items that change nothing.
        repeated: items whose record an earlier item of the upload means as well; as counted with the verdicts.
        accepts_valid: whether each item is accepted that the row rules accept.
        to_delete: records that cleanup, or an undo, is to delete.
        unidentified: rejected items without any readable key. If there is one, cleanup deletes nothing.
    """

    accepted: int
    duplicates: int
    rejected: int
    new: int = 0
    unchanged: int = 0
    repeated: int = 0
    accepts_valid: bool = False
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

    def _count_verdicts(self, further: str = "") -> PlanCounts:
        """Counts the items of the plan, and stores the counts of each chunk.

        `further`: other parts of the query, without verdicts. Rows with a chunk have the number of its items, of which
        those without a row in the plan are unchanged. A row without a chunk has the number of repeated items.
        """
        connection = self._statements.connection
        parameters = {**self._statements.parameters, "phase": PhaseName.processing.value}
        query = self._statements.compose(_COUNT_VERDICTS, further=self._statements.compose(further))
        repeated = 0
        staged: dict[int, int] = {}
        chunks: defaultdict[int, Counter[str]] = defaultdict(Counter)
        for number, verdict, items, existing in connection.execute(query, parameters):
            if number is None:
                repeated = items
            elif verdict is None:
                staged[number] = items
            elif verdict == "a":
                chunks[number].update(new=items - existing, existing=existing)
            else:
                chunks[number][_UNWRITTEN[verdict]] = items
        for number, items in staged.items():
            counts = chunks[number]
            counts["unchanged"] += items - counts.total()
        names = ("new", "existing", *_UNWRITTEN.values())
        noted = {name: [counts[name] for counts in chunks.values()] for name in names}
        connection.execute(_NOTE_COUNTS, {**parameters, "numbers": list(chunks), **noted})
        total = {name: sum(counts) for name, counts in noted.items()}
        return PlanCounts(
            total["new"] + total["existing"] + total["unchanged"],
            total["duplicates"],
            total["rejected"],
            new=total["new"],
            unchanged=total["unchanged"],
            repeated=repeated,
        )


def count_records(connection: Connection, table: str, organization_id: str) -> int:
    """The number of records that the organization has now in a resource's table."""
    row = connection.execute(
        sql.SQL("SELECT count(*) FROM {} WHERE organization_id = %s").format(sql.Identifier("public", table)),
        (organization_id,),
    ).fetchone()
    return 0 if row is None else int(row[0])
