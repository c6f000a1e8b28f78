-- Made by `python tests/loading/rendered_sql.py`: change batch_pipeline/loading, not this file.

-- An overwrite writes items as contact_merge.sql does.
-- Plan: list the other records.
SELECT row_number() OVER (ORDER BY r.id) AS number, r.id, r.external_id
FROM "public"."contacts" r
WHERE r.organization_id = %(organization)s
  AND true
  AND r.batch_id IS DISTINCT FROM %(batch)s
  AND (r.batch_id IS NULL OR r.batch_id <> ALL(%(newer)s))
  AND NOT EXISTS (
    SELECT FROM (
        SELECT r.id FROM "staging"."plan_batch_1" p
        JOIN "staging"."items_batch_1" s ON s.row = p.row
        JOIN "public"."contacts" r ON r.organization_id = %(organization)s
            AND r."id" = s."id"
        WHERE p.verdict = 'r'
        UNION ALL
        SELECT r.id FROM "staging"."plan_batch_1" p
        JOIN "staging"."items_batch_1" s ON s.row = p.row
        JOIN "public"."contacts" r ON r.organization_id = %(organization)s
            AND r."external_id" = s."external_id"
        WHERE p.verdict = 'r'
        UNION ALL
        SELECT r.id FROM "staging"."plan_batch_1" p
        JOIN "staging"."items_batch_1" s ON s.row = p.row
        JOIN "public"."contacts" r ON r.organization_id = %(organization)s
            AND lower(r."email" COLLATE "pg_c_utf8") = lower(s."email" COLLATE "pg_c_utf8")
            AND r."email" IS NOT NULL
            AND s."email" IS NOT NULL
            AND s.invalid & 8 = 0
        WHERE p.verdict = 'r'
        UNION ALL
        SELECT r.id FROM "staging"."plan_batch_1" p
        JOIN "staging"."items_batch_1" s ON s.row = p.row
        JOIN "public"."contacts" r ON r.organization_id = %(organization)s
            AND (coalesce(r."name", '') COLLATE "C") = (coalesce(s."name", '') COLLATE "C")
            AND (coalesce(r."phone", '') COLLATE "C") = (coalesce(s."phone", '') COLLATE "C")
            AND r."email" IS NULL
            AND s."name" IS NOT NULL
            AND s.invalid & 20 = 0
        WHERE p.verdict = 'r'
        UNION ALL
        SELECT record_id FROM "staging"."plan_batch_1" WHERE verdict IN ('a', 'u') AND record_id IS NOT NULL
    ) AS kept (id)
    WHERE kept.id = r.id
  )
ORDER BY number;

-- Cleanup chunk: delete listed records and log it.
WITH done AS (
    DELETE FROM "public"."contacts" r USING "staging"."to_delete_batch_1" d
    WHERE d.number BETWEEN %(first)s AND %(last)s
      AND r.organization_id = %(organization)s
      AND r.id = d.id
      AND (r.batch_id IS NULL OR r.batch_id <> ALL(%(newer)s))
    RETURNING d.number,
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
), kept AS (
    DELETE FROM "staging"."to_delete_batch_1" d
    WHERE d.number BETWEEN %(first)s AND %(last)s
      AND NOT EXISTS (SELECT FROM done WHERE done.number = d.number)
), logged AS (
    INSERT INTO "public"."contact_changes" (
        organization_id, record_id, batch_id, row, op, changed, before_batch,
        "external_id", "name", "email", "phone", "address", "address_line2", "alternate_names", "alternate_emails", "alternate_phones", "alternate_addresses", "id_number", "is_primary", "notes", "metadata", "created_at", "updated_at"
    )
    SELECT %(organization)s, id, %(batch)s, NULL, 'd', 0, before_batch,
        "external_id", "name", "email", "phone", "address", "address_line2", "alternate_names", "alternate_emails", "alternate_phones", "alternate_addresses", "id_number", "is_primary", "notes", "metadata", "created_at", "updated_at"
    FROM done
)
SELECT count(*) FROM done;

-- Then: whether the organization has any links.
SELECT EXISTS (SELECT FROM "public"."group_members" WHERE organization_id = %(organization)s);

-- If so: remove those of the deleted records and log it.
WITH done AS (
    DELETE FROM "public"."group_members" g USING (
        SELECT l."group_id", l."member_id", d.row FROM "public"."group_members" l
        JOIN (
            SELECT id, NULL::bigint AS row FROM "staging"."to_delete_batch_1" WHERE number BETWEEN %(first)s AND %(last)s
        ) AS d ON d.id = l."member_id"
        WHERE l.organization_id = %(organization)s
        ORDER BY "l"."group_id", "l"."member_id"
        FOR UPDATE OF l
    ) AS found
    WHERE g.organization_id = %(organization)s AND g."group_id" = found."group_id" AND g."member_id" = found."member_id"
    RETURNING found.row, g."member_id" AS own, g."group_id" AS other,
        CASE WHEN old.organization_id IS NULL THEN 'a' WHEN old."is_primary" THEN 'p' ELSE 'm' END::"char" AS before,
        CASE WHEN new.organization_id IS NULL THEN 'a' WHEN new."is_primary" THEN 'p' ELSE 'm' END::"char" AS after
)
INSERT INTO "public"."group_member_changes" (organization_id, "member_id", "group_id", batch_id, row, before, after)
SELECT %(organization)s, own, other, %(batch)s, row, before, after
FROM done
WHERE before <> after;
