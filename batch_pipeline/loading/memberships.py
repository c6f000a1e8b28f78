"""Who belongs to what: writing the links that references give, and removing those of deleted records.

No link may outlast what it leads to, though the two sides are written by batches that run at the same time. So a new
link first locks the record that it leads to, without which it is not made, and who deletes records removes their
links afterwards, by a statement that sees the links committed until then. Links are changed in the order of their
key, so that two batches seldom wait for each other; where they do, one of them repeats its chunk.
"""

from collections.abc import Iterable
from typing import Any

from psycopg import sql

from batch_pipeline.loading.staging import Connection, Staging
from batch_pipeline.records.links import MARK, SET, Link
from batch_pipeline.records.references import MarkedMembers, References
from batch_pipeline.records.resource import Resource

_CHANGES = sql.Identifier("pg_temp", "link_changes")
_EVERYTHING = sql.SQL("true")


def references_of(resource: Resource, fields: Iterable[str]) -> list[References]:
    """Those of the fields that are references; all of a resource's have the same link.

    Raises TypeError where they have several.
    """
    found = [field for name in fields if isinstance(field := resource.field(name), References)]
    if len({field.link for field in found}) > 1:
        raise TypeError(f"the references of {resource.name} are kept in different tables")
    return found


def referred_resources(resource: Resource, fields: Iterable[str]) -> set[str]:
    """The other resources on whose records a batch with these fields depends."""
    return {field.target.resource for field in references_of(resource, fields)}


def replaces(field: References, bit: int) -> sql.Composed:
    """Whether item `s` says all that the field is to be, so that what it does not name goes; `bit` is the field's."""
    return sql.SQL("((s.cleared >> {}) & 1 = 1 OR coalesce(jsonb_exists(s.{}, {}), false))").format(
        sql.Literal(bit),
        sql.Identifier(field.name),
        sql.Literal(MARK if isinstance(field, MarkedMembers) else SET),
    )


def changes_query(
    resource: Resource,
    staging: Staging,
    fields: tuple[str, ...],
    meant: sql.Composable,
    *,
    own: sql.Composable,
    within: sql.Composable = _EVERYTHING,
) -> sql.Composed:
    """What items change in the links of the records that they mean.

    Columns: row, own and other (ids of the two sides), change (`+` to add, `-` to remove, `*` to mark otherwise),
    mark (as it is to be), is_elsewhere (the other side is kept elsewhere). `meant` is the end of a query after FROM,
    items being `s`; `own` gives the record's id in it, and `within` bounds the rows of what references mean, `w`.
    `fields` must hold references. Old and new links are compared by grouping: joining the one with the other takes
    quadratic time where their number is misjudged, and the statistics of a new organization's links always are.
    """
    references = references_of(resource, fields)
    bits = {field.name: bit for bit, field in enumerate(resource.fields)}
    none: sql.Composable = sql.SQL("false")
    replaced, marked = none, none
    for field in references:
        condition = replaces(field, bits[field.name])
        if isinstance(field, MarkedMembers):
            marked = condition
        else:
            replaced = condition
    said = [
        sql.SQL("s.{} IS NOT NULL OR (s.cleared >> {}) & 1 = 1").format(
            sql.Identifier(field.name), sql.Literal(bits[field.name])
        )
        for field in references
    ]
    link = references[0].link
    return sql.SQL(
        """
        WITH meant AS MATERIALIZED (
            SELECT s.row, {own} AS own, {replaced} AS replaces, {marked} AS marks
            FROM {meant} AND ({said})
        ), sides AS (
            SELECT t.row, t.own, g.{other} AS other, t.replaces, t.marks, true AS is_there, g.{mark} AS was_marked,
                   false AS joins, false AS leaves, false AS is_marked, false AS is_elsewhere
            FROM meant t JOIN {links} g ON g.organization_id = %(organization)s AND g.{own_column} = t.own
            UNION ALL
            SELECT t.row, t.own, w.target, t.replaces, t.marks, false, false,
                   w.role = 'a', w.role = 'r', w.role = 'm', w.is_elsewhere
            FROM meant t JOIN {members} w ON w.row = t.row AND {within}
        ), compared AS (
            SELECT row, own, other, bool_or(replaces) AND NOT bool_or(joins) OR bool_or(leaves) AS goes,
                   bool_or(marks) AS marks, bool_or(is_there) AS is_there, bool_or(was_marked) AS was_marked,
                   bool_or(joins) AS joins, bool_or(is_marked) AS is_marked, bool_or(is_elsewhere) AS is_elsewhere
            FROM sides GROUP BY row, own, other
        )
        SELECT row, own, other, CASE WHEN NOT is_there THEN '+' WHEN goes THEN '-' ELSE '*' END AS change,
               is_marked AS mark, is_elsewhere
        FROM compared
        WHERE CASE WHEN is_there THEN goes OR marks AND was_marked <> is_marked ELSE joins END
        """
    ).format(
        own=own,
        replaced=replaced,
        marked=marked,
        meant=meant,
        within=within,
        said=sql.SQL(" OR ").join(said),
        members=staging.members,
        links=sql.Identifier("public", link.table),
        own_column=sql.Identifier(link.own),
        other=sql.Identifier(link.other),
        mark=sql.Identifier(link.mark),
    )


class LinkWriter:
    """Writes the links of a range of rows over one connection, for the writer of its chunks.

    Which records' links changed is then in `changed`, until commit.
    """

    changed = sql.SQL("SELECT DISTINCT own FROM {}").format(_CHANGES)

    def __init__(self, connection: Connection, resource: Resource, staging: Staging, fields: tuple[str, ...]) -> None:
        self._connection = connection
        reference = references_of(resource, fields)[0]
        link = reference.link
        first, last = sorted((link.own, link.other))  # whichever side writes
        parts = {
            "changes": _CHANGES,
            "links": sql.Identifier("public", link.table),
            "others": sql.Identifier("public", reference.target.table),
            "own": sql.Identifier(link.own),
            "other": sql.Identifier(link.other),
            "mark": sql.Identifier(link.mark),
            "in_order": sql.SQL(", ").join([sql.Identifier("l", first), sql.Identifier("l", last)]),
        }
        meant = sql.SQL(
            "{items} s JOIN {plan} p ON p.row = s.row"
            " WHERE s.row BETWEEN %(first)s AND %(last)s AND p.row BETWEEN %(first)s AND %(last)s AND p.verdict = 'a'"
        ).format(items=staging.items, plan=staging.plan)
        changes = changes_query(
            resource,
            staging,
            fields,
            meant,
            own=sql.SQL('coalesce(p.record_id, s.new_id) COLLATE "C"'),
            within=sql.SQL("w.row BETWEEN %(first)s AND %(last)s"),
        )
        connection.execute(
            sql.SQL(
                "CREATE TEMPORARY TABLE IF NOT EXISTS link_changes"
                ' (row bigint, own text COLLATE "C", other text COLLATE "C", change text, mark boolean,'
                " is_elsewhere boolean) ON COMMIT DELETE ROWS"
            )
        )
        self._forget = sql.SQL("DELETE FROM {}").format(_CHANGES)
        self._find = sql.SQL("INSERT INTO {} {}").format(_CHANGES, changes)
        self._lock = sql.SQL(
            """
            WITH asked AS MATERIALIZED (
                SELECT DISTINCT other FROM {changes} WHERE change = '+' AND NOT is_elsewhere
            ), there AS MATERIALIZED (
                SELECT o.id FROM {others} o
                WHERE o.organization_id = %(organization)s AND o.id IN (SELECT other FROM asked)
                ORDER BY o.id FOR KEY SHARE
            )
            SELECT (SELECT count(*) FROM asked) = (SELECT count(*) FROM there)
            """
        ).format(**parts)
        self._leave_out = sql.SQL(
            """
            UPDATE {changes} c SET change = '' WHERE change = '+' AND NOT is_elsewhere AND NOT EXISTS (
                SELECT FROM {others} o WHERE o.organization_id = %(organization)s AND o.id = c.other)
            """
        ).format(**parts)
        self._statements = [
            sql.SQL(statement).format(**parts)
            for statement in (
                """
                DELETE FROM {links} g USING (
                    SELECT l.{own}, l.{other} FROM {links} l
                    JOIN {changes} c ON c.change = '-' AND c.own = l.{own} AND c.other = l.{other}
                    WHERE l.organization_id = %(organization)s ORDER BY {in_order} FOR UPDATE OF l
                ) AS gone
                WHERE g.organization_id = %(organization)s AND g.{own} = gone.{own} AND g.{other} = gone.{other}
                """,
                """
                UPDATE {links} g SET {mark} = c.mark FROM {changes} c
                WHERE c.change = '*' AND g.organization_id = %(organization)s
                  AND g.{own} = c.own AND g.{other} = c.other
                """,
                """
                INSERT INTO {links} (organization_id, {own}, {other}, {mark})
                SELECT %(organization)s, l.* FROM (
                    SELECT own AS {own}, other AS {other}, mark FROM {changes} WHERE change = '+') AS l
                ORDER BY {in_order}
                ON CONFLICT (organization_id, {own}, {other}) DO UPDATE SET {mark} = true WHERE excluded.{mark}
                """,
            )
        ]

    def write(self, parameters: dict[str, Any]) -> None:
        """Writes the links of the rows `first` to `last`."""
        # Index look-ups stay cheap whatever the statistics say; reading a table again for each row does not, if it is
        # one that was empty when they were made and that other chunks are filling.
        self._connection.execute("SET LOCAL enable_seqscan = off")
        self._connection.execute(self._forget)  # what other rows of the same chunk changed
        if self._connection.execute(self._find, parameters).rowcount:
            row = self._connection.execute(self._lock, parameters).fetchone()
            if row is not None and not row[0]:  # some are being deleted, or have just been
                self._connection.execute(self._leave_out, parameters)
            for statement in self._statements:
                self._connection.execute(statement, parameters)
        self._connection.execute("SET LOCAL enable_seqscan TO DEFAULT")


class LinkRemover:
    """Removes the links of records that a chunk has just deleted, over one connection.

    `gone` is a query of their ids, with the parameters of the chunk.
    """

    def __init__(self, connection: Connection, resource: Resource, gone: sql.Composable) -> None:
        self._connection = connection
        links = {field.link for field in resource.fields if isinstance(field, References)}
        self._statements = [_removal(link, gone) for link in links]

    def remove(self, parameters: dict[str, Any]) -> None:
        """Removes them; the records must have been deleted by an earlier statement of the transaction."""
        for is_needed, removal in self._statements:
            row = self._connection.execute(is_needed, parameters).fetchone()
            if row is not None and row[0]:
                self._connection.execute(removal, parameters)


def _removal(link: Link, gone: sql.Composable) -> tuple[sql.Composed, sql.Composed]:
    """Whether the organization has any links at all, and the removal of those of the records."""
    first, last = sorted((link.own, link.other))
    parts = {
        "links": sql.Identifier("public", link.table),
        "own": sql.Identifier(link.own),
        "gone": gone,
        "in_order": sql.SQL(", ").join([sql.Identifier("l", first), sql.Identifier("l", last)]),
        "first": sql.Identifier(first),
        "last": sql.Identifier(last),
    }
    return (
        sql.SQL("SELECT EXISTS (SELECT FROM {links} WHERE organization_id = %(organization)s)").format(**parts),
        sql.SQL(
            """
            DELETE FROM {links} g USING (
                SELECT l.{first}, l.{last} FROM {links} l
                WHERE l.organization_id = %(organization)s AND l.{own} IN ({gone})
                ORDER BY {in_order} FOR UPDATE OF l
            ) AS found
            WHERE g.organization_id = %(organization)s AND g.{first} = found.{first} AND g.{last} = found.{last}
            """
        ).format(**parts),
    )
