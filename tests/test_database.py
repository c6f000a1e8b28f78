"""Connections to PostgreSQL, and their errors."""

import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import psycopg
import pytest
import sqlalchemy as sa

from batch_pipeline import database
from batch_pipeline.database import (
    Connection,
    borrowed,
    borrowed_session,
    connect,
    create_engine,
    is_outage,
    translating_outages,
)
from batch_pipeline.errors import BatchError, SettingError, UnavailableError

HIDDEN = "hunter2-very-secret"


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that nothing listens on, and nothing can come to listen on meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield int(held.getsockname()[1])


def test_any_form_of_url_connects(database_url: str) -> None:
    with connect(database_url) as connection:
        assert connection.execute("SELECT current_setting('application_name')").fetchone() == ("batch_pipeline",)
        assert not connection.autocommit
    with connect(database_url, autocommit=True) as connection:
        assert connection.autocommit


def test_parameters_of_the_url_override_our_defaults(database_url: str) -> None:
    separator = "&" if "?" in database_url else "?"
    with connect(f"{database_url}{separator}application_name=mine") as connection:
        assert connection.execute("SELECT current_setting('application_name')").fetchone() == ("mine",)


def test_the_engine_connects_as_connect_does(database_url: str) -> None:
    engine = create_engine(database_url)
    try:
        with engine.connect() as connection:
            assert connection.execute(sa.text("SELECT 1")).scalar_one() == 1
    finally:
        engine.dispose()


def test_an_error_of_the_engine_does_not_repeat_the_values_of_the_statement(database_url: str) -> None:
    engine = create_engine(database_url)
    try:
        with pytest.raises(sa.exc.DataError, match="NUL") as caught, engine.connect() as connection:
            connection.execute(sa.select(sa.literal(f"{HIDDEN}\x00")))
    finally:
        engine.dispose()
    assert HIDDEN not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://user:{HIDDEN}@host:port/name",
        f"postgresql://user:{HIDDEN}@host/name?nonsense=1",
        f"postgresql://user:{HIDDEN}@[host/name",
        f"postgresql://user:{HIDDEN}%zz@host/name",
        f"postgresql://user:{HIDDEN}@localhost/name?connect_timeout=soon",
        f"postgresql://user:{HIDDEN}@localhost:99999/name",
        f"postgresql://user:{HIDDEN}@localhost/name?sslmode=bogus",
    ],
)
def test_a_url_that_libpq_cannot_read_is_one_line_without_the_password(url: str) -> None:
    message = _refusal(url)

    assert "BATCH_DATABASE_URL" in message or "database" in message


def test_an_unavailable_server_is_an_outage(closed_port: int) -> None:
    with pytest.raises(UnavailableError) as caught:
        connect(f"postgresql://user:{HIDDEN}@127.0.0.1:{closed_port}/name")

    assert caught.value.code == "database_unavailable"
    assert str(closed_port) in _refusal(f"postgresql://user:{HIDDEN}@127.0.0.1:{closed_port}/name")


@pytest.mark.parametrize("change", [{"dbname": "no_such_database"}, {"user": "no_such_role"}])
def test_a_server_that_refuses_is_one_line_with_its_reason(database_url: str, change: dict[str, str]) -> None:
    url = psycopg.conninfo.make_conninfo(database_url, **{"password": HIDDEN, **change})

    message = _refusal(url)

    assert next(iter(change.values())) in message


def test_the_engine_reports_an_outage_as_connect_does(closed_port: int) -> None:
    engine = create_engine(f"postgresql://user:{HIDDEN}@127.0.0.1:{closed_port}/name")

    with pytest.raises(UnavailableError) as caught:
        engine.connect()

    assert HIDDEN not in str(caught.value)


def test_a_connection_that_the_server_ends_is_an_outage(database_url: str) -> None:
    with connect(database_url, autocommit=True) as killer:
        connection = connect(database_url)
        killer.execute("SELECT pg_terminate_backend(%s)", (connection.info.backend_pid,))

        with pytest.raises(UnavailableError) as caught, translating_outages():
            connection.execute("SELECT 1")

    assert "\n" not in caught.value.message
    connection.close()


def test_a_connection_of_the_engine_that_the_server_ends_is_an_outage(database_url: str) -> None:
    engine = create_engine(database_url)
    with connect(database_url, autocommit=True) as killer, engine.connect() as connection:
        pid = connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()
        killer.execute("SELECT pg_terminate_backend(%s)", (pid,))

        with pytest.raises(UnavailableError), translating_outages():
            connection.execute(sa.text("SELECT 1"))
    engine.dispose()


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    made = create_engine(database_url)
    yield made
    made.dispose()


def test_a_borrowed_connection_is_returned_unchanged(engine: sa.Engine) -> None:
    with borrowed(engine, work_mem="1MB") as connection:
        pid = connection.info.backend_pid
        assert connection.execute("SHOW work_mem").fetchone() == ("1MB",)
        connection.execute("CREATE TABLE kept ()")

    with borrowed(engine) as connection:
        assert connection.info.backend_pid == pid
        assert connection.execute("SHOW work_mem").fetchone() != ("1MB",)
        assert connection.execute("SELECT to_regclass('kept')").fetchone() == ("kept",)


@pytest.mark.parametrize("statement", ["SELECT 1", "SELECT 1 / 0"])
def test_after_an_exception_a_borrowed_connection_is_rolled_back_and_its_settings_end(
    engine: sa.Engine, statement: str
) -> None:
    def fail() -> None:
        with borrowed(engine, work_mem="1MB") as connection:
            connection.execute("CREATE TABLE lost ()")
            connection.execute(statement)
            raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, psycopg.errors.DivisionByZero)):
        fail()

    with borrowed(engine) as connection:
        assert connection.execute("SELECT to_regclass('lost')").fetchone() == (None,)
        assert connection.execute("SHOW work_mem").fetchone() != ("1MB",)


def test_a_connection_left_inside_a_statement_is_not_reused(engine: sa.Engine) -> None:
    pids = []

    def interrupt() -> None:
        with borrowed(engine) as connection:
            pids.append(connection.info.backend_pid)
            connection.pgconn.send_query(b"SELECT pg_sleep(60)")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()

    with borrowed(engine) as connection:
        assert connection.info.backend_pid not in pids
        assert connection.execute("SELECT pg_terminate_backend(%s)", pids).fetchone() == (True,)


def test_a_connection_lost_in_the_pool_is_not_reused(
    engine: sa.Engine, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "TRUSTED_SECONDS", 0.0)
    with borrowed(engine) as connection:
        pid = connection.info.backend_pid
    with connect(database_url, autocommit=True) as killer:
        killer.execute("SELECT pg_terminate_backend(%s)", (pid,))

    with borrowed(engine) as connection:
        assert connection.execute("SELECT pg_backend_pid()").fetchone() != (pid,)


LOCK = "SELECT pg_try_advisory_lock(1)"


def test_the_locks_of_a_borrowed_session_end_with_it(engine: sa.Engine, database_url: str) -> None:
    with borrowed_session(engine, work_mem="1MB") as session, connect(database_url, autocommit=True) as other:
        pid = session.info.backend_pid
        assert session.autocommit
        assert session.execute(LOCK).fetchone() == (True,)
        assert other.execute(LOCK).fetchone() == (False,)

    with borrowed(engine) as connection, connect(database_url, autocommit=True) as other:
        assert connection.info.backend_pid == pid
        assert not connection.autocommit
        assert connection.execute("SHOW work_mem").fetchone() != ("1MB",)
        assert other.execute(LOCK).fetchone() == (True,)


def test_a_borrowed_session_is_closed_by_an_exception_and_by_its_loss(engine: sa.Engine, database_url: str) -> None:
    def fail(pid: int) -> None:
        with borrowed_session(engine) as session:
            assert session.info.backend_pid != pid
            pids.append(session.info.backend_pid)
            raise KeyboardInterrupt

    pids: list[int] = []
    with borrowed_session(engine) as session, connect(database_url, autocommit=True) as killer:
        pids.append(session.info.backend_pid)
        killer.execute("SELECT pg_terminate_backend(%s, 60000)", pids)
    with pytest.raises(KeyboardInterrupt):
        fail(pids[0])

    with borrowed(engine) as connection:
        assert connection.info.backend_pid not in pids


@pytest.mark.parametrize("borrow", [borrowed, borrowed_session])
def test_an_interrupt_while_a_connection_is_returned_closes_it(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, borrow: Callable[..., AbstractContextManager[Connection]]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    pids: list[int] = []

    def use() -> None:
        with borrow(engine, work_mem="1MB") as connection:
            pids.append(connection.info.backend_pid)
            monkeypatch.setattr(connection, "execute", interrupt)

    with pytest.raises(KeyboardInterrupt):
        use()
    monkeypatch.undo()
    with borrowed(engine) as connection:
        assert connection.info.backend_pid not in pids
        assert connection.execute("SHOW work_mem").fetchone() != ("1MB",)


def test_errors_of_a_statement_pass_unchanged(database_url: str) -> None:
    with connect(database_url) as connection, pytest.raises(psycopg.errors.DivisionByZero), translating_outages():
        connection.execute("SELECT 1 / 0")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (psycopg.OperationalError("the connection is closed"), True),
        (psycopg.errors.AdminShutdown(), True),
        (psycopg.errors.CannotConnectNow(), True),
        (psycopg.errors.ConnectionFailure(), True),
        (psycopg.errors.TooManyConnections(), True),
        (psycopg.errors.LockNotAvailable(), False),
        (psycopg.errors.QueryCanceled(), False),
        (psycopg.errors.DeadlockDetected(), False),
        (psycopg.errors.DiskFull(), False),
        (psycopg.errors.UniqueViolation(), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_outage_is_a_lost_server_or_connection(error: psycopg.Error, expected: bool) -> None:
    assert is_outage(error) is expected


def _refusal(url: str) -> str:
    with pytest.raises(BatchError) as caught:
        connect(url)
    assert isinstance(caught.value, SettingError | UnavailableError)
    chain: BaseException | None = caught.value
    while chain is not None:  # what a traceback would show
        assert HIDDEN not in str(chain)
        chain = None if chain.__suppress_context__ else chain.__context__
    assert "\n" not in caught.value.message
    return caught.value.message
