"""The change log: the parts by which the statements of a chunk log what they change, in the same statement.

Each resource has a table of changes, each link table another (migration 0017). Created records are not logged: their
ids and `batch_chunks.created_rows` show their batch and row.
"""

from collections.abc import Iterable

from psycopg import sql

from batch_pipeline.loading.statements import COMMA, indented
from batch_pipeline.records.fields import Field
from batch_pipeline.records.links import Link
from batch_pipeline.records.resource import Resource

# Columns of a deleted record that are no fields of its resource.
_TIMES = ("created_at", "updated_at")

_LOG_UPDATED = """\
logged AS (
    INSERT INTO {log} (
        organization_id, record_id, batch_id, row, op, changed, before_batch{undoes},
        {columns}
    )
    SELECT %(organization)s, id, %(batch)s, row, 'u', changed, before_batch{undoes},
        {columns}
    FROM done
    WHERE changed <> 0
)"""

_LOG_DELETED = """\
logged AS (
    INSERT INTO {log} (
        organization_id, record_id, batch_id, row, op, changed, before_batch{undoes},
        {columns}
    )
    SELECT %(organization)s, id, %(batch)s, {row}, 'd', 0, before_batch{undoes},
        {columns}
    FROM done
)"""

_CHANGED = "CASE WHEN old.{column} IS DISTINCT FROM new.{column} THEN {mask} ELSE 0 END"

_BEFORE = "nullif(old.{column}, new.{column}) AS {column}"

_BEFORE_OF_KEYS = """\
CASE WHEN old.{column} IS DISTINCT FROM new.{column}
        THEN public.changed_keys(old.{column}, new.{column}) END AS {column}"""

_LOG_LINKS = """\
WITH done AS (
    {statement}
    RETURNING {row}g.{own} AS own, g.{other} AS other,
        {before} AS before,
        {after} AS after
)
INSERT INTO {log} (organization_id, {own}, {other}, batch_id, row, before, after)
SELECT %(organization)s, own, other, %(batch)s, row, before, after
FROM {done}
WHERE before <> after"""

# a absent, m member, p primary member
_STATE = """\
CASE WHEN {side}.organization_id IS NULL THEN 'a' WHEN {side}.{mark} THEN 'p' ELSE 'm' END::"char\""""


def log_updated(
    resource: Resource, merged: Iterable[str], *, undoes: bool = False
) -> tuple[sql.Composed, sql.Composed]:
    """For an UPDATE of records: the list after RETURNING, and the CTE that logs it.

    `merged` are the names of the fields that the UPDATE can change. The list begins with the row, from `s`. The CTE
    reads the UPDATE's rows from `done`. `undoes`: of an undo, whose UPDATE also returns `undoes`.
    """
    fields = [resource.field(name) for name in merged]
    masks = [_hole(_CHANGED, field, mask=sql.Literal(1 << resource.change_bits[field.name])) for field in fields]
    returned = [
        sql.SQL("s.row, old.id, old.batch_id AS before_batch").format(),
        sql.SQL("\n        | ").join(masks) + sql.SQL(" AS changed"),
        *(_hole(_BEFORE_OF_KEYS if field.merges_by_key else _BEFORE, field) for field in fields),
    ]
    logged = sql.SQL(_LOG_UPDATED).format(
        log=_changes_table(resource),
        columns=sql.SQL(", ").join(sql.Identifier(field.name) for field in fields),
        undoes=_undoes(undoes),
    )
    return COMMA.join(returned), logged


def log_deleted(resource: Resource, *, row: str, undoes: bool = False) -> tuple[sql.Composed, sql.Composed]:
    """For a DELETE of records `r`: the list after RETURNING, and the CTE that logs it.

    The CTE reads the DELETE's rows from `done`. `row` is the name of the row of the upload there, or NULL. `undoes`: of
    an undo, whose DELETE also returns `undoes`.
    """
    columns = [field.name for field in resource.fields if field.is_column and field.name != "id"]
    names = [sql.Identifier(name) for name in (*columns, *_TIMES)]
    returned = COMMA.join(
        [sql.SQL("r.id, r.batch_id AS before_batch"), *(sql.SQL("r.{}").format(name) for name in names)]
    )
    logged = sql.SQL(_LOG_DELETED).format(
        log=_changes_table(resource), columns=sql.SQL(", ").join(names), row=sql.SQL(row), undoes=_undoes(undoes)
    )
    return returned, logged


def log_links(link: Link, statement: sql.Composed, *, row: sql.Composable, done: sql.Composable) -> sql.Composed:
    """The statement that changes links `g`, extended so that it logs them.

    Args:
        statement: an INSERT, UPDATE or DELETE without RETURNING.
        row: the row of the upload in the list after RETURNING, with a comma; may be empty if `done` has it.
        done: the statement's rows: `done`, or a join of them with others.
    """
    mark = sql.Identifier(link.mark)
    before, after = (sql.SQL(_STATE).format(side=sql.SQL(side), mark=mark) for side in ("old", "new"))
    return sql.SQL(_LOG_LINKS).format(
        statement=indented(statement),
        row=row,
        done=done,
        own=sql.Identifier(link.own),
        other=sql.Identifier(link.other),
        before=before,
        after=after,
        log=sql.Identifier("public", link.changes_table),
    )


def _undoes(undoes: bool) -> sql.SQL:
    return sql.SQL(", undoes" if undoes else "")


def _changes_table(resource: Resource) -> sql.Identifier:
    return sql.Identifier("public", resource.changes_table)


def _hole(template: str, field: Field, **holes: sql.Composable) -> sql.Composed:
    return sql.SQL(template).format(column=sql.Identifier(field.name), **holes)
