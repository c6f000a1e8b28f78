"""How this system talks to PostgreSQL: an SQLAlchemy engine for the ledger, psycopg 3 connections for bulk work."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg.conninfo import conninfo_to_dict

from batch_pipeline.errors import SettingError, UnavailableError

CONNECT_TIMEOUT_SECONDS = 10


def connect(database_url: str, *, autocommit: bool = False) -> psycopg.Connection[tuple[Any, ...]]:
    """A psycopg connection for bulk work. Raises UnavailableError, with the server's own words on one line."""
    parameters: dict[str, Any] = {
        "connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "application_name": "batch_pipeline",
    }
    try:
        parameters |= conninfo_to_dict(database_url)
    except psycopg.ProgrammingError:  # its text repeats the URL with the password
        raise SettingError(
            "BATCH_DATABASE_URL is no URL that libpq can read: give postgresql://user@host/name"
        ) from None
    try:
        return psycopg.connect("", autocommit=autocommit, **parameters)
    except psycopg.ProgrammingError as error:  # of a single parameter, which it names
        raise SettingError(f"BATCH_DATABASE_URL can't be used: {_one_line(error)}") from None
    except psycopg.OperationalError as error:
        raise UnavailableError("database", f"The database can't be reached: {_one_line(error)}") from None


def create_engine(database_url: str) -> sa.Engine:
    """An engine whose connections come from `connect`: any libpq form of URL works, socket directories included."""
    return sa.create_engine(
        "postgresql+psycopg://",
        creator=lambda: connect(database_url),
        pool_size=4,
        max_overflow=16,
        pool_pre_ping=True,
        pool_recycle=1800,
    )


@contextmanager
def translating_outages() -> Iterator[None]:
    """Turns a lost or refused database connection into UnavailableError; other errors pass unchanged."""
    try:
        yield
    except (psycopg.OperationalError, sa.exc.OperationalError) as error:
        cause = error.orig if isinstance(error, sa.exc.OperationalError) else error
        if isinstance(cause, psycopg.OperationalError) and is_outage(cause):
            raise UnavailableError(
                "database", f"The database went away ({_first_line(cause)}): retry the batch once it is back."
            ) from error
        raise


def is_outage(error: psycopg.Error) -> bool:
    """Whether the error means that the server or the connection is gone (SQLSTATE class 08, 57P, or none at all)."""
    return isinstance(error, psycopg.OperationalError) and (
        error.sqlstate is None or error.sqlstate.startswith(("08", "57P", "53300"))
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _first_line(error: BaseException) -> str:
    """What went wrong; the lines below it are advice to the server's administrator."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
