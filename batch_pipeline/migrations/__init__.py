"""The database's schema, step by step (Alembic). A new resource adds one module under `versions/`."""

from pathlib import Path

from alembic import command
from alembic.config import Config

from batch_pipeline.database import create_engine

# Any constant will do, as long as all processes that migrate one database use the same.
_MIGRATION_LOCK = 4_021_962_775_312


def upgrade(database_url: str) -> None:
    """Brings the database to the newest schema. Safe to call at once from several processes, and again.

    Raises UnavailableError where the database can't be reached.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    engine = create_engine(database_url)
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("SELECT pg_advisory_lock(%s)", (_MIGRATION_LOCK,))
            connection.commit()
            try:
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
            finally:
                connection.rollback()
                connection.exec_driver_sql("SELECT pg_advisory_unlock(%s)", (_MIGRATION_LOCK,))
                connection.commit()
    finally:
        engine.dispose()
