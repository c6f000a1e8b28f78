"""Figures for monitoring: counts that triggers keep beside the ledger, the oldest waiting batches, and the inbox.

`batches/counts.py` describes the table and reads it.
"""

from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

STATEMENTS = (
    # A row for each change, without a key: transactions that count the same thing don't wait for each other. Upkeep
    # replaces rows by their sums, which are exact, so that no figure is ever smaller than before. Autovacuum removes
    # the replaced rows soon, because each scrape reads the whole table.
    """
    CREATE TABLE metric_counts (
        metric text NOT NULL,
        labels text[] NOT NULL,
        number bigint NOT NULL,
        seconds numeric NOT NULL DEFAULT 0
    ) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
            autovacuum_vacuum_insert_scale_factor = 0.2)
    """,
    """
    CREATE FUNCTION histogram_bucket(seconds double precision) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN coalesce((SELECT min(bound)::text FROM unnest('{0.1,0.25,0.5,1,2.5,5,10,30,60,120,300,600,1800,3600}'
                     ::double precision[]) AS bound WHERE bound >= seconds), '+Inf')
    """,
    # SECURITY DEFINER: whoever changes a batch needs no right on the counts.
    """
    CREATE FUNCTION count_batch_status() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    DECLARE
        waited double precision;
    BEGIN
        IF TG_OP IN ('UPDATE', 'DELETE') THEN
            INSERT INTO metric_counts (metric, labels, number) VALUES ('left', ARRAY[OLD.status], 1);
        END IF;
        IF TG_OP = 'DELETE' THEN
            RETURN NULL;
        END IF;
        IF TG_OP = 'INSERT' AND NEW.status <> 'requested' THEN  -- refused at once
            INSERT INTO metric_counts (metric, labels, number) VALUES
                ('batches', ARRAY[coalesce(NEW.resource, ''), coalesce(NEW.action, ''), 'requested', ''], 1),
                ('left', ARRAY['requested'], 1);
        END IF;
        INSERT INTO metric_counts (metric, labels, number) VALUES ('batches', ARRAY[coalesce(NEW.resource, ''),
            coalesce(NEW.action, ''), NEW.status, coalesce(NEW.reason ->> 'code', '')], 1);
        IF NEW.status = 'completed' THEN
            INSERT INTO metric_counts (metric, labels, number)
            SELECT 'rows', ARRAY[coalesce(NEW.resource, ''), key], value::bigint
            FROM jsonb_each_text(NEW.stats) WHERE value::bigint > 0;
        END IF;
        IF TG_OP = 'UPDATE' AND NEW.status = 'processing' THEN
            SELECT extract(epoch FROM clock_timestamp() - max(at)) INTO waited
            FROM batch_transitions WHERE batch_id = NEW.id AND after = 'queued';
            INSERT INTO metric_counts (metric, labels, number, seconds)
            SELECT 'turn_wait', ARRAY[histogram_bucket(waited)], 1, waited::numeric WHERE waited IS NOT NULL;
        END IF;
        RETURN NULL;
    END
    $$
    """,
    """
    CREATE FUNCTION count_ended_phases() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    BEGIN
        INSERT INTO metric_counts (metric, labels, number, seconds)
        SELECT 'phase', ARRAY[name, histogram_bucket(taken)], 1, greatest(taken, 0)::numeric
        FROM (
            SELECT phase ->> 'name' AS name,
                   (phase ->> 'ended_at')::double precision - (phase ->> 'started_at')::double precision AS taken
            FROM jsonb_array_elements(NEW.phases) WITH ORDINALITY AS new (phase, place)
            WHERE phase ->> 'ended_at' IS DISTINCT FROM OLD.phases -> (place::integer - 1) ->> 'ended_at'
        ) AS ended
        WHERE taken IS NOT NULL;
        RETURN NULL;
    END
    $$
    """,
    """
    CREATE TRIGGER count_status AFTER INSERT OR DELETE ON batches
    FOR EACH ROW EXECUTE FUNCTION count_batch_status()
    """,
    """
    CREATE TRIGGER count_changed_status AFTER UPDATE OF status ON batches
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION count_batch_status()
    """,
    """
    CREATE TRIGGER count_phases AFTER UPDATE OF phases ON batches
    FOR EACH ROW WHEN (OLD.phases IS DISTINCT FROM NEW.phases) EXECUTE FUNCTION count_ended_phases()
    """,
    # What the ledger already has. The triggers' lock keeps batches from changing until this transaction ends.
    """
    INSERT INTO metric_counts (metric, labels, number)
    SELECT 'batches', ARRAY[coalesce(resource, ''), coalesce(action, ''), after, coalesce(t.reason ->> 'code', '')],
           count(*)
    FROM batch_transitions t JOIN batches ON id = batch_id GROUP BY 2
    """,
    """
    INSERT INTO metric_counts (metric, labels, number)
    SELECT 'left', ARRAY[status], coalesce(reached, 0) - coalesce(present, 0)
    FROM (SELECT labels[3] AS status, sum(number) AS reached FROM metric_counts GROUP BY 1) AS moved
    FULL JOIN (SELECT status, count(*) AS present FROM batches GROUP BY 1) AS found USING (status)
    """,
    """
    INSERT INTO metric_counts (metric, labels, number)
    SELECT 'rows', ARRAY[coalesce(resource, ''), key], sum(value::bigint)
    FROM batches, jsonb_each_text(stats) WHERE status = 'completed' AND value::bigint > 0 GROUP BY 2
    """,
    """
    INSERT INTO metric_counts (metric, labels, number, seconds)
    SELECT 'phase', ARRAY[name, histogram_bucket(taken)], count(*), sum(greatest(taken, 0)::numeric)
    FROM (
        SELECT phase ->> 'name' AS name,
               (phase ->> 'ended_at')::double precision - (phase ->> 'started_at')::double precision AS taken
        FROM batches, jsonb_array_elements(phases) AS phase
    ) AS ended
    WHERE taken IS NOT NULL GROUP BY 2
    """,
    """
    INSERT INTO metric_counts (metric, labels, number, seconds)
    SELECT 'turn_wait', ARRAY[histogram_bucket(waited)], count(*), sum(waited::numeric)
    FROM (
        SELECT after, extract(epoch FROM at - lag(at) OVER (PARTITION BY batch_id ORDER BY number))::double precision
            AS waited
        FROM batch_transitions WHERE after IN ('queued', 'processing')
    ) AS moved
    WHERE after = 'processing' AND waited IS NOT NULL GROUP BY 2
    """,
    """
    CREATE INDEX batches_in_line ON batches (status, arrival)
    WHERE status IN ('requested', 'queued') AND arrival IS NOT NULL
    """,
    # A view reads with its owner's rights, so it sees the batches of every organization. It shows no batch.
    # `arrival` grows with time and a re-run gets a new one: the first batch in the order has waited longest.
    """
    CREATE VIEW oldest_waiting AS
    SELECT status, extract(epoch FROM clock_timestamp() - greatest(arrived_at, requested_at))::double precision
        AS seconds
    FROM unnest(ARRAY['requested', 'queued']) AS waiting (status)
    LEFT JOIN LATERAL (
        SELECT id, arrived_at FROM batches
        WHERE batches.status = waiting.status AND batches.status IN ('requested', 'queued') AND arrival IS NOT NULL
        ORDER BY arrival LIMIT 1
    ) AS first ON true
    LEFT JOIN LATERAL (
        SELECT max(at) AS requested_at FROM batch_transitions
        WHERE batch_id = first.id AND after IN ('requested', 'queued')
        AND (before IS NULL OR before IN ('failed', 'timed_out', 'planned'))
    ) AS asked ON true
    UNION ALL
    SELECT 'planned', extract(epoch FROM clock_timestamp() - max(at))::double precision
    FROM batch_transitions
    WHERE after = 'planned' AND batch_id = (
        SELECT id FROM batches WHERE status = 'planned' ORDER BY plan_expires_at LIMIT 1
    )
    """,
    # One row at most: what the last look at the inbox left there.
    """
    CREATE TABLE inbox_state (
        is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
        files bigint NOT NULL,
        oldest_at timestamptz
    )
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
