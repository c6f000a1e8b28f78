"""What batches have in schema `staging`."""

import psycopg
from psycopg import sql

_TABLES = """
SELECT c.relname FROM pg_class c
WHERE c.relnamespace = 'staging'::regnamespace AND c.relkind = 'r' AND c.relname LIKE %s
ORDER BY 1
"""


def staged_rows(database_url: str, batch_id: str = "") -> dict[str, int]:
    """Rows of one batch, or of all, by table. A table of a batch's own is listed without rows as well."""
    found = {}
    with psycopg.connect(database_url, autocommit=True) as connection:
        for (name,) in connection.execute(_TABLES, (f"%\\_batch\\_{batch_id.removeprefix('batch_')}%",)).fetchall():
            found[name] = _count(connection, name, "")
        for (name,) in connection.execute(_TABLES, (r"shared\_%",)).fetchall():
            rows = _count(connection, name, batch_id)
            if rows:
                found[name] = rows
    return found


def _count(connection: psycopg.Connection[tuple[object, ...]], table: str, batch_id: str) -> int:
    query = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier("staging", table))
    if batch_id:
        query += sql.SQL(" WHERE batch_id = {}").format(batch_id)
    row = connection.execute(query).fetchone()
    assert row is not None
    return int(str(row[0]))
