"""The revision of the database's schema, and the newest one, without Alembic."""

from pathlib import Path

from batch_pipeline.database import Connection

VERSION_TABLE = "batch_pipeline_schema"


def stored_revision(connection: Connection) -> str | None:
    """The database's revision; None before the first migration."""
    row = connection.execute("SELECT to_regclass(%s)", (VERSION_TABLE,)).fetchone()
    if row is None or row[0] is None:
        return None
    stored = connection.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchone()  # noqa: S608 - a constant
    return None if stored is None else str(stored[0])


def newest_revision() -> str:
    """The last migration's revision, with which its file's name begins."""
    return max(path.name for path in (Path(__file__).parent / "versions").glob("[0-9]*.py")).partition("_")[0]
