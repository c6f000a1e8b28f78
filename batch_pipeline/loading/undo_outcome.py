"""What an undo does, or did, as people see it: a row for each record and field."""

from psycopg import sql

from batch_pipeline.loading.statements import COMMA
from batch_pipeline.loading.undo_statements import UndoStatements

_OUTCOME = """\
CASE {verdict} WHEN 'r' THEN 'reversed' WHEN 'd' THEN 'deleted' WHEN 'i' THEN 'restored' WHEN 'k' THEN 'kept'
    WHEN 'c' THEN 'conflict' ELSE 'gone' END"""

# A record that is, or was, one whole: it was created, deleted or restored.
_RECORDS = """\
SELECT p.row, 0::bigint AS place, '' AS part, {outcome} AS outcome, p.record_id, NULL AS field,
       coalesce(p.by_record, p.by_batch) AS by
FROM {plan} p
WHERE p.row BETWEEN %(first)s AND %(last)s AND p.op IN ('c', 'd', 'i')"""

_FIELDS = """\
SELECT p.row, n.place, u.key,
       CASE WHEN p.verdict = 'g' THEN {outcome}
            WHEN k.by_record IS NOT NULL THEN 'conflict' WHEN k.row IS NOT NULL THEN 'kept' ELSE {outcome} END,
       p.record_id, n.name || CASE WHEN u.key = '' THEN '' ELSE '.' || u.key END,
       CASE WHEN k.row IS NOT NULL THEN coalesce(k.by_record, k.by_batch) WHEN p.verdict <> 'r' THEN p.by_batch END
FROM {plan} p
JOIN {items} s ON s.row = p.row
CROSS JOIN LATERAL (
    {units}
) AS u (bit, key)
JOIN (VALUES {names}) AS n (bit, place, name) ON n.bit = u.bit
LEFT JOIN {kept} k ON k.row = p.row AND k.bit = u.bit AND k.key = u.key
WHERE p.row BETWEEN %(first)s AND %(last)s AND {items_in_range} AND p.op = 'u'"""

_LINKS = """\
SELECT p.row, {place}::bigint, l.other,
       CASE WHEN p.verdict IN ('c', 'g') THEN {outcome}
            WHEN l.verdict = 'r' AND p.verdict NOT IN ('r', 'i') THEN {outcome}
            ELSE {link_outcome} END,
       p.record_id, {name} || '.' || l.other,
       CASE WHEN l.verdict = 'k' THEN l.by_batch WHEN p.verdict = 'k' AND l.verdict = 'r' THEN p.by_batch END
FROM {plan} p
JOIN {links} l ON l.row = p.row
WHERE p.row BETWEEN %(first)s AND %(last)s AND l.row BETWEEN %(first)s AND %(last)s
  AND (p.op IN ('u', 'l') OR p.verdict = 'i')"""

# The external id of a deleted record is in the log of its deletion.
_LINES = """\
SELECT w.row, w.outcome, w.record_id AS id, coalesce(r.external_id, s.external_id, d.external_id) AS external_id,
       w.field, w.by, e.message AS error
FROM (
    {parts}
) AS w
LEFT JOIN {records} r ON r.organization_id = %(organization)s AND r.id = w.record_id
LEFT JOIN {items} s ON s.row = w.row AND {items_in_range} AND w.outcome = 'conflict'
LEFT JOIN {log} d ON d.record_id = w.record_id AND d.batch_id = %(batch)s AND d.op = 'd' AND w.outcome = 'deleted'
LEFT JOIN {errors} e ON e.row = w.row AND e.row BETWEEN %(first)s AND %(last)s
ORDER BY w.row, w.place, w.part"""

# A record counts once for each outcome that it or one of its fields has.
_COUNTS = """\
SELECT count(*) FILTER (WHERE p.verdict = 'r') AS reversed,
       count(*) FILTER (WHERE p.verdict = 'd') AS deleted,
       count(*) FILTER (WHERE p.verdict = 'i') AS restored,
       count(*) FILTER (WHERE p.verdict = 'k' OR p.verdict = 'r' AND (u.is_kept OR x.is_kept)) AS kept,
       count(*) FILTER (WHERE p.verdict = 'c' OR p.verdict = 'r' AND u.is_conflict) AS conflict,
       count(*) FILTER (WHERE p.verdict = 'g') AS gone
FROM {plan} p
LEFT JOIN (
    SELECT row, bool_or(by_record IS NULL) AS is_kept, bool_or(by_record IS NOT NULL) AS is_conflict
    FROM {kept} GROUP BY row
) AS u ON u.row = p.row
LEFT JOIN (
    {kept_links}
) AS x ON x.row = p.row"""

_KEPT_LINKS = "SELECT row, bool_or(verdict = 'k') AS is_kept FROM {links} GROUP BY row"
_NO_LINKS = "SELECT NULL::bigint AS row, NULL::boolean AS is_kept WHERE false"


def lines_query(statements: UndoStatements) -> sql.Composed:
    """The query for lines `first` to `last`: row, outcome, id, external_id, field, by, error; in order.

    `row` is the number of the line. `field` is null for a whole record. After a dot it has the key of an object, or the
    id of the other record of a link. `by` is the batch that changed the field (deleted the record) since, or the record
    that has a key; null if that is unknown, or was no batch. `error` is what the database said if it refused the line.
    """
    resource, bits = statements.resource, statements.resource.change_bits
    outcome = _outcome("p.verdict")
    names = COMMA.join(
        sql.SQL("({}::smallint, {}::bigint, {})").format(
            sql.Literal(bits[field.name]), sql.Literal(place), sql.Literal(field.name)
        )
        for place, field in enumerate(resource.fields, start=1)
    )
    parts = [
        statements.compose(_RECORDS, outcome=outcome),
        statements.compose(_FIELDS, outcome=outcome, units=statements.units("s"), names=names),
    ]
    if statements.linked is not None:
        parts.append(
            statements.compose(
                _LINKS,
                outcome=outcome,
                link_outcome=_outcome("l.verdict"),
                name=sql.Literal(statements.linked.name),
                place=sql.Literal(len(resource.fields) + 1),
            )
        )
    return statements.compose(_LINES, parts=sql.SQL("\nUNION ALL\n").join(parts))


def counts_query(statements: UndoStatements) -> sql.Composed:
    """The query for the number of records by outcome: reversed, deleted, restored, kept, conflict, gone."""
    return statements.compose(
        _COUNTS, kept_links=statements.compose(_KEPT_LINKS if statements.linked is not None else _NO_LINKS)
    )


def _outcome(verdict: str) -> sql.Composed:
    return sql.SQL(_OUTCOME).format(verdict=sql.SQL(verdict))
