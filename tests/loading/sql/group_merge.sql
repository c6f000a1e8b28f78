-- Made by `python tests/loading/rendered_sql.py`: change batch_pipeline/loading, not this file.

-- Plan: the record of each item, by the item's deciding key, and whether the item changes it.
SELECT s.row, 'r'::"char" AS verdict, NULL::text COLLATE "C" AS record_id, s.kind, 0::smallint AS matches,
       NULL::bigint AS target
FROM "staging"."items_batch_1" s
WHERE s.kind IS NULL
UNION ALL
SELECT s.row,
       CASE WHEN s.invalid <> 0 THEN 'r'
            WHEN r.id IS NOT NULL
                AND s."children" IS NULL
                AND s."primary" IS NULL
                AND NOT (
                    r."external_id",
                    r."name",
                    r."resource",
                    r."location_id",
                    r."metadata"
                ) IS DISTINCT FROM (
                    coalesce(s."external_id", r."external_id"),
                    coalesce(s."name", r."name"),
                    coalesce(s."resource", r."resource"),
                    coalesce(s."location_id", r."location_id"),
                    jsonb_strip_nulls((coalesce(r."metadata", '{}'::jsonb)) || coalesce(s."metadata", '{}'))
                )
            THEN 'u'
            ELSE 'a' END::"char" AS verdict,
       r.id AS record_id, s.kind, (CASE WHEN r.id IS NULL THEN 0 ELSE 1 END)::smallint AS matches,
       CASE WHEN r.id IS NULL THEN hashtextextended(('k0' || s."id") COLLATE "C", 0) ELSE hashtextextended(r.id, 1) END AS target
FROM "staging"."items_batch_1" s
LEFT JOIN "public"."groups" r ON r.organization_id = %(organization)s
    AND r."id" = s."id"
WHERE s.kind = 0
UNION ALL
SELECT s.row,
       CASE WHEN s.invalid <> 0 THEN 'r'
            WHEN r.id IS NOT NULL
                AND s."children" IS NULL
                AND s."primary" IS NULL
                AND NOT (
                    r."external_id",
                    r."name",
                    r."resource",
                    r."location_id",
                    r."metadata"
                ) IS DISTINCT FROM (
                    coalesce(s."external_id", r."external_id"),
                    coalesce(s."name", r."name"),
                    coalesce(s."resource", r."resource"),
                    coalesce(s."location_id", r."location_id"),
                    jsonb_strip_nulls((coalesce(r."metadata", '{}'::jsonb)) || coalesce(s."metadata", '{}'))
                )
            THEN 'u'
            ELSE 'a' END::"char" AS verdict,
       r.id AS record_id, s.kind, (CASE WHEN r.id IS NULL THEN 0 ELSE 1 END)::smallint AS matches,
       CASE WHEN r.id IS NULL THEN hashtextextended(('k1' || s."external_id") COLLATE "C", 0) ELSE hashtextextended(r.id, 1) END AS target
FROM "staging"."items_batch_1" s
LEFT JOIN "public"."groups" r ON r.organization_id = %(organization)s
    AND r."external_id" = s."external_id"
WHERE s.kind = 1
UNION ALL
SELECT s.row,
       CASE WHEN s.invalid <> 0 THEN 'r'
            WHEN r.id IS NOT NULL
                AND s."children" IS NULL
                AND s."primary" IS NULL
                AND NOT (
                    r."external_id",
                    r."name",
                    r."resource",
                    r."location_id",
                    r."metadata"
                ) IS DISTINCT FROM (
                    coalesce(s."external_id", r."external_id"),
                    coalesce(s."name", r."name"),
                    coalesce(s."resource", r."resource"),
                    coalesce(s."location_id", r."location_id"),
                    jsonb_strip_nulls((coalesce(r."metadata", '{}'::jsonb)) || coalesce(s."metadata", '{}'))
                )
            THEN 'u'
            ELSE 'a' END::"char" AS verdict,
       r.id AS record_id, s.kind, (CASE WHEN r.id IS NULL THEN 0 ELSE 1 END)::smallint AS matches,
       CASE WHEN r.id IS NULL THEN hashtextextended(concat_ws(E'\x1f', 'k2', (coalesce(s."name", '') COLLATE "C"), (coalesce(s."resource", 'contact') COLLATE "C"), (coalesce(s."location_id", '') COLLATE "C")) COLLATE "C", 0) ELSE hashtextextended(r.id, 1) END AS target
FROM "staging"."items_batch_1" s
LEFT JOIN "public"."groups" r ON r.organization_id = %(organization)s
    AND (coalesce(r."name", '') COLLATE "C") = (coalesce(s."name", '') COLLATE "C")
    AND (coalesce(r."resource", 'contact') COLLATE "C") = (coalesce(s."resource", 'contact') COLLATE "C")
    AND (coalesce(r."location_id", '') COLLATE "C") = (coalesce(s."location_id", '') COLLATE "C")
    AND s."name" IS NOT NULL
WHERE s.kind = 2
ORDER BY row;

-- Chunk: create records.
INSERT INTO "public"."groups" (
    organization_id, id, batch_id,
    "external_id",
    "name",
    "resource",
    "location_id",
    "metadata"
)
SELECT
    %(organization)s, s.new_id, %(batch)s,
    s."external_id",
    s."name",
    coalesce(s."resource", 'contact'::text),
    s."location_id",
    jsonb_strip_nulls(coalesce(s."metadata", '{}'::jsonb))
FROM "staging"."items_batch_1" s
JOIN "staging"."plan_batch_1" p ON p.row = s.row
WHERE s.row BETWEEN %(first)s AND %(last)s
  AND p.row BETWEEN %(first)s AND %(last)s
  AND p.verdict = 'a'
  AND p.record_id IS NULL;

-- The same if each item that the row rules accept creates a record.
INSERT INTO "public"."groups" (
    organization_id, id, batch_id,
    "external_id",
    "name",
    "resource",
    "location_id",
    "metadata"
)
SELECT
    %(organization)s, s.new_id, %(batch)s,
    s."external_id",
    s."name",
    coalesce(s."resource", 'contact'::text),
    s."location_id",
    jsonb_strip_nulls(coalesce(s."metadata", '{}'::jsonb))
FROM "staging"."items_batch_1" s
WHERE s.row BETWEEN %(first)s AND %(last)s
  AND s.invalid = 0
  AND s.kind IS NOT NULL;

-- Once per connection: a table for the links that change.
CREATE TEMPORARY TABLE IF NOT EXISTS link_changes (
    row bigint,
    own text COLLATE "C",
    other text COLLATE "C",
    change text,
    mark boolean,
    is_elsewhere boolean
) ON COMMIT DELETE ROWS;

-- Chunk: find the links that change.
INSERT INTO "pg_temp"."link_changes"
WITH meant AS MATERIALIZED (
    SELECT s.row, coalesce(p.record_id, s.new_id) COLLATE "C" AS own,
           ((s.cleared >> 5) & 1 = 1 OR coalesce(jsonb_exists(s."children", 'set'), false)) AS replaces,
           ((s.cleared >> 6) & 1 = 1 OR coalesce(jsonb_exists(s."primary", 'mark'), false)) AS marks
    FROM "staging"."items_batch_1" s
    JOIN "staging"."plan_batch_1" p ON p.row = s.row
    WHERE s.row BETWEEN %(first)s AND %(last)s
      AND p.row BETWEEN %(first)s AND %(last)s
      AND p.verdict = 'a'
      AND (s."children" IS NOT NULL OR (s.cleared >> 5) & 1 = 1 OR s."primary" IS NOT NULL OR (s.cleared >> 6) & 1 = 1)
), sides AS (
    SELECT t.row, t.own, g."member_id" AS other, t.replaces, t.marks, true AS is_there, g."is_primary" AS was_marked,
           false AS joins, false AS leaves, false AS is_marked, false AS is_elsewhere
    FROM meant t
    JOIN "public"."group_members" g ON g.organization_id = %(organization)s AND g."group_id" = t.own
    UNION ALL
    SELECT t.row, t.own, w.target, t.replaces, t.marks, false, false,
           w.role = 'a', w.role = 'r', w.role = 'm', w.is_elsewhere
    FROM meant t
    JOIN "staging"."members_batch_1" w ON w.row = t.row AND w.row BETWEEN %(first)s AND %(last)s
), compared AS (
    SELECT row, own, other, bool_or(replaces) AND NOT bool_or(joins) OR bool_or(leaves) AS goes,
           bool_or(marks) AS marks, bool_or(is_there) AS is_there, bool_or(was_marked) AS was_marked,
           bool_or(joins) AS joins, bool_or(is_marked) AS is_marked, bool_or(is_elsewhere) AS is_elsewhere
    FROM sides
    GROUP BY row, own, other
)
SELECT row, own, other, CASE WHEN NOT is_there THEN '+' WHEN goes THEN '-' ELSE '*' END AS change,
       is_marked AS mark, is_elsewhere
FROM compared
WHERE CASE WHEN is_there THEN goes OR marks AND was_marked <> is_marked ELSE joins END;

-- Chunk: lock the records of new links.
WITH asked AS MATERIALIZED (
    SELECT DISTINCT other FROM "pg_temp"."link_changes" WHERE change = '+' AND NOT is_elsewhere
), there AS MATERIALIZED (
    SELECT o.id FROM "public"."contacts" o
    WHERE o.organization_id = %(organization)s AND o.id IN (SELECT other FROM asked)
    ORDER BY o.id
    FOR KEY SHARE
)
SELECT (SELECT count(*) FROM asked) = (SELECT count(*) FROM there);

-- Chunk, if one of them is gone: leave its links out.
UPDATE "pg_temp"."link_changes" c SET change = ''
WHERE change = '+' AND NOT is_elsewhere
  AND NOT EXISTS (SELECT FROM "public"."contacts" o WHERE o.organization_id = %(organization)s AND o.id = c.other);

-- Chunk: remove links and log it.
WITH done AS (
    DELETE FROM "public"."group_members" g USING (
        SELECT l."group_id", l."member_id", c.row FROM "public"."group_members" l
        JOIN "pg_temp"."link_changes" c ON c.change = '-' AND c.own = l."group_id" AND c.other = l."member_id"
        WHERE l.organization_id = %(organization)s
        ORDER BY "l"."group_id", "l"."member_id"
        FOR UPDATE OF l
    ) AS gone
    WHERE g.organization_id = %(organization)s AND g."group_id" = gone."group_id" AND g."member_id" = gone."member_id"
    RETURNING gone.row, g."group_id" AS own, g."member_id" AS other,
        CASE WHEN old.organization_id IS NULL THEN 'a' WHEN old."is_primary" THEN 'p' ELSE 'm' END::"char" AS before,
        CASE WHEN new.organization_id IS NULL THEN 'a' WHEN new."is_primary" THEN 'p' ELSE 'm' END::"char" AS after
)
INSERT INTO "public"."group_member_changes" (organization_id, "group_id", "member_id", batch_id, row, before, after)
SELECT %(organization)s, own, other, %(batch)s, row, before, after
FROM done
WHERE before <> after;

-- Chunk: mark links and log it.
WITH done AS (
    UPDATE "public"."group_members" g SET "is_primary" = c.mark
    FROM "pg_temp"."link_changes" c
    WHERE c.change = '*' AND g.organization_id = %(organization)s AND g."group_id" = c.own AND g."member_id" = c.other
    RETURNING c.row, g."group_id" AS own, g."member_id" AS other,
        CASE WHEN old.organization_id IS NULL THEN 'a' WHEN old."is_primary" THEN 'p' ELSE 'm' END::"char" AS before,
        CASE WHEN new.organization_id IS NULL THEN 'a' WHEN new."is_primary" THEN 'p' ELSE 'm' END::"char" AS after
)
INSERT INTO "public"."group_member_changes" (organization_id, "group_id", "member_id", batch_id, row, before, after)
SELECT %(organization)s, own, other, %(batch)s, row, before, after
FROM done
WHERE before <> after;

-- Chunk: add links and log it.
WITH done AS (
    INSERT INTO "public"."group_members" AS g (organization_id, "group_id", "member_id", "is_primary")
    SELECT %(organization)s, l.* FROM (
        SELECT own AS "group_id", other AS "member_id", mark FROM "pg_temp"."link_changes" WHERE change = '+'
    ) AS l
    ORDER BY "l"."group_id", "l"."member_id"
    ON CONFLICT (organization_id, "group_id", "member_id") DO UPDATE SET "is_primary" = true WHERE excluded."is_primary"
    RETURNING g."group_id" AS own, g."member_id" AS other,
        CASE WHEN old.organization_id IS NULL THEN 'a' WHEN old."is_primary" THEN 'p' ELSE 'm' END::"char" AS before,
        CASE WHEN new.organization_id IS NULL THEN 'a' WHEN new."is_primary" THEN 'p' ELSE 'm' END::"char" AS after
)
INSERT INTO "public"."group_member_changes" (organization_id, "group_id", "member_id", batch_id, row, before, after)
SELECT %(organization)s, own, other, %(batch)s, row, before, after
FROM done JOIN "pg_temp"."link_changes" USING (own, other)
WHERE before <> after;

-- Chunk: update records that change.
WITH done AS (
    UPDATE "public"."groups" r
    SET "external_id" = coalesce(s."external_id", r."external_id"),
        "name" = coalesce(s."name", r."name"),
        "resource" = coalesce(s."resource", r."resource"),
        "location_id" = coalesce(s."location_id", r."location_id"),
        "metadata" = jsonb_strip_nulls((coalesce(r."metadata", '{}'::jsonb)) || coalesce(s."metadata", '{}')),
        updated_at = now(),
        batch_id = %(batch)s
    FROM "staging"."items_batch_1" s
    JOIN "staging"."plan_batch_1" p ON p.row = s.row
    LEFT JOIN (SELECT DISTINCT own FROM "pg_temp"."link_changes") AS linked ON linked.own = p.record_id
    WHERE s.row BETWEEN %(first)s AND %(last)s
      AND p.row BETWEEN %(first)s AND %(last)s
      AND p.verdict = 'a'
      AND r.organization_id = %(organization)s
      AND r.id = p.record_id
      AND (
        linked.own IS NOT NULL
        OR (
            r."external_id",
            r."name",
            r."resource",
            r."location_id",
            r."metadata"
        ) IS DISTINCT FROM (
            coalesce(s."external_id", r."external_id"),
            coalesce(s."name", r."name"),
            coalesce(s."resource", r."resource"),
            coalesce(s."location_id", r."location_id"),
            jsonb_strip_nulls((coalesce(r."metadata", '{}'::jsonb)) || coalesce(s."metadata", '{}'))
        )
      )
    RETURNING s.row
)
SELECT count(*) FROM done;

-- The same with the change log, if some item clears a field and the batch has a result file.
WITH done AS (
    UPDATE "public"."groups" r
    SET "external_id" = CASE WHEN (s.cleared >> 1) & 1 = 1 THEN NULL::text ELSE coalesce(s."external_id", r."external_id") END,
        "name" = CASE WHEN (s.cleared >> 2) & 1 = 1 THEN NULL::text ELSE coalesce(s."name", r."name") END,
        "resource" = CASE WHEN (s.cleared >> 3) & 1 = 1 THEN 'contact'::text ELSE coalesce(s."resource", r."resource") END,
        "location_id" = CASE WHEN (s.cleared >> 4) & 1 = 1 THEN NULL::text ELSE coalesce(s."location_id", r."location_id") END,
        "metadata" = jsonb_strip_nulls((CASE WHEN (s.cleared >> 7) & 1 = 1 THEN '{}'::jsonb ELSE coalesce(r."metadata", '{}'::jsonb) END) || coalesce(s."metadata", '{}')),
        updated_at = now(),
        batch_id = %(batch)s
    FROM "staging"."items_batch_1" s
    JOIN "staging"."plan_batch_1" p ON p.row = s.row
    LEFT JOIN (SELECT DISTINCT own FROM "pg_temp"."link_changes") AS linked ON linked.own = p.record_id
    WHERE s.row BETWEEN %(first)s AND %(last)s
      AND p.row BETWEEN %(first)s AND %(last)s
      AND p.verdict = 'a'
      AND r.organization_id = %(organization)s
      AND r.id = p.record_id
      AND (
        linked.own IS NOT NULL
        OR (
            r."external_id",
            r."name",
            r."resource",
            r."location_id",
            r."metadata"
        ) IS DISTINCT FROM (
            CASE WHEN (s.cleared >> 1) & 1 = 1 THEN NULL::text ELSE coalesce(s."external_id", r."external_id") END,
            CASE WHEN (s.cleared >> 2) & 1 = 1 THEN NULL::text ELSE coalesce(s."name", r."name") END,
            CASE WHEN (s.cleared >> 3) & 1 = 1 THEN 'contact'::text ELSE coalesce(s."resource", r."resource") END,
            CASE WHEN (s.cleared >> 4) & 1 = 1 THEN NULL::text ELSE coalesce(s."location_id", r."location_id") END,
            jsonb_strip_nulls((CASE WHEN (s.cleared >> 7) & 1 = 1 THEN '{}'::jsonb ELSE coalesce(r."metadata", '{}'::jsonb) END) || coalesce(s."metadata", '{}'))
        )
      )
    RETURNING s.row, old.id, old.batch_id AS before_batch,
        CASE WHEN old."external_id" IS DISTINCT FROM new."external_id" THEN 2 ELSE 0 END
            | CASE WHEN old."name" IS DISTINCT FROM new."name" THEN 8 ELSE 0 END
            | CASE WHEN old."resource" IS DISTINCT FROM new."resource" THEN 16 ELSE 0 END
            | CASE WHEN old."location_id" IS DISTINCT FROM new."location_id" THEN 32 ELSE 0 END
            | CASE WHEN old."metadata" IS DISTINCT FROM new."metadata" THEN 4 ELSE 0 END AS changed,
        nullif(old."external_id", new."external_id") AS "external_id",
        nullif(old."name", new."name") AS "name",
        nullif(old."resource", new."resource") AS "resource",
        nullif(old."location_id", new."location_id") AS "location_id",
        CASE WHEN old."metadata" IS DISTINCT FROM new."metadata"
            THEN public.changed_keys(old."metadata", new."metadata") END AS "metadata"
), logged AS (
    INSERT INTO "public"."group_changes" (
        organization_id, record_id, batch_id, row, op, changed, before_batch,
        "external_id", "name", "resource", "location_id", "metadata"
    )
    SELECT %(organization)s, id, %(batch)s, row, 'u', changed, before_batch,
        "external_id", "name", "resource", "location_id", "metadata"
    FROM done
    WHERE changed <> 0
), noted AS (
    INSERT INTO "staging"."changes_batch_1" (row)
    SELECT row FROM done
)
SELECT count(*) FROM done;
