"""The HTTP API: API keys, idempotency keys, upload URLs, and lists of batches with counters."""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    CREATE TABLE api_keys (
        id text COLLATE "C" PRIMARY KEY,
        organization_id text COLLATE "C" NOT NULL,
        secret_hash bytea NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        revoked_at timestamptz
    )
    """,
    """
    CREATE TABLE idempotency_keys (
        organization_id text COLLATE "C",
        key text COLLATE "C",
        body_hash bytea NOT NULL,
        batch_id text COLLATE "C" NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (organization_id, key)
    )
    """,
    "CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at)",
    # When the upload URL of a batch expires.
    "ALTER TABLE batches ADD COLUMN upload_expires_at timestamptz",
    # Until then the API launches the awaited run, and the sensor does not.
    "ALTER TABLE batches ADD COLUMN launch_claimed_until timestamptz",
    """
    CREATE INDEX batches_awaiting_upload ON batches (upload_expires_at)
    WHERE status = 'requested' AND arrival IS NULL AND upload_expires_at IS NOT NULL
    """,
    # Lists scan one index in the order of creation, or merge the index ranges of the kinds that match a filter.
    # Batches of inbox folders without a known resource are only for the operator.
    """
    CREATE INDEX batches_listed ON batches (organization_id, created_at, id)
    WHERE resource IS NOT NULL AND action IS NOT NULL
    """,
    """
    CREATE INDEX batches_by_kind ON batches
    (organization_id, resource, action, mode, via, status, created_at, id)
    """,
    # The number of batches of each kind is the sum of `number`. Each change inserts a row, which blocks no other
    # transaction; the rows are summed periodically.
    """
    CREATE TABLE batch_counts (
        organization_id text COLLATE "C" NOT NULL,
        resource text NOT NULL,
        action text NOT NULL,
        mode text NOT NULL,
        via text NOT NULL,
        status text NOT NULL,
        number bigint NOT NULL
    )
    """,
    "CREATE INDEX batch_counts_of_organization ON batch_counts (organization_id)",
    """
    INSERT INTO batch_counts SELECT organization_id, resource, action, mode, via, status, count(*) FROM batches
    WHERE num_nulls(organization_id, resource, action) = 0 GROUP BY 1, 2, 3, 4, 5, 6
    """,
    """
    CREATE FUNCTION count_added_batches() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO batch_counts SELECT organization_id, resource, action, mode, via, status, count(*) FROM changed
        WHERE num_nulls(organization_id, resource, action) = 0 GROUP BY 1, 2, 3, 4, 5, 6;
        RETURN NULL;
    END $$
    """,
    """
    CREATE FUNCTION count_removed_batches() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO batch_counts SELECT organization_id, resource, action, mode, via, status, -count(*) FROM changed
        WHERE num_nulls(organization_id, resource, action) = 0 GROUP BY 1, 2, 3, 4, 5, 6;
        RETURN NULL;
    END $$
    """,
    """
    CREATE FUNCTION count_changed_batch() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF num_nulls(OLD.organization_id, OLD.resource, OLD.action) = 0 THEN
            INSERT INTO batch_counts
            VALUES (OLD.organization_id, OLD.resource, OLD.action, OLD.mode, OLD.via, OLD.status, -1);
        END IF;
        IF num_nulls(NEW.organization_id, NEW.resource, NEW.action) = 0 THEN
            INSERT INTO batch_counts
            VALUES (NEW.organization_id, NEW.resource, NEW.action, NEW.mode, NEW.via, NEW.status, 1);
        END IF;
        RETURN NULL;
    END $$
    """,
    """
    CREATE TRIGGER count_added AFTER INSERT ON batches
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION count_added_batches()
    """,
    """
    CREATE TRIGGER count_removed AFTER DELETE ON batches
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION count_removed_batches()
    """,
    """
    CREATE TRIGGER count_changed AFTER UPDATE ON batches FOR EACH ROW
    WHEN ((OLD.organization_id, OLD.resource, OLD.action, OLD.mode, OLD.via, OLD.status)
          IS DISTINCT FROM (NEW.organization_id, NEW.resource, NEW.action, NEW.mode, NEW.via, NEW.status))
    EXECUTE FUNCTION count_changed_batch()
    """,
    # Notifies calls that wait for a batch or for their turn of every change of a status.
    """
    CREATE FUNCTION tell_batch_status() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_notify('batch_status', concat(NEW.id, ' ', NEW.organization_id, '/', NEW.resource));
        RETURN NULL;
    END $$
    """,
    """
    CREATE TRIGGER tell_status AFTER UPDATE ON batches FOR EACH ROW
    WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION tell_batch_status()
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
