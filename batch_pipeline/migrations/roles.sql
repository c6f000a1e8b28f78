-- The roles of batch_pipeline, and who owns what. Run it as a superuser, or as a role with CREATEROLE that owns the
-- database, connected to the system's own database, while no batch runs. It can be run again at any time.
-- The roles have no password: set them afterwards, for example with \password bp_api in psql.

DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['bp_owner', 'bp_loader', 'bp_api', 'bp_reader'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            EXECUTE format('CREATE ROLE %I LOGIN', role);
        END IF;
    END LOOP;
    -- Whoever is no superuser gives objects only to roles that it is a member of.
    IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AND current_user <> 'bp_owner' THEN
        EXECUTE format('GRANT bp_owner, bp_loader TO %I', current_user);
    END IF;
    -- Without temporary tables nobody can put a table before ours in the search path of a pooled connection.
    EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CREATE, TEMPORARY ON DATABASE %I TO bp_owner', current_database());
    EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO bp_loader', current_database());
END $$;

-- bp_loader makes and drops the partitions of the change log, so it owns the log. A migration may change it.
GRANT bp_loader TO bp_owner;

REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO bp_owner, bp_loader;

DO $$
DECLARE
    before oid := (SELECT relowner FROM pg_class WHERE oid = to_regclass('public.batches'));
    object record;
BEGIN
    FOR object IN
        SELECT oid::regnamespace AS name FROM pg_namespace
        WHERE nspname IN ('staging', 'dagster') AND nspowner <> 'bp_owner'::regrole
    LOOP
        EXECUTE format('ALTER SCHEMA %s OWNER TO bp_owner', object.name);
    END LOOP;
    -- Sequences of columns follow their tables.
    FOR object IN
        SELECT c.oid::regclass AS name, c.relkind, n.nspname
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p', 'v', 'S')
          AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.classid = 'pg_class'::regclass
                            AND (d.deptype IN ('a', 'i') AND c.relkind = 'S' OR d.deptype = 'e'))
          AND (n.nspname = 'public' AND c.relowner = before AND before <> 'bp_owner'::regrole
               OR n.nspname = 'dagster' AND c.relowner <> 'bp_owner'::regrole
               OR n.nspname = 'staging' AND c.relowner <> 'bp_loader'::regrole)
    LOOP
        EXECUTE format(
            'ALTER %s %s OWNER TO %I',
            CASE object.relkind WHEN 'S' THEN 'SEQUENCE' WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END,
            object.name,
            CASE object.nspname WHEN 'staging' THEN 'bp_loader' ELSE 'bp_owner' END
        );
    END LOOP;
    FOR object IN
        SELECT p.oid::regprocedure AS name FROM pg_proc p
        WHERE p.pronamespace = 'public'::regnamespace AND p.proowner = before AND before <> 'bp_owner'::regrole
          AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e')
    LOOP
        EXECUTE format('ALTER FUNCTION %s OWNER TO bp_owner', object.name);
    END LOOP;
END $$;
