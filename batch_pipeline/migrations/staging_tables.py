"""What migrations do with the staging tables that small batches share.

Each table `staging.shared_{name}` has a view `staging.{name}` of the rows of the session's batch, which is the setting
`batch_pipeline.batch`.
"""

from collections.abc import Mapping

import sqlalchemy as sa
from alembic import op
from psycopg import sql

# What all items have, then what the undone changes of an undo have.
_ITEMS = {
    **{"row": "bigint", "kind": "smallint", "cleared": "bigint", "invalid": "bigint", "new_id": "text"},
    **{"identified": "boolean", "number": "bigint", "at": "timestamptz", "changed": "bigint"},
    **{"created_at": "timestamptz", "updated_at": "timestamptz"},
}

# With room on its page, an update of a verdict touches no index.
_TABLE = """
CREATE TABLE {table} (
    batch_id staging.batch_id NOT NULL DEFAULT current_setting('batch_pipeline.batch'),
    {defined}
) WITH (fillfactor = 80)
"""

_INDEX = "CREATE INDEX ON {table} (batch_id, {first})"

_VIEW = """
CREATE OR REPLACE VIEW {view} AS
SELECT {columns}
FROM {table}
WHERE batch_id = current_setting('batch_pipeline.batch')::staging.batch_id
"""

_VIEW_COLUMNS = """
SELECT attname FROM pg_attribute WHERE attrelid = CAST(:view AS regclass) AND attnum > 0 ORDER BY attnum
"""


def make_batch_id() -> None:
    """Makes the type of the tables' first column.

    A session without batch has an empty setting or none. Both are errors: it must not find empty tables.
    """
    op.execute("CREATE DOMAIN staging.batch_id AS text COLLATE \"C\" CHECK (VALUE <> '')")


def make_shared_table(name: str, columns: Mapping[str, str]) -> None:
    """Makes a table, its index and its view. `columns`: name -> type; most queries are by the first one."""
    defined = sql.SQL(", ").join(
        sql.SQL("{} {}").format(sql.Identifier(column), sql.SQL(kind)) for column, kind in columns.items()
    )
    _execute(_TABLE, name, defined=defined)
    _execute(_INDEX, name, first=sql.Identifier(next(iter(columns))))
    _show(name, [*columns, "ctid"])  # rows of a plan can have equal values; `ctid` distinguishes them


def make_items_table(resource: str, fields: Mapping[str, str]) -> None:
    """Makes the table of a resource's items. `fields`: name -> type as staged, for every field of the resource."""
    make_shared_table(f"items_{resource}", _ITEMS | dict(fields))


def add_field(resource: str, field: str, kind: str) -> None:
    """Adds a new field of a resource to the table of its items. `kind`: its type as staged."""
    name = f"items_{resource}"
    columns = op.get_bind().execute(sa.text(_VIEW_COLUMNS), {"view": f"staging.{name}"}).scalars().all()
    _execute("ALTER TABLE {table} ADD COLUMN {field} {kind}", name, field=sql.Identifier(field), kind=sql.SQL(kind))
    _show(name, [*columns, field])


def _show(name: str, columns: list[str]) -> None:
    _execute(_VIEW, name, columns=sql.SQL(", ").join(map(sql.Identifier, columns)))


def _execute(template: str, name: str, **holes: sql.Composable) -> None:
    table, view = sql.Identifier("staging", f"shared_{name}"), sql.Identifier("staging", name)
    op.execute(sql.SQL(template).format(table=table, view=view, **holes).as_string(None))
