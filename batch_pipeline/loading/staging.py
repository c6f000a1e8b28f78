"""A batch's tables in schema `staging`: its items after the row rules, the plan for each item, the errors.

The items are the largest part and can be made again from the parsed chunks, so their table is unlogged: a crash of the
server empties it. The other tables are logged: a retry repeats the plan exactly.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psycopg import sql

from batch_pipeline.database import Connection

if TYPE_CHECKING:
    from batch_pipeline.records.resource import Resource

# A table with at most this many rows needs no index, and no statistics for a good query plan.
FEW_ROWS = 200

# Columns of the items table before the resource's fields. A column that the action does not need is null.
FIXED_COLUMNS = (
    ("row", "bigint"),  # position in the upload, from 1
    ("kind", "smallint"),  # of the key that decides the item's identity (see `identity`); null: no key can decide
    ("cleared", "bigint"),  # bit i: the item clears the resource's i-th field
    ("invalid", "bigint"),  # bit i: the i-th field broke rules; 0: the item is valid so far
    ("new_id", "text"),  # the id of its record, if it creates one
    ("identified", "boolean"),  # it has a readable key: an overwrite can keep its record if the item is rejected
)

# The step that found an error. The errors of an item are reported in this order.
STEP_RULES = 0
STEP_PLAN = 1
STEP_WRITE = 2


@dataclass(frozen=True)
class Staging:
    """The names of one batch's tables.

    - items: one row for each readable item, without equal ones: `FIXED_COLUMNS` and the staged fields. A delete has no
      such table; its plan has all facts.
    - plan: one row for each item: row bigint, verdict "char" (a accepted, u accepted and changes nothing, d duplicate,
      r rejected), record_id text. The id is null for a new record, and for an item of a delete without a readable id.
      The plan of a merge or overwrite has further columns for the planner (`identity.Matching`).
    - errors: one row for each error: number, row, step, code, field, message, value.
    - changes: the rows whose records were updated or deleted, and the external ids of deleted ones: row, external_id.
      Only for batches with a result file.
    - members: one row for each resolved reference (see `references`): row, role "char" (a add, r remove, m mark),
      target, is_elsewhere. Only for batches whose items have references.
    - to_delete: the records that an overwrite's cleanup deletes: number (from 1), id, external_id.
    - preview: the plan for people. One line for each item of the upload, in order, then one for each record that an
      overwrite deletes: row bigint (null for these), outcome text (create, update, unchanged, delete, overwrite,
      reject or duplicate; of an undo see `undo_preview`), id text, external_id text, changes jsonb (an array of
      objects: field, before, after; null if nothing changes). Only for batches that show their plan.
    - shown: the preview that was shown before, while it is compared with a new one.

    An undo has lines instead of items; `undo_lines` and `undo_planner` make their tables:

    - plan: one row for each line: row, verdict "char", record_id, op "char" (what the undone batch did), number (of its
      change), seen xid (version of the record that the plan is for), by_batch and by_record (who is in the way).
    - items: the changes that it undoes, with the values from before them: row, number, at, changed, fields, times.
    - kept: the units that stay as they are: row, bit, key, number, by_batch, by_record.
    - links: the links that the undone batch changed: row, other, number, before, after, verdict "char", by_batch.
    """

    batch_id: str

    def _name(self, part: str) -> sql.Identifier:
        return sql.Identifier("staging", f"{part}_{self.batch_id}")

    @property
    def items(self) -> sql.Identifier:
        """Table of items."""
        return self._name("items")

    @property
    def plan(self) -> sql.Identifier:
        """Table of verdicts."""
        return self._name("plan")

    @property
    def errors(self) -> sql.Identifier:
        """Table of errors."""
        return self._name("errors")

    @property
    def to_delete(self) -> sql.Identifier:
        """Table of records to delete."""
        return self._name("to_delete")

    @property
    def members(self) -> sql.Identifier:
        """Table of resolved references."""
        return self._name("members")

    @property
    def kept(self) -> sql.Identifier:
        """Table of units that an undo keeps."""
        return self._name("kept")

    @property
    def links(self) -> sql.Identifier:
        """Table of links that an undo takes back."""
        return self._name("links")

    @property
    def changes(self) -> sql.Identifier:
        """Table of updated rows."""
        return self._name("changes")

    @property
    def preview(self) -> sql.Identifier:
        """Table of the plan as shown."""
        return self._name("preview")

    @property
    def shown(self) -> sql.Identifier:
        """Table of the plan as shown before."""
        return self._name("shown")

    def create(
        self, connection: Connection, resource: "Resource", fields: tuple[str, ...], *, keep_changes: bool = False
    ) -> None:
        """Creates the empty tables of a merge or overwrite; drops those of an earlier attempt."""
        columns = [sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(kind)) for name, kind in FIXED_COLUMNS] + [
            sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(resource.field(name).sql_type)) for name in fields
        ]
        self.create_for_delete(connection, keep_changes=keep_changes)
        connection.execute(sql.SQL("CREATE UNLOGGED TABLE {} ({})").format(self.items, sql.SQL(", ").join(columns)))

    def create_for_delete(self, connection: Connection, *, keep_changes: bool = False) -> None:
        """Creates the empty tables of a delete; drops those of an earlier attempt."""
        self.drop(connection)
        statements = [
            sql.SQL('CREATE TABLE {} (row bigint, verdict "char", record_id text COLLATE "C")').format(self.plan),
            sql.SQL(
                "CREATE TABLE {} (number bigint GENERATED ALWAYS AS IDENTITY, row bigint NOT NULL,"
                " step smallint NOT NULL, code text NOT NULL, field text, message text NOT NULL, value text)"
            ).format(self.errors),
        ]
        if keep_changes:
            statements.append(
                sql.SQL("CREATE TABLE {} (row bigint PRIMARY KEY, external_id text)").format(self.changes)
            )
        connection.execute(sql.SQL("; ").join(statements))  # in one round trip

    def create_for_undo(self, connection: Connection) -> None:
        """Creates the tables of an undo that are not the result of a query; drops those of an earlier attempt."""
        self.create_for_delete(connection)
        connection.execute(
            sql.SQL(
                "CREATE TABLE {} (row bigint NOT NULL, bit smallint, key text, number bigint,"
                ' by_batch text COLLATE "C", by_record text COLLATE "C")'
            ).format(self.kept)
        )
        self.index(connection, self.kept)

    def index(self, connection: Connection, *tables: sql.Identifier) -> None:
        """Indexes the rows of these tables. Call it after they were filled in the order of the upload."""
        for table in tables:
            _index(connection, table, "row")

    def replace_plan(self, connection: Connection, query: sql.Composed, parameters: dict[str, Any]) -> int:
        """Replaces the plan by the query's result, which must be in the order of rows; returns the number of rows."""
        return self._replace(connection, "plan", "row", query, parameters)

    def replace_to_delete(self, connection: Connection, query: sql.Composed, parameters: dict[str, Any]) -> None:
        """Replaces the list of records to delete by the query's result (number, id, external_id), in that order."""
        self._replace(connection, "to_delete", "number", query, parameters)

    def replace_members(self, connection: Connection, query: sql.Composed, parameters: dict[str, Any]) -> None:
        """Replaces the resolved references by the query's result, which must be in the order of rows."""
        self._replace(connection, "members", "row", query, parameters)

    def replace_preview(self, connection: Connection, query: sql.Composed, parameters: dict[str, Any]) -> None:
        """Replaces the preview by the query's result, which must be in the order of rows."""
        self._replace(connection, "preview", "row", query, parameters)

    def keep_shown(self, connection: Connection) -> None:
        """Keeps the preview as the one that was shown."""
        connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(self.shown))
        connection.execute(
            sql.SQL("ALTER TABLE {} RENAME TO {}").format(self.preview, sql.Identifier(f"shown_{self.batch_id}"))
        )

    def drop_shown(self, connection: Connection) -> None:
        """Drops the preview that was shown before, if there is one."""
        connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(self.shown))

    def replace_items(self, connection: Connection, query: sql.Composed, parameters: dict[str, Any]) -> None:
        """Replaces the items by the query's result, which must be in the order of rows."""
        self._replace(connection, "items", "row", query, parameters)

    def replace_links(self, connection: Connection, query: sql.Composed, parameters: dict[str, Any]) -> None:
        """Replaces the links by the query's result, which must be in the order of rows."""
        self._replace(connection, "links", "row", query, parameters)

    def _replace(
        self, connection: Connection, part: str, order: str, query: sql.Composed, parameters: dict[str, Any]
    ) -> int:
        draft, table = self._name("draft"), self._name(part)
        rows = connection.execute(sql.SQL("CREATE TABLE {} AS {}").format(draft, query), parameters).rowcount
        connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(table))
        connection.execute(
            sql.SQL("ALTER TABLE {} RENAME TO {}").format(draft, sql.Identifier(f"{part}_{self.batch_id}"))
        )
        if rows > FEW_ROWS:
            _index(connection, table, order)
        return rows

    def drop(self, connection: Connection) -> None:
        """Drops those of the tables that exist."""
        parts = ("items", "plan", "errors", "changes", "members", "to_delete", "preview", "shown", "kept", "links")
        tables = map(self._name, parts)
        connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.SQL(", ").join(tables)))

    def has_items(self, connection: Connection) -> bool:
        """Whether the table of items has any row."""
        row = connection.execute(sql.SQL("SELECT EXISTS (SELECT FROM {})").format(self.items)).fetchone()
        return row is not None and bool(row[0])

    def exists(self, connection: Connection) -> bool:
        """Whether the tables exist."""
        row = connection.execute("SELECT to_regclass(%s) IS NOT NULL", (self.plan.as_string(connection),)).fetchone()
        return row is not None and bool(row[0])


def _index(connection: Connection, table: sql.Identifier, column: str) -> None:
    """Makes a BRIN index: a thousandth of a B-tree's size and cost, and as good for rows that are stored in order."""
    connection.execute(
        sql.SQL("CREATE INDEX ON {} USING brin ({}) WITH (pages_per_range = 16)").format(table, sql.Identifier(column))
    )
    connection.execute(sql.SQL("ANALYZE {}").format(table))
