"""The plan as people see it: what the batch would do with each item, and the records that it would delete.

The lines are a table, `Staging.preview`. Counts, samples, the digest and the artifacts are queries on it.
"""

from dataclasses import dataclass
from typing import Any

from psycopg import sql

from batch_pipeline.batches.model import Action
from batch_pipeline.database import Connection
from batch_pipeline.loading.link_statements import changed_links
from batch_pipeline.loading.merging import initial_value, merged_values
from batch_pipeline.loading.reference_fields import references_of
from batch_pipeline.loading.staging import Staging
from batch_pipeline.loading.statements import COMMA, NOTHING, Composer, indented
from batch_pipeline.records.references import MarkedMembers
from batch_pipeline.records.resource import Resource

_OUTCOME = """\
CASE WHEN p.verdict = 'a' AND {creates} THEN 'create'
            WHEN p.verdict = 'a' AND {changes} THEN {changed}
            WHEN p.verdict IN ('a', 'u') THEN 'unchanged'
            WHEN p.verdict = 'r' OR p.row IS NULL AND e.row IS NOT NULL THEN 'reject'
            ELSE 'duplicate' END"""

_NAMED_LINES = """\
SELECT n.row, {outcome} AS outcome,
       CASE WHEN p.verdict IN ('a', 'u', 'd') THEN p.record_id END AS id, r.external_id,
       NULL::jsonb AS changes
FROM generate_series(1, {number}) AS n (row)
LEFT JOIN {plan} p ON p.row = n.row
LEFT JOIN {records} r ON r.organization_id = %(organization)s AND r.id = p.record_id
LEFT JOIN (SELECT DISTINCT row FROM {errors}) e ON e.row = n.row
ORDER BY row"""

_ITEM_LINES = """\
SELECT n.row, {outcome} AS outcome,
       CASE WHEN p.verdict = 'a' THEN coalesce(p.record_id, s.new_id)
            WHEN p.verdict IN ('u', 'd') THEN p.record_id END AS id,
       coalesce({external_id}, r.external_id) AS external_id,
       f.changes
FROM generate_series(1, {number}) AS n (row)
LEFT JOIN {plan} p ON p.row = n.row
LEFT JOIN {items} s ON s.row = p.row
LEFT JOIN {records} r ON r.organization_id = %(organization)s AND r.id = p.record_id{linked}
LEFT JOIN LATERAL (
    SELECT nullif(to_jsonb(array_remove(ARRAY[
        {changes}
    ]::jsonb[], NULL)), '[]') AS changes
) AS f ON p.verdict = 'a'
LEFT JOIN (SELECT DISTINCT row FROM {errors}) e ON e.row = n.row{deletions}
ORDER BY row, id"""

_FIELD_CHANGE = """\
CASE WHEN p.record_id IS NULL AND coalesce({after}, {initial}) IS DISTINCT FROM {initial}
     THEN jsonb_build_object('field', {field}, 'before', NULL, 'after', coalesce({after}, {initial}))
     WHEN p.record_id IS NOT NULL AND {before} IS DISTINCT FROM {after}
     THEN jsonb_build_object('field', {field}, 'before', {before}, 'after', {after}) END"""

_LINK_CHANGE = """\
CASE WHEN linked.{before} IS NOT NULL OR linked.{after} IS NOT NULL
     THEN jsonb_build_object('field', {field}, 'before', linked.{before}, 'after', linked.{after}) END"""

_JOIN_LINKED = """
LEFT JOIN (
    SELECT l.row,
           jsonb_agg(l.other ORDER BY l.other) FILTER (WHERE l.change = '-') AS removed,
           jsonb_agg(l.other ORDER BY l.other) FILTER (WHERE l.change = '+') AS added,
           jsonb_agg(l.other ORDER BY l.other) FILTER (WHERE l.change = '*' AND NOT l.mark) AS unmarked,
           jsonb_agg(l.other ORDER BY l.other) FILTER (WHERE l.change IN ('*', '+') AND l.mark) AS marked
    FROM ({changed_links}) AS l
    GROUP BY l.row
) AS linked ON linked.row = p.row"""

_DELETIONS = """
UNION ALL
SELECT NULL::bigint, 'overwrite', d.id, d.external_id, NULL::jsonb FROM {to_delete} d"""

_COUNTS = "SELECT outcome, count(*) FROM {preview} GROUP BY outcome"

_FIELD_COUNTS = """\
SELECT c.field, count(*)
FROM {preview} v, jsonb_to_recordset(v.changes) AS c (field text)
WHERE v.outcome = 'update'
GROUP BY c.field
ORDER BY c.field"""

# The first changes of each field, so that every field that changes has a sample if there are enough places.
_SAMPLES = """\
SELECT row, id, field, before, after FROM (
    SELECT v.row, v.id, c.field, c.before, c.after, row_number() OVER (PARTITION BY c.field ORDER BY v.row) AS place
    FROM {preview} v, jsonb_to_recordset(v.changes) AS c (field text, before jsonb, after jsonb)
    WHERE v.outcome = 'update'
) AS placed
WHERE place <= {most}
ORDER BY place, field
LIMIT {most}"""

_FIRST_DELETIONS = """\
SELECT id, external_id FROM {preview}
WHERE outcome IN ('delete', 'overwrite')
ORDER BY row NULLS LAST, id
LIMIT {most}"""

# In blocks, because one text of all lines could be larger than PostgreSQL's limit for a value.
_DIGEST = """\
WITH hashed AS (
    SELECT row, id, sha256(convert_to(jsonb_build_array(row, outcome, id, changes)::text, 'UTF8')) AS hash
    FROM {preview}
), blocks AS (
    SELECT coalesce(row / 10000, -1 - abs(hashtextextended(id, 0) % 1000)) AS block,
           sha256(string_agg(hash, ''::bytea ORDER BY row, id)) AS hash
    FROM hashed
    GROUP BY 1
)
SELECT encode(sha256(coalesce(string_agg(hash, ''::bytea ORDER BY block), ''::bytea)), 'hex') FROM blocks"""

# Whether line `o` of the shown plan and line `v` differ in what the batch does: a duplicate does nothing to its record.
LINES_DIFFER = sql.SQL(
    "(o.outcome, CASE WHEN o.outcome <> 'duplicate' THEN o.id END, o.changes)"
    " IS DISTINCT FROM (v.outcome, CASE WHEN v.outcome <> 'duplicate' THEN v.id END, v.changes)"
)

# Compares the lines of each row, and the deletions of each record. Ids are no numbers, so the two can't be confused.
_DIFFERENCE = """\
SELECT coalesce(o.row, v.row), CASE WHEN coalesce(o.row, v.row) IS NULL THEN coalesce(o.id, v.id) END,
       {was}, {now}
FROM {shown} o
FULL JOIN {preview} v ON coalesce(v.row::text, v.id) = coalesce(o.row::text, o.id)
WHERE {differ}
ORDER BY 1 NULLS LAST, 2
LIMIT {most}"""


@dataclass(frozen=True)
class Preview:
    """The preview of one batch, on the caller's connection and in its transaction."""

    connection: Connection
    staging: Staging
    organization_id: str

    def make(self, query: sql.Composed) -> None:
        """Replaces the preview by the query's lines: row, outcome, id, external_id, changes (see `Staging`)."""
        columns = ("row", "outcome", "id", "external_id", "changes")
        self.staging.replace(self.connection, "preview", columns, query, {"organization": self.organization_id})

    def counts(self) -> dict[str, int]:
        """Lines by outcome; of an overwrite also the records that it deletes (`overwrite`)."""
        names = ("create", "update", "unchanged", "delete", "overwrite", "reject", "duplicate")
        return dict.fromkeys(names, 0) | {str(name): int(count) for name, count in self._rows(_COUNTS)}

    def field_counts(self) -> dict[str, int]:
        """For each field the number of existing records in which it changes."""
        return {str(name): int(count) for name, count in self._rows(_FIELD_COUNTS)}

    def samples(self, most: int) -> list[dict[str, Any]]:
        """At most `most` changes of existing records, spread over all fields that change."""
        names = ("row", "id", "field", "before", "after")
        found = sorted(self._rows(_SAMPLES, most=sql.Literal(most)), key=lambda row: (row[0], row[2]))
        return [dict(zip(names, row, strict=True)) for row in found]

    def deletions(self, most: int) -> list[dict[str, Any]]:
        """The first records that the batch deletes."""
        found = self._rows(_FIRST_DELETIONS, most=sql.Literal(most))
        return [{"id": identifier, "external_id": external_id} for identifier, external_id in found]

    def digest(self) -> str:
        """SHA-256 over the row, outcome, record and changes of every line, and over the deletions, in hex."""
        return str(self._rows(_DIGEST)[0][0])

    def difference(self, most: int) -> list[dict[str, Any]]:
        """The first lines in which the preview differs from the shown one (`Staging.shown`)."""
        found = self._rows(
            _DIFFERENCE,
            was=_line("o"),
            now=_line("v"),
            shown=self.staging.shown,
            differ=LINES_DIFFER,
            most=sql.Literal(most),
        )
        names = ("row", "id", "was", "now")
        return [dict(zip(names, row, strict=True)) for row in found]

    def _rows(self, template: str, **holes: sql.Composable) -> list[tuple[Any, ...]]:
        return self.connection.execute(sql.SQL(template).format(preview=self.staging.preview, **holes)).fetchall()


def preview_query(
    resource: Resource,
    staging: Staging,
    action: Action,
    *,
    fields: tuple[str, ...],
    clears: bool,
    items: int,
    has_deletions: bool,
) -> sql.Composed:
    """The lines of a merge, an overwrite or a delete, from its plan. Parameter: `organization`.

    `fields`, `clears`: as for `Planner`. `has_deletions`: the batch deletes the records in `Staging.to_delete`. Links
    that change are changes of their field: `before` has the ids of removed (or unmarked) records, `after` of added (or
    marked) ones.
    """
    composer = Composer(resource, staging)
    number = sql.Literal(items)
    if action is Action.delete:
        outcome = composer.compose(
            _OUTCOME, creates=sql.SQL("false"), changes=sql.SQL("true"), changed=sql.Literal("delete")
        )
        return composer.compose(_NAMED_LINES, outcome=outcome, number=number)
    creates = sql.SQL("p.record_id IS NULL")
    outcome = composer.compose(
        _OUTCOME, creates=creates, changes=sql.SQL("f.changes IS NOT NULL"), changed=sql.Literal("update")
    )
    has_links = bool(references_of(resource, fields))
    changes = [*_field_changes(resource, fields, clears=clears), *_link_changes(resource, fields)]
    deletions = sql.SQL(_DELETIONS).format(to_delete=staging.to_delete) if has_deletions else NOTHING
    return composer.compose(
        _ITEM_LINES,
        outcome=outcome,
        external_id=sql.SQL("s.external_id" if "external_id" in fields else "NULL::text"),
        number=number,
        linked=_linked(composer, fields) if has_links else NOTHING,
        changes=indented(COMMA.join(changes)),
        deletions=deletions,
    )


def _field_changes(resource: Resource, fields: tuple[str, ...], *, clears: bool) -> list[sql.Composed]:
    """For each staged field the change that the merge of item `s` makes in record `r`, or null.

    A new record has the field's initial value before, which is shown as null.
    """
    changes = []
    for name, merged in merged_values(resource, fields, clears=clears).items():
        initial = initial_value(resource.field(name))
        changes.append(
            sql.SQL(_FIELD_CHANGE).format(
                field=sql.Literal(name),
                initial=initial,
                before=sql.SQL("r.{}").format(sql.Identifier(name)),
                after=merged,
            )
        )
    return changes


def _link_changes(resource: Resource, fields: tuple[str, ...]) -> list[sql.Composed]:
    changes = []
    for field in references_of(resource, fields):
        before, after = ("unmarked", "marked") if isinstance(field, MarkedMembers) else ("removed", "added")
        changes.append(
            sql.SQL(_LINK_CHANGE).format(
                field=sql.Literal(field.name), before=sql.Identifier(before), after=sql.Identifier(after)
            )
        )
    return changes


def _linked(composer: Composer, fields: tuple[str, ...]) -> sql.Composed:
    changes = changed_links(
        composer.resource,
        composer.staging,
        fields,
        composer.compose("{items} s JOIN {plan} p ON p.row = s.row WHERE p.verdict = 'a'"),
        own=sql.SQL('coalesce(p.record_id, s.new_id) COLLATE "C"'),
    )
    return sql.SQL(_JOIN_LINKED).format(changed_links=changes)


def _line(alias: str) -> sql.Composed:
    return sql.SQL(
        "CASE WHEN {a}.outcome IS NOT NULL"
        " THEN jsonb_build_object('outcome', {a}.outcome, 'id', {a}.id, 'changes', {a}.changes) END"
    ).format(a=sql.SQL(alias))
