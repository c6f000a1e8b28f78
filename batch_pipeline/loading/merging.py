"""How an item's fields and a record's become one: the expressions that planning and writing share."""

from psycopg import sql


def merged_value(name: str, bit: int, *, keyed: bool, clears: bool) -> sql.Composed:
    """A field of record `r` after item `s` was merged into it.

    Scalars are replaced where the item gives a value; objects merge key by key, a null removing one. `clears` says
    whether any item of the batch clears a field, which costs a test of the item's mask.
    """
    column = sql.Identifier(name)
    is_cleared = sql.SQL("(s.cleared >> {}) & 1 = 1").format(sql.Literal(bit))
    if keyed:
        base = sql.SQL("CASE WHEN {} THEN '{{}}'::jsonb ELSE r.{} END").format(is_cleared, column)
        if not clears:
            base = sql.SQL("r.{}").format(column)
        return sql.SQL("jsonb_strip_nulls(({}) || coalesce(s.{}, '{{}}'))").format(base, column)
    if clears:
        return sql.SQL("CASE WHEN {} THEN NULL ELSE coalesce(s.{c}, r.{c}) END").format(is_cleared, c=column)
    return sql.SQL("coalesce(s.{c}, r.{c})").format(c=column)
