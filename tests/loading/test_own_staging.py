"""The staging tables of a large batch, on PostgreSQL."""

from psycopg import sql

from batch_pipeline.database import connect
from batch_pipeline.loading.own_staging import OwnStaging
from batch_pipeline.loading.parsed_chunks import ParsedChunks
from batch_pipeline.records.contact import CONTACT

LEFT_ALONE = ["autovacuum_enabled=off"]


def test_autovacuum_leaves_them_alone_so_that_no_index_and_no_drop_waits_for_it(module_database_url: str) -> None:
    with connect(module_database_url) as connection:
        merge = OwnStaging("batch_merge")
        merge.create(connection, CONTACT, ("external_id", "name"), keep_changes=True)
        ParsedChunks(connection, merge).create(3)
        merge.replace(connection, "preview", ("row", "id"), sql.SQL("SELECT 1::bigint, 'id'").format(), {})
        found = connection.execute(
            "SELECT c.relname, c.reloptions, toast.reloptions FROM pg_class c LEFT JOIN pg_class toast"
            " ON toast.oid = c.reltoastrelid WHERE c.relnamespace = 'staging'::regnamespace AND c.relkind = 'r'"
            " AND c.relname LIKE '%batch_merge' ORDER BY c.relname"
        ).fetchall()
    parts = ["changes", "errors", "items", "parsed", "plan", "preview"]
    assert [name for name, _, _ in found] == [f"{part}_batch_merge" for part in parts]
    assert all(options == LEFT_ALONE and toast in (None, LEFT_ALONE) for _, options, toast in found)
