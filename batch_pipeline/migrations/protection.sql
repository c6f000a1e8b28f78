-- What each role may do with the tables that exist now, and row-level security. `batch-pipeline db upgrade` repeats it
-- after each change of the schema. It reads the catalog, so a new table of an organization's rows is protected as well.

-- bp_loader runs batches, and has all rows. bp_owner's later tables are its as well.
GRANT USAGE ON SCHEMA public TO bp_api, bp_reader;
GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE, MAINTAIN ON ALL TABLES IN SCHEMA public TO bp_loader;
GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO bp_loader;
ALTER DEFAULT PRIVILEGES FOR ROLE bp_owner IN SCHEMA public
    GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE, MAINTAIN ON TABLES TO bp_loader;
ALTER DEFAULT PRIVILEGES FOR ROLE bp_owner IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO bp_loader;

DO $$
DECLARE
    -- The organization of the key that the transaction acts for. bp_api reads no other row of api_keys.
    own constant text := '(SELECT k.organization_id FROM public.api_keys k)';
    -- `batches.callers` sets it: the key's id, a colon, and the SHA-256 of its secret in hex.
    key constant text := 'current_setting(''batch_pipeline.api_key'', true)';
    -- What calls change. Everything else they only read.
    changed constant jsonb := '{
        "batches": "INSERT, UPDATE", "batch_transitions": "INSERT", "turns": "UPDATE",
        "idempotency_keys": "INSERT, UPDATE", "webhooks": "INSERT, UPDATE, DELETE",
        "webhook_secrets": "INSERT, UPDATE, DELETE", "webhook_events": "INSERT",
        "webhook_deliveries": "INSERT, UPDATE, DELETE"}';
    read_by_reader constant text[] := ARRAY[
        'organizations', 'batches', 'batch_transitions', 'batch_attempts', 'batch_chunks', 'turns',
        'contacts', 'groups', 'group_members', 'shipments', 'trackers', 'assets'];
    object record;
    condition text;
    schema text;
BEGIN
    FOREACH schema IN ARRAY ARRAY['staging', 'dagster'] LOOP
        CONTINUE WHEN to_regnamespace(schema) IS NULL;
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO bp_loader', schema);
        EXECUTE format('GRANT ALL ON ALL TABLES IN SCHEMA %I TO bp_loader', schema);
        EXECUTE format('GRANT ALL ON ALL SEQUENCES IN SCHEMA %I TO bp_loader', schema);
        EXECUTE format('ALTER DEFAULT PRIVILEGES FOR ROLE bp_owner IN SCHEMA %I GRANT ALL ON TABLES TO bp_loader', schema);
        EXECUTE format(
            'ALTER DEFAULT PRIVILEGES FOR ROLE bp_owner IN SCHEMA %I GRANT ALL ON SEQUENCES TO bp_loader', schema);
    END LOOP;
    IF to_regnamespace('staging') IS NOT NULL THEN
        GRANT CREATE ON SCHEMA staging TO bp_loader;
    END IF;
    IF to_regclass('public.batch_arrivals') IS NOT NULL THEN
        GRANT USAGE ON SEQUENCE public.batch_arrivals TO bp_api;
    END IF;

    FOR object IN
        SELECT c.oid, c.oid::regclass AS name, c.relname, c.relrowsecurity, c.relowner,
               array(SELECT attname::text FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0) AS columns
        FROM pg_class c
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
          AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')
    LOOP
        condition := CASE
            WHEN object.relname = 'api_keys' THEN
                'revoked_at IS NULL AND id = split_part(' || key || ', '':'', 1)'
                ' AND encode(secret_hash, ''hex'') = split_part(' || key || ', '':'', 2)'
            WHEN object.relname = 'organizations' THEN 'id = ' || own
            WHEN 'organization_id' = ANY (object.columns) THEN 'organization_id = ' || own
            -- Only those of batches that the policy of batches shows.
            WHEN 'batch_id' = ANY (object.columns) THEN
                'EXISTS (SELECT FROM public.batches b WHERE b.id = batch_id)'
            WHEN 'webhook_id' = ANY (object.columns) THEN
                'EXISTS (SELECT FROM public.webhooks w WHERE w.id = webhook_id)'
        END;
        CONTINUE WHEN condition IS NULL;  -- bp_api has no right to read it
        EXECUTE format('GRANT SELECT%s ON %s TO bp_api', ', ' || (changed ->> object.relname), object.name);
        IF object.relname = ANY (read_by_reader) OR object.relname LIKE '%\_changes' THEN
            EXECUTE format('GRANT SELECT ON %s TO bp_reader', object.name);
        END IF;
        CONTINUE WHEN object.relrowsecurity;
        EXECUTE format('CREATE POLICY bp_api ON %s TO bp_api USING (%s)', object.name, condition);
        EXECUTE format('CREATE POLICY bp_loader ON %s TO bp_loader USING (true)', object.name);
        EXECUTE format('CREATE POLICY bp_reader ON %s FOR SELECT TO bp_reader USING (true)', object.name);
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', object.name);
    END LOOP;

    -- The change log and its partitions.
    FOR object IN
        SELECT c.oid::regclass AS name FROM pg_class c
        WHERE c.relowner = 'bp_owner'::regrole AND c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
          AND (c.relkind = 'p' AND c.relname LIKE '%\_changes'
               OR EXISTS (SELECT FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent
                          WHERE i.inhrelid = c.oid AND p.relname LIKE '%\_changes'))
    LOOP
        EXECUTE format('ALTER TABLE %s OWNER TO bp_loader', object.name);
    END LOOP;
END $$;
