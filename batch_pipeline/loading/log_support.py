"""Whether the server can have a change log: only `RETURNING old.…` of PostgreSQL 18 shows what an UPDATE replaced."""

from batch_pipeline.database import Connection
from batch_pipeline.errors import StateError

MINIMUM_VERSION = 180_000  # as server_version_num


def can_log(connection: Connection) -> bool:
    """Whether the server has what the log needs."""
    return connection.info.server_version >= MINIMUM_VERSION


def log_refusal(connection: Connection) -> StateError | None:
    """Why the server can't have a log (`needs_postgresql_18`); None if it can."""
    if can_log(connection):
        return None
    version = connection.info.server_version // 10_000
    return StateError(
        "needs_postgresql_18",
        f"History and undo need PostgreSQL {MINIMUM_VERSION // 10_000}, and the database is version {version}: "
        "batches work, but don't log what they change.",
    )


def require_log(connection: Connection) -> None:
    """Raises StateError (`needs_postgresql_18`) if the server can't have a log."""
    refusal = log_refusal(connection)
    if refusal is not None:
        raise refusal
