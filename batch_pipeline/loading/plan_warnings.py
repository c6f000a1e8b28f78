"""Warnings about a plan that looks like a valid but wrong file. They never stop a batch."""

from dataclasses import dataclass

from psycopg import sql

from batch_pipeline.loading.preview import Preview
from batch_pipeline.loading.statements import records_table
from batch_pipeline.records.resource import Resource

# The shares above which a warning is given (`plan-apply-undo.md`).
MOST_RECORDS = 0.5
MOSTLY_REJECTED = 0.5
MOSTLY_NEW = 0.9
SHIFTED = 0.5
EMPTIED = 0.1

# Updated records whose columns are compared: enough for a share, and quick for any number of records.
COMPARED_RECORDS = 10_000

_EMPTIED = """\
SELECT c.field, count(*)
FROM {preview} v, jsonb_to_recordset(v.changes) AS c (field text, before jsonb, after jsonb)
WHERE v.outcome = 'update' AND c.field = ANY(%(fields)s)
  AND coalesce(c.after, 'null') IN ('null', '{{}}', '[]') AND coalesce(c.before, 'null') NOT IN ('null', '{{}}', '[]')
GROUP BY c.field
ORDER BY c.field"""

# New texts of one field that are the record's old texts of another.
_SHIFTED = """\
WITH updated AS (
    SELECT v.id, v.changes FROM {preview} v WHERE v.outcome = 'update' ORDER BY v.row LIMIT {compared}
), changed AS MATERIALIZED (
    SELECT u.id, c.field, c.after
    FROM updated u, jsonb_to_recordset(u.changes) AS c (field text, after jsonb)
    WHERE jsonb_typeof(c.after) = 'string'
), totals AS (
    SELECT field, count(*) AS changed FROM changed GROUP BY field
)
SELECT c.field, o.key, count(*), t.changed
FROM changed c
JOIN totals t ON t.field = c.field
JOIN {records} r ON r.organization_id = %(organization)s AND r.id = c.id
CROSS JOIN LATERAL jsonb_each(to_jsonb(r)) AS o (key, value)
WHERE o.key <> c.field AND o.value = c.after AND o.key = ANY(%(fields)s)
GROUP BY c.field, o.key, t.changed
ORDER BY c.field, o.key"""


@dataclass(frozen=True)
class PlanWarning:
    """A stable snake_case code, and a sentence without customers' values."""

    code: str
    message: str


def plan_warnings(preview: Preview, resource: Resource, counts: dict[str, int], *, records: int) -> list[PlanWarning]:
    """The warnings for a plan with these counts. `records`: of the organization, before the batch."""
    found = []
    touched = counts["update"] + counts["delete"] + counts["overwrite"]
    if touched > MOST_RECORDS * records:
        found.append(
            PlanWarning(
                "most_records_change",
                f"{touched:,} of {records:,} {resource.table} would change or be deleted.",
            )
        )
    found += _shifted(preview, resource)
    found += _emptied(preview, resource, counts["update"])
    items = sum(count for outcome, count in counts.items() if outcome != "overwrite")
    if counts["reject"] > MOSTLY_REJECTED * items:
        found.append(PlanWarning("mostly_rejected", f"{counts['reject']:,} of {items:,} items would be rejected."))
    if counts["create"] > MOSTLY_NEW * items and records >= counts["create"]:
        found.append(
            PlanWarning(
                "mostly_new",
                f"{counts['create']:,} of {items:,} items would be new, although there are {records:,} "
                f"{resource.table} already: check the column that identifies them.",
            )
        )
    return found


def _emptied(preview: Preview, resource: Resource, updated: int) -> list[PlanWarning]:
    query = sql.SQL(_EMPTIED).format(preview=preview.staging.preview)
    columns = [field.name for field in resource.fields if field.is_column]
    rows = preview.connection.execute(query, {"fields": columns}).fetchall()
    return [
        PlanWarning(
            "field_emptied", f"{name} would be cleared in {cleared:,} of the {updated:,} records that would be updated."
        )
        for name, cleared in rows
        if cleared > EMPTIED * updated
    ]


def _shifted(preview: Preview, resource: Resource) -> list[PlanWarning]:
    query = sql.SQL(_SHIFTED).format(
        preview=preview.staging.preview,
        records=records_table(resource),
        compared=sql.Literal(COMPARED_RECORDS),
    )
    columns = [field.name for field in resource.fields if field.is_column]
    parameters = {"organization": preview.organization_id, "fields": columns}
    return [
        PlanWarning(
            "column_shifted",
            f"In {equal:,} of {changed:,} records the new {name} would be what is now in {other}: "
            "the file's columns may be shifted.",
        )
        for name, other, equal, changed in preview.connection.execute(query, parameters)
        if equal > SHIFTED * changed
    ]
