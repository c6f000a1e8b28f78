"""A batch's rows in schema `staging`: its items after the row rules, the plan for each item, the errors.

A large batch has tables of its own (`own_staging`), small ones share tables (`shared_staging`). Statements take the
names from here, so each is written once. `staging_choice` decides.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Literal

from psycopg import sql

from batch_pipeline.database import Connection

if TYPE_CHECKING:
    import pyarrow as pa

    from batch_pipeline.records.resource import Resource

Part = Literal["items", "plan", "errors", "changes", "members", "to_delete", "preview", "shown", "kept", "links"]
PARTS: tuple[Part, ...] = (
    *("items", "plan", "errors", "changes", "members", "to_delete", "preview", "shown", "kept", "links"),
)

# The PostgreSQL setting of a session whose statements are about the rows of one batch: the batch's id.
STAGED_BATCH = "batch_pipeline.batch"

# The step that found an error. The errors of an item are reported in this order.
STEP_RULES = 0
STEP_PLAN = 1
STEP_WRITE = 2


class Staging(ABC):
    """The tables (or views) of one batch's rows. Each attribute is a name for statements.

    A session that uses them must have the setting `STAGED_BATCH`.

    Attributes:
        items: one row for each readable item, without equal ones: row bigint (position in the upload, from 1), kind
            smallint (of the key that decides the item's identity, see `identity`; null: no key can decide), cleared
            bigint (bit i: the item clears the resource's i-th field), invalid bigint (bit i: the i-th field broke
            rules), new_id text (the id of its record, if it creates one), identified boolean (an overwrite's item has a
            readable key), and the staged fields. A delete has no items; its plan has all facts.
        plan: one row for each item: row bigint, verdict "char" (a accepted, u accepted and changes nothing, d
            duplicate, r rejected), record_id text. The id is null for a new record, and for an item of a delete without
            a readable id. A sparse plan (see `planner`) has no row for an item with the verdict u. The plan of a merge
            or overwrite has further columns for the planner (`identity.Matching`).
        errors: one row for each error: number, row, step, code, field, message, value.
        changes: the rows whose records were updated or deleted, and the external ids of deleted ones: row, external_id.
            Only for batches with a result file.
        members: one row for each resolved reference (see `references`): row, role "char" (a add, r remove, m mark),
            target, is_elsewhere. Only for batches whose items have references.
        to_delete: the records that an overwrite's cleanup deletes: number (from 1), id, external_id.
        preview: the plan for people. One line for each item of the upload, in order, then one for each record that an
            overwrite deletes: row bigint (null for these), outcome text (create, update, unchanged, delete, overwrite,
            reject or duplicate; of an undo see `undo_preview`), id text, external_id text, changes jsonb (an array of
            objects: field, before, after; null if nothing changes). Only for batches that show their plan.
        shown: the preview that was shown before, while it is compared with a new one.

    An undo has lines instead of items; `undo_lines` and `undo_planner` fill them:

        plan: one row for each line: row, verdict "char", record_id, op "char" (what the undone batch did), number (of
            its change), seen xid (version of the record that the plan is for), by_batch and by_record (who is in the
            way).
        items: the changes that it undoes, with the values from before them: row, number, at, changed, fields, times.
        kept: the units that stay as they are: row, bit, key, number, by_batch, by_record.
        links: the links that the undone batch changed: row, other, number, before, after, verdict "char", by_batch.
    """

    def __init__(self, batch_id: str) -> None:
        self.batch_id = batch_id
        self.items = self._name("items")
        self.plan = self._name("plan")
        self.errors = self._name("errors")
        self.changes = self._name("changes")
        self.members = self._name("members")
        self.to_delete = self._name("to_delete")
        self.preview = self._name("preview")
        self.shown = self._name("shown")
        self.kept = self._name("kept")
        self.links = self._name("links")

    @abstractmethod
    def _name(self, part: Part) -> sql.Identifier:
        """The name of a part for statements."""

    @abstractmethod
    def create(
        self, connection: Connection, resource: "Resource", fields: tuple[str, ...], *, keep_changes: bool = False
    ) -> None:
        """Makes the empty parts of a merge or overwrite; removes those of an earlier attempt."""

    @abstractmethod
    def create_for_delete(self, connection: Connection, *, keep_changes: bool = False) -> None:
        """Makes the empty parts of a delete; removes those of an earlier attempt."""

    @abstractmethod
    def create_for_undo(self, connection: Connection) -> None:
        """Makes those parts of an undo that `replace` does not; removes those of an earlier attempt."""

    @abstractmethod
    def copy(self, connection: Connection, part: Part, rows: "pa.Table", *, is_new: bool = True) -> None:
        """COPYs rows into a part. `is_new`: the part was made in this transaction."""

    @abstractmethod
    def analyze(self, connection: Connection, *parts: Part) -> None:
        """Makes the statistics of these parts, so that PostgreSQL plans queries on them well."""

    @abstractmethod
    def index(self, connection: Connection, *parts: Part) -> None:
        """Indexes the rows of these parts unless they have an index, so that ranges of them are found.

        Call it after they were filled in the order of the upload.
        """

    @abstractmethod
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
        """Replaces a part by the query's result, which may depend on the part; returns the number of rows.

        The result has these columns, and is in the order of the first one. If it has many rows, it gets statistics and
        an index on that column, unless `is_ready` is false: then the caller makes them. `is_new`: no attempt has filled
        the part, and the transaction has made the batch's parts.
        """

    @abstractmethod
    def keep_shown(self, connection: Connection) -> None:
        """Keeps the preview as the one that was shown."""

    @abstractmethod
    def drop_shown(self, connection: Connection) -> None:
        """Removes the preview that was shown before, if there is one."""

    @abstractmethod
    def drop(self, connection: Connection) -> None:
        """Removes all parts. Idempotent."""

    @abstractmethod
    def exists(self, connection: Connection) -> bool:
        """Whether the parts can be read."""

    @abstractmethod
    def joined_range(self, alias: str) -> sql.Composable:
        """Condition for rows that are joined by `row` with the rows `first` to `last` of another part.

        It repeats the range where that helps to find the rows.
        """

    def has_items(self, connection: Connection) -> bool:
        """Whether there is any item."""
        row = connection.execute(sql.SQL("SELECT EXISTS (SELECT FROM {})").format(self.items)).fetchone()
        return row is not None and bool(row[0])
