"""The plan of an undo for people, in the columns of `Staging.preview`."""

from psycopg import sql

from batch_pipeline.loading.statements import COMMA, NOTHING, TRUE, indented
from batch_pipeline.loading.undo_statements import UndoStatements
from batch_pipeline.records.references import MarkedMembers

_LINES = """\
SELECT p.row,
       CASE p.verdict WHEN 'r' THEN 'update' WHEN 'd' THEN 'delete' WHEN 'i' THEN 'restore' WHEN 'k' THEN 'keep'
           WHEN 'c' THEN 'conflict' ELSE 'gone' END AS outcome,
       p.record_id AS id, coalesce(r.external_id, s.external_id) AS external_id, f.changes
FROM {plan} p
LEFT JOIN {items} s ON s.row = p.row
LEFT JOIN {records} r ON r.organization_id = %(organization)s AND r.id = p.record_id
LEFT JOIN (
    {kept_units}
) AS k ON k.row = p.row{linked}
LEFT JOIN LATERAL (
    SELECT jsonb_agg(jsonb_build_object('field', c.field, 'before', c.before, 'after', c.after)) AS changes
    FROM (VALUES
        {values}
    ) AS c (field, before, after)
    WHERE c.before IS DISTINCT FROM c.after
) AS f ON p.verdict IN ('r', 'i')
ORDER BY p.row"""

_LINKED = """
LEFT JOIN (
    SELECT l.row,
           jsonb_agg(l.other ORDER BY l.other) FILTER (WHERE l.before = 'a') AS removed,
           jsonb_agg(l.other ORDER BY l.other) FILTER (WHERE l.after = 'a') AS added,
           jsonb_agg(l.other ORDER BY l.other) FILTER (WHERE l.before = 'm' AND l.after = 'p') AS unmarked,
           jsonb_agg(l.other ORDER BY l.other) FILTER (WHERE l.before = 'p') AS marked
    FROM {links} l
    WHERE l.verdict = 'r'
    GROUP BY l.row
) AS linked ON linked.row = p.row"""

# A restored record has its values from before the deletion, and none now.
_VALUE = """\
({name}, CASE WHEN p.verdict = 'r' THEN to_jsonb(r.{column}) END,
            CASE WHEN p.verdict = 'r' THEN to_jsonb({after}) ELSE to_jsonb(s.{column}) END)"""


def undo_preview_query(statements: UndoStatements) -> sql.Composed:
    """The lines of an undo, from its plan. Parameter: `organization`.

    Outcomes: update (fields or links go back), delete, restore, keep, conflict, gone. Links are shown as in a merge:
    `before` has the ids of removed (or unmarked) records, `after` of added (or marked) ones.
    """
    values = [
        sql.SQL(_VALUE).format(name=sql.Literal(name), column=sql.Identifier(name), after=after)
        for name, after in statements.reversed_values().items()
    ]
    linked: sql.Composable = NOTHING
    if statements.linked is not None:
        linked = statements.compose(_LINKED)
        values.append(sql.SQL("({}, linked.removed, linked.added)").format(sql.Literal(statements.linked.name)))
        values += [
            sql.SQL("({}, linked.unmarked, linked.marked)").format(sql.Literal(field.name))
            for field in statements.resource.fields
            if isinstance(field, MarkedMembers)
        ]
    return statements.compose(
        _LINES,
        kept_units=indented(statements.kept_units(TRUE)),
        values=COMMA.join(values),
        linked=linked,
    )
