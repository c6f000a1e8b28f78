"""The queries that find records by the texts of references, each distinct text once, by the indexes of identity.

They read the resolver's temporary table `texts` (see `references`): place integer (the target's number), text, and
is_id boolean (the text has the form of the target's ids).
"""

from psycopg import sql

from batch_pipeline.loading.identity import FOLDING_COLLATION
from batch_pipeline.loading.statements import FALSE, TRUE
from batch_pipeline.records.links import QUALIFIER, Target

# By a column that is unique within the organization.
_BY_KEY = """\
SELECT t.place, t.text, r.id, 1 AS matches
FROM texts t
JOIN {others} r ON r.organization_id = %(organization)s AND r.{column} = t.text AND {among}
WHERE t.place = {place} AND {asked}"""

# By a column that several records can have. An external id takes precedence.
_BY_NAME = """\
SELECT t.place, t.text, min(r.id) COLLATE "C", count(*)::integer
FROM texts t
LEFT JOIN {others} x ON x.organization_id = %(organization)s AND x.external_id = t.text AND {x_among}
JOIN {others} r ON r.organization_id = %(organization)s AND {same} AND {among}
WHERE t.place = {place} AND NOT t.is_id AND x.id IS NULL AND {asked}
GROUP BY t.place, t.text"""


def look_ups(place: int, target: Target) -> list[sql.Composed]:
    """The queries for one target: by id, else by external id, else by the target's other columns.

    Columns: place integer, text, id text (of one of the records), matches integer (the number of records).
    """
    is_qualified: sql.Composable = FALSE
    if target.qualified_by is not None:
        is_qualified = sql.SQL("strpos(t.text, {}) > 0").format(sql.Literal(QUALIFIER))
    queries = [
        _by_key(place, target, "id", sql.SQL("t.is_id")),
        _by_key(place, target, "external_id", sql.SQL("NOT t.is_id")),
        _by_name(place, target, _same(target, sql.SQL("t.text")), sql.SQL("NOT {}").format(is_qualified)),
    ]
    if target.qualified_by is not None:
        address = sql.SQL("btrim(regexp_replace(t.text, {}, ''))").format(sql.Literal(f"^.*{QUALIFIER}"))
        name = sql.SQL("btrim(regexp_replace(t.text, {}, {}))").format(
            sql.Literal(f"^(.*){QUALIFIER}.*$"), sql.Literal(r"\1")
        )
        same = sql.SQL("{} AND r.{} = {}").format(_same(target, address), sql.Identifier(target.qualified_by), name)
        queries.append(_by_name(place, target, same, is_qualified))
    return queries


def _by_key(place: int, target: Target, column: str, asked: sql.Composable) -> sql.Composed:
    return sql.SQL(_BY_KEY).format(
        others=sql.Identifier("public", target.table),
        column=sql.Identifier(column),
        among=_among(target, "r"),
        place=sql.Literal(place),
        asked=asked,
    )


def _by_name(place: int, target: Target, same: sql.Composable, asked: sql.Composable) -> sql.Composed:
    return sql.SQL(_BY_NAME).format(
        others=sql.Identifier("public", target.table),
        same=same,
        among=_among(target, "r"),
        x_among=_among(target, "x"),
        place=sql.Literal(place),
        asked=asked,
    )


def _same(target: Target, text: sql.Composable) -> sql.Composed:
    """Condition: the text names record `r`. It has the form of the index on the resource's natural key."""
    column = sql.Identifier(target.by)
    if target.fold_case:
        return sql.SQL("r.{c} IS NOT NULL AND lower(r.{c} COLLATE {fold}) = lower({text} COLLATE {fold})").format(
            c=column, text=text, fold=sql.Identifier(FOLDING_COLLATION)
        )
    return sql.SQL("(coalesce(r.{}, '') COLLATE \"C\") = {}").format(column, text)


def _among(target: Target, alias: str) -> sql.Composable:
    """Condition: references can mean the record of this alias."""
    if target.among is None:
        return TRUE
    column, value = target.among
    return sql.SQL("coalesce({}, {v}) = {v}").format(sql.Identifier(alias, column), v=sql.Literal(value))
