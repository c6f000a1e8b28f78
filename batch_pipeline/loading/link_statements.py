"""The statements that write and remove the links between records (`group_members`)."""

from dataclasses import dataclass

from psycopg import sql

from batch_pipeline.loading.change_log import log_links
from batch_pipeline.loading.reference_fields import references_of, replaces
from batch_pipeline.loading.staging import Staging
from batch_pipeline.loading.statements import FALSE, NOTHING, TRUE, indented
from batch_pipeline.records.links import Link
from batch_pipeline.records.references import MarkedMembers, References
from batch_pipeline.records.resource import Resource

# The changes of one chunk, between the statement that finds them and those that write them.
LINK_CHANGES = sql.Identifier("pg_temp", "link_changes")

# Old and new links are compared by grouping. A join of the two takes quadratic time where their number is misjudged,
# and the statistics of a new organization's links are always wrong.
_CHANGED_LINKS = """\
WITH meant AS MATERIALIZED (
    SELECT s.row, {own} AS own,
           {replaced} AS replaces,
           {marked} AS marks
    FROM {meant}
      AND ({given})
), sides AS (
    SELECT t.row, t.own, g.{other} AS other, t.replaces, t.marks, true AS is_there, g.{mark} AS was_marked,
           false AS joins, false AS leaves, false AS is_marked, false AS is_elsewhere
    FROM meant t
    JOIN {links} g ON g.organization_id = %(organization)s AND g.{own_column} = t.own
    UNION ALL
    SELECT t.row, t.own, w.target, t.replaces, t.marks, false, false,
           w.role = 'a', w.role = 'r', w.role = 'm', w.is_elsewhere
    FROM meant t
    JOIN {members} w ON w.row = t.row AND {within}
), compared AS (
    SELECT row, own, other, bool_or(replaces) AND NOT bool_or(joins) OR bool_or(leaves) AS goes,
           bool_or(marks) AS marks, bool_or(is_there) AS is_there, bool_or(was_marked) AS was_marked,
           bool_or(joins) AS joins, bool_or(is_marked) AS is_marked, bool_or(is_elsewhere) AS is_elsewhere
    FROM sides
    GROUP BY row, own, other
)
SELECT row, own, other, CASE WHEN NOT is_there THEN '+' WHEN goes THEN '-' ELSE '*' END AS change,
       is_marked AS mark, is_elsewhere
FROM compared
WHERE CASE WHEN is_there THEN goes OR marks AND was_marked <> is_marked ELSE joins END"""

CREATE_LINK_CHANGES = """\
CREATE TEMPORARY TABLE IF NOT EXISTS link_changes (
    row bigint,
    own text COLLATE "C",
    other text COLLATE "C",
    change text,
    mark boolean,
    is_elsewhere boolean
) ON COMMIT DELETE ROWS"""

_WRITTEN_ITEMS = """\
{items} s
    JOIN {plan} p ON p.row = s.row
    WHERE {items_in_range}
      AND p.row BETWEEN %(first)s AND %(last)s
      AND p.verdict = 'a'"""

_FIND = """\
INSERT INTO {changes}
{changed_links}"""

_LOCK_OTHERS = """\
WITH asked AS MATERIALIZED (
    SELECT DISTINCT other FROM {changes} WHERE change = '+' AND NOT is_elsewhere
), there AS MATERIALIZED (
    SELECT o.id FROM {others} o
    WHERE o.organization_id = %(organization)s AND o.id IN (SELECT other FROM asked)
    ORDER BY o.id
    FOR KEY SHARE
)
SELECT (SELECT count(*) FROM asked) = (SELECT count(*) FROM there)"""

_LEAVE_OUT = """\
UPDATE {changes} c SET change = ''
WHERE change = '+' AND NOT is_elsewhere
  AND NOT EXISTS (SELECT FROM {others} o WHERE o.organization_id = %(organization)s AND o.id = c.other)"""

_REMOVE = """\
DELETE FROM {links} g USING (
    SELECT l.{own}, l.{other}, c.row FROM {links} l
    JOIN {changes} c ON c.change = '-' AND c.own = l.{own} AND c.other = l.{other}
    WHERE l.organization_id = %(organization)s
    ORDER BY {in_order}
    FOR UPDATE OF l
) AS gone
WHERE g.organization_id = %(organization)s AND g.{own} = gone.{own} AND g.{other} = gone.{other}"""

_MARK = """\
UPDATE {links} g SET {mark} = c.mark
FROM {changes} c
WHERE c.change = '*' AND g.organization_id = %(organization)s AND g.{own} = c.own AND g.{other} = c.other"""

_ADD = """\
INSERT INTO {links} AS g (organization_id, {own}, {other}, {mark})
SELECT %(organization)s, l.* FROM (
    SELECT own AS {own}, other AS {other}, mark FROM {changes} WHERE change = '+'
) AS l
ORDER BY {in_order}
ON CONFLICT (organization_id, {own}, {other}) DO UPDATE SET {mark} = true WHERE excluded.{mark}"""

# An INSERT can't return columns of its query.
_DONE = sql.SQL("done")
_DONE_WITH_ROW = "done JOIN {changes} USING (own, other)"

_HAS_LINKS = "SELECT EXISTS (SELECT FROM {links} WHERE organization_id = %(organization)s)"

_REMOVE_OF_DELETED = """\
DELETE FROM {links} g USING (
    SELECT l.{first}, l.{last}, d.row FROM {links} l
    JOIN (
        {deleted}
    ) AS d ON d.id = l.{own}
    WHERE l.organization_id = %(organization)s
    ORDER BY {in_order}
    FOR UPDATE OF l
) AS found
WHERE g.organization_id = %(organization)s AND g.{first} = found.{first} AND g.{last} = found.{last}"""


def changed_links(
    resource: Resource,
    staging: Staging,
    fields: tuple[str, ...],
    meant: sql.Composable,
    *,
    own: sql.Composable,
    within: sql.Composable = TRUE,
) -> sql.Composed:
    """The query for what items change in the links of their records. `fields` must include references.

    Columns:

    - row: bigint, place of the item in the upload
    - own, other: text, ids of the records on the two sides
    - change: text, `+` to add, `-` to remove, `*` to change the mark
    - mark: boolean, the mark after the change
    - is_elsewhere: boolean, the other side is not kept in this system

    `meant` is the text after FROM, up to the end of a WHERE clause, and names the items `s`; `own` is the id of the
    item's record in it. `within` restricts the rows `w` of `Staging.members`.
    """
    references = references_of(resource, fields)
    bits = {field.name: bit for bit, field in enumerate(resource.fields)}
    replaced: sql.Composable = FALSE
    marked: sql.Composable = FALSE
    for field in references:
        condition = replaces(field, bits[field.name])
        if isinstance(field, MarkedMembers):
            marked = condition
        else:
            replaced = condition
    given = [
        sql.SQL("s.{} IS NOT NULL OR (s.cleared >> {}) & 1 = 1").format(
            sql.Identifier(field.name), sql.Literal(bits[field.name])
        )
        for field in references
    ]
    link = references[0].link
    return sql.SQL(_CHANGED_LINKS).format(
        own=own,
        replaced=replaced,
        marked=marked,
        meant=meant,
        within=within,
        given=sql.SQL(" OR ").join(given),
        members=staging.members,
        links=sql.Identifier("public", link.table),
        own_column=sql.Identifier(link.own),
        other=sql.Identifier(link.other),
        mark=sql.Identifier(link.mark),
    )


@dataclass(frozen=True)
class LinkStatements:
    """The statements that write the links of a range of rows, in the order of execution.

    Attributes:
        find: fills the temporary table `link_changes`.
        lock_others: locks the records of new links; returns whether all of them exist.
        leave_out: drops the changes whose record does not exist; needed only if one is missing.
        write: statements that change the link table.
    """

    find: sql.Composed
    lock_others: sql.Composed
    leave_out: sql.Composed
    write: tuple[sql.Composed, ...]


def link_statements(resource: Resource, staging: Staging, fields: tuple[str, ...], *, logs: bool) -> LinkStatements:
    """The statements for a resource's links. `fields` must include references; `logs`: they log what they change."""
    reference = references_of(resource, fields)[0]
    changes = changed_links(
        resource,
        staging,
        fields,
        sql.SQL(_WRITTEN_ITEMS).format(
            items=staging.items, items_in_range=staging.joined_range("s"), plan=staging.plan
        ),
        own=sql.SQL('coalesce(p.record_id, s.new_id) COLLATE "C"'),
        within=sql.SQL("w.row BETWEEN %(first)s AND %(last)s"),
    )
    holes = {
        **_link_names(reference.link),
        "changes": LINK_CHANGES,
        "changed_links": changes,
        "others": sql.Identifier("public", reference.target.table),
    }
    find, lock_others, leave_out, remove, mark, add = (
        sql.SQL(template).format(**holes) for template in (_FIND, _LOCK_OTHERS, _LEAVE_OUT, _REMOVE, _MARK, _ADD)
    )
    if logs:
        link = reference.link
        remove = log_links(link, remove, row=sql.SQL("gone.row, "), done=_DONE)
        mark = log_links(link, mark, row=sql.SQL("c.row, "), done=_DONE)
        add = log_links(link, add, row=NOTHING, done=sql.SQL(_DONE_WITH_ROW).format(**holes))
    return LinkStatements(find, lock_others, leave_out, (remove, mark, add))


def link_removals(
    resource: Resource, deleted: sql.Composable, *, logs: bool
) -> list[tuple[sql.Composed, sql.Composed]]:
    """For each link table of the resource: the query whether the organization has links, and the removal.

    `deleted` is a query for the ids of the deleted records and their rows of the upload. `logs`: the removal logs what
    it removes.
    """
    links = dict.fromkeys(field.link for field in resource.fields if isinstance(field, References))
    statements = []
    for link in links:
        removal = sql.SQL(_REMOVE_OF_DELETED).format(**_link_names(link), deleted=indented(deleted, 8))
        if logs:
            removal = log_links(link, removal, row=sql.SQL("found.row, "), done=_DONE)
        statements.append((sql.SQL(_HAS_LINKS).format(**_link_names(link)), removal))
    return statements


def _link_names(link: Link) -> dict[str, sql.Composable]:
    first, last = sorted((link.own, link.other))  # the key's order, the same for both sides
    return {
        "links": sql.Identifier("public", link.table),
        "own": sql.Identifier(link.own),
        "other": sql.Identifier(link.other),
        "mark": sql.Identifier(link.mark),
        "first": sql.Identifier(first),
        "last": sql.Identifier(last),
        "in_order": sql.SQL(", ").join([sql.Identifier("l", first), sql.Identifier("l", last)]),
    }
