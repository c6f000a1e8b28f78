"""How items and records become one: the expressions of a merge, and the writer of its chunks."""

from psycopg import sql

from batch_pipeline.batches.locks import Turn
from batch_pipeline.loading.chunks import ChunkOutcome, ItemWriter
from batch_pipeline.loading.memberships import LinkWriter, references_of
from batch_pipeline.loading.staging import Connection, Staging
from batch_pipeline.records.fields import Field
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
        has_links = bool(references_of(resource, fields))
        self._links = LinkWriter(connection, resource, staging, fields) if has_links else None
        self._insert = _insert_statement(resource, staging, fields)
        self._update = _update_statement(resource, staging, fields, clears=clears, has_links=has_links)
        if keep_changes and self._update is not None:
            self._update = sql.SQL(
                "WITH done AS ({} RETURNING s.row) INSERT INTO {} (row) SELECT row FROM done"
            ).format(self._update, staging.changes)
        self._count_meant = sql.SQL(
            "SELECT count(*) FROM {} WHERE row BETWEEN %(first)s AND %(last)s AND verdict = 'a'"
            " AND record_id IS NOT NULL"
        ).format(staging.plan)

    def apply(self, first: int, last: int) -> ChunkOutcome:
        """Inserts, then updates; links come between, as a record whose links change is updated."""
        parameters = self._range(first, last)
        created = self._connection.execute(self._insert, parameters).rowcount
        if self._links is not None:
            self._links.write(parameters)
        row = self._connection.execute(self._count_meant, parameters).fetchone()
        meant = 0 if row is None else int(row[0])
        updated = 0
        if meant and self._update is not None:
            updated = self._connection.execute(self._update, parameters).rowcount
        return ChunkOutcome(created=created, updated=updated, unchanged=meant - updated)


def merged_value(field: Field, bit: int, *, clears: bool) -> sql.Composed:
    """A field of record `r` after item `s` was merged into it.

    Scalars and lists are replaced where the item gives a value; objects merge key by key, a null removing one. What is
    cleared gets the field's initial value. `clears` says whether any item of the batch clears a field, which costs a
    test of the item's mask.
    """
    column = sql.Identifier(field.name)
    initial = initial_value(field)
    is_cleared = sql.SQL("(s.cleared >> {}) & 1 = 1").format(sql.Literal(bit))
    if field.merges_by_key:
        base = sql.SQL("coalesce(r.{}, {})").format(column, initial)
        if clears:
            base = sql.SQL("CASE WHEN {} THEN {} ELSE {} END").format(is_cleared, initial, base)
        return sql.SQL("jsonb_strip_nulls(({}) || coalesce(s.{}, '{{}}'))").format(base, column)
    if clears:
        return sql.SQL("CASE WHEN {} THEN {} ELSE coalesce(s.{c}, r.{c}) END").format(is_cleared, initial, c=column)
    return sql.SQL("coalesce(s.{c}, r.{c})").format(c=column)


def initial_value(field: Field) -> sql.Composed:
    """What a record has in the field that was never given, or was cleared."""
    return sql.SQL("{}::{}").format(sql.Literal(field.initial), sql.SQL(field.sql_type))


def merged_values(resource: Resource, fields: tuple[str, ...], *, clears: bool) -> dict[str, sql.Composed]:
    """`merged_value` of each staged field that a merge can change."""
    return {
        field.name: merged_value(field, bit, clears=clears)
        for bit, field in enumerate(resource.fields)
        if field.name in fields and field.is_column and field.name != "id"
    }


def difference(resource: Resource, fields: tuple[str, ...], *, clears: bool) -> sql.Composed | None:
    """Whether merging item `s` would change record `r`; None where the items carry nothing but ids."""
    merged = merged_values(resource, fields, clears=clears)
    if not merged:
        return None
    return sql.SQL("({current}) IS DISTINCT FROM ({merged})").format(
        current=sql.SQL(", ").join(sql.Identifier("r", name) for name in merged),
        merged=sql.SQL(", ").join(merged.values()),
    )


def _insert_statement(resource: Resource, staging: Staging, fields: tuple[str, ...]) -> sql.Composed:
    """Creates the records of a range of rows."""
    staged = [field for field in resource.fields if field.name in fields and field.is_column and field.name != "id"]
    values = [_inserted_value(field) for field in staged]
    return sql.SQL(
        "INSERT INTO {records} ({columns}) SELECT {values}"
        " FROM {items} s JOIN {plan} p ON p.row = s.row"
        " WHERE s.row BETWEEN %(first)s AND %(last)s AND p.row BETWEEN %(first)s AND %(last)s"
        " AND p.verdict = 'a' AND p.record_id IS NULL"
    ).format(
        records=sql.Identifier("public", resource.table),
        columns=sql.SQL(", ").join(
            map(sql.Identifier, ("organization_id", "id", "batch_id", *(field.name for field in staged)))
        ),
        values=sql.SQL(", ").join([sql.SQL("%(organization)s, s.new_id, %(batch)s"), *values]),
        items=staging.items,
        plan=staging.plan,
    )


def _inserted_value(field: Field) -> sql.Composed:
    column = sql.Identifier("s", field.name)
    if field.initial is None:
        return sql.SQL("{}").format(column)
    value = sql.SQL("coalesce({}, {})").format(column, initial_value(field))
    return sql.SQL("jsonb_strip_nulls({})").format(value) if field.merges_by_key else value


def _update_statement(
    resource: Resource, staging: Staging, fields: tuple[str, ...], *, clears: bool, has_links: bool
) -> sql.Composed | None:
    """Merges a range of rows into the records that they mean; a record that would stay the same is not written.

    None where the items carry nothing but ids, so there is nothing to merge.
    """
    reasons = [sql.SQL("linked.own IS NOT NULL").format()] if has_links else []
    linked = sql.SQL("LEFT JOIN ({}) AS linked ON linked.own = p.record_id").format(LinkWriter.changed)
    differs = difference(resource, fields, clears=clears)
    if differs is not None:
        reasons.append(differs)
    if not reasons:
        return None
    assignments = [
        sql.SQL("{} = {}").format(sql.Identifier(name), value)
        for name, value in merged_values(resource, fields, clears=clears).items()
    ]
    return sql.SQL(
        "UPDATE {records} r SET {assignments}"
        " FROM {items} s JOIN {plan} p ON p.row = s.row {linked}"
        " WHERE s.row BETWEEN %(first)s AND %(last)s AND p.row BETWEEN %(first)s AND %(last)s"
        " AND p.verdict = 'a' AND r.organization_id = %(organization)s AND r.id = p.record_id"
        " AND ({reasons})"
    ).format(
        records=sql.Identifier("public", resource.table),
        assignments=sql.SQL(", ").join([*assignments, sql.SQL("updated_at = now(), batch_id = %(batch)s")]),
        items=staging.items,
        plan=staging.plan,
        linked=linked if has_links else sql.SQL(""),
        reasons=sql.SQL(" OR ").join(reasons),
    )
