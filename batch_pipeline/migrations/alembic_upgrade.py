"""Applies migrations with Alembic."""

from pathlib import Path
from typing import cast

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from batch_pipeline.database import Connection, create_engine
from batch_pipeline.errors import SettingError
from batch_pipeline.migrations import roles
from batch_pipeline.migrations.revisions import stored_revision

MINIMUM_VERSION = (
    170_000  # as server_version_num; the first version with the collation pg_c_utf8, which compares emails
)

# An arbitrary number, the same in all processes that migrate one database.
_MIGRATION_LOCK = 4_021_962_775_312


def apply(database_url: str, revision: str) -> bool:
    """As `migrations.upgrade`, whatever the database's revision."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    engine = create_engine(database_url)
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("SELECT pg_advisory_lock(%s)", (_MIGRATION_LOCK,))
            connection.commit()
            try:
                _check_version(connection)
                driver_connection = cast(Connection, connection.connection.driver_connection)
                is_newer = _is_newer(driver_connection, ScriptDirectory.from_config(config))
                connection.commit()  # Alembic commits only transactions that it began
                if is_newer:
                    return False
                config.attributes["connection"] = connection
                command.upgrade(config, revision)
                connection.commit()  # Alembic leaves a transaction if there was nothing to do
                with connection.begin():
                    roles.protect(driver_connection)
                return True
            finally:
                connection.rollback()
                connection.exec_driver_sql("SELECT pg_advisory_unlock(%s)", (_MIGRATION_LOCK,))
                connection.commit()
    finally:
        engine.dispose()


def _is_newer(connection: Connection, scripts: ScriptDirectory) -> bool:
    """Whether the database has a revision that this package does not have."""
    stored = stored_revision(connection)
    return stored is not None and stored not in {script.revision for script in scripts.walk_revisions()}


def _check_version(connection: sa.Connection) -> None:
    version = int(connection.exec_driver_sql("SHOW server_version_num").scalar_one())
    if version < MINIMUM_VERSION:
        raise SettingError(
            f"BATCH_DATABASE_URL leads to PostgreSQL {version // 10_000}: "
            f"use version {MINIMUM_VERSION // 10_000} or newer"
        )
