"""How an item is merged into its record: the INSERT and UPDATE of a chunk, and their writer."""

from psycopg import sql

from batch_pipeline.batches.locks import Turn
from batch_pipeline.database import Connection
from batch_pipeline.loading.chunks import ChunkOutcome, ItemWriter
from batch_pipeline.loading.memberships import LinkWriter
from batch_pipeline.loading.reference_fields import references_of
from batch_pipeline.loading.staging import Staging
from batch_pipeline.loading.statements import COMMA, NOTHING, OR, indented, records_table
from batch_pipeline.records.fields import Field
from batch_pipeline.records.resource import Resource

# In both statements `items` and `plan` have their own range of rows, so that each is read by its index.
_INSERT = """\
INSERT INTO {records} (
    {columns}
)
SELECT
    {values}
FROM {items} s
JOIN {plan} p ON p.row = s.row
WHERE s.row BETWEEN %(first)s AND %(last)s
  AND p.row BETWEEN %(first)s AND %(last)s
  AND p.verdict = 'a'
  AND p.record_id IS NULL"""

_UPDATE = """\
UPDATE {records} r
SET {assignments}
FROM {items} s
JOIN {plan} p ON p.row = s.row{changed_links}
WHERE s.row BETWEEN %(first)s AND %(last)s
  AND p.row BETWEEN %(first)s AND %(last)s
  AND p.verdict = 'a'
  AND r.organization_id = %(organization)s
  AND r.id = p.record_id
  AND (
    {reasons}
  )"""

_JOIN_CHANGED_LINKS = """
LEFT JOIN ({changed}) AS linked ON linked.own = p.record_id"""

_DIFFERS = """\
(
        {current}
    ) IS DISTINCT FROM (
        {merged}
    )"""

_UPDATE_AND_NOTE = """\
WITH done AS (
    {update}
    RETURNING s.row
)
INSERT INTO {changes} (row)
SELECT row FROM done"""

_COUNT_EXISTING = """\
SELECT count(*) FROM {plan}
WHERE row BETWEEN %(first)s AND %(last)s
  AND verdict = 'a'
  AND record_id IS NOT NULL"""


class MergeWriter(ItemWriter):
    """Creates the new records of a chunk and merges the other items into theirs.

    `fields` are the staged ones. `clears`: some item of the batch clears a field. `keep_changes`: the rows of updated
    records are noted in `Staging.changes`, for the result file.
    """

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
        self._insert = insert_statement(resource, staging, fields)
        self._update = update_statement(resource, staging, fields, clears=clears, keep_changes=keep_changes)
        self._count_existing = sql.SQL(_COUNT_EXISTING).format(plan=staging.plan)

    def apply(self, first: int, last: int) -> ChunkOutcome:
        """Inserts records, writes links, updates records: a record whose links changed is updated as well."""
        parameters = self._range(first, last)
        created = self._connection.execute(self._insert, parameters).rowcount
        if self._links is not None:
            self._links.write(parameters)
        row = self._connection.execute(self._count_existing, parameters).fetchone()
        existing = 0 if row is None else int(row[0])
        updated = 0
        if existing and self._update is not None:
            updated = self._connection.execute(self._update, parameters).rowcount
        return ChunkOutcome(created=created, updated=updated, unchanged=existing - updated)


def insert_statement(resource: Resource, staging: Staging, fields: tuple[str, ...]) -> sql.Composed:
    """The statement that creates the new records of rows `first` to `last`."""
    staged = [field for field in resource.fields if _is_written(field, fields)]
    return sql.SQL(_INSERT).format(
        records=records_table(resource),
        columns=COMMA.join(
            [sql.SQL("organization_id, id, batch_id"), *(sql.Identifier(field.name) for field in staged)]
        ),
        values=COMMA.join([sql.SQL("%(organization)s, s.new_id, %(batch)s"), *map(_inserted_value, staged)]),
        items=staging.items,
        plan=staging.plan,
    )


def update_statement(
    resource: Resource, staging: Staging, fields: tuple[str, ...], *, clears: bool, keep_changes: bool
) -> sql.Composed | None:
    """The statement that merges rows `first` to `last` into their records; it leaves records alone that stay the same.

    None if the items have nothing but ids, so that there is nothing to merge.
    """
    has_links = bool(references_of(resource, fields))
    differs = difference(resource, fields, clears=clears)
    reasons = [sql.SQL("linked.own IS NOT NULL").format()] if has_links else []
    if differs is not None:
        reasons.append(differs)
    if not reasons:
        return None
    assignments = [
        sql.SQL("{} = {}").format(sql.Identifier(name), value)
        for name, value in merged_values(resource, fields, clears=clears).items()
    ]
    changed_links = sql.SQL(_JOIN_CHANGED_LINKS).format(changed=LinkWriter.changed) if has_links else NOTHING
    update = sql.SQL(_UPDATE).format(
        records=records_table(resource),
        assignments=COMMA.join([*assignments, sql.SQL("updated_at = now()"), sql.SQL("batch_id = %(batch)s")]),
        items=staging.items,
        plan=staging.plan,
        changed_links=changed_links,
        reasons=OR.join(reasons),
    )
    if not keep_changes:
        return update
    return sql.SQL(_UPDATE_AND_NOTE).format(update=indented(update), changes=staging.changes)


def merged_value(field: Field, bit: int, *, clears: bool) -> sql.Composed:
    """The value of a field of record `r` after the merge of item `s`.

    A scalar or list is replaced if the item gives a value. An object is merged key by key; a null removes its key.
    A cleared field gets its initial value. `clears`: some item of the batch clears a field; only then the item's mask
    is tested.
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
    """The value of a field that was never given, or was cleared."""
    return sql.SQL("{}::{}").format(sql.Literal(field.initial), sql.SQL(field.sql_type))


def merged_values(resource: Resource, fields: tuple[str, ...], *, clears: bool) -> dict[str, sql.Composed]:
    """`merged_value` of each staged field that a merge can change."""
    return {
        field.name: merged_value(field, bit, clears=clears)
        for bit, field in enumerate(resource.fields)
        if _is_written(field, fields)
    }


def difference(resource: Resource, fields: tuple[str, ...], *, clears: bool) -> sql.Composed | None:
    """Condition: the merge of item `s` would change record `r`; None if the items have nothing but ids."""
    merged = merged_values(resource, fields, clears=clears)
    if not merged:
        return None
    return sql.SQL(_DIFFERS).format(
        current=indented(COMMA.join(sql.SQL("r.{}").format(sql.Identifier(name)) for name in merged)),
        merged=indented(COMMA.join(merged.values())),
    )


def _is_written(field: Field, fields: tuple[str, ...]) -> bool:
    return field.name in fields and field.is_column and field.name != "id"


def _inserted_value(field: Field) -> sql.Composed:
    column = sql.SQL("s.{}").format(sql.Identifier(field.name))
    if field.initial is None:
        return column
    value = sql.SQL("coalesce({}, {})").format(column, initial_value(field))
    return sql.SQL("jsonb_strip_nulls({})").format(value) if field.merges_by_key else value
