-- Made by `python tests/loading/rendered_sql.py`: change batch_pipeline/loading, not this file.

-- Chunk: delete records that the undone batch created and log it.
WITH done AS (
    DELETE FROM "public"."groups" r USING "staging"."plan_batch_1" p
    WHERE p.row BETWEEN %(first)s AND %(last)s
      AND p.verdict = 'd'
      AND r.organization_id = %(organization)s
      AND r.id = p.record_id
      AND r.xmin = p.seen
    RETURNING
        p.row,
        p.number AS undoes,
        r.id, r.batch_id AS before_batch,
        r."external_id",
        r."name",
        r."resource",
        r."location_id",
        r."metadata",
        r."created_at",
        r."updated_at"
), logged AS (
    INSERT INTO "public"."group_changes" (
        organization_id, record_id, batch_id, row, op, changed, before_batch, undoes,
        "external_id", "name", "resource", "location_id", "metadata", "created_at", "updated_at"
    )
    SELECT %(organization)s, id, %(batch)s, row, 'd', 0, before_batch, undoes,
        "external_id", "name", "resource", "location_id", "metadata", "created_at", "updated_at"
    FROM done
)
UPDATE "staging"."plan_batch_1" p SET verdict = '?'
WHERE p.row BETWEEN %(first)s AND %(last)s
  AND p.verdict = 'd'
  AND NOT EXISTS (SELECT FROM done WHERE done.row = p.row);

-- Chunk: restore records that it deleted and log it.
WITH done AS (
    INSERT INTO "public"."groups" (
    organization_id, id, batch_id,
    "external_id",
    "name",
    "resource",
    "location_id",
    "metadata",
    "created_at"
)
    SELECT %(organization)s, p.record_id, %(batch)s,
    "s"."external_id",
    "s"."name",
    "s"."resource",
    "s"."location_id",
    "s"."metadata",
    "s"."created_at"
    FROM "staging"."plan_batch_1" p
    JOIN "staging"."items_batch_1" s ON s.row = p.row
    WHERE p.row BETWEEN %(first)s AND %(last)s
      AND s.row BETWEEN %(first)s AND %(last)s
      AND p.verdict = 'i'
    ON CONFLICT DO NOTHING
    RETURNING id
), logged AS (
    INSERT INTO "public"."group_changes" (organization_id, record_id, batch_id, row, op, changed, undoes)
    SELECT %(organization)s, p.record_id, %(batch)s, p.row, 'i', 0, p.number
    FROM done
    JOIN "staging"."plan_batch_1" p ON p.record_id = done.id AND p.row BETWEEN %(first)s AND %(last)s
)
UPDATE "staging"."plan_batch_1" p SET verdict = 'c', by_record = (
    SELECT min(r.id) FROM "public"."groups" r
    WHERE r.organization_id = %(organization)s AND (r.id = p.record_id OR r.external_id = s.external_id)
)
FROM "staging"."items_batch_1" s
WHERE p.row BETWEEN %(first)s AND %(last)s
  AND s.row = p.row
  AND p.verdict = 'i'
  AND NOT EXISTS (SELECT FROM done WHERE done.id = p.record_id);

-- Chunk: change fields back and log it.
WITH done AS (
    UPDATE "public"."groups" r
    SET "external_id" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 1) & 1 = 1 THEN s."external_id" ELSE r."external_id" END,
    "name" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 3) & 1 = 1 THEN s."name" ELSE r."name" END,
    "resource" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 4) & 1 = 1 THEN s."resource" ELSE r."resource" END,
    "location_id" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 5) & 1 = 1 THEN s."location_id" ELSE r."location_id" END,
    "metadata" = CASE WHEN s."metadata" IS NULL OR jsonb_typeof(r."metadata") <> 'object' THEN r."metadata"
        ELSE coalesce(r."metadata", '{}'::jsonb) - ARRAY(SELECT jsonb_object_keys(s."metadata" - coalesce(k."metadata", '{}'))) || (
            SELECT coalesce(jsonb_object_agg(key, value) FILTER (WHERE value <> 'null'), '{}')
            FROM jsonb_each(s."metadata" - coalesce(k."metadata", '{}'))
        ) END,
    updated_at = now(),
    batch_id = %(batch)s
    FROM "staging"."plan_batch_1" p
    LEFT JOIN "staging"."items_batch_1" s ON s.row = p.row AND s.row BETWEEN %(first)s AND %(last)s
    LEFT JOIN (
        SELECT row, bit_or(1::bigint << bit) FILTER (WHERE key = '') AS fields, array_agg(key) FILTER (WHERE bit = 2) AS "metadata"
        FROM "staging"."kept_batch_1"
        WHERE row BETWEEN %(first)s AND %(last)s
        GROUP BY row
    ) AS k ON k.row = p.row
    WHERE p.row BETWEEN %(first)s AND %(last)s
      AND p.verdict = 'r'
      AND r.organization_id = %(organization)s
      AND r.id = p.record_id
      AND r.xmin = p.seen
    RETURNING
        p.row AS line,
        s.number AS undoes,
        s.row, old.id, old.batch_id AS before_batch,
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
        organization_id, record_id, batch_id, row, op, changed, before_batch, undoes,
        "external_id", "name", "resource", "location_id", "metadata"
    )
    SELECT %(organization)s, id, %(batch)s, row, 'u', changed, before_batch, undoes,
        "external_id", "name", "resource", "location_id", "metadata"
    FROM done
    WHERE changed <> 0
)
UPDATE "staging"."plan_batch_1" p SET verdict = '?'
WHERE p.row BETWEEN %(first)s AND %(last)s
  AND p.verdict = 'r'
  AND NOT EXISTS (SELECT FROM done WHERE done.line = p.row);

-- Chunk: remove the links of deleted records and log it.
WITH done AS (
    DELETE FROM "public"."group_members" g USING (
        SELECT g."group_id", g."member_id"
        FROM "public"."group_members" g
        JOIN "staging"."plan_batch_1" p ON p.record_id = g."group_id" AND p.verdict = 'd' AND p.row BETWEEN %(first)s AND %(last)s
        WHERE g.organization_id = %(organization)s
        ORDER BY "g"."group_id", "g"."member_id"
        FOR UPDATE OF g
    ) AS f
    WHERE g.organization_id = %(organization)s AND g."group_id" = f."group_id" AND g."member_id" = f."member_id"
    RETURNING g."group_id" AS own, g."member_id" AS other, (CASE WHEN g."is_primary" IS NULL THEN 'a' WHEN g."is_primary" THEN 'p' ELSE 'm' END)::"char" AS before
)
INSERT INTO "public"."group_member_changes" (organization_id, "group_id", "member_id", batch_id, row, undoes, before, after)
SELECT %(organization)s, done.own, done.other, %(batch)s, p.row, k.number, done.before, 'a'
FROM done
JOIN "staging"."plan_batch_1" p ON p.record_id = done.own AND p.row BETWEEN %(first)s AND %(last)s
LEFT JOIN "staging"."links_batch_1" k ON k.row = p.row AND k.other = done.other;

-- Chunk: remove links and log it.
WITH done AS (
    DELETE FROM "public"."group_members" g USING (
        SELECT g."group_id", g."member_id"
        FROM "public"."group_members" g
        JOIN (SELECT p.record_id, k.other, k.after FROM "staging"."links_batch_1" k
    JOIN "staging"."plan_batch_1" p ON p.row = k.row
    WHERE k.row BETWEEN %(first)s AND %(last)s AND p.row BETWEEN %(first)s AND %(last)s
      AND k.verdict = 'r' AND p.verdict IN ('r', 'i') AND k.before = 'a') AS c
          ON g."group_id" = c.record_id AND g."member_id" = c.other AND (CASE WHEN g."is_primary" IS NULL THEN 'a' WHEN g."is_primary" THEN 'p' ELSE 'm' END)::"char" = c.after
        WHERE g.organization_id = %(organization)s
        ORDER BY "g"."group_id", "g"."member_id"
        FOR UPDATE OF g
    ) AS f
    WHERE g.organization_id = %(organization)s AND g."group_id" = f."group_id" AND g."member_id" = f."member_id"
    RETURNING g."group_id" AS own, g."member_id" AS other
), logged AS (
    INSERT INTO "public"."group_member_changes" (organization_id, "group_id", "member_id", batch_id, row, undoes, before, after)
    SELECT %(organization)s, p.record_id, k.other, %(batch)s, k.row, k.number, k.after, k.before
    FROM done
    JOIN "staging"."links_batch_1" k ON k.other = done.other AND k.row BETWEEN %(first)s AND %(last)s
    JOIN "staging"."plan_batch_1" p ON p.row = k.row AND p.record_id = done.own
)
UPDATE "staging"."links_batch_1" u SET verdict = 'k', by_batch = f.by_batch
FROM (
    SELECT k.row, k.other, (SELECT c.batch_id FROM "public"."group_member_changes" c
        WHERE c."group_id" = p.record_id AND c."member_id" = k.other AND c.organization_id = %(organization)s
        ORDER BY c.number DESC LIMIT 1) AS by_batch FROM "staging"."links_batch_1" k
    JOIN "staging"."plan_batch_1" p ON p.row = k.row
    WHERE k.row BETWEEN %(first)s AND %(last)s AND p.row BETWEEN %(first)s AND %(last)s
      AND k.verdict = 'r' AND p.verdict IN ('r', 'i') AND k.before = 'a'
      AND NOT EXISTS (SELECT FROM done WHERE done.own = p.record_id AND done.other = k.other)
) AS f
WHERE u.row = f.row AND u.other = f.other;

-- Chunk: mark links and log it.
WITH done AS (
    UPDATE "public"."group_members" g SET "is_primary" = f.before = 'p'
    FROM (SELECT p.record_id, k.other, k.before, k.after FROM "staging"."links_batch_1" k
    JOIN "staging"."plan_batch_1" p ON p.row = k.row
    WHERE k.row BETWEEN %(first)s AND %(last)s AND p.row BETWEEN %(first)s AND %(last)s
      AND k.verdict = 'r' AND p.verdict IN ('r', 'i') AND k.before <> 'a' AND k.after <> 'a') AS f
    WHERE g.organization_id = %(organization)s AND g."group_id" = f.record_id AND g."member_id" = f.other AND (CASE WHEN g."is_primary" IS NULL THEN 'a' WHEN g."is_primary" THEN 'p' ELSE 'm' END)::"char" = f.after
    RETURNING g."group_id" AS own, g."member_id" AS other
), logged AS (
    INSERT INTO "public"."group_member_changes" (organization_id, "group_id", "member_id", batch_id, row, undoes, before, after)
    SELECT %(organization)s, p.record_id, k.other, %(batch)s, k.row, k.number, k.after, k.before
    FROM done
    JOIN "staging"."links_batch_1" k ON k.other = done.other AND k.row BETWEEN %(first)s AND %(last)s
    JOIN "staging"."plan_batch_1" p ON p.row = k.row AND p.record_id = done.own
)
UPDATE "staging"."links_batch_1" u SET verdict = 'k', by_batch = f.by_batch
FROM (
    SELECT k.row, k.other, (SELECT c.batch_id FROM "public"."group_member_changes" c
        WHERE c."group_id" = p.record_id AND c."member_id" = k.other AND c.organization_id = %(organization)s
        ORDER BY c.number DESC LIMIT 1) AS by_batch FROM "staging"."links_batch_1" k
    JOIN "staging"."plan_batch_1" p ON p.row = k.row
    WHERE k.row BETWEEN %(first)s AND %(last)s AND p.row BETWEEN %(first)s AND %(last)s
      AND k.verdict = 'r' AND p.verdict IN ('r', 'i') AND k.before <> 'a' AND k.after <> 'a'
      AND NOT EXISTS (SELECT FROM done WHERE done.own = p.record_id AND done.other = k.other)
) AS f
WHERE u.row = f.row AND u.other = f.other;

-- Chunk: add links and log it.
WITH done AS (
    INSERT INTO "public"."group_members" AS g (organization_id, "group_id", "member_id", "is_primary")
    SELECT %(organization)s, g.* FROM (
        SELECT p.record_id AS "group_id", k.other AS "member_id", k.before = 'p' FROM "staging"."links_batch_1" k
    JOIN "staging"."plan_batch_1" p ON p.row = k.row
    WHERE k.row BETWEEN %(first)s AND %(last)s AND p.row BETWEEN %(first)s AND %(last)s
      AND k.verdict = 'r' AND p.verdict IN ('r', 'i') AND k.before <> 'a' AND k.after = 'a'
    ) AS g
    ORDER BY "g"."group_id", "g"."member_id"
    ON CONFLICT DO NOTHING
    RETURNING g."group_id" AS own, g."member_id" AS other
), logged AS (
    INSERT INTO "public"."group_member_changes" (organization_id, "group_id", "member_id", batch_id, row, undoes, before, after)
    SELECT %(organization)s, p.record_id, k.other, %(batch)s, k.row, k.number, k.after, k.before
    FROM done
    JOIN "staging"."links_batch_1" k ON k.other = done.other AND k.row BETWEEN %(first)s AND %(last)s
    JOIN "staging"."plan_batch_1" p ON p.row = k.row AND p.record_id = done.own
)
UPDATE "staging"."links_batch_1" u SET verdict = 'k', by_batch = f.by_batch
FROM (
    SELECT k.row, k.other, (SELECT c.batch_id FROM "public"."group_member_changes" c
        WHERE c."group_id" = p.record_id AND c."member_id" = k.other AND c.organization_id = %(organization)s
        ORDER BY c.number DESC LIMIT 1) AS by_batch FROM "staging"."links_batch_1" k
    JOIN "staging"."plan_batch_1" p ON p.row = k.row
    WHERE k.row BETWEEN %(first)s AND %(last)s AND p.row BETWEEN %(first)s AND %(last)s
      AND k.verdict = 'r' AND p.verdict IN ('r', 'i') AND k.before <> 'a' AND k.after = 'a'
      AND NOT EXISTS (SELECT FROM done WHERE done.own = p.record_id AND done.other = k.other)
) AS f
WHERE u.row = f.row AND u.other = f.other;
