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

-- Cleanup chunk: delete listed records.
WITH done AS (
    DELETE FROM "public"."contacts" r USING "staging"."to_delete_batch_1" d
    WHERE d.number BETWEEN %(first)s AND %(last)s
      AND r.organization_id = %(organization)s
      AND r.id = d.id
      AND (r.batch_id IS NULL OR r.batch_id <> ALL(%(newer)s))
    RETURNING d.number
), kept AS (
    DELETE FROM "staging"."to_delete_batch_1" d
    WHERE d.number BETWEEN %(first)s AND %(last)s
      AND NOT EXISTS (SELECT FROM done WHERE done.number = d.number)
)
SELECT count(*) FROM done;

-- Then: whether the organization has any links.
SELECT EXISTS (SELECT FROM "public"."group_members" WHERE organization_id = %(organization)s);

-- If so: remove those of the deleted records.
DELETE FROM "public"."group_members" g USING (
    SELECT l."group_id", l."member_id" FROM "public"."group_members" l
    WHERE l.organization_id = %(organization)s AND l."member_id" IN (
        SELECT id FROM "staging"."to_delete_batch_1" WHERE number BETWEEN %(first)s AND %(last)s
    )
    ORDER BY "l"."group_id", "l"."member_id"
    FOR UPDATE OF l
) AS found
WHERE g.organization_id = %(organization)s AND g."group_id" = found."group_id" AND g."member_id" = found."member_id";
