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
                AND s."groups" IS NULL
                AND NOT (
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
                    r."metadata"
                ) IS DISTINCT FROM (
                    coalesce(s."external_id", r."external_id"),
                    coalesce(s."name", r."name"),
                    coalesce(s."email", r."email"),
                    coalesce(s."phone", r."phone"),
                    coalesce(s."address", r."address"),
                    coalesce(s."address_line2", r."address_line2"),
                    coalesce(s."alternate_names", r."alternate_names"),
                    jsonb_strip_nulls((coalesce(r."alternate_emails", '{}'::jsonb)) || coalesce(s."alternate_emails", '{}')),
                    jsonb_strip_nulls((coalesce(r."alternate_phones", '{}'::jsonb)) || coalesce(s."alternate_phones", '{}')),
                    jsonb_strip_nulls((coalesce(r."alternate_addresses", '{}'::jsonb)) || coalesce(s."alternate_addresses", '{}')),
                    coalesce(s."id_number", r."id_number"),
                    coalesce(s."is_primary", r."is_primary"),
                    coalesce(s."notes", r."notes"),
                    jsonb_strip_nulls((coalesce(r."metadata", '{}'::jsonb)) || coalesce(s."metadata", '{}'))
                )
            THEN 'u'
            ELSE 'a' END::"char" AS verdict,
       r.id AS record_id, s.kind, (CASE WHEN r.id IS NULL THEN 0 ELSE 1 END)::smallint AS matches,
       CASE WHEN r.id IS NULL THEN hashtextextended(('k0' || s."id") COLLATE "C", 0) ELSE hashtextextended(r.id, 1) END AS target
FROM "staging"."items_batch_1" s
LEFT JOIN "public"."contacts" r ON r.organization_id = %(organization)s
    AND r."id" = s."id"
WHERE s.kind = 0
UNION ALL
SELECT s.row,
       CASE WHEN s.invalid <> 0 THEN 'r'
            WHEN r.id IS NOT NULL
                AND s."groups" IS NULL
                AND NOT (
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
                    r."metadata"
                ) IS DISTINCT FROM (
                    coalesce(s."external_id", r."external_id"),
                    coalesce(s."name", r."name"),
                    coalesce(s."email", r."email"),
                    coalesce(s."phone", r."phone"),
                    coalesce(s."address", r."address"),
                    coalesce(s."address_line2", r."address_line2"),
                    coalesce(s."alternate_names", r."alternate_names"),
                    jsonb_strip_nulls((coalesce(r."alternate_emails", '{}'::jsonb)) || coalesce(s."alternate_emails", '{}')),
                    jsonb_strip_nulls((coalesce(r."alternate_phones", '{}'::jsonb)) || coalesce(s."alternate_phones", '{}')),
                    jsonb_strip_nulls((coalesce(r."alternate_addresses", '{}'::jsonb)) || coalesce(s."alternate_addresses", '{}')),
                    coalesce(s."id_number", r."id_number"),
                    coalesce(s."is_primary", r."is_primary"),
                    coalesce(s."notes", r."notes"),
                    jsonb_strip_nulls((coalesce(r."metadata", '{}'::jsonb)) || coalesce(s."metadata", '{}'))
                )
            THEN 'u'
            ELSE 'a' END::"char" AS verdict,
       r.id AS record_id, s.kind, (CASE WHEN r.id IS NULL THEN 0 ELSE 1 END)::smallint AS matches,
       CASE WHEN r.id IS NULL THEN hashtextextended(('k1' || s."external_id") COLLATE "C", 0) ELSE hashtextextended(r.id, 1) END AS target
FROM "staging"."items_batch_1" s
LEFT JOIN "public"."contacts" r ON r.organization_id = %(organization)s
    AND r."external_id" = s."external_id"
WHERE s.kind = 1
UNION ALL
SELECT s.row,
       CASE WHEN s.invalid <> 0 THEN 'r'
            WHEN r.id IS NOT NULL
                AND s."groups" IS NULL
                AND NOT (
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
                    r."metadata"
                ) IS DISTINCT FROM (
                    coalesce(s."external_id", r."external_id"),
                    coalesce(s."name", r."name"),
                    coalesce(s."email", r."email"),
                    coalesce(s."phone", r."phone"),
                    coalesce(s."address", r."address"),
                    coalesce(s."address_line2", r."address_line2"),
                    coalesce(s."alternate_names", r."alternate_names"),
                    jsonb_strip_nulls((coalesce(r."alternate_emails", '{}'::jsonb)) || coalesce(s."alternate_emails", '{}')),
                    jsonb_strip_nulls((coalesce(r."alternate_phones", '{}'::jsonb)) || coalesce(s."alternate_phones", '{}')),
                    jsonb_strip_nulls((coalesce(r."alternate_addresses", '{}'::jsonb)) || coalesce(s."alternate_addresses", '{}')),
                    coalesce(s."id_number", r."id_number"),
                    coalesce(s."is_primary", r."is_primary"),
                    coalesce(s."notes", r."notes"),
                    jsonb_strip_nulls((coalesce(r."metadata", '{}'::jsonb)) || coalesce(s."metadata", '{}'))
                )
            THEN 'u'
            ELSE 'a' END::"char" AS verdict,
       r.id AS record_id, s.kind, (CASE WHEN r.id IS NULL THEN 0 ELSE 1 END)::smallint AS matches,
       CASE WHEN r.id IS NULL THEN hashtextextended(concat_ws(E'\x1f', 'k2', lower(s."email" COLLATE "pg_c_utf8")) COLLATE "C", 0) ELSE hashtextextended(r.id, 1) END AS target
FROM "staging"."items_batch_1" s
LEFT JOIN "public"."contacts" r ON r.organization_id = %(organization)s
    AND lower(r."email" COLLATE "pg_c_utf8") = lower(s."email" COLLATE "pg_c_utf8")
    AND r."email" IS NOT NULL
    AND s."email" IS NOT NULL
WHERE s.kind = 2
UNION ALL
SELECT s.row,
       CASE WHEN s.invalid <> 0 THEN 'r'
            WHEN r.id IS NOT NULL
                AND s."groups" IS NULL
                AND NOT (
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
                    r."metadata"
                ) IS DISTINCT FROM (
                    coalesce(s."external_id", r."external_id"),
                    coalesce(s."name", r."name"),
                    coalesce(s."email", r."email"),
                    coalesce(s."phone", r."phone"),
                    coalesce(s."address", r."address"),
                    coalesce(s."address_line2", r."address_line2"),
                    coalesce(s."alternate_names", r."alternate_names"),
                    jsonb_strip_nulls((coalesce(r."alternate_emails", '{}'::jsonb)) || coalesce(s."alternate_emails", '{}')),
                    jsonb_strip_nulls((coalesce(r."alternate_phones", '{}'::jsonb)) || coalesce(s."alternate_phones", '{}')),
                    jsonb_strip_nulls((coalesce(r."alternate_addresses", '{}'::jsonb)) || coalesce(s."alternate_addresses", '{}')),
                    coalesce(s."id_number", r."id_number"),
                    coalesce(s."is_primary", r."is_primary"),
                    coalesce(s."notes", r."notes"),
                    jsonb_strip_nulls((coalesce(r."metadata", '{}'::jsonb)) || coalesce(s."metadata", '{}'))
                )
            THEN 'u'
            ELSE 'a' END::"char" AS verdict,
       r.id AS record_id, s.kind, (CASE WHEN r.id IS NULL THEN 0 ELSE 1 END)::smallint AS matches,
       CASE WHEN r.id IS NULL THEN hashtextextended(concat_ws(E'\x1f', 'k3', (coalesce(s."name", '') COLLATE "C"), (coalesce(s."phone", '') COLLATE "C")) COLLATE "C", 0) ELSE hashtextextended(r.id, 1) END AS target
FROM "staging"."items_batch_1" s
LEFT JOIN "public"."contacts" r ON r.organization_id = %(organization)s
    AND (coalesce(r."name", '') COLLATE "C") = (coalesce(s."name", '') COLLATE "C")
    AND (coalesce(r."phone", '') COLLATE "C") = (coalesce(s."phone", '') COLLATE "C")
    AND r."email" IS NULL
    AND s."name" IS NOT NULL
WHERE s.kind = 3
ORDER BY row;

-- The same once a chunk is finished: its rows keep their verdicts.
SELECT s.row, 'r'::"char" AS verdict, NULL::text COLLATE "C" AS record_id, s.kind, 0::smallint AS matches,
       NULL::bigint AS target
FROM "staging"."items_batch_1" s
WHERE s.kind IS NULL
  AND NOT s.row <@ %(done)s::int8multirange
UNION ALL
SELECT s.row,
       CASE WHEN s.invalid <> 0 THEN 'r'
            WHEN r.id IS NOT NULL
                AND s."groups" IS NULL
                AND NOT (
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
                    r."metadata"
                ) IS DISTINCT FROM (
                    coalesce(s."external_id", r."external_id"),
                    coalesce(s."name", r."name"),
                    coalesce(s."email", r."email"),
                    coalesce(s."phone", r."phone"),
                    coalesce(s."address", r."address"),
                    coalesce(s."address_line2", r."address_line2"),
                    coalesce(s."alternate_names", r."alternate_names"),
                    jsonb_strip_nulls((coalesce(r."alternate_emails", '{}'::jsonb)) || coalesce(s."alternate_emails", '{}')),
                    jsonb_strip_nulls((coalesce(r."alternate_phones", '{}'::jsonb)) || coalesce(s."alternate_phones", '{}')),
                    jsonb_strip_nulls((coalesce(r."alternate_addresses", '{}'::jsonb)) || coalesce(s."alternate_addresses", '{}')),
                    coalesce(s."id_number", r."id_number"),
                    coalesce(s."is_primary", r."is_primary"),
                    coalesce(s."notes", r."notes"),
                    jsonb_strip_nulls((coalesce(r."metadata", '{}'::jsonb)) || coalesce(s."metadata", '{}'))
                )
            THEN 'u'
            ELSE 'a' END::"char" AS verdict,
       r.id AS record_id, s.kind, (CASE WHEN r.id IS NULL THEN 0 ELSE 1 END)::smallint AS matches,
       CASE WHEN r.id IS NULL THEN hashtextextended(('k0' || s."id") COLLATE "C", 0) ELSE hashtextextended(r.id, 1) END AS target
FROM "staging"."items_batch_1" s
LEFT JOIN "public"."contacts" r ON r.organization_id = %(organization)s
    AND r."id" = s."id"
WHERE s.kind = 0
  AND NOT s.row <@ %(done)s::int8multirange
UNION ALL
SELECT s.row,
       CASE WHEN s.invalid <> 0 THEN 'r'
            WHEN r.id IS NOT NULL
                AND s."groups" IS NULL
                AND NOT (
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
                    r."metadata"
                ) IS DISTINCT FROM (
                    coalesce(s."external_id", r."external_id"),
                    coalesce(s."name", r."name"),
                    coalesce(s."email", r."email"),
                    coalesce(s."phone", r."phone"),
                    coalesce(s."address", r."address"),
                    coalesce(s."address_line2", r."address_line2"),
                    coalesce(s."alternate_names", r."alternate_names"),
                    jsonb_strip_nulls((coalesce(r."alternate_emails", '{}'::jsonb)) || coalesce(s."alternate_emails", '{}')),
                    jsonb_strip_nulls((coalesce(r."alternate_phones", '{}'::jsonb)) || coalesce(s."alternate_phones", '{}')),
                    jsonb_strip_nulls((coalesce(r."alternate_addresses", '{}'::jsonb)) || coalesce(s."alternate_addresses", '{}')),
                    coalesce(s."id_number", r."id_number"),
                    coalesce(s."is_primary", r."is_primary"),
                    coalesce(s."notes", r."notes"),
                    jsonb_strip_nulls((coalesce(r."metadata", '{}'::jsonb)) || coalesce(s."metadata", '{}'))
                )
            THEN 'u'
            ELSE 'a' END::"char" AS verdict,
       r.id AS record_id, s.kind, (CASE WHEN r.id IS NULL THEN 0 ELSE 1 END)::smallint AS matches,
       CASE WHEN r.id IS NULL THEN hashtextextended(('k1' || s."external_id") COLLATE "C", 0) ELSE hashtextextended(r.id, 1) END AS target
FROM "staging"."items_batch_1" s
LEFT JOIN "public"."contacts" r ON r.organization_id = %(organization)s
    AND r."external_id" = s."external_id"
WHERE s.kind = 1
  AND NOT s.row <@ %(done)s::int8multirange
UNION ALL
SELECT s.row,
       CASE WHEN s.invalid <> 0 THEN 'r'
            WHEN r.id IS NOT NULL
                AND s."groups" IS NULL
                AND NOT (
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
                    r."metadata"
                ) IS DISTINCT FROM (
                    coalesce(s."external_id", r."external_id"),
                    coalesce(s."name", r."name"),
                    coalesce(s."email", r."email"),
                    coalesce(s."phone", r."phone"),
                    coalesce(s."address", r."address"),
                    coalesce(s."address_line2", r."address_line2"),
                    coalesce(s."alternate_names", r."alternate_names"),
                    jsonb_strip_nulls((coalesce(r."alternate_emails", '{}'::jsonb)) || coalesce(s."alternate_emails", '{}')),
                    jsonb_strip_nulls((coalesce(r."alternate_phones", '{}'::jsonb)) || coalesce(s."alternate_phones", '{}')),
                    jsonb_strip_nulls((coalesce(r."alternate_addresses", '{}'::jsonb)) || coalesce(s."alternate_addresses", '{}')),
                    coalesce(s."id_number", r."id_number"),
                    coalesce(s."is_primary", r."is_primary"),
                    coalesce(s."notes", r."notes"),
                    jsonb_strip_nulls((coalesce(r."metadata", '{}'::jsonb)) || coalesce(s."metadata", '{}'))
                )
            THEN 'u'
            ELSE 'a' END::"char" AS verdict,
       r.id AS record_id, s.kind, (CASE WHEN r.id IS NULL THEN 0 ELSE 1 END)::smallint AS matches,
       CASE WHEN r.id IS NULL THEN hashtextextended(concat_ws(E'\x1f', 'k2', lower(s."email" COLLATE "pg_c_utf8")) COLLATE "C", 0) ELSE hashtextextended(r.id, 1) END AS target
FROM "staging"."items_batch_1" s
LEFT JOIN "public"."contacts" r ON r.organization_id = %(organization)s
    AND lower(r."email" COLLATE "pg_c_utf8") = lower(s."email" COLLATE "pg_c_utf8")
    AND r."email" IS NOT NULL
    AND s."email" IS NOT NULL
WHERE s.kind = 2
  AND NOT s.row <@ %(done)s::int8multirange
UNION ALL
SELECT s.row,
       CASE WHEN s.invalid <> 0 THEN 'r'
            WHEN r.id IS NOT NULL
                AND s."groups" IS NULL
                AND NOT (
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
                    r."metadata"
                ) IS DISTINCT FROM (
                    coalesce(s."external_id", r."external_id"),
                    coalesce(s."name", r."name"),
                    coalesce(s."email", r."email"),
                    coalesce(s."phone", r."phone"),
                    coalesce(s."address", r."address"),
                    coalesce(s."address_line2", r."address_line2"),
                    coalesce(s."alternate_names", r."alternate_names"),
                    jsonb_strip_nulls((coalesce(r."alternate_emails", '{}'::jsonb)) || coalesce(s."alternate_emails", '{}')),
                    jsonb_strip_nulls((coalesce(r."alternate_phones", '{}'::jsonb)) || coalesce(s."alternate_phones", '{}')),
                    jsonb_strip_nulls((coalesce(r."alternate_addresses", '{}'::jsonb)) || coalesce(s."alternate_addresses", '{}')),
                    coalesce(s."id_number", r."id_number"),
                    coalesce(s."is_primary", r."is_primary"),
                    coalesce(s."notes", r."notes"),
                    jsonb_strip_nulls((coalesce(r."metadata", '{}'::jsonb)) || coalesce(s."metadata", '{}'))
                )
            THEN 'u'
            ELSE 'a' END::"char" AS verdict,
       r.id AS record_id, s.kind, (CASE WHEN r.id IS NULL THEN 0 ELSE 1 END)::smallint AS matches,
       CASE WHEN r.id IS NULL THEN hashtextextended(concat_ws(E'\x1f', 'k3', (coalesce(s."name", '') COLLATE "C"), (coalesce(s."phone", '') COLLATE "C")) COLLATE "C", 0) ELSE hashtextextended(r.id, 1) END AS target
FROM "staging"."items_batch_1" s
LEFT JOIN "public"."contacts" r ON r.organization_id = %(organization)s
    AND (coalesce(r."name", '') COLLATE "C") = (coalesce(s."name", '') COLLATE "C")
    AND (coalesce(r."phone", '') COLLATE "C") = (coalesce(s."phone", '') COLLATE "C")
    AND r."email" IS NULL
    AND s."name" IS NOT NULL
WHERE s.kind = 3
  AND NOT s.row <@ %(done)s::int8multirange
UNION ALL
SELECT p.row, p.verdict, p.record_id, NULL, 1,
       CASE WHEN p.verdict IN ('a', 'u') THEN hashtextextended(coalesce(p.record_id, s.new_id), 1) END
FROM "staging"."plan_batch_1" p
JOIN "staging"."items_batch_1" s ON s.row = p.row
WHERE p.row <@ %(done)s::int8multirange
ORDER BY row;

-- The same for a sparse plan, of items that their external ids decide about.
SELECT s.row,
       CASE WHEN s.invalid <> 0 THEN 'r'
            ELSE 'a' END::"char" AS verdict,
       r.id AS record_id, s.kind, (CASE WHEN r.id IS NULL THEN 0 ELSE 1 END)::smallint AS matches,
       CASE WHEN r.id IS NULL THEN hashtextextended(('k1' || s."external_id") COLLATE "C", 0) ELSE hashtextextended(r.id, 1) END AS target
FROM "staging"."items_batch_1" s
LEFT JOIN "public"."contacts" r ON r.organization_id = %(organization)s
    AND r."external_id" = s."external_id"
WHERE s.kind = 1
  AND (s.invalid <> 0 OR NOT (
    r.id IS NOT NULL
        AND NOT (
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
            r."metadata"
        ) IS DISTINCT FROM (
            coalesce(s."external_id", r."external_id"),
            coalesce(s."name", r."name"),
            coalesce(s."email", r."email"),
            coalesce(s."phone", r."phone"),
            coalesce(s."address", r."address"),
            coalesce(s."address_line2", r."address_line2"),
            coalesce(s."alternate_names", r."alternate_names"),
            jsonb_strip_nulls((coalesce(r."alternate_emails", '{}'::jsonb)) || coalesce(s."alternate_emails", '{}')),
            jsonb_strip_nulls((coalesce(r."alternate_phones", '{}'::jsonb)) || coalesce(s."alternate_phones", '{}')),
            jsonb_strip_nulls((coalesce(r."alternate_addresses", '{}'::jsonb)) || coalesce(s."alternate_addresses", '{}')),
            coalesce(s."id_number", r."id_number"),
            coalesce(s."is_primary", r."is_primary"),
            coalesce(s."notes", r."notes"),
            jsonb_strip_nulls((coalesce(r."metadata", '{}'::jsonb)) || coalesce(s."metadata", '{}'))
        )
  ))
ORDER BY row;

-- Chunk: create records.
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
    "metadata"
)
SELECT
    %(organization)s, s.new_id, %(batch)s,
    s."external_id",
    s."name",
    s."email",
    s."phone",
    s."address",
    s."address_line2",
    coalesce(s."alternate_names", '[]'::jsonb),
    jsonb_strip_nulls(coalesce(s."alternate_emails", '{}'::jsonb)),
    jsonb_strip_nulls(coalesce(s."alternate_phones", '{}'::jsonb)),
    jsonb_strip_nulls(coalesce(s."alternate_addresses", '{}'::jsonb)),
    s."id_number",
    s."is_primary",
    s."notes",
    jsonb_strip_nulls(coalesce(s."metadata", '{}'::jsonb))
FROM "staging"."items_batch_1" s
JOIN "staging"."plan_batch_1" p ON p.row = s.row
WHERE s.row BETWEEN %(first)s AND %(last)s
  AND p.row BETWEEN %(first)s AND %(last)s
  AND p.verdict = 'a'
  AND p.record_id IS NULL;

-- The same if each item that the row rules accept creates a record.
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
    "metadata"
)
SELECT
    %(organization)s, s.new_id, %(batch)s,
    s."external_id",
    s."name",
    s."email",
    s."phone",
    s."address",
    s."address_line2",
    coalesce(s."alternate_names", '[]'::jsonb),
    jsonb_strip_nulls(coalesce(s."alternate_emails", '{}'::jsonb)),
    jsonb_strip_nulls(coalesce(s."alternate_phones", '{}'::jsonb)),
    jsonb_strip_nulls(coalesce(s."alternate_addresses", '{}'::jsonb)),
    s."id_number",
    s."is_primary",
    s."notes",
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
           ((s.cleared >> 12) & 1 = 1 OR coalesce(jsonb_exists(s."groups", 'set'), false)) AS replaces,
           false AS marks
    FROM "staging"."items_batch_1" s
    JOIN "staging"."plan_batch_1" p ON p.row = s.row
    WHERE s.row BETWEEN %(first)s AND %(last)s
      AND p.row BETWEEN %(first)s AND %(last)s
      AND p.verdict = 'a'
      AND (s."groups" IS NOT NULL OR (s.cleared >> 12) & 1 = 1)
), sides AS (
    SELECT t.row, t.own, g."group_id" AS other, t.replaces, t.marks, true AS is_there, g."is_primary" AS was_marked,
           false AS joins, false AS leaves, false AS is_marked, false AS is_elsewhere
    FROM meant t
    JOIN "public"."group_members" g ON g.organization_id = %(organization)s AND g."member_id" = t.own
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
    SELECT o.id FROM "public"."groups" o
    WHERE o.organization_id = %(organization)s AND o.id IN (SELECT other FROM asked)
    ORDER BY o.id
    FOR KEY SHARE
)
SELECT (SELECT count(*) FROM asked) = (SELECT count(*) FROM there);

-- Chunk, if one of them is gone: leave its links out.
UPDATE "pg_temp"."link_changes" c SET change = ''
WHERE change = '+' AND NOT is_elsewhere
  AND NOT EXISTS (SELECT FROM "public"."groups" o WHERE o.organization_id = %(organization)s AND o.id = c.other);

-- Chunk: remove links and log it.
WITH done AS (
    DELETE FROM "public"."group_members" g USING (
        SELECT l."member_id", l."group_id", c.row FROM "public"."group_members" l
        JOIN "pg_temp"."link_changes" c ON c.change = '-' AND c.own = l."member_id" AND c.other = l."group_id"
        WHERE l.organization_id = %(organization)s
        ORDER BY "l"."group_id", "l"."member_id"
        FOR UPDATE OF l
    ) AS gone
    WHERE g.organization_id = %(organization)s AND g."member_id" = gone."member_id" AND g."group_id" = gone."group_id"
    RETURNING gone.row, g."member_id" AS own, g."group_id" AS other,
        CASE WHEN old.organization_id IS NULL THEN 'a' WHEN old."is_primary" THEN 'p' ELSE 'm' END::"char" AS before,
        CASE WHEN new.organization_id IS NULL THEN 'a' WHEN new."is_primary" THEN 'p' ELSE 'm' END::"char" AS after
)
INSERT INTO "public"."group_member_changes" (organization_id, "member_id", "group_id", batch_id, row, before, after)
SELECT %(organization)s, own, other, %(batch)s, row, before, after
FROM done
WHERE before <> after;

-- Chunk: mark links and log it.
WITH done AS (
    UPDATE "public"."group_members" g SET "is_primary" = c.mark
    FROM "pg_temp"."link_changes" c
    WHERE c.change = '*' AND g.organization_id = %(organization)s AND g."member_id" = c.own AND g."group_id" = c.other
    RETURNING c.row, g."member_id" AS own, g."group_id" AS other,
        CASE WHEN old.organization_id IS NULL THEN 'a' WHEN old."is_primary" THEN 'p' ELSE 'm' END::"char" AS before,
        CASE WHEN new.organization_id IS NULL THEN 'a' WHEN new."is_primary" THEN 'p' ELSE 'm' END::"char" AS after
)
INSERT INTO "public"."group_member_changes" (organization_id, "member_id", "group_id", batch_id, row, before, after)
SELECT %(organization)s, own, other, %(batch)s, row, before, after
FROM done
WHERE before <> after;

-- Chunk: add links and log it.
WITH done AS (
    INSERT INTO "public"."group_members" AS g (organization_id, "member_id", "group_id", "is_primary")
    SELECT %(organization)s, l.* FROM (
        SELECT own AS "member_id", other AS "group_id", mark FROM "pg_temp"."link_changes" WHERE change = '+'
    ) AS l
    ORDER BY "l"."group_id", "l"."member_id"
    ON CONFLICT (organization_id, "member_id", "group_id") DO UPDATE SET "is_primary" = true WHERE excluded."is_primary"
    RETURNING g."member_id" AS own, g."group_id" AS other,
        CASE WHEN old.organization_id IS NULL THEN 'a' WHEN old."is_primary" THEN 'p' ELSE 'm' END::"char" AS before,
        CASE WHEN new.organization_id IS NULL THEN 'a' WHEN new."is_primary" THEN 'p' ELSE 'm' END::"char" AS after
)
INSERT INTO "public"."group_member_changes" (organization_id, "member_id", "group_id", batch_id, row, before, after)
SELECT %(organization)s, own, other, %(batch)s, row, before, after
FROM done JOIN "pg_temp"."link_changes" USING (own, other)
WHERE before <> after;

-- Chunk: update records that change.
WITH done AS (
    UPDATE "public"."contacts" r
    SET "external_id" = coalesce(s."external_id", r."external_id"),
        "name" = coalesce(s."name", r."name"),
        "email" = coalesce(s."email", r."email"),
        "phone" = coalesce(s."phone", r."phone"),
        "address" = coalesce(s."address", r."address"),
        "address_line2" = coalesce(s."address_line2", r."address_line2"),
        "alternate_names" = coalesce(s."alternate_names", r."alternate_names"),
        "alternate_emails" = jsonb_strip_nulls((coalesce(r."alternate_emails", '{}'::jsonb)) || coalesce(s."alternate_emails", '{}')),
        "alternate_phones" = jsonb_strip_nulls((coalesce(r."alternate_phones", '{}'::jsonb)) || coalesce(s."alternate_phones", '{}')),
        "alternate_addresses" = jsonb_strip_nulls((coalesce(r."alternate_addresses", '{}'::jsonb)) || coalesce(s."alternate_addresses", '{}')),
        "id_number" = coalesce(s."id_number", r."id_number"),
        "is_primary" = coalesce(s."is_primary", r."is_primary"),
        "notes" = coalesce(s."notes", r."notes"),
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
            r."metadata"
        ) IS DISTINCT FROM (
            coalesce(s."external_id", r."external_id"),
            coalesce(s."name", r."name"),
            coalesce(s."email", r."email"),
            coalesce(s."phone", r."phone"),
            coalesce(s."address", r."address"),
            coalesce(s."address_line2", r."address_line2"),
            coalesce(s."alternate_names", r."alternate_names"),
            jsonb_strip_nulls((coalesce(r."alternate_emails", '{}'::jsonb)) || coalesce(s."alternate_emails", '{}')),
            jsonb_strip_nulls((coalesce(r."alternate_phones", '{}'::jsonb)) || coalesce(s."alternate_phones", '{}')),
            jsonb_strip_nulls((coalesce(r."alternate_addresses", '{}'::jsonb)) || coalesce(s."alternate_addresses", '{}')),
            coalesce(s."id_number", r."id_number"),
            coalesce(s."is_primary", r."is_primary"),
            coalesce(s."notes", r."notes"),
            jsonb_strip_nulls((coalesce(r."metadata", '{}'::jsonb)) || coalesce(s."metadata", '{}'))
        )
      )
    RETURNING s.row
)
SELECT count(*) FROM done;

-- The same with the change log, if some item clears a field and the batch has a result file.
WITH done AS (
    UPDATE "public"."contacts" r
    SET "external_id" = CASE WHEN (s.cleared >> 1) & 1 = 1 THEN NULL::text ELSE coalesce(s."external_id", r."external_id") END,
        "name" = CASE WHEN (s.cleared >> 2) & 1 = 1 THEN NULL::text ELSE coalesce(s."name", r."name") END,
        "email" = CASE WHEN (s.cleared >> 3) & 1 = 1 THEN NULL::text ELSE coalesce(s."email", r."email") END,
        "phone" = CASE WHEN (s.cleared >> 4) & 1 = 1 THEN NULL::text ELSE coalesce(s."phone", r."phone") END,
        "address" = CASE WHEN (s.cleared >> 5) & 1 = 1 THEN NULL::text ELSE coalesce(s."address", r."address") END,
        "address_line2" = CASE WHEN (s.cleared >> 6) & 1 = 1 THEN NULL::text ELSE coalesce(s."address_line2", r."address_line2") END,
        "alternate_names" = CASE WHEN (s.cleared >> 7) & 1 = 1 THEN '[]'::jsonb ELSE coalesce(s."alternate_names", r."alternate_names") END,
        "alternate_emails" = jsonb_strip_nulls((CASE WHEN (s.cleared >> 8) & 1 = 1 THEN '{}'::jsonb ELSE coalesce(r."alternate_emails", '{}'::jsonb) END) || coalesce(s."alternate_emails", '{}')),
        "alternate_phones" = jsonb_strip_nulls((CASE WHEN (s.cleared >> 9) & 1 = 1 THEN '{}'::jsonb ELSE coalesce(r."alternate_phones", '{}'::jsonb) END) || coalesce(s."alternate_phones", '{}')),
        "alternate_addresses" = jsonb_strip_nulls((CASE WHEN (s.cleared >> 10) & 1 = 1 THEN '{}'::jsonb ELSE coalesce(r."alternate_addresses", '{}'::jsonb) END) || coalesce(s."alternate_addresses", '{}')),
        "id_number" = CASE WHEN (s.cleared >> 11) & 1 = 1 THEN NULL::text ELSE coalesce(s."id_number", r."id_number") END,
        "is_primary" = CASE WHEN (s.cleared >> 13) & 1 = 1 THEN NULL::boolean ELSE coalesce(s."is_primary", r."is_primary") END,
        "notes" = CASE WHEN (s.cleared >> 14) & 1 = 1 THEN NULL::text ELSE coalesce(s."notes", r."notes") END,
        "metadata" = jsonb_strip_nulls((CASE WHEN (s.cleared >> 15) & 1 = 1 THEN '{}'::jsonb ELSE coalesce(r."metadata", '{}'::jsonb) END) || coalesce(s."metadata", '{}')),
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
            r."metadata"
        ) IS DISTINCT FROM (
            CASE WHEN (s.cleared >> 1) & 1 = 1 THEN NULL::text ELSE coalesce(s."external_id", r."external_id") END,
            CASE WHEN (s.cleared >> 2) & 1 = 1 THEN NULL::text ELSE coalesce(s."name", r."name") END,
            CASE WHEN (s.cleared >> 3) & 1 = 1 THEN NULL::text ELSE coalesce(s."email", r."email") END,
            CASE WHEN (s.cleared >> 4) & 1 = 1 THEN NULL::text ELSE coalesce(s."phone", r."phone") END,
            CASE WHEN (s.cleared >> 5) & 1 = 1 THEN NULL::text ELSE coalesce(s."address", r."address") END,
            CASE WHEN (s.cleared >> 6) & 1 = 1 THEN NULL::text ELSE coalesce(s."address_line2", r."address_line2") END,
            CASE WHEN (s.cleared >> 7) & 1 = 1 THEN '[]'::jsonb ELSE coalesce(s."alternate_names", r."alternate_names") END,
            jsonb_strip_nulls((CASE WHEN (s.cleared >> 8) & 1 = 1 THEN '{}'::jsonb ELSE coalesce(r."alternate_emails", '{}'::jsonb) END) || coalesce(s."alternate_emails", '{}')),
            jsonb_strip_nulls((CASE WHEN (s.cleared >> 9) & 1 = 1 THEN '{}'::jsonb ELSE coalesce(r."alternate_phones", '{}'::jsonb) END) || coalesce(s."alternate_phones", '{}')),
            jsonb_strip_nulls((CASE WHEN (s.cleared >> 10) & 1 = 1 THEN '{}'::jsonb ELSE coalesce(r."alternate_addresses", '{}'::jsonb) END) || coalesce(s."alternate_addresses", '{}')),
            CASE WHEN (s.cleared >> 11) & 1 = 1 THEN NULL::text ELSE coalesce(s."id_number", r."id_number") END,
            CASE WHEN (s.cleared >> 13) & 1 = 1 THEN NULL::boolean ELSE coalesce(s."is_primary", r."is_primary") END,
            CASE WHEN (s.cleared >> 14) & 1 = 1 THEN NULL::text ELSE coalesce(s."notes", r."notes") END,
            jsonb_strip_nulls((CASE WHEN (s.cleared >> 15) & 1 = 1 THEN '{}'::jsonb ELSE coalesce(r."metadata", '{}'::jsonb) END) || coalesce(s."metadata", '{}'))
        )
      )
    RETURNING s.row, old.id, old.batch_id AS before_batch,
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
        organization_id, record_id, batch_id, row, op, changed, before_batch,
        "external_id", "name", "email", "phone", "address", "address_line2", "alternate_names", "alternate_emails", "alternate_phones", "alternate_addresses", "id_number", "is_primary", "notes", "metadata"
    )
    SELECT %(organization)s, id, %(batch)s, row, 'u', changed, before_batch,
        "external_id", "name", "email", "phone", "address", "address_line2", "alternate_names", "alternate_emails", "alternate_phones", "alternate_addresses", "id_number", "is_primary", "notes", "metadata"
    FROM done
    WHERE changed <> 0
), noted AS (
    INSERT INTO "staging"."changes_batch_1" (row)
    SELECT row FROM done
)
SELECT count(*) FROM done;
