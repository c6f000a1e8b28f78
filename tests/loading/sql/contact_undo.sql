-- Made by `python tests/loading/rendered_sql.py`: change batch_pipeline/loading, not this file.

-- Chunk: delete records that the undone batch created and log it.
WITH done AS (
    DELETE FROM "public"."contacts" r USING "staging"."plan_batch_1" p
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
        r."email",
        r."phone",
        r."address",
        r."address_line2",
        r."alternate_names",
        r."alternate_emails",
        r."alternate_phones",
        r."alternate_addresses",
        r."id_number",
        r."is_primary",
        r."notes",
        r."metadata",
        r."created_at",
        r."updated_at"
), logged AS (
    INSERT INTO "public"."contact_changes" (
        organization_id, record_id, batch_id, row, op, changed, before_batch, undoes,
        "external_id", "name", "email", "phone", "address", "address_line2", "alternate_names", "alternate_emails", "alternate_phones", "alternate_addresses", "id_number", "is_primary", "notes", "metadata", "created_at", "updated_at"
    )
    SELECT %(organization)s, id, %(batch)s, row, 'd', 0, before_batch, undoes,
        "external_id", "name", "email", "phone", "address", "address_line2", "alternate_names", "alternate_emails", "alternate_phones", "alternate_addresses", "id_number", "is_primary", "notes", "metadata", "created_at", "updated_at"
    FROM done
)
UPDATE "staging"."plan_batch_1" p SET verdict = '?'
WHERE p.row BETWEEN %(first)s AND %(last)s
  AND p.verdict = 'd'
  AND NOT EXISTS (SELECT FROM done WHERE done.row = p.row);

-- Chunk: restore records that it deleted and log it.
WITH done AS (
    INSERT INTO "public"."contacts" (
    organization_id, id, batch_id,
    "external_id",
    "name",
    "email",
    "phone",
    "address",
    "address_line2",
    "alternate_names",
    "alternate_emails",
    "alternate_phones",
    "alternate_addresses",
    "id_number",
    "is_primary",
    "notes",
    "metadata",
    "created_at"
)
    SELECT %(organization)s, p.record_id, %(batch)s,
    "s"."external_id",
    "s"."name",
    "s"."email",
    "s"."phone",
    "s"."address",
    "s"."address_line2",
    "s"."alternate_names",
    "s"."alternate_emails",
    "s"."alternate_phones",
    "s"."alternate_addresses",
    "s"."id_number",
    "s"."is_primary",
    "s"."notes",
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
    INSERT INTO "public"."contact_changes" (organization_id, record_id, batch_id, row, op, changed, undoes)
    SELECT %(organization)s, p.record_id, %(batch)s, p.row, 'i', 0, p.number
    FROM done
    JOIN "staging"."plan_batch_1" p ON p.record_id = done.id AND p.row BETWEEN %(first)s AND %(last)s
)
UPDATE "staging"."plan_batch_1" p SET verdict = 'c', by_record = (
    SELECT min(r.id) FROM "public"."contacts" r
    WHERE r.organization_id = %(organization)s AND (r.id = p.record_id OR r.external_id = s.external_id)
)
FROM "staging"."items_batch_1" s
WHERE p.row BETWEEN %(first)s AND %(last)s
  AND s.row = p.row
  AND p.verdict = 'i'
  AND NOT EXISTS (SELECT FROM done WHERE done.id = p.record_id);

-- Chunk: change fields back and log it.
WITH done AS (
    UPDATE "public"."contacts" r
    SET "external_id" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 1) & 1 = 1 THEN s."external_id" ELSE r."external_id" END,
    "name" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 3) & 1 = 1 THEN s."name" ELSE r."name" END,
    "email" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 4) & 1 = 1 THEN s."email" ELSE r."email" END,
    "phone" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 5) & 1 = 1 THEN s."phone" ELSE r."phone" END,
    "address" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 6) & 1 = 1 THEN s."address" ELSE r."address" END,
    "address_line2" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 7) & 1 = 1 THEN s."address_line2" ELSE r."address_line2" END,
    "alternate_names" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 8) & 1 = 1 THEN s."alternate_names" ELSE r."alternate_names" END,
    "alternate_emails" = CASE WHEN s."alternate_emails" IS NULL OR jsonb_typeof(r."alternate_emails") <> 'object' THEN r."alternate_emails"
        ELSE coalesce(r."alternate_emails", '{}'::jsonb) - ARRAY(SELECT jsonb_object_keys(s."alternate_emails" - coalesce(k."alternate_emails", '{}'))) || (
            SELECT coalesce(jsonb_object_agg(key, value) FILTER (WHERE value <> 'null'), '{}')
            FROM jsonb_each(s."alternate_emails" - coalesce(k."alternate_emails", '{}'))
        ) END,
    "alternate_phones" = CASE WHEN s."alternate_phones" IS NULL OR jsonb_typeof(r."alternate_phones") <> 'object' THEN r."alternate_phones"
        ELSE coalesce(r."alternate_phones", '{}'::jsonb) - ARRAY(SELECT jsonb_object_keys(s."alternate_phones" - coalesce(k."alternate_phones", '{}'))) || (
            SELECT coalesce(jsonb_object_agg(key, value) FILTER (WHERE value <> 'null'), '{}')
            FROM jsonb_each(s."alternate_phones" - coalesce(k."alternate_phones", '{}'))
        ) END,
    "alternate_addresses" = CASE WHEN s."alternate_addresses" IS NULL OR jsonb_typeof(r."alternate_addresses") <> 'object' THEN r."alternate_addresses"
        ELSE coalesce(r."alternate_addresses", '{}'::jsonb) - ARRAY(SELECT jsonb_object_keys(s."alternate_addresses" - coalesce(k."alternate_addresses", '{}'))) || (
            SELECT coalesce(jsonb_object_agg(key, value) FILTER (WHERE value <> 'null'), '{}')
            FROM jsonb_each(s."alternate_addresses" - coalesce(k."alternate_addresses", '{}'))
        ) END,
    "id_number" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 12) & 1 = 1 THEN s."id_number" ELSE r."id_number" END,
    "is_primary" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 14) & 1 = 1 THEN s."is_primary" ELSE r."is_primary" END,
    "notes" = CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> 15) & 1 = 1 THEN s."notes" ELSE r."notes" END,
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
        SELECT row, bit_or(1::bigint << bit) FILTER (WHERE key = '') AS fields, array_agg(key) FILTER (WHERE bit = 9) AS "alternate_emails", array_agg(key) FILTER (WHERE bit = 10) AS "alternate_phones", array_agg(key) FILTER (WHERE bit = 11) AS "alternate_addresses", array_agg(key) FILTER (WHERE bit = 2) AS "metadata"
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
            | CASE WHEN old."email" IS DISTINCT FROM new."email" THEN 16 ELSE 0 END
            | CASE WHEN old."phone" IS DISTINCT FROM new."phone" THEN 32 ELSE 0 END
            | CASE WHEN old."address" IS DISTINCT FROM new."address" THEN 64 ELSE 0 END
            | CASE WHEN old."address_line2" IS DISTINCT FROM new."address_line2" THEN 128 ELSE 0 END
            | CASE WHEN old."alternate_names" IS DISTINCT FROM new."alternate_names" THEN 256 ELSE 0 END
            | CASE WHEN old."alternate_emails" IS DISTINCT FROM new."alternate_emails" THEN 512 ELSE 0 END
            | CASE WHEN old."alternate_phones" IS DISTINCT FROM new."alternate_phones" THEN 1024 ELSE 0 END
            | CASE WHEN old."alternate_addresses" IS DISTINCT FROM new."alternate_addresses" THEN 2048 ELSE 0 END
            | CASE WHEN old."id_number" IS DISTINCT FROM new."id_number" THEN 4096 ELSE 0 END
            | CASE WHEN old."is_primary" IS DISTINCT FROM new."is_primary" THEN 16384 ELSE 0 END
            | CASE WHEN old."notes" IS DISTINCT FROM new."notes" THEN 32768 ELSE 0 END
            | CASE WHEN old."metadata" IS DISTINCT FROM new."metadata" THEN 4 ELSE 0 END AS changed,
        nullif(old."external_id", new."external_id") AS "external_id",
        nullif(old."name", new."name") AS "name",
        nullif(old."email", new."email") AS "email",
        nullif(old."phone", new."phone") AS "phone",
        nullif(old."address", new."address") AS "address",
        nullif(old."address_line2", new."address_line2") AS "address_line2",
        nullif(old."alternate_names", new."alternate_names") AS "alternate_names",
        CASE WHEN old."alternate_emails" IS DISTINCT FROM new."alternate_emails"
            THEN public.changed_keys(old."alternate_emails", new."alternate_emails") END AS "alternate_emails",
        CASE WHEN old."alternate_phones" IS DISTINCT FROM new."alternate_phones"
            THEN public.changed_keys(old."alternate_phones", new."alternate_phones") END AS "alternate_phones",
        CASE WHEN old."alternate_addresses" IS DISTINCT FROM new."alternate_addresses"
            THEN public.changed_keys(old."alternate_addresses", new."alternate_addresses") END AS "alternate_addresses",
        nullif(old."id_number", new."id_number") AS "id_number",
        nullif(old."is_primary", new."is_primary") AS "is_primary",
        nullif(old."notes", new."notes") AS "notes",
        CASE WHEN old."metadata" IS DISTINCT FROM new."metadata"
            THEN public.changed_keys(old."metadata", new."metadata") END AS "metadata"
), logged AS (
    INSERT INTO "public"."contact_changes" (
        organization_id, record_id, batch_id, row, op, changed, before_batch, undoes,
        "external_id", "name", "email", "phone", "address", "address_line2", "alternate_names", "alternate_emails", "alternate_phones", "alternate_addresses", "id_number", "is_primary", "notes", "metadata"
    )
    SELECT %(organization)s, id, %(batch)s, row, 'u', changed, before_batch, undoes,
        "external_id", "name", "email", "phone", "address", "address_line2", "alternate_names", "alternate_emails", "alternate_phones", "alternate_addresses", "id_number", "is_primary", "notes", "metadata"
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
        SELECT g."member_id", g."group_id"
        FROM "public"."group_members" g
        JOIN "staging"."plan_batch_1" p ON p.record_id = g."member_id" AND p.verdict = 'd' AND p.row BETWEEN %(first)s AND %(last)s
        WHERE g.organization_id = %(organization)s
        ORDER BY "g"."group_id", "g"."member_id"
        FOR UPDATE OF g
    ) AS f
    WHERE g.organization_id = %(organization)s AND g."member_id" = f."member_id" AND g."group_id" = f."group_id"
    RETURNING g."member_id" AS own, g."group_id" AS other, (CASE WHEN g."is_primary" IS NULL THEN 'a' WHEN g."is_primary" THEN 'p' ELSE 'm' END)::"char" AS before
)
INSERT INTO "public"."group_member_changes" (organization_id, "member_id", "group_id", batch_id, row, undoes, before, after)
SELECT %(organization)s, done.own, done.other, %(batch)s, p.row, k.number, done.before, 'a'
FROM done
JOIN "staging"."plan_batch_1" p ON p.record_id = done.own AND p.row BETWEEN %(first)s AND %(last)s
LEFT JOIN "staging"."links_batch_1" k ON k.row = p.row AND k.other = done.other;

-- Chunk: remove links and log it.
WITH done AS (
    DELETE FROM "public"."group_members" g USING (
        SELECT g."member_id", g."group_id"
        FROM "public"."group_members" g
        JOIN (SELECT p.record_id, k.other, k.after FROM "staging"."links_batch_1" k
    JOIN "staging"."plan_batch_1" p ON p.row = k.row
    WHERE k.row BETWEEN %(first)s AND %(last)s AND p.row BETWEEN %(first)s AND %(last)s
      AND k.verdict = 'r' AND p.verdict IN ('r', 'i') AND k.before = 'a') AS c
          ON g."member_id" = c.record_id AND g."group_id" = c.other AND (CASE WHEN g."is_primary" IS NULL THEN 'a' WHEN g."is_primary" THEN 'p' ELSE 'm' END)::"char" = c.after
        WHERE g.organization_id = %(organization)s
        ORDER BY "g"."group_id", "g"."member_id"
        FOR UPDATE OF g
    ) AS f
    WHERE g.organization_id = %(organization)s AND g."member_id" = f."member_id" AND g."group_id" = f."group_id"
    RETURNING g."member_id" AS own, g."group_id" AS other
), logged AS (
    INSERT INTO "public"."group_member_changes" (organization_id, "member_id", "group_id", batch_id, row, undoes, before, after)
    SELECT %(organization)s, p.record_id, k.other, %(batch)s, k.row, k.number, k.after, k.before
    FROM done
    JOIN "staging"."links_batch_1" k ON k.other = done.other AND k.row BETWEEN %(first)s AND %(last)s
    JOIN "staging"."plan_batch_1" p ON p.row = k.row AND p.record_id = done.own
)
UPDATE "staging"."links_batch_1" u SET verdict = 'k', by_batch = f.by_batch
FROM (
    SELECT k.row, k.other, (SELECT c.batch_id FROM "public"."group_member_changes" c
        WHERE c."member_id" = p.record_id AND c."group_id" = k.other AND c.organization_id = %(organization)s
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
    WHERE g.organization_id = %(organization)s AND g."member_id" = f.record_id AND g."group_id" = f.other AND (CASE WHEN g."is_primary" IS NULL THEN 'a' WHEN g."is_primary" THEN 'p' ELSE 'm' END)::"char" = f.after
    RETURNING g."member_id" AS own, g."group_id" AS other
), logged AS (
    INSERT INTO "public"."group_member_changes" (organization_id, "member_id", "group_id", batch_id, row, undoes, before, after)
    SELECT %(organization)s, p.record_id, k.other, %(batch)s, k.row, k.number, k.after, k.before
    FROM done
    JOIN "staging"."links_batch_1" k ON k.other = done.other AND k.row BETWEEN %(first)s AND %(last)s
    JOIN "staging"."plan_batch_1" p ON p.row = k.row AND p.record_id = done.own
)
UPDATE "staging"."links_batch_1" u SET verdict = 'k', by_batch = f.by_batch
FROM (
    SELECT k.row, k.other, (SELECT c.batch_id FROM "public"."group_member_changes" c
        WHERE c."member_id" = p.record_id AND c."group_id" = k.other AND c.organization_id = %(organization)s
        ORDER BY c.number DESC LIMIT 1) AS by_batch FROM "staging"."links_batch_1" k
    JOIN "staging"."plan_batch_1" p ON p.row = k.row
    WHERE k.row BETWEEN %(first)s AND %(last)s AND p.row BETWEEN %(first)s AND %(last)s
      AND k.verdict = 'r' AND p.verdict IN ('r', 'i') AND k.before <> 'a' AND k.after <> 'a'
      AND NOT EXISTS (SELECT FROM done WHERE done.own = p.record_id AND done.other = k.other)
) AS f
WHERE u.row = f.row AND u.other = f.other;

-- Chunk: add links and log it.
WITH done AS (
    INSERT INTO "public"."group_members" AS g (organization_id, "member_id", "group_id", "is_primary")
    SELECT %(organization)s, g.* FROM (
        SELECT p.record_id AS "member_id", k.other AS "group_id", k.before = 'p' FROM "staging"."links_batch_1" k
    JOIN "staging"."plan_batch_1" p ON p.row = k.row
    WHERE k.row BETWEEN %(first)s AND %(last)s AND p.row BETWEEN %(first)s AND %(last)s
      AND k.verdict = 'r' AND p.verdict IN ('r', 'i') AND k.before <> 'a' AND k.after = 'a'
    ) AS g
    ORDER BY "g"."group_id", "g"."member_id"
    ON CONFLICT DO NOTHING
    RETURNING g."member_id" AS own, g."group_id" AS other
), logged AS (
    INSERT INTO "public"."group_member_changes" (organization_id, "member_id", "group_id", batch_id, row, undoes, before, after)
    SELECT %(organization)s, p.record_id, k.other, %(batch)s, k.row, k.number, k.after, k.before
    FROM done
    JOIN "staging"."links_batch_1" k ON k.other = done.other AND k.row BETWEEN %(first)s AND %(last)s
    JOIN "staging"."plan_batch_1" p ON p.row = k.row AND p.record_id = done.own
)
UPDATE "staging"."links_batch_1" u SET verdict = 'k', by_batch = f.by_batch
FROM (
    SELECT k.row, k.other, (SELECT c.batch_id FROM "public"."group_member_changes" c
        WHERE c."member_id" = p.record_id AND c."group_id" = k.other AND c.organization_id = %(organization)s
        ORDER BY c.number DESC LIMIT 1) AS by_batch FROM "staging"."links_batch_1" k
    JOIN "staging"."plan_batch_1" p ON p.row = k.row
    WHERE k.row BETWEEN %(first)s AND %(last)s AND p.row BETWEEN %(first)s AND %(last)s
      AND k.verdict = 'r' AND p.verdict IN ('r', 'i') AND k.before <> 'a' AND k.after = 'a'
      AND NOT EXISTS (SELECT FROM done WHERE done.own = p.record_id AND done.other = k.other)
) AS f
WHERE u.row = f.row AND u.other = f.other;
