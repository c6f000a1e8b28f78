"""The staging tables that small batches share: making tables for a few rows takes longer than all work on those rows.

Statements read and change them through views, which show the rows of the session's batch (the setting `STAGED_BATCH`)
and fail in a session without batch. All batches of a resource have the same statements, so that psycopg prepares those
of a kept connection. The tables are logged, because their rows are few. Autovacuum removes the rows of ended batches.

Migration 0018 made the tables and views.
"""

from typing import TYPE_CHECKING, Any

from psycopg import sql

from batch_pipeline.batches.locks import lock_staged
from batch_pipeline.database import Connection
from batch_pipeline.loading.staging import PARTS, Part, Staging
from batch_pipeline.records.registry import RESOURCES

if TYPE_CHECKING:
    import pyarrow as pa

    from batch_pipeline.records.resource import Resource

TRUE = sql.SQL("true")

_INSERT = """\
INSERT INTO {part} ({columns})
{query}"""

_REPLACE = """\
WITH dropped AS (DELETE FROM {part})
INSERT INTO {part} ({columns})
{query}"""

_KEEP_SHOWN = """\
WITH dropped AS (DELETE FROM {shown}), moved AS (DELETE FROM {preview} RETURNING {columns})
INSERT INTO {shown} ({columns}) SELECT * FROM moved"""

_PREVIEW_COLUMNS = ("row", "outcome", "id", "external_id", "changes")


class SharedStaging(Staging):
    """The rows of one batch in tables that other batches use as well."""

    def __init__(self, batch_id: str, resource: str) -> None:
        self._resource = resource
        super().__init__(batch_id)

    def _name(self, part: Part) -> sql.Identifier:
        return sql.Identifier("staging", self._view(part))

    def _view(self, part: Part) -> str:
        return f"items_{self._resource}" if part == "items" else part

    def create(
        self, connection: Connection, resource: "Resource", fields: tuple[str, ...], *, keep_changes: bool = False
    ) -> None:
        """Removes the rows of an earlier attempt."""
        self.drop(connection)

    def create_for_delete(self, connection: Connection, *, keep_changes: bool = False) -> None:
        """Removes the rows of an earlier attempt."""
        self.drop(connection)

    def create_for_undo(self, connection: Connection) -> None:
        """Removes the rows of an earlier attempt."""
        self.drop(connection)

    def copy(self, connection: Connection, part: Part, rows: "pa.Table", *, is_new: bool = True) -> None:
        """COPYs the rows into the table: a view takes no COPY."""
        from batch_pipeline.loading.bulk_copy import copy_table  # imports pyarrow, which few processes need

        copy_table(connection, _table(self._view(part)), rows, is_new=False)

    def analyze(self, connection: Connection, *parts: Part) -> None:
        """The tables have statistics: autovacuum makes them."""

    def index(self, connection: Connection, *parts: Part) -> None:
        """The tables have indexes."""

    def replace(
        self,
        connection: Connection,
        part: Part,
        columns: tuple[str, ...],
        query: sql.Composed,
        parameters: Any,
        *,
        is_ready: bool = True,
        is_new: bool = False,
    ) -> int:
        """Deletes the batch's rows of this part, unless it is new, and inserts the result, in one statement."""
        template = _INSERT if is_new else _REPLACE
        statement = sql.SQL(template).format(part=self._name(part), columns=_names(columns), query=query)
        if not is_new:  # else `create_staging` has locked them
            # No pipeline: in one, psycopg raises a connection's end by `transaction_timeout` without its SQLSTATE.
            lock_staged(connection, self.batch_id)
        return connection.execute(statement, parameters).rowcount

    def keep_shown(self, connection: Connection) -> None:
        """Moves the batch's rows from one table to the other."""
        connection.execute(
            sql.SQL(_KEEP_SHOWN).format(preview=self.preview, shown=self.shown, columns=_names(_PREVIEW_COLUMNS))
        )

    def drop_shown(self, connection: Connection) -> None:
        """Deletes the batch's rows of this part."""
        connection.execute(sql.SQL("DELETE FROM {}").format(self.shown))

    def drop(self, connection: Connection) -> None:
        """Deletes the batch's rows of all parts. The session need not be the batch's."""
        _remove(connection, self.batch_id, tuple(map(self._view, PARTS)))

    def joined_range(self, alias: str) -> sql.Composable:
        """True: the index finds single rows. With two ranges, PostgreSQL may scan one for each row of the other."""
        return TRUE

    def exists(self, connection: Connection) -> bool:
        """The tables are always there."""
        return True


def remove_shared_rows(connection: Connection, batch_id: str) -> None:
    """Removes what a batch of any resource has in shared tables. Idempotent."""
    views = [part for part in PARTS if part != "items"] + [f"items_{name}" for name in RESOURCES]
    _remove(connection, batch_id, tuple(views))


def _remove(connection: Connection, batch_id: str, views: tuple[str, ...]) -> None:
    """Deletes the batch's rows from the tables of these views, in one statement."""
    deletions = [sql.SQL("DELETE FROM {} WHERE batch_id = %(batch)s").format(_table(view)) for view in views]
    ctes = [
        sql.SQL("{} AS ({})").format(sql.Identifier(f"part_{number}"), deletion)
        for number, deletion in enumerate(deletions[1:])
    ]
    statement = sql.SQL("WITH {}\n{}").format(sql.SQL(",\n").join(ctes), deletions[0])
    lock_staged(connection, batch_id)
    connection.execute(statement, {"batch": batch_id})


def _table(view: str) -> sql.Identifier:
    return sql.Identifier("staging", f"shared_{view}")


def _names(columns: tuple[str, ...]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, columns))
