"""Looks records up by the texts of references, each distinct text once, by the indexes of identity.

Reads the temporary table `texts` of the resolver (see `references`): place (the target's number), text, and is_id,
whether the text has the form of the target's ids.
"""

from psycopg import sql

from batch_pipeline.loading.identity import FOLDING_COLLATION
from batch_pipeline.records.links import QUALIFIER, Target


def look_ups(number: int, target: Target) -> list[sql.Composed]:
    """Queries (place, text, id, matches) of what texts name: by id, else by external id, else as `by` says."""
    is_qualified = sql.SQL("strpos(t.text, {}) > 0").format(sql.Literal(QUALIFIER))
    if target.qualified_by is None:
        is_qualified = sql.SQL("false").format()
    ways = [
        _by_key(number, target, "id", sql.SQL("t.is_id")),
        _by_key(number, target, "external_id", sql.SQL("NOT t.is_id")),
        _by_name(number, target, _same(target, sql.SQL("t.text")), sql.SQL("NOT {}").format(is_qualified)),
    ]
    if target.qualified_by is not None:
        address = sql.SQL("btrim(regexp_replace(t.text, {}, ''))").format(sql.Literal(f"^.*{QUALIFIER}"))
        name = sql.SQL("btrim(regexp_replace(t.text, {}, {}))").format(
            sql.Literal(f"^(.*){QUALIFIER}.*$"), sql.Literal(r"\1")
        )
        same = sql.SQL("{} AND r.{} = {}").format(_same(target, address), sql.Identifier(target.qualified_by), name)
        ways.append(_by_name(number, target, same, is_qualified))
    return ways


def _by_key(number: int, target: Target, column: str, asked: sql.Composable) -> sql.Composed:
    return sql.SQL(
        """
        SELECT t.place, t.text, r.id, 1 AS matches FROM texts t
        JOIN {others} r ON r.organization_id = %(organization)s AND r.{column} = t.text AND {among}
        WHERE t.place = {place} AND {asked}
        """
    ).format(
        others=sql.Identifier("public", target.table),
        column=sql.Identifier(column),
        among=_among(target, "r"),
        place=sql.Literal(number),
        asked=asked,
    )


def _by_name(number: int, target: Target, same: sql.Composable, asked: sql.Composable) -> sql.Composed:
    return sql.SQL(
        """
        SELECT t.place, t.text, min(r.id) COLLATE "C", count(*)::integer FROM texts t
        LEFT JOIN {others} x ON x.organization_id = %(organization)s AND x.external_id = t.text AND {x_among}
        JOIN {others} r ON r.organization_id = %(organization)s AND {same} AND {among}
        WHERE t.place = {place} AND NOT t.is_id AND x.id IS NULL AND {asked}
        GROUP BY t.place, t.text
        """
    ).format(
        others=sql.Identifier("public", target.table),
        same=same,
        among=_among(target, "r"),
        x_among=_among(target, "x"),
        place=sql.Literal(number),
        asked=asked,
    )


def _same(target: Target, text: sql.Composable) -> sql.Composed:
    """Whether record `r` is named by the text, in the form that the resource's index on its natural key has."""
    column = sql.Identifier(target.by)
    if target.fold_case:
        return sql.SQL("r.{c} IS NOT NULL AND lower(r.{c} COLLATE {fold}) = lower({text} COLLATE {fold})").format(
            c=column, text=text, fold=sql.Identifier(FOLDING_COLLATION)
        )
    return sql.SQL("(coalesce(r.{}, '') COLLATE \"C\") = {}").format(column, text)


def _among(target: Target, alias: str) -> sql.Composed:
    """Whether the record of this alias is one of those that references can mean."""
    if target.among is None:
        return sql.SQL("true").format()
    column, value = target.among
    return sql.SQL("coalesce({}, {v}) = {v}").format(sql.Identifier(alias, column), v=sql.Literal(value))
