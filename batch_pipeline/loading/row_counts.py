"""Numbers of rows: of a whole table, in milliseconds whatever its size, and of one organization's records."""

from psycopg import sql

from batch_pipeline.database import Connection

COUNTED_ROWS = 10_000  # tables that the planner takes to be larger are not counted


def estimate_rows(connection: Connection, table: str) -> int:
    """The rows of a table in schema public: counted in a small table, PostgreSQL's estimate of a larger one.

    Counting a million rows takes a tenth of a second, and the number is wanted after every batch. The estimate follows
    the size of the table's file since its last ANALYZE.
    """
    name = sql.Identifier("public", table)
    row = connection.execute(sql.SQL("EXPLAIN (FORMAT JSON) SELECT FROM {}").format(name)).fetchone()
    estimate = int(row[0][0]["Plan"]["Plan Rows"]) if row is not None else 0
    if estimate > COUNTED_ROWS:
        return estimate
    counted = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(name)).fetchone()
    return int(counted[0]) if counted is not None else 0


def count_records(connection: Connection, table: str, organization_id: str) -> int:
    """The organization's records in a table."""
    statement = sql.SQL("SELECT count(*) FROM {} WHERE organization_id = %s").format(sql.Identifier("public", table))
    row = connection.execute(statement, (organization_id,)).fetchone()
    return int(row[0]) if row is not None else 0
