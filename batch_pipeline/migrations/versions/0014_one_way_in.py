"""Requested re-runs become live at once, an index finds batches without a payload, and lists drop their counters."""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

STATEMENTS = (
    # A batch that awaited its re-run stayed `failed` until the run began. Now it is `queued` or `requested`.
    """
    WITH reopened AS (
        UPDATE batches SET
            status = CASE phases -> 1 ->> 'status' WHEN 'completed' THEN 'queued' ELSE 'requested' END,
            reason = NULL
        FROM (SELECT id, status AS before FROM batches
              WHERE status IN ('failed', 'timed_out') AND awaits_run IS NOT NULL) AS asked
        WHERE batches.id = asked.id
        RETURNING batches.id, asked.before, batches.status
    )
    INSERT INTO batch_transitions (batch_id, before, after) SELECT id, before, status FROM reopened
    """,
    """
    CREATE INDEX batches_without_payload ON batches (created_at)
    WHERE status = 'requested' AND arrival IS NULL AND upload_expires_at IS NULL
    """,
    # Whether a reason refuses the payload depended on its code. Now it depends on the error's class and is stored.
    """
    UPDATE batches SET reason = reason || jsonb_build_object(
        'is_refusal', status = 'failed' AND reason ->> 'code' <> ALL (
        '{cancelled,database_unavailable,storage_unavailable,internal_error,never_started,object_not_found,run_deleted,
          run_failed,superseded,worker_lost,batch_busy,batch_expired,pruned}'))
    WHERE reason IS NOT NULL
    """,
    # Counting one organization's batches in an index takes some tenths of a second for a million. Counters cost a row
    # for each change.
    "DROP TRIGGER count_added ON batches",
    "DROP TRIGGER count_removed ON batches",
    "DROP TRIGGER count_changed ON batches",
    "DROP FUNCTION count_added_batches()",
    "DROP FUNCTION count_removed_batches()",
    "DROP FUNCTION count_changed_batch()",
    "DROP TABLE batch_counts",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
