"""Renames the list of records that an overwrite deletes, in the facts of batches and in staging.

A batch that an earlier release planned keeps its list.
"""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    UPDATE batches SET work = work - 'doomed' || jsonb_build_object('to_delete', work -> 'doomed')
    WHERE jsonb_exists(work, 'doomed')
    """,
    r"""
    DO $$
    DECLARE
        staged name;
    BEGIN
        FOR staged IN
            SELECT relname FROM pg_class
            WHERE relnamespace = 'staging'::regnamespace AND relkind = 'r' AND relname LIKE 'doomed\_%'
        LOOP
            EXECUTE format('ALTER TABLE staging.%I RENAME TO %I', staged, 'to_delete' || substr(staged, 7));
        END LOOP;
    END $$
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
