"""What an undo does with the links (`group_members`) that the undone batch changed: the plan, and the writing.

Unlike records, links can be changed by batches of both sides at the same time, and nothing logs what other programs do
with them. So a link is taken back only if it also is as the undone batch left it, at the moment of writing.
"""

from typing import Any

from psycopg import sql

from batch_pipeline.loading.undo_statements import UndoStatements

# Of `Staging.links`.
LINK_COLUMNS = ("row", "other", "number", "before", "after", "verdict", "by_batch")

_LATER = """\
CREATE TEMPORARY TABLE later_links ON COMMIT DROP AS
SELECT k.row, k.other, k.number AS own, c.number, c.undoes, c.batch_id
FROM {links} k
JOIN found f ON f.row = k.row
JOIN {link_log} c ON c.{own} = f.record_id AND c.{other} = k.other AND c.number > k.number
WHERE c.organization_id = %(organization)s AND c.at >= %(since)s"""

# As for fields: see `undo_planner`.
_WALK = """\
CREATE TEMPORARY TABLE kept_links ON COMMIT DROP AS
WITH RECURSIVE walk AS (
    SELECT DISTINCT ON (row, other) row, other, own, number, undoes, batch_id FROM later_links
    ORDER BY row, other, number DESC
), steps AS (
    SELECT * FROM walk
    UNION ALL
    SELECT w.row, w.other, w.own, e.number, e.undoes, e.batch_id
    FROM steps w
    CROSS JOIN LATERAL (
        SELECT e.number, e.undoes, e.batch_id FROM later_links e
        WHERE e.row = w.row AND e.other = w.other AND e.number < w.undoes
        ORDER BY e.number DESC LIMIT 1
    ) AS e
    WHERE w.undoes > w.own
)
SELECT row, other, batch_id FROM steps WHERE coalesce(undoes, 0) <= own"""

_DECIDE = """\
SELECT row, other, number, before, after, verdict, by_batch FROM {links} WHERE row <@ %(done)s::int8multirange
UNION ALL
SELECT k.row, k.other, k.number, k.before, k.after,
       (CASE WHEN w.row IS NOT NULL OR {state} <> k.after THEN 'k'
             WHEN k.before <> 'a' AND k.after = 'a' AND starts_with(k.other, {prefix}) AND NOT EXISTS (
                 SELECT FROM {others} o WHERE o.organization_id = %(organization)s AND o.id = k.other) THEN 'g'
             ELSE 'r' END)::"char",
       w.batch_id
FROM {links} k
JOIN found f ON f.row = k.row
LEFT JOIN kept_links w ON w.row = k.row AND w.other = k.other
LEFT JOIN {link_table} g ON g.organization_id = %(organization)s AND g.{own} = f.record_id AND g.{other} = k.other
ORDER BY row"""

_COUNTS = """
LEFT JOIN (
    SELECT row, bool_or(verdict = 'r') AS go, bool_or(verdict = 'k') AS stay,
           (array_agg(by_batch ORDER BY number DESC) FILTER (WHERE verdict = 'k'))[1] AS by_batch
    FROM {links} GROUP BY row
) AS x ON x.row = f.row"""

_NEWEST_WRITER = """\
(SELECT c.batch_id FROM {link_log} c
        WHERE c.{own} = {record} AND c.{other} = {linked} AND c.organization_id = %(organization)s
        ORDER BY c.number DESC LIMIT 1)"""

_KEEP_REFERENCED = """\
UPDATE {plan} p SET verdict = 'k', by_batch = f.by_batch
FROM (
    SELECT DISTINCT ON (l.row) l.row, {newest_writer} AS by_batch
    FROM {plan} l
    JOIN {link_table} g ON g.organization_id = %(organization)s AND g.{own} = l.record_id
    WHERE l.verdict = 'd' AND l.row BETWEEN %(first)s AND %(last)s AND NOT l.row <@ %(done)s::int8multirange
      AND NOT EXISTS (
        SELECT FROM {links} k
        WHERE k.row = l.row AND k.other = g.{other} AND k.verdict = 'r' AND k.after = {state})
    ORDER BY l.row
) AS f
WHERE p.row = f.row"""

# Lines whose links change now. Their own records were written by an earlier statement of the transaction.
_OPEN_LINKS = """\
{links} k
    JOIN {plan} p ON p.row = k.row
    WHERE k.row BETWEEN %(first)s AND %(last)s AND p.row BETWEEN %(first)s AND %(last)s
      AND k.verdict = 'r' AND p.verdict IN ('r', 'i')"""

_HAS_OPEN = "SELECT EXISTS (SELECT FROM {open})"

_LEAVE_OUT_GONE = """\
WITH there AS MATERIALIZED (
    SELECT o.id FROM {others} o
    WHERE o.organization_id = %(organization)s AND o.id IN (SELECT k.other FROM {open} AND k.after = 'a')
    ORDER BY o.id
    FOR KEY SHARE
)
UPDATE {links} u SET verdict = 'g'
FROM (
    SELECT k.row, k.other FROM {open} AND k.after = 'a' AND starts_with(k.other, {prefix})
      AND NOT EXISTS (SELECT FROM there t WHERE t.id = k.other)
) AS f
WHERE u.row = f.row AND u.other = f.other"""

_LOG = """\
logged AS (
    INSERT INTO {link_log} (organization_id, {own}, {other}, batch_id, row, undoes, before, after)
    SELECT %(organization)s, p.record_id, k.other, %(batch)s, k.row, k.number, k.after, k.before
    FROM done
    JOIN {links} k ON k.other = done.other AND k.row BETWEEN %(first)s AND %(last)s
    JOIN {plan} p ON p.row = k.row AND p.record_id = done.own
)
UPDATE {links} u SET verdict = 'k', by_batch = f.by_batch
FROM (
    SELECT k.row, k.other, {newest_writer} AS by_batch FROM {open} AND {kind}
      AND NOT EXISTS (SELECT FROM done WHERE done.own = p.record_id AND done.other = k.other)
) AS f
WHERE u.row = f.row AND u.other = f.other"""

_REMOVE = """\
WITH done AS (
    DELETE FROM {link_table} g USING (
        SELECT g.{own}, g.{other}
        FROM {link_table} g
        JOIN (SELECT p.record_id, k.other, k.after FROM {open} AND {kind}) AS c
          ON g.{own} = c.record_id AND g.{other} = c.other AND {state} = c.after
        WHERE g.organization_id = %(organization)s
        ORDER BY {in_order}
        FOR UPDATE OF g
    ) AS f
    WHERE g.organization_id = %(organization)s AND g.{own} = f.{own} AND g.{other} = f.{other}
    RETURNING g.{own} AS own, g.{other} AS other
), {log_and_note}"""

_MARK = """\
WITH done AS (
    UPDATE {link_table} g SET {mark} = f.before = 'p'
    FROM (SELECT p.record_id, k.other, k.before, k.after FROM {open} AND {kind}) AS f
    WHERE g.organization_id = %(organization)s AND g.{own} = f.record_id AND g.{other} = f.other AND {state} = f.after
    RETURNING g.{own} AS own, g.{other} AS other
), {log_and_note}"""

_ADD = """\
WITH done AS (
    INSERT INTO {link_table} AS g (organization_id, {own}, {other}, {mark})
    SELECT %(organization)s, g.* FROM (
        SELECT p.record_id AS {own}, k.other AS {other}, k.before = 'p' FROM {open} AND {kind}
    ) AS g
    ORDER BY {in_order}
    ON CONFLICT DO NOTHING
    RETURNING g.{own} AS own, g.{other} AS other
), {log_and_note}"""

_KINDS = (
    (_REMOVE, "k.before = 'a'"),
    (_MARK, "k.before <> 'a' AND k.after <> 'a'"),
    (_ADD, "k.before <> 'a' AND k.after = 'a'"),
)

_REMOVE_OF_DELETED = """\
WITH done AS (
    DELETE FROM {link_table} g USING (
        SELECT g.{own}, g.{other}
        FROM {link_table} g
        JOIN {plan} p ON p.record_id = g.{own} AND p.verdict = 'd' AND p.row BETWEEN %(first)s AND %(last)s
        WHERE g.organization_id = %(organization)s
        ORDER BY {in_order}
        FOR UPDATE OF g
    ) AS f
    WHERE g.organization_id = %(organization)s AND g.{own} = f.{own} AND g.{other} = f.{other}
    RETURNING g.{own} AS own, g.{other} AS other, {state} AS before
)
INSERT INTO {link_log} (organization_id, {own}, {other}, batch_id, row, undoes, before, after)
SELECT %(organization)s, done.own, done.other, %(batch)s, p.row, k.number, done.before, 'a'
FROM done
JOIN {plan} p ON p.record_id = done.own AND p.row BETWEEN %(first)s AND %(last)s
LEFT JOIN {links} k ON k.row = p.row AND k.other = done.other"""


class UndoLinks:
    """The links of an undo's lines. The resource must have links.

    Verdicts of links: r goes back to what it was before the undone batch, k is kept as it is, g the record on its other
    side is gone.

    Attributes:
        writing: statements that remove, mark and add links of lines `first` to `last`, and log it.
        removal: removes the links of deleted records, and logs it.
    """

    def __init__(self, statements: UndoStatements) -> None:
        if statements.linked is None:
            raise TypeError(f"{statements.resource.name} has no links")
        self._statements = statements
        link = statements.linked.link
        first, last = sorted((link.own, link.other))  # the key's order, the same for both sides
        in_order = sql.SQL(", ").join([sql.Identifier("g", first), sql.Identifier("g", last)])
        compose = statements.compose
        open_links = compose(_OPEN_LINKS)
        record, other = sql.SQL("p.record_id"), sql.SQL("k.other")
        self._newest_writer = compose(_NEWEST_WRITER, record=record, linked=other)
        self._has_open = compose(_HAS_OPEN, open=open_links)
        self._leave_out_gone = compose(_LEAVE_OUT_GONE, open=open_links)
        self.writing: list[sql.Composed] = []
        for template, condition in _KINDS:
            kind = sql.SQL(condition).format()
            log = compose(_LOG, open=open_links, kind=kind, newest_writer=self._newest_writer)
            self.writing.append(compose(template, open=open_links, kind=kind, log_and_note=log, in_order=in_order))
        self.removal = compose(_REMOVE_OF_DELETED, in_order=in_order)

    def decide(self) -> None:
        """Decides the links of all lines in the temporary table `found`."""
        statements = self._statements
        if statements.execute(_LATER):
            statements.connection.execute("CREATE INDEX ON later_links (row, other, number)")
            statements.connection.execute("ANALYZE later_links")
        statements.execute(_WALK)
        statements.replace("links", LINK_COLUMNS, statements.compose(_DECIDE))

    def verdict_holes(self) -> dict[str, sql.Composable]:
        """What links add to the verdicts of lines."""
        return {
            "link_counts": self._statements.compose(_COUNTS),
            "links_are_ours": sql.SQL(" AND x.stay IS NOT TRUE"),
            "links_go": sql.SQL(" OR x.go"),
            "links_stay": sql.SQL("x.stay"),
            "links_by": sql.SQL("x.by_batch"),
        }

    def keep_referenced(self, parameters: dict[str, Any]) -> None:
        """Keeps those records of lines `first` to `last` that have links which the undone batch did not make."""
        statements = self._statements
        own, other = sql.SQL("l.record_id"), statements.compose("g.{other}")
        writer = statements.compose(_NEWEST_WRITER, record=own, linked=other)
        statements.connection.execute(statements.compose(_KEEP_REFERENCED, newest_writer=writer), parameters)

    def write(self, parameters: dict[str, Any]) -> None:
        """Changes the links of the written records of lines `first` to `last`."""
        connection = self._statements.connection
        row = connection.execute(self._has_open, parameters).fetchone()
        if row is not None and row[0]:
            connection.execute(self._leave_out_gone, parameters)
            for statement in self.writing:
                connection.execute(statement, parameters)

    def remove_of_deleted(self, parameters: dict[str, Any]) -> None:
        """Removes the links of the deleted records of lines `first` to `last`, which must be locked or gone."""
        self._statements.connection.execute(self.removal, parameters)
