"""The staging tables of one large batch, named after it. They are made and dropped with the batch.

A table that is filled in the transaction that made it is written frozen, and with `wal_level` minimal without a log.
The items are the largest part and can be made again from the parsed chunks, so their table is unlogged: a crash of the
server empties it. The other tables are logged: a retry repeats the plan exactly.
"""

from typing import TYPE_CHECKING, Any

from psycopg import sql

from batch_pipeline.database import Connection
from batch_pipeline.loading.staging import PARTS, Part, Staging

if TYPE_CHECKING:
    import pyarrow as pa

    from batch_pipeline.records.resource import Resource

# Autovacuum holds a lock against which an index or a drop waits for a second, `deadlock_timeout`. Few statements change
# rows of these tables, and `analyze` makes statistics.
UNVACUUMED = sql.SQL("(autovacuum_enabled = off, toast.autovacuum_enabled = off)")

# A table with at most this many rows needs no index, and no statistics for a good query plan.
FEW_ROWS = 200

# Columns of the items table before the resource's fields. A column that the action does not need is null.
FIXED_COLUMNS = {
    "row": "bigint",
    "kind": "smallint",
    "cleared": "bigint",
    "invalid": "bigint",
    "new_id": "text",
    "identified": "boolean",
}


class OwnStaging(Staging):
    """Tables that no other batch uses.

    Attributes:
        parsed: the list of the parsed chunks, if several workers stage them (`parsed_chunks`).
    """

    def __init__(self, batch_id: str) -> None:
        super().__init__(batch_id)
        self.parsed = self._name("parsed")

    def _name(self, part: str) -> sql.Identifier:
        return sql.Identifier("staging", self._table(part))

    def _table(self, part: str) -> str:
        return f"{part}_{self.batch_id}"

    def create(
        self, connection: Connection, resource: "Resource", fields: tuple[str, ...], *, keep_changes: bool = False
    ) -> None:
        """Makes the tables of a merge or overwrite."""
        kinds = FIXED_COLUMNS | {name: resource.field(name).sql_type for name in fields}
        columns = [sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(kind)) for name, kind in kinds.items()]
        self.create_for_delete(connection, keep_changes=keep_changes)
        connection.execute(
            sql.SQL("CREATE UNLOGGED TABLE {} ({}) WITH {}").format(self.items, sql.SQL(", ").join(columns), UNVACUUMED)
        )

    def create_for_delete(self, connection: Connection, *, keep_changes: bool = False) -> None:
        """Makes the tables of a delete."""
        self.drop(connection)
        statements = [
            sql.SQL('CREATE TABLE {} (row bigint, verdict "char", record_id text COLLATE "C") WITH {}').format(
                self.plan, UNVACUUMED
            ),
            sql.SQL(
                "CREATE TABLE {} (number bigint GENERATED ALWAYS AS IDENTITY, row bigint NOT NULL,"
                " step smallint NOT NULL, code text NOT NULL, field text, message text NOT NULL, value text) WITH {}"
            ).format(self.errors, UNVACUUMED),
        ]
        if keep_changes:
            statements.append(
                sql.SQL("CREATE TABLE {} (row bigint PRIMARY KEY, external_id text) WITH {}").format(
                    self.changes, UNVACUUMED
                )
            )
        connection.execute(sql.SQL("; ").join(statements))  # in one round trip

    def create_for_undo(self, connection: Connection) -> None:
        """Makes the tables of an undo that `replace` does not make."""
        self.create_for_delete(connection)
        connection.execute(
            sql.SQL(
                "CREATE TABLE {} (row bigint NOT NULL, bit smallint, key text, number bigint,"
                ' by_batch text COLLATE "C", by_record text COLLATE "C")'
            ).format(self.kept)
        )
        self.index(connection, "kept")  # autovacuum adds what is inserted later

    def copy(self, connection: Connection, part: Part, rows: "pa.Table", *, is_new: bool = True) -> None:
        """COPYs the rows into the table; into a new one frozen, so that the first reader need not mark each page."""
        from batch_pipeline.loading.bulk_copy import copy_table  # imports pyarrow, which few processes need

        copy_table(connection, self._name(part), rows, is_new=is_new)

    def analyze(self, connection: Connection, *parts: Part) -> None:
        """Makes the tables' statistics."""
        for part in parts:
            connection.execute(sql.SQL("ANALYZE {}").format(self._name(part)))

    def index(self, connection: Connection, *parts: Part) -> None:
        """Makes an index on `row` of each table that has none."""
        for part in parts:
            self._index(connection, part, "row")

    def _index(self, connection: Connection, part: Part, column: str) -> None:
        """Makes a BRIN index: a thousandth of a B-tree's size and cost, and as good for rows that are in order."""
        connection.execute(
            sql.SQL("CREATE INDEX IF NOT EXISTS {} ON {} USING brin ({}) WITH (pages_per_range = 16)").format(
                sql.Identifier(f"rows_of_{self._table(part)}"), self._name(part), sql.Identifier(column)
            )
        )

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
        """Makes a new table, and drops the old one."""
        named = sql.SQL(", ").join(map(sql.Identifier, columns))
        rows = connection.execute(
            sql.SQL("CREATE TABLE {} ({}) WITH {} AS {}").format(self._name("draft"), named, UNVACUUMED, query),
            parameters,
        ).rowcount
        self._move(connection, "draft", part)
        if is_ready and rows > FEW_ROWS:
            self.analyze(connection, part)
            self._index(connection, part, columns[0])
        return rows

    def keep_shown(self, connection: Connection) -> None:
        """Renames the preview's table."""
        self._move(connection, "preview", "shown")

    def _move(self, connection: Connection, part: str, to: str) -> None:
        connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(self._name(to)))
        connection.execute(
            sql.SQL("ALTER TABLE {} RENAME TO {}").format(self._name(part), sql.Identifier(self._table(to)))
        )

    def drop_shown(self, connection: Connection) -> None:
        """Drops the table."""
        connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(self.shown))

    def drop(self, connection: Connection) -> None:
        """Drops those of the tables that exist."""
        # In the order in which a worker that stages a chunk locks them: else the two could wait for each other.
        tables = sql.SQL(", ").join(map(self._name, ("parsed", *PARTS)))
        connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(tables))

    def joined_range(self, alias: str) -> sql.Composable:
        """The range: a BRIN index finds ranges of rows only."""
        return sql.SQL("{}.row BETWEEN %(first)s AND %(last)s").format(sql.SQL(alias))

    def exists(self, connection: Connection) -> bool:
        """Whether the batch has tables."""
        row = connection.execute("SELECT to_regclass(%s) IS NOT NULL", (self.plan.as_string(connection),)).fetchone()
        return row is not None and bool(row[0])
