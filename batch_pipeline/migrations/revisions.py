"""The revision of the database's schema, and the newest one, without Alembic."""

from pathlib import Path

from psycopg import sql

from batch_pipeline.database import Connection

VERSION_TABLE = "batch_pipeline_schema"


def stored_revision(connection: Connection) -> str | None:
    """The database's revision; None before the first migration."""
    row = connection.execute("SELECT to_regclass(%s)", (VERSION_TABLE,)).fetchone()
    if row is None or row[0] is None:
        return None
    query = sql.SQL("SELECT version_num FROM {}").format(sql.Identifier(VERSION_TABLE))
    stored = connection.execute(query).fetchone()
    return None if stored is None else str(stored[0])


def newest_revision() -> str:
    """The last migration's revision, with which its file's name begins."""
    return max(path.name for path in (Path(__file__).parent / "versions").glob("[0-9]*.py")).partition("_")[0]
