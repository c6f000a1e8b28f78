"""Connections to PostgreSQL: an SQLAlchemy engine for the ledger, psycopg 3 connections for bulk work."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, LiteralString
from urllib.parse import quote, urlsplit

import msgspec
import psycopg
import sqlalchemy as sa
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb, set_json_loads
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from batch_pipeline.errors import SettingError, UnavailableError

Connection = psycopg.Connection[tuple[Any, ...]]

CONNECT_TIMEOUT_SECONDS = 10
# A machine that vanishes sends no FIN, and with TCP's defaults the server keeps its locks for two hours. With these
# values, either side notices a dead peer within 35 s: after 20 s of silence and three probes, or after 30 s of
# unacknowledged data. PostgreSQL ignores them on a unix socket.
_KEEPALIVE = {
    "tcp_keepalives_idle": 20,  # seconds
    "tcp_keepalives_interval": 5,  # seconds
    "tcp_keepalives_count": 3,
    "tcp_user_timeout": 30_000,  # milliseconds
}
# A connection that was returned to the pool within this time is assumed to be alive: no server restarts as fast.
TRUSTED_SECONDS = 0.25
# More than a batch of each resource has. psycopg prepares a statement at its sixth execution on a connection.
PREPARED_STATEMENTS = 300
_AT_REST_SINCE = "at_rest_since"
_ON_BEGIN = "batch_pipeline_on_begin"

_AT_REST = (TransactionStatus.IDLE, TransactionStatus.INTRANS, TransactionStatus.INERROR)


def connect(database_url: str, *, autocommit: bool = False) -> Connection:
    """Opens a psycopg connection. Raises UnavailableError with the server's message on one line, and SettingError."""
    parameters = connection_parameters(database_url)
    try:
        return psycopg.connect("", autocommit=autocommit, **parameters)
    except psycopg.ProgrammingError as error:  # it names one wrong parameter, without the URL
        raise SettingError(f"BATCH_DATABASE_URL can't be used: {_one_line(error)}") from None
    except psycopg.OperationalError as error:
        raise UnavailableError("database", f"The database can't be reached: {_one_line(error)}") from None


def connection_parameters(database_url: str) -> dict[str, Any]:
    """The connection parameters for psycopg. Raises SettingError if libpq can't parse the URL."""
    defaults = {"connect_timeout": CONNECT_TIMEOUT_SECONDS, "application_name": "batch_pipeline", **client_keepalives()}
    try:
        given = conninfo_to_dict(database_url)
    except psycopg.ProgrammingError:  # its text repeats the URL with the password
        raise SettingError("BATCH_DATABASE_URL is not a valid libpq URL: give postgresql://user@host/name") from None
    return {**defaults, **given, "options": with_server_keepalives(given.get("options"))}


def url_of_role(database_url: str, role: str) -> str:
    """The URL with this user instead of its own, and without a password."""
    parts = urlsplit(database_url)
    return parts._replace(netloc=f"{quote(role)}@{parts.netloc.rpartition('@')[2]}").geturl()


def client_keepalives() -> dict[str, Any]:
    """libpq parameters with which the client notices that the server's machine has vanished."""
    return {
        "keepalives": 1,
        **{name.replace("tcp_keepalives", "keepalives"): value for name, value in _KEEPALIVE.items()},
    }


def with_server_keepalives(options: object) -> str:
    """The `options` of a libpq URL, extended so that the server notices that the client's machine has vanished.

    Settings in the URL take precedence.
    """
    settings = " ".join(f"-c{name}={value}" for name, value in _KEEPALIVE.items())
    return f"{settings} {options}" if options else settings  # PostgreSQL uses the last value


def create_engine(
    database_url: str,
    *,
    on_connect: Callable[[Connection], None] | None = None,
    on_begin: Callable[[Connection], None] | None = None,
    kept_connections: int = 4,
) -> sa.Engine:
    """An engine that opens its connections with `connect`, so any libpq URL works, also with a socket directory.

    `on_connect` checks each new connection. `on_begin` executes the first statement of each transaction, and of each
    `borrowed` connection. Of the connections in use at once, `kept_connections` stay open for later callers.
    """

    def open_connection() -> Connection:
        connection = connect(database_url)
        if on_connect is not None:
            try:
                on_connect(connection)
            except BaseException:
                connection.close()
                raise
        connection.prepared_max = PREPARED_STATEMENTS
        set_json_loads(msgspec.json.decode, connection)  # the same values as json.loads, in a third of the time
        return connection

    engine = sa.create_engine(
        "postgresql+psycopg://",
        creator=open_connection,
        execution_options={_ON_BEGIN: on_begin},
        pool_size=kept_connections,
        max_overflow=-1,  # a thread that holds a connection may need another, so a limit could cause a deadlock
        pool_use_lifo=True,  # the server process of a connection in use has its caches filled
        pool_recycle=1800,
        hide_parameters=True,  # parameters may be customers' values, and errors are logged
    )
    replace_lost_connections(engine, lambda connection: _execute_alone(connection, sql.SQL("SELECT 1")))
    if on_begin is not None:
        sa.event.listen(engine, "begin", lambda connection: on_begin(connection.connection.driver_connection))
    return engine


def single_statements(engine: sa.Engine) -> sa.Engine:
    """The engine for transactions of one statement: autocommit saves the round trips for BEGIN and COMMIT.

    It also saves a reader's ROLLBACK, at which psycopg forgets all statements that it has prepared on the connection.

    The same engine if its transactions begin with a statement of their own.
    """
    if engine.get_execution_options().get(_ON_BEGIN) is not None:
        return engine
    return engine.execution_options(isolation_level="AUTOCOMMIT")


def statement_text(statement: sa.Select[Any]) -> LiteralString:
    """The statement as psycopg executes it, with its parameters by name: for statements that calls wait for.

    It must have no other parameters than `bindparam`s.
    """
    compiled = statement.compile(dialect=PGDialect_psycopg())  # type: ignore[no-untyped-call] # untyped there
    assert all(value is None for value in compiled.params.values())  # noqa: S101 - they would be lost
    return str(compiled)


@dataclass(frozen=True)
class _Made:
    """A statement as psycopg executes it: its values that are the same at each execution, and its parameters of JSON.

    Attributes:
        documents: the JSON parameters; whether None is SQL's NULL.
    """

    text: LiteralString
    constants: Mapping[str, Any]
    documents: Mapping[str, bool]


@lru_cache(maxsize=128)
def _make(statement: sa.Executable) -> _Made:
    compiled = statement.compile(dialect=PGDialect_psycopg())  # type: ignore[attr-defined,no-untyped-call] # untyped
    given = {name for name, bind in compiled.binds.items() if bind.required}
    constants = {name: value for name, value in compiled.params.items() if name not in given}
    documents = {
        name: bind.type.none_as_null for name, bind in compiled.binds.items() if isinstance(bind.type, sa.JSON)
    }
    return _Made(str(compiled), constants, documents)


def fetch_row(connection: Connection, statement: sa.Executable, parameters: Mapping[str, Any]) -> dict[str, Any] | None:
    """Executes a statement of SQLAlchemy's by psycopg alone; returns its only row, or None.

    For statements that are made once and that batches wait for: SQLAlchemy takes longer to execute one than PostgreSQL.
    """
    made = _make(statement)
    documents = {
        name: None if none_is_null and parameters[name] is None else Jsonb(parameters[name])
        for name, none_is_null in made.documents.items()
        if name in parameters
    }
    return rows_by_name(connection).execute(made.text, {**made.constants, **parameters, **documents}).fetchone()


def rows_by_name(connection: Connection) -> psycopg.Cursor[dict[str, Any]]:
    """A cursor with rows as dictionaries by column name."""
    return connection.cursor(row_factory=dict_row)


def replace_lost_connections(engine: sa.Engine, ping: Callable[[Any], None]) -> None:
    """Makes the engine's pool replace a connection that was lost while idle.

    `ping` executes a statement on a driver's connection, and raises the driver's OperationalError if it is lost.
    SQLAlchemy's pre-ping does the same at each checkout; that round trip costs as much as a short statement.
    """
    lost = engine.dialect.loaded_dbapi.OperationalError

    def note_time(_: Any, record: sa.pool.ConnectionPoolEntry) -> None:
        record.info[_AT_REST_SINCE] = time.monotonic()

    def require_alive(connection: Any, record: sa.pool.ConnectionPoolEntry, _: Any) -> None:
        if time.monotonic() - record.info.get(_AT_REST_SINCE, math.inf) < TRUSTED_SECONDS:
            return
        try:
            ping(connection)
        except lost as error:
            raise sa.exc.DisconnectionError from error

    sa.event.listen(engine, "checkin", note_time)
    sa.event.listen(engine, "checkout", require_alive)


def driver_connection(connection: sa.Connection) -> Connection:
    """The psycopg connection under SQLAlchemy's, for statements in its transaction."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)  # noqa: S101 - `create_engine` makes no others
    return driver


@contextmanager
def borrowed(engine: sa.Engine, **settings: str) -> Iterator[Connection]:
    """Borrows a psycopg connection from the engine's pool, with these PostgreSQL settings until it is returned.

    Commits its transaction at the end, or rolls it back after an exception.
    """
    pooled = engine.raw_connection()
    connection = pooled.driver_connection
    assert isinstance(connection, psycopg.Connection)  # noqa: S101 - `create_engine` makes no others
    try:
        if settings:
            set_in_session(connection, settings)
        if (on_begin := engine.get_execution_options().get(_ON_BEGIN)) is not None:
            on_begin(connection)
        yield connection
        connection.commit()
    finally:
        with _returned(pooled):
            if connection.info.transaction_status not in _AT_REST:
                raise psycopg.OperationalError("lost, or still executing a statement")
            connection.rollback()
            if settings:
                _execute_alone(connection, sql.SQL("RESET ALL"))


@contextmanager
def borrowed_for_statements(engine: sa.Engine) -> Iterator[Connection]:
    """As `borrowed`, for reading: each statement is a transaction of its own, which saves BEGIN and COMMIT.

    They share one transaction if the engine's transactions begin with a statement of their own.
    """
    with borrowed(engine) as connection:
        if engine.get_execution_options().get(_ON_BEGIN) is not None:
            yield connection
            return
        connection.autocommit = True
        try:
            yield connection
        finally:
            if connection.info.transaction_status is TransactionStatus.IDLE:  # else it is lost, and will be closed
                connection.autocommit = False


@contextmanager
def borrowed_session(engine: sa.Engine, **settings: str) -> Iterator[Connection]:
    """As `borrowed`, for session locks and a transaction at a time: the connection is in autocommit mode.

    The end releases the session's advisory locks. An exception closes the connection, which releases them as well.
    """
    pooled = engine.raw_connection()
    connection = pooled.driver_connection
    assert isinstance(connection, psycopg.Connection)  # noqa: S101 - `create_engine` makes no others
    try:
        connection.autocommit = True
        if settings:
            set_in_session(connection, settings)
        yield connection
    except BaseException:
        pooled.invalidate()
        raise
    with _returned(pooled):
        connection.execute("SELECT pg_advisory_unlock_all(); RESET ALL")
        connection.autocommit = False


@contextmanager
def _returned(pooled: sa.PoolProxiedConnection) -> Iterator[None]:
    """Returns the connection to the pool after the block, which resets it. If the block fails, closes the connection.

    An interrupt may come in the middle of it, and the next caller must not get the settings or locks of this one.
    """
    try:
        yield
    except psycopg.Error:  # it was lost, which concerns nobody any more
        pooled.invalidate()
    except BaseException:
        pooled.invalidate()
        raise
    else:
        pooled.close()


def set_in_session(connection: Connection, settings: Mapping[str, str]) -> None:
    """Changes PostgreSQL settings for the session. The connection must not be in a transaction."""
    each = [sql.SQL("set_config(%s, %s, false)")] * len(settings)
    values = [text for setting in settings.items() for text in setting]
    _execute_alone(connection, sql.SQL("SELECT {}").format(sql.SQL(", ").join(each)), values)


def _execute_alone(connection: Connection, statement: sql.SQL | sql.Composed, parameters: Sequence[str] = ()) -> None:
    """Executes the statement in one round trip instead of three: without BEGIN and COMMIT."""
    before = connection.autocommit
    if not before:
        connection.autocommit = True
    connection.execute(statement, parameters)
    if not before:
        connection.autocommit = False


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
    """Whether the server or the connection is gone, or the server is full (SQLSTATE 08, 57P, 53300 or none)."""
    return isinstance(error, psycopg.OperationalError) and (
        error.sqlstate is None or error.sqlstate.startswith(("08", "57P", "53300"))
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _first_line(error: BaseException) -> str:
    """The error's first line; further lines are advice for the server's administrator."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
