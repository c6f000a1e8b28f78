"""Migrations of the database's schema (Alembic). A new resource adds one module under `versions/`."""

from pathlib import Path

from batch_pipeline.database import Connection, connect
from batch_pipeline.migrations import roles

VERSION_TABLE = "batch_pipeline_schema"


def upgrade(database_url: str, revision: str = "head") -> bool:
    """Upgrades the database to the newest schema, or to the given revision, and protects new tables (`roles`).

    Idempotent. Several processes can call it at the same time. Returns False, and changes nothing, if a newer version
    of this package has upgraded the database: migrations only add, so its schema serves this version too.

    Raises UnavailableError if the database can't be reached, SettingError if its PostgreSQL is too old.
    """
    # Most commands find the newest schema. The import of Alembic and of all migrations takes longer than they do.
    if revision == "head":
        with connect(database_url) as connection:
            if _stored_revision(connection) == _newest_revision():
                roles.protect(connection)
                return True
    from batch_pipeline.migrations.applying import apply

    return apply(database_url, revision)


def _stored_revision(connection: Connection) -> str | None:
    """The database's revision; None before the first migration."""
    row = connection.execute("SELECT to_regclass(%s)", (VERSION_TABLE,)).fetchone()
    if row is None or row[0] is None:
        return None
    stored = connection.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchone()  # noqa: S608 - a constant
    return None if stored is None else str(stored[0])


def _newest_revision() -> str:
    """The last migration's revision, with which its file's name begins."""
    return max(path.name for path in (Path(__file__).parent / "versions").glob("[0-9]*.py")).partition("_")[0]
