"""How items and records become one: the expressions of a merge, and the writer of its chunks."""

from psycopg import sql

from batch_pipeline.batches.turns import Turn
from batch_pipeline.loading.chunks import ChunkOutcome, ItemWriter
from batch_pipeline.loading.staging import Connection, Staging
from batch_pipeline.records.fields import KeyedText
from batch_pipeline.records.resource import Resource


class MergeWriter(ItemWriter):
    """Creates the new records of a chunk and merges the other items into theirs."""

    def __init__(
        self,
        connection: Connection,
        resource: Resource,
        staging: Staging,
        turn: Turn,
        *,
        fields: tuple[str, ...],
        clears: bool,
        keep_changes: bool,
    ) -> None:
        super().__init__(connection, staging, turn)
        self._insert = _insert_statement(resource, staging, fields)
        self._update = _update_statement(resource, staging, fields, clears=clears)
        if keep_changes and self._update is not None:
            self._update = sql.SQL(
                "WITH done AS ({} RETURNING s.row) INSERT INTO {} (row) SELECT row FROM done"
            ).format(self._update, staging.changes)
        self._count_meant = sql.SQL(
            "SELECT count(*) FROM {} WHERE row BETWEEN %(first)s AND %(last)s AND verdict = 'a'"
            " AND record_id IS NOT NULL"
        ).format(staging.plan)

    def apply(self, first: int, last: int) -> ChunkOutcome:
        """Inserts, then updates."""
        parameters = self._range(first, last)
        created = self._connection.execute(self._insert, parameters).rowcount
        row = self._connection.execute(self._count_meant, parameters).fetchone()
        meant = 0 if row is None else int(row[0])
        updated = 0
        if meant and self._update is not None:
            updated = self._connection.execute(self._update, parameters).rowcount
        return ChunkOutcome(created=created, updated=updated, unchanged=meant - updated)


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


def difference(resource: Resource, fields: tuple[str, ...], *, clears: bool) -> sql.Composed | None:
    """Whether merging item `s` would change record `r`; None where the items carry nothing but ids."""
    names = [name for name in fields if name != "id"]
    if not names:
        return None
    bits = {field.name: bit for bit, field in enumerate(resource.fields)}
    merged = [
        merged_value(name, bits[name], keyed=isinstance(resource.field(name), KeyedText), clears=clears)
        for name in names
    ]
    return sql.SQL("({current}) IS DISTINCT FROM ({merged})").format(
        current=sql.SQL(", ").join(sql.Identifier("r", name) for name in names), merged=sql.SQL(", ").join(merged)
    )


def _insert_statement(resource: Resource, staging: Staging, fields: tuple[str, ...]) -> sql.Composed:
    """Creates the records of a range of rows."""
    names = [name for name in fields if name != "id"]
    values = [
        sql.SQL("jsonb_strip_nulls(coalesce(s.{}, '{{}}'))").format(sql.Identifier(name))
        if isinstance(resource.field(name), KeyedText)
        else sql.SQL("s.{}").format(sql.Identifier(name))
        for name in names
    ]
    return sql.SQL(
        "INSERT INTO {records} ({columns}) SELECT {values}"
        " FROM {items} s JOIN {plan} p ON p.row = s.row"
        " WHERE s.row BETWEEN %(first)s AND %(last)s AND p.row BETWEEN %(first)s AND %(last)s"
        " AND p.verdict = 'a' AND p.record_id IS NULL"
    ).format(
        records=sql.Identifier("public", resource.table),
        columns=sql.SQL(", ").join(map(sql.Identifier, ("organization_id", "id", "batch_id", *names))),
        values=sql.SQL(", ").join([sql.SQL("%(organization)s, s.new_id, %(batch)s"), *values]),
        items=staging.items,
        plan=staging.plan,
    )


def _update_statement(
    resource: Resource, staging: Staging, fields: tuple[str, ...], *, clears: bool
) -> sql.Composed | None:
    """Merges a range of rows into the records that they mean; a record that would stay the same is not written.

    None where the items carry nothing but ids, so there is nothing to merge.
    """
    differs = difference(resource, fields, clears=clears)
    if differs is None:
        return None
    bits = {field.name: bit for bit, field in enumerate(resource.fields)}
    names = [name for name in fields if name != "id"]
    merged = [
        merged_value(name, bits[name], keyed=isinstance(resource.field(name), KeyedText), clears=clears)
        for name in names
    ]
    return sql.SQL(
        "UPDATE {records} r SET {assignments}, updated_at = now(), batch_id = %(batch)s"
        " FROM {items} s JOIN {plan} p ON p.row = s.row"
        " WHERE s.row BETWEEN %(first)s AND %(last)s AND p.row BETWEEN %(first)s AND %(last)s"
        " AND p.verdict = 'a' AND r.organization_id = %(organization)s AND r.id = p.record_id"
        " AND {differs}"
    ).format(
        records=sql.Identifier("public", resource.table),
        assignments=sql.SQL(", ").join(
            sql.SQL("{} = {}").format(sql.Identifier(name), value) for name, value in zip(names, merged, strict=True)
        ),
        items=staging.items,
        plan=staging.plan,
        differs=differs,
    )
