"""Templates of statements, with named holes that psycopg fills with quoted names and literals.

A template is a whole statement or a named part of one, and stands as a constant at the top of its module.
`tests/loading/sql` has the statements that write records, as PostgreSQL gets them.
"""

from typing import Any

from psycopg import sql

from batch_pipeline.database import Connection
from batch_pipeline.loading.staging import STEP_PLAN, Part, Staging
from batch_pipeline.records.resource import Resource

COMMA = sql.SQL(",\n    ")
AND = sql.SQL("\n    AND ")
OR = sql.SQL("\n    OR ")
UNION_ALL = sql.SQL("\nUNION ALL\n")

TRUE = sql.SQL("true")
FALSE = sql.SQL("false")
NOTHING = sql.SQL("")


class Composer:
    """Composes the statements on the tables of one batch.

    Each template may have the holes `items`, `plan` and `errors` (staging tables), `items_in_range` (a condition for
    items `s`, see `Staging.joined_range`), `records` (the resource's table) and `step` (of errors that planning finds),
    and others that the caller fills.

    Attributes:
        bits: the bit of each field in staged masks.
    """

    def __init__(self, resource: Resource, staging: Staging) -> None:
        self.resource = resource
        self.staging = staging
        self.bits = {field.name: bit for bit, field in enumerate(resource.fields)}

    def compose(self, template: str, **holes: sql.Composable) -> sql.Composed:
        """The template with its holes filled."""
        return sql.SQL(template).format(
            items=self.staging.items,
            plan=self.staging.plan,
            errors=self.staging.errors,
            items_in_range=self.staging.joined_range("s"),
            records=records_table(self.resource),
            step=sql.Literal(STEP_PLAN),
            **holes,
        )


class Statements(Composer):
    """Executes the statements of one batch's plan, in the caller's transaction.

    `parameters` of all statements, by name:

    - organization: text, the id of the batch's organization
    - batch: text, the id of the batch
    - done: text, the multirange of upload rows in finished chunks
    - newer: list of text, the ids of batches that arrived later and have written records
    """

    def __init__(
        self, connection: Connection, resource: Resource, staging: Staging, parameters: dict[str, Any]
    ) -> None:
        super().__init__(resource, staging)
        self.connection = connection
        self.parameters = parameters
        self.has_noted = False

    @property
    def has_done(self) -> bool:
        """Whether chunks are finished, so that their rows keep their verdicts."""
        return bool(self.parameters["done"] != "{}")

    @property
    def has_newer(self) -> bool:
        """Whether batches that arrived later have written records."""
        return bool(self.parameters["newer"])

    def execute(self, template: str, **holes: sql.Composable) -> int:
        """Executes the statement; returns the number of rows that it made or changed."""
        return self.connection.execute(self.compose(template, **holes), self.parameters).rowcount

    def note(self, template: str, **holes: sql.Composable) -> None:
        """Executes the statement, which adds to the errors."""
        self.has_noted |= self.execute(template, **holes) > 0

    def replace(
        self,
        part: Part,
        columns: tuple[str, ...],
        query: sql.Composed,
        *,
        is_ready: bool = True,
        is_new: bool = False,
    ) -> int:
        """Replaces a part of the staged rows by the query's result; see `Staging.replace`."""
        return self.staging.replace(
            self.connection, part, columns, query, self.parameters, is_ready=is_ready, is_new=is_new
        )

    def count(self, template: str, **holes: sql.Composable) -> int:
        """The number that the query returns in its only row."""
        row = self.connection.execute(self.compose(template, **holes), self.parameters).fetchone()
        return 0 if row is None else int(row[0])


def indented(part: sql.Composable, spaces: int = 4) -> sql.Composable:
    """The same part, written further to the right from its second line on: for a hole inside brackets."""
    if isinstance(part, sql.Composed):
        return sql.Composed([indented(piece, spaces) for piece in part])
    if isinstance(part, sql.SQL):
        return sql.SQL(part.as_string(None).replace("\n", "\n" + " " * spaces))
    return part  # a literal's line breaks are part of its value


def further_ctes(ctes: list[sql.Composed]) -> sql.Composed:
    """The CTEs as they follow another one."""
    return sql.Composed([sql.SQL(", ") + cte for cte in ctes])


def records_table(resource: Resource) -> sql.Identifier:
    """The table of the resource's records."""
    return sql.Identifier("public", resource.table)
