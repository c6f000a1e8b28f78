"""The database's schema, step by step (Alembic). A new resource adds one module under `versions/`."""

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from batch_pipeline.database import create_engine
from batch_pipeline.errors import SettingError

MINIMUM_VERSION = 170_000  # as server_version_num: the collation pg_c_utf8, by which emails are compared

# Any constant will do, as long as all processes that migrate one database use the same.
_MIGRATION_LOCK = 4_021_962_775_312


def upgrade(database_url: str, revision: str = "head") -> None:
    """Brings the database to the newest schema, or to an earlier revision of it.

    Safe to call at once from several processes, and again.

    Raises UnavailableError where the database can't be reached, SettingError where its PostgreSQL is too old.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    engine = create_engine(database_url)
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("SELECT pg_advisory_lock(%s)", (_MIGRATION_LOCK,))
            connection.commit()
            try:
                _check_version(connection)
                connection.commit()  # Alembic commits only a transaction that it began itself
                config.attributes["connection"] = connection
                command.upgrade(config, revision)
            finally:
                connection.rollback()
                connection.exec_driver_sql("SELECT pg_advisory_unlock(%s)", (_MIGRATION_LOCK,))
                connection.commit()
    finally:
        engine.dispose()


def _check_version(connection: sa.Connection) -> None:
    version = int(connection.exec_driver_sql("SHOW server_version_num").scalar_one())
    if version < MINIMUM_VERSION:
        raise SettingError(
            f"BATCH_DATABASE_URL names PostgreSQL {version // 10_000}: "
            f"version {MINIMUM_VERSION // 10_000} or newer is needed"
        )
