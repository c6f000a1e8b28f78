"""How an item is merged into its record: the INSERT and UPDATE of a chunk, and their writer."""

from collections.abc import Mapping
from functools import cache, lru_cache, partial

from psycopg import sql

from batch_pipeline.batches.locks import Turn
from batch_pipeline.database import Connection
from batch_pipeline.loading.change_log import log_updated
from batch_pipeline.loading.chunks import ChunkOutcome, ItemWriter, Planned
from batch_pipeline.loading.memberships import LinkWriter
from batch_pipeline.loading.reference_fields import references_of
from batch_pipeline.loading.staging import Staging
from batch_pipeline.loading.statements import AND, COMMA, NOTHING, OR, further_ctes, indented, records_table
from batch_pipeline.records.fields import Field
from batch_pipeline.records.resource import Resource

_INSERT = """\
INSERT INTO {records} (
    {columns}
)
SELECT
    {values}
FROM {items} s
JOIN {plan} p ON p.row = s.row
WHERE {items_in_range}
  AND p.row BETWEEN %(first)s AND %(last)s
  AND p.verdict = 'a'
  AND p.record_id IS NULL"""

# Without the plan, which accepts all that the row rules do: reading it for the first time writes each of its pages, as
# the server marks the rows as committed.
_INSERT_VALID = """\
INSERT INTO {records} (
    {columns}
)
SELECT
    {values}
FROM {items} s
WHERE s.row BETWEEN %(first)s AND %(last)s
  AND s.invalid = 0
  AND s.kind IS NOT NULL"""

_UPDATE = """\
UPDATE {records} r
SET {assignments}
FROM {items} s
JOIN {plan} p ON p.row = s.row{changed_links}
WHERE {items_in_range}
  AND p.row BETWEEN %(first)s AND %(last)s
  AND p.verdict = 'a'
  AND r.organization_id = %(organization)s
  AND r.id = p.record_id{if_it_differs}"""

# Whether an item with references changes its record is decided here. The plan has decided it for all others.
_IF_IT_DIFFERS = """
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

_COUNT_UPDATED = """\
WITH done AS (
    {update}
    RETURNING {returned}
){also}
SELECT count(*) FROM done"""

_NOTE = """\
noted AS (
    INSERT INTO {changes} (row)
    SELECT row FROM done
)"""

_COUNT = """\
SELECT count(*) FILTER (WHERE verdict = 'a' AND record_id IS NULL),
       count(*) FILTER (WHERE verdict = 'a' AND record_id IS NOT NULL),
       count(*) FILTER (WHERE verdict = 'u'), count(*) FILTER (WHERE verdict = 'r'),
       count(*) FILTER (WHERE verdict = 'd')
FROM {plan}
WHERE row BETWEEN %(first)s AND %(last)s"""


class MergeWriter(ItemWriter):
    """Creates the new records of a chunk and merges the other items into theirs.

    Args:
        fields: the staged ones.
        clears: whether some item of the batch clears a field.
        accepts_valid: whether the plan accepts each item that the row rules accept.
        keep_changes: whether the rows of updated records are noted in `Staging.changes`, for the result file.
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
        accepts_valid: bool,
        keep_changes: bool,
        logs: bool,
    ) -> None:
        super().__init__(connection, staging, turn, logs=logs)
        self._accepts_valid = accepts_valid
        has_links = bool(references_of(resource, fields))
        self._links = LinkWriter(connection, resource, staging, fields, logs=logs) if has_links else None
        # Each is made when a chunk needs it: to compose all of them takes as long as to write a few records.
        self._insert = cache(partial(insert_statement, resource, staging, fields))
        self._update = cache(
            partial(update_statement, resource, staging, fields, clears=clears, keep_changes=keep_changes, logs=logs)
        )

    def apply(self, first: int, last: int, planned: Planned | None) -> ChunkOutcome:
        """Inserts records, writes links, updates records: a record whose links changed is updated as well."""
        parameters = self._range(first, last)
        creates_valid = False
        if planned is None:  # then nobody knows of the valid items that a sparse plan leaves out
            count = sql.SQL(_COUNT).format(plan=self._staging.plan)
            planned = Planned(*(self._connection.execute(count, parameters).fetchone() or ()))
        else:
            creates_valid = planned.creates_accepted and (self._accepts_valid or planned.rejected == 0)
        created = 0
        if planned.new:
            insert = self._insert(creates_valid=creates_valid)
            created = self._connection.execute(insert, parameters).rowcount
        if created != planned.new:
            raise RuntimeError(f"rows {first} to {last} of {self._turn.batch_id}: staged items are missing")
        if self._links is not None and planned.new + planned.existing:
            self._links.write(parameters)
        updated = 0
        if planned.existing and (update := self._update()) is not None:
            (updated,) = self._connection.execute(update, parameters).fetchone() or (0,)
        return ChunkOutcome(created=created, updated=updated, unchanged=planned.existing - updated + planned.unchanged)


def insert_statement(
    resource: Resource, staging: Staging, fields: tuple[str, ...], *, creates_valid: bool = False
) -> sql.Composed:
    """The statement that creates the new records of rows `first` to `last`.

    `creates_valid`: each item that the row rules accept creates one, and no other does.
    """
    staged = [field for field in resource.fields if _is_written(field, fields)]
    return sql.SQL(_INSERT_VALID if creates_valid else _INSERT).format(
        records=records_table(resource),
        columns=COMMA.join(
            [sql.SQL("organization_id, id, batch_id"), *(sql.Identifier(field.name) for field in staged)]
        ),
        values=COMMA.join([sql.SQL("%(organization)s, s.new_id, %(batch)s"), *map(_inserted_value, staged)]),
        items=staging.items,
        items_in_range=staging.joined_range("s"),
        plan=staging.plan,
    )


def update_statement(
    resource: Resource, staging: Staging, fields: tuple[str, ...], *, clears: bool, keep_changes: bool, logs: bool
) -> sql.Composed | None:
    """The statement that merges the accepted items of rows `first` to `last` into their records; returns their number.

    None if the items have nothing but ids, so that there is nothing to merge.
    """
    merged = merged_values(resource, fields, clears=clears)
    has_links = bool(references_of(resource, fields))
    if not merged and not has_links:
        return None
    assignments = [sql.SQL("{} = {}").format(sql.Identifier(name), value) for name, value in merged.items()]
    changed_links: sql.Composable = NOTHING
    if_it_differs: sql.Composable = NOTHING
    if has_links:
        changed_links = sql.SQL(_JOIN_CHANGED_LINKS).format(changed=LinkWriter.changed)
        reasons = [sql.SQL("linked.own IS NOT NULL").format()]
        if merged:
            reasons.append(_difference(merged))
        if_it_differs = sql.SQL(_IF_IT_DIFFERS).format(reasons=OR.join(reasons))
    update = sql.SQL(_UPDATE).format(
        records=records_table(resource),
        assignments=COMMA.join([*assignments, sql.SQL("updated_at = now()"), sql.SQL("batch_id = %(batch)s")]),
        items=staging.items,
        items_in_range=staging.joined_range("s"),
        plan=staging.plan,
        changed_links=changed_links,
        if_it_differs=if_it_differs,
    )
    returned: sql.Composable = sql.SQL("s.row")
    also = []
    if logs and merged:
        returned, logged = log_updated(resource, merged)
        also.append(logged)
    if keep_changes:
        also.append(sql.SQL(_NOTE).format(changes=staging.changes))
    return sql.SQL(_COUNT_UPDATED).format(update=indented(update), returned=indented(returned), also=further_ctes(also))


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
    return _difference(merged) if merged else None


@lru_cache(maxsize=64)  # to make it takes as long as PostgreSQL needs to match a few items
def unchanged(resource: Resource, fields: tuple[str, ...], *, clears: bool) -> sql.SQL:
    """Condition: the merge of item `s` would change nothing in record `r`, which exists.

    False for an item with references: its links are compared when they are written.
    """
    conditions = [sql.SQL("r.id IS NOT NULL").format()]
    bits = {field.name: bit for bit, field in enumerate(resource.fields)}
    for field in references_of(resource, fields):
        conditions.append(sql.SQL("s.{} IS NULL").format(sql.Identifier(field.name)))
        if clears:
            conditions.append(sql.SQL("(s.cleared >> {}) & 1 = 0").format(sql.Literal(bits[field.name])))
    differs = difference(resource, fields, clears=clears)
    if differs is not None:
        conditions.append(sql.SQL("NOT {}").format(differs))
    return sql.SQL(AND.join(conditions).as_string(None))


def _difference(merged: Mapping[str, sql.Composed]) -> sql.Composed:
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
