"""The environment of Dagster's processes: its database, the version of its tables, its home folder.

Does not import Dagster.

Dagster's tables are in the schema ``dagster`` of our database, unless ``DAGSTER_POSTGRES_URL`` names another place. The
separate schema prevents name conflicts with our tables.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import sqlalchemy as sa
from psycopg.conninfo import conninfo_to_dict

from batch_pipeline.database import CONNECT_TIMEOUT_SECONDS, client_keepalives, with_server_keepalives
from batch_pipeline.errors import SettingError
from batch_pipeline.settings import Settings

DAGSTER_SCHEMA = "dagster"
# The names of the code location in workspace.yaml.
MODULE_NAME = "batch_pipeline.definitions"
LOCATION_NAME = "batch_pipeline"

_HAS_TABLES = """\
SELECT coalesce(obj_description(current_schema()::regnamespace, 'pg_namespace') = CAST(:comment AS text), false)
AND num_nulls(to_regclass('runs'), to_regclass('event_logs'), to_regclass('jobs')) = 0"""
_COMMENT_STATEMENT = """\
SELECT format('COMMENT ON SCHEMA %I IS %L', nspname, CAST(:comment AS text))
FROM pg_namespace WHERE oid = current_schema()::regnamespace AND pg_has_role(nspowner, 'USAGE')"""

_PACKAGE = Path(__file__).resolve().parent
_CHECKOUT_HOME = _PACKAGE.parent / "dagster_home"
# A link to the repository's dagster_home/dagster.yaml; in an installed package, the file itself.
_DAGSTER_YAML = _PACKAGE / "local" / "dagster.yaml"


def dagster_database_url(database_url: str) -> str:
    """The URL of Dagster's tables: the same server and database by psycopg 2, in the schema ``dagster``.

    ``database_url`` is any libpq URL. Several hosts, a socket directory as ``?host=``, other parameters and
    percent-encoded characters are kept. The driver is explicit because dagster-postgres needs psycopg 2, and a bare
    ``postgresql://`` means psycopg 3 since SQLAlchemy 2.1. Raises SettingError if libpq can't parse the URL.
    """
    try:
        parameters = conninfo_to_dict(database_url)
    except Exception as error:  # psycopg.ProgrammingError; its text repeats the URL with the password
        raise SettingError("BATCH_DATABASE_URL is not a valid libpq URL") from error
    options = f"{with_server_keepalives(parameters.pop('options', None))} -csearch_path={DAGSTER_SCHEMA}"
    user, password = parameters.pop("user", None), parameters.pop("password", None)
    database = parameters.pop("dbname", None)
    # psycopg 2 passes query parameters to libpq unchanged. That includes hosts, because SQLAlchemy parses
    # "host:port" of the authority only for a single host.
    query = {name: str(value) for name, value in {**client_keepalives(), **parameters}.items()}
    return sa.URL.create(
        "postgresql+psycopg2",
        username=None if user is None else str(user),
        password=None if password is None else str(password),
        database=None if database is None else str(database),
        query={**query, "options": options},
    ).render_as_string(hide_password=False)


def has_dagster_tables() -> bool:
    """Whether Dagster's schema has the tables of the installed version, by the schema's comment.

    False if DAGSTER_POSTGRES_URL does not name their place. Asking Dagster takes two seconds, mostly for imports.
    """
    url = os.environ.get("DAGSTER_POSTGRES_URL")
    if not url:
        return False
    try:
        with _connected(url) as connection:
            return find_dagster_tables(connection)
    except sa.exc.SQLAlchemyError:  # `upgrade_dagster` reports it
        return False


def find_dagster_tables(connection: sa.Connection) -> bool:
    """As `has_dagster_tables`, for the database that the connection leads to. Raises SQLAlchemy's errors."""
    return bool(connection.scalar(sa.text(_HAS_TABLES), {"comment": _comment()}))


def record_dagster_tables() -> None:
    """Records in the schema's comment that it has the tables of the installed version, unless another role owns it."""
    url = os.environ.get("DAGSTER_POSTGRES_URL")
    if not url:
        return
    with _connected(url) as connection:
        statement = connection.scalar(sa.text(_COMMENT_STATEMENT), {"comment": _comment()})
        if statement is not None:
            connection.exec_driver_sql(statement)
            connection.commit()


@contextmanager
def _connected(url: str) -> Iterator[sa.Connection]:
    connect_args = {"connect_timeout": CONNECT_TIMEOUT_SECONDS}
    with sa.create_engine(url, poolclass=sa.NullPool, connect_args=connect_args).connect() as connection:
        yield connection


def _comment() -> str:
    return f"tables of dagster {version('dagster')}"


def prepare_dagster_home(data_dir: Path) -> Path:
    """Creates a home folder for Dagster in ``data_dir`` with this package's dagster.yaml; returns it."""
    home = data_dir.resolve() / "dagster_home"
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    home.chmod(0o700)  # it contains the output of runs
    shutil.copyfile(_DAGSTER_YAML, home / "dagster.yaml")
    (home / "dagster.yaml").chmod(0o600)
    return home


def dagster_environment(settings: Settings, *, data_dir: Path) -> dict[str, str]:
    """The environment variables that Dagster's processes need. Variables that are set keep their values.

    ``DAGSTER_HOME`` is the repository's ``dagster_home`` in a checkout, else a folder in ``data_dir``.
    Raises SettingError if neither DAGSTER_POSTGRES_URL nor BATCH_DATABASE_URL is set.
    """
    home = os.environ.get("DAGSTER_HOME")
    if not home:
        home = str(_CHECKOUT_HOME if (_CHECKOUT_HOME / "dagster.yaml").exists() else prepare_dagster_home(data_dir))
    database_url = os.environ.get("DAGSTER_POSTGRES_URL") or dagster_database_url(settings.require_database_url())
    return {"DAGSTER_HOME": home, "DAGSTER_POSTGRES_URL": database_url}
