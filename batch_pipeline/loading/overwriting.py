"""Which records an overwrite deletes: all those that no item of the upload can mean."""

from dataclasses import replace

from psycopg import sql

from batch_pipeline.loading.identity import Matching
from batch_pipeline.loading.plan import PlanCounts
from batch_pipeline.loading.statements import UNION_ALL, Composer, Statements, indented

_COUNT_UNIDENTIFIED = """\
SELECT count(*) FROM {plan} p
JOIN {items} s ON s.row = p.row
WHERE p.verdict = 'r' AND NOT s.identified"""

_OF_ACCEPTED = """\
SELECT record_id FROM {plan} WHERE verdict IN ('a', 'u') AND record_id IS NOT NULL"""

_OF_REJECTED = """\
SELECT r.id FROM {plan} p
JOIN {items} s ON s.row = p.row
JOIN {records} r ON r.organization_id = %(organization)s
    AND {same_key}
WHERE p.verdict = 'r'"""

_TO_DELETE = """\
SELECT row_number() OVER (ORDER BY r.id) AS number, r.id, r.external_id
FROM {records} r
WHERE r.organization_id = %(organization)s
  AND {is_allowed}
  AND r.batch_id IS DISTINCT FROM %(batch)s
  AND (r.batch_id IS NULL OR r.batch_id <> ALL(%(newer)s))
  AND NOT EXISTS (
    SELECT FROM (
        {kept}
    ) AS kept (id)
    WHERE kept.id = r.id
  )
ORDER BY number"""


def list_records_to_delete(statements: Statements, matching: Matching, counts: PlanCounts) -> PlanCounts:
    """Fills `Staging.to_delete`; returns the counts with the number of records in it.

    The list is empty if a rejected item has no readable key: it could mean any record.
    """
    unidentified = statements.count(_COUNT_UNIDENTIFIED)
    query = to_delete_query(statements, matching, has_rejected=counts.rejected > 0, is_allowed=unidentified == 0)
    statements.replace("to_delete", ("number", "id", "external_id"), query)
    to_delete = statements.count("SELECT count(*) FROM {to_delete}", to_delete=statements.staging.to_delete)
    return replace(counts, to_delete=to_delete, unidentified=unidentified)


def to_delete_query(composer: Composer, matching: Matching, *, has_rejected: bool, is_allowed: bool) -> sql.Composed:
    """The records to delete: number, id, external_id.

    Kept are the records of accepted items, those that share any key with a rejected item, those that this batch wrote,
    and those that a batch that arrived later wrote.
    """
    kept = [
        composer.compose(_OF_REJECTED, same_key=condition)
        for condition in (matching.same_key_conditions() if has_rejected else [])
    ]
    kept.append(composer.compose(_OF_ACCEPTED))
    return composer.compose(_TO_DELETE, is_allowed=sql.Literal(is_allowed), kept=indented(UNION_ALL.join(kept), 8))
