"""Migrations of the database's schema (Alembic). A new resource adds one module under `versions/`."""

from batch_pipeline.database import connect
from batch_pipeline.migrations import roles
from batch_pipeline.migrations.revisions import newest_revision, stored_revision


def upgrade(database_url: str, revision: str = "head") -> bool:
    """Upgrades the database to the newest schema, or to the given revision, and protects new tables (`roles`).

    Idempotent. Several processes can call it at the same time. Returns False, and changes nothing, if a newer version
    of this package has upgraded the database: migrations only add, so its schema serves this version too.

    Raises UnavailableError if the database can't be reached, SettingError if its PostgreSQL is too old.
    """
    # Most commands find the newest schema. The import of Alembic and of all migrations takes longer than they do.
    if revision == "head":
        with connect(database_url) as connection:
            if stored_revision(connection) == newest_revision():
                roles.protect(connection)
                return True
    from batch_pipeline.migrations.alembic_upgrade import apply

    return apply(database_url, revision)
