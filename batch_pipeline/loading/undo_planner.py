"""The plan of an undo: for each line and each of its units, whether it can be taken back.

The changes of a unit are a stack. A batch or somebody outside puts a change on it; an undo takes the change on top off;
the undo of that undo puts it back. A unit is taken back only if the undone batch's change is on top. What is on top is
found from the newest change: if that is the undo of a change, the one before the undone change follows, and so on.
"""

from psycopg import sql

from batch_pipeline.loading.identity import Matching
from batch_pipeline.loading.plan import PlanCounts
from batch_pipeline.loading.statements import COMMA, NOTHING
from batch_pipeline.loading.undo_lines import PLAN_COLUMNS
from batch_pipeline.loading.undo_links import UndoLinks
from batch_pipeline.loading.undo_statements import UndoStatements, stored_fields

# Each line that is in no finished chunk, with its record as it is now. `own`: number of the undone change, 0 if the
# batch created the record.
_FOUND = """\
CREATE TEMPORARY TABLE found ON COMMIT DROP AS
SELECT l.row, l.record_id, l.op, coalesce(l.number, 0) AS own, r.id IS NOT NULL AS is_there, r.batch_id, r.xmin AS seen
FROM {plan} l
LEFT JOIN {records} r ON r.organization_id = %(organization)s AND r.id = l.record_id
WHERE NOT l.row <@ %(done)s::int8multirange"""

# Changes of the lines' records after the undone one.
_LATER = """\
CREATE TEMPORARY TABLE later ON COMMIT DROP AS
SELECT f.row, c.number, c.undoes, c.batch_id, c.before_batch, c.op, c.changed,
    {columns}
FROM found f
JOIN {log} c ON c.record_id = f.record_id AND c.number > f.own
WHERE c.organization_id = %(organization)s AND c.at >= %(since)s"""

# Their units. A deletion or restoration concerns all units of its record: its bit is null.
_EVENTS = """\
CREATE TEMPORARY TABLE events ON COMMIT DROP AS
SELECT e.row, e.number, e.undoes, e.batch_id, u.bit, u.key
FROM later e
CROSS JOIN LATERAL (
    {units}
    UNION ALL
    SELECT NULL, NULL WHERE e.op IN ('d', 'i')
) AS u (bit, key)"""

# The units of the undone changes. A created record is one whole, so each unit that somebody changed counts.
_UNITS = """\
CREATE TEMPORARY TABLE units ON COMMIT DROP AS
SELECT f.row, f.own, u.bit, u.key
FROM found f
JOIN {items} s ON s.row = f.row
CROSS JOIN LATERAL (
    {units}
) AS u (bit, key)
WHERE f.op = 'u' AND f.row IN (SELECT row FROM later)
UNION ALL
SELECT DISTINCT f.row, f.own, e.bit, e.key
FROM found f
JOIN events e ON e.row = f.row
WHERE f.op IN ('c', 'i')
UNION ALL
SELECT f.row, f.own, NULL, NULL
FROM found f
WHERE f.op = 'd' AND f.row IN (SELECT row FROM later)"""

_WALK = """\
INSERT INTO {kept} (row, bit, key, number, by_batch)
WITH RECURSIVE walk AS (
    SELECT u.row, u.own, u.bit, u.key, e.number, e.undoes, e.batch_id
    FROM units u
    CROSS JOIN LATERAL (
        SELECT e.number, e.undoes, e.batch_id FROM events e
        WHERE e.row = u.row AND (e.bit IS NULL OR e.bit = u.bit AND e.key = u.key)
        ORDER BY e.number DESC LIMIT 1
    ) AS e
    UNION ALL
    SELECT w.row, w.own, w.bit, w.key, e.number, e.undoes, e.batch_id
    FROM walk w
    CROSS JOIN LATERAL (
        SELECT e.number, e.undoes, e.batch_id FROM events e
        WHERE e.row = w.row AND (e.bit IS NULL OR e.bit = w.bit AND e.key = w.key) AND e.number < w.undoes
        ORDER BY e.number DESC LIMIT 1
    ) AS e
    WHERE w.undoes > w.own
)
SELECT row, bit, key, number, batch_id FROM walk WHERE coalesce(undoes, 0) <= own"""

# Somebody wrote the record without a line in the log: a batch with BATCH_CHANGES=off, or a tool that wrote `batch_id`.
# Which units it changed is unknown. It wrote last, or before a logged change (`before_batch`).
_UNLOGGED = """\
CREATE TEMPORARY TABLE unlogged ON COMMIT DROP AS
SELECT DISTINCT ON (f.row) f.row, f.op, w.batch_id
FROM (
    SELECT row, batch_id, NULL::bigint AS number FROM found
    UNION ALL
    SELECT row, before_batch, number FROM later WHERE op <> 'i'
) AS w
JOIN found f ON f.row = w.row
WHERE f.is_there AND f.op IN ('u', 'c', 'i') AND w.batch_id IS DISTINCT FROM %(undone)s
  AND NOT EXISTS (
    SELECT FROM later e
    WHERE e.row = w.row AND e.batch_id IS NOT DISTINCT FROM w.batch_id AND (w.number IS NULL OR e.number < w.number)
  ){linked}
ORDER BY f.row, w.number DESC NULLS FIRST"""

_UNLOGGED_LINKED = """
  AND NOT EXISTS (
    SELECT FROM {link_log} c
    WHERE c.{own} = f.record_id AND c.organization_id = %(organization)s AND c.batch_id = w.batch_id
  )"""

_KEEP_UNLOGGED = """\
WITH forgotten AS (
    DELETE FROM {kept} k USING unlogged f WHERE k.row = f.row
)
INSERT INTO {kept} (row, bit, key, by_batch)
SELECT f.row, u.bit, u.key, f.batch_id
FROM unlogged f
JOIN {items} s ON s.row = f.row
CROSS JOIN LATERAL (
    {units}
) AS u (bit, key)
WHERE f.op = 'u'
UNION ALL
SELECT row, NULL, NULL, batch_id FROM unlogged WHERE op <> 'u'"""

_KEEP_TAKEN_EXTERNAL_IDS = """\
INSERT INTO {kept} (row, bit, key, by_record)
SELECT f.row, {bit}, '', r.id
FROM found f
JOIN {items} s ON s.row = f.row
JOIN {records} r ON r.organization_id = %(organization)s AND r.external_id = s.external_id AND r.id <> f.record_id
WHERE f.op = 'u' AND f.is_there AND (s.changed >> {bit}) & 1 = 1
  AND NOT EXISTS (SELECT FROM {kept} k WHERE k.row = f.row AND k.bit = {bit})"""

_FORGET_KEPT = "DELETE FROM {kept} WHERE NOT row <@ %(done)s::int8multirange"

_VERDICTS = """\
SELECT row, verdict, record_id, op, number, seen, by_batch, by_record FROM {plan}
WHERE row <@ %(done)s::int8multirange
UNION ALL
SELECT f.row,
       (CASE WHEN f.op = 'd' THEN
                 CASE WHEN f.is_there THEN CASE WHEN k.row IS NULL THEN 'c' ELSE 'k' END
                      WHEN k.row IS NULL THEN 'i'
                      ELSE 'g' END
             WHEN NOT f.is_there THEN 'g'
             WHEN f.op IN ('c', 'i') THEN CASE WHEN k.row IS NULL{links_are_ours} THEN 'd' ELSE 'k' END
             WHEN f.op = 'u' AND (k.row IS NULL OR k.units < (SELECT count(*) FROM (
                 {units}
             ) AS u)){links_go} THEN 'r'
             WHEN {links_stay} THEN 'k'
             WHEN k.row IS NOT NULL THEN CASE WHEN k.is_kept THEN 'k' ELSE 'c' END
             ELSE 'g' END)::"char",
       f.record_id, f.op, nullif(f.own, 0), f.seen,
       coalesce(k.by_batch, {links_by}), CASE WHEN f.op = 'd' AND f.is_there AND k.row IS NULL THEN f.record_id END
FROM found f
LEFT JOIN {items} s ON s.row = f.row
LEFT JOIN (
    SELECT row, count(*) AS units, bool_or(by_record IS NULL) AS is_kept,
           (array_agg(by_batch ORDER BY number DESC NULLS FIRST))[1] AS by_batch
    FROM {kept} GROUP BY row
) AS k ON k.row = f.row{link_counts}
ORDER BY row"""

_COUNT = """\
SELECT count(*) - (SELECT count(*) FROM {errors}), count(*) FILTER (WHERE verdict = 'd') FROM {plan}"""

_TAKEN = """\
UPDATE {plan} p SET verdict = 'c', by_record = t.id
FROM (
    SELECT s.row, min(r.id) AS id
    FROM {plan} l
    JOIN {items} s ON s.row = l.row
    JOIN {records} r ON r.organization_id = %(organization)s
        AND {conditions}
    WHERE l.verdict = 'i' AND l.row BETWEEN %(first)s AND %(last)s AND {items_in_range}
      AND NOT l.row <@ %(done)s::int8multirange
    GROUP BY s.row
) AS t
WHERE p.row = t.row"""

# Natural keys are not unique. Two records may have shared one before the undone batch, and then they do so again.
_SINCE = """\
coalesce(r.batch_id NOT IN (%(undone)s, %(batch)s), true)
    AND (r.created_at > s.at OR EXISTS (
        SELECT FROM {log} c
        WHERE c.record_id = r.id AND c.organization_id = %(organization)s AND c.number > s.number AND c.at >= %(since)s
    ))"""


class UndoPlanner:
    """Makes the plan of one undo. Set-based, in the caller's transaction. `stage_lines` has made the lines.

    Verdicts of lines: r its record gets values or links back, d it is deleted, i it is restored, k it is kept as it is,
    c conflict, g gone. Lines of finished chunks keep theirs, so the plan can be made anew for the rest.
    """

    def __init__(self, statements: UndoStatements) -> None:
        self._statements = statements
        self._links = None if statements.linked is None else UndoLinks(statements)

    def plan(self) -> PlanCounts:
        """Decides every line that is in no finished chunk; replaces an earlier plan for those.

        Accepts all lines but those that the database refused.
        """
        statements = self._statements
        statements.execute(_FORGET_KEPT)
        statements.execute(_FOUND)
        statements.connection.execute("ANALYZE found")
        self._find_later_changes()
        statements.execute(_KEEP_TAKEN_EXTERNAL_IDS, bit=sql.Literal(statements.resource.change_bits["external_id"]))
        if self._links is not None:
            self._links.decide()
        statements.replace("plan", PLAN_COLUMNS, self._verdicts())
        lines = statements.count("SELECT count(*) FROM {plan}")
        whole = {**statements.parameters, "first": 1, "last": max(lines, 1)}
        if self._links is not None:
            self._links.keep_referenced(whole)
        for statement in taken_keys(statements):
            statements.connection.execute(statement, whole)
        accepted, deleted = statements.connection.execute(statements.compose(_COUNT)).fetchone() or (0, 0)
        return PlanCounts(int(accepted), duplicates=0, rejected=0, to_delete=int(deleted))

    def _find_later_changes(self) -> None:
        """Fills `Staging.kept` with the units that somebody changed later."""
        statements = self._statements
        objects = COMMA.join(
            sql.SQL("CASE WHEN c.op = 'u' THEN c.{c} END AS {c}").format(c=sql.Identifier(field.name))
            for field in stored_fields(statements.resource)
            if field.merges_by_key
        )
        later = statements.execute(_LATER, columns=objects)
        if later:
            statements.execute(_EVENTS, units=statements.units("e"))
            statements.connection.execute("CREATE INDEX ON events (row, number)")
            statements.connection.execute("ANALYZE later, events")
            statements.execute(_UNITS, units=statements.units("s"))
            statements.execute(_WALK)
        links = statements.compose(_UNLOGGED_LINKED) if statements.linked is not None else NOTHING
        if statements.execute(_UNLOGGED, linked=links):
            statements.execute(_KEEP_UNLOGGED, units=statements.units("s"))

    def _verdicts(self) -> sql.Composed:
        holes: dict[str, sql.Composable] = {
            **dict.fromkeys(("links_are_ours", "links_go", "link_counts"), NOTHING),
            "links_stay": sql.SQL("false"),
            "links_by": sql.SQL("NULL"),
        }
        if self._links is not None:
            holes |= self._links.verdict_holes()
        return self._statements.compose(_VERDICTS, units=self._statements.units("s"), **holes)


def taken_keys(statements: UndoStatements) -> list[sql.Composed]:
    """Statements that make a conflict of each deletion, among lines `first` to `last`, that has lost a key since."""
    resource = statements.resource
    fields = tuple(field.name for field in stored_fields(resource))
    matching = Matching(resource, statements.staging, fields, clears=False)
    found = [sql.SQL("r.external_id = s.external_id").format()]
    earlier: list[sql.Composed] = []
    for key in resource.natural_keys:
        conditions = [matching.natural_condition(key), *earlier, statements.compose(_SINCE)]
        if key.when is not None:
            is_given = sql.SQL("s.{} IS NOT NULL").format(sql.Identifier(key.when))
            conditions.append(is_given)
            earlier.append(sql.SQL("NOT {}").format(is_given))
        found.append(sql.SQL("\n        AND ").join(conditions))
    return [statements.compose(_TAKEN, conditions=conditions) for conditions in found]
