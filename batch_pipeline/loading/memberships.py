"""Writes and removes the links between records (`group_members`).

No link may outlive its records, although batches of both sides run at the same time:

- Before a link is made, the record on its other side is locked. If that record is gone, the link is not made.
- The links of deleted records are removed by a later statement, which sees all links committed until then.

Links are changed in the order of their key, so two batches seldom block each other. If they do, PostgreSQL ends one
transaction, and that batch repeats its chunk.
"""

from typing import Any

from psycopg import sql

from batch_pipeline.database import Connection
from batch_pipeline.loading.link_statements import CREATE_LINK_CHANGES, LINK_CHANGES, link_removals, link_statements
from batch_pipeline.loading.staging import Staging
from batch_pipeline.records.resource import Resource


class LinkWriter:
    """Writes the links of a range of rows over the connection of a chunk writer.

    Until commit, `changed` returns the ids of the records whose links changed (column own). `logs`: writes the change
    log.
    """

    changed = sql.SQL("SELECT DISTINCT own FROM {}").format(LINK_CHANGES)

    def __init__(
        self, connection: Connection, resource: Resource, staging: Staging, fields: tuple[str, ...], *, logs: bool
    ) -> None:
        self._connection = connection
        self._statements = link_statements(resource, staging, fields, logs=logs)
        self._forget = sql.SQL("DELETE FROM {}").format(LINK_CHANGES)
        connection.execute(CREATE_LINK_CHANGES)

    def write(self, parameters: dict[str, Any]) -> None:
        """Writes the links of rows `first` to `last`."""
        # Another chunk may be filling a table that was empty when its statistics were made. A sequential scan of it
        # for each row is slow; an index look-up stays cheap.
        self._connection.execute("SET LOCAL enable_seqscan = off")
        self._connection.execute(self._forget)  # the changes of other rows of this chunk
        if self._connection.execute(self._statements.find, parameters).rowcount:
            row = self._connection.execute(self._statements.lock_others, parameters).fetchone()
            if row is not None and not row[0]:  # another batch has deleted some of them since the plan
                self._connection.execute(self._statements.leave_out, parameters)
            for statement in self._statements.write:
                self._connection.execute(statement, parameters)
        self._connection.execute("SET LOCAL enable_seqscan TO DEFAULT")


class LinkRemover:
    """Removes the links of the records that a chunk deleted.

    `deleted` is a query for their ids and rows, with the parameters of the chunk. `logs`: writes the change log.
    """

    def __init__(self, connection: Connection, resource: Resource, deleted: sql.Composable, *, logs: bool) -> None:
        self._connection = connection
        self._removals = link_removals(resource, deleted, logs=logs)

    def remove(self, parameters: dict[str, Any]) -> None:
        """Removes them. An earlier statement of the transaction must have deleted the records."""
        for has_links, removal in self._removals:
            row = self._connection.execute(has_links, parameters).fetchone()
            if row is not None and row[0]:
                self._connection.execute(removal, parameters)
