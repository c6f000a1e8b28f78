"""The roles of the database: their SQL, and its application after migrations. docs/roles.md describes them.

`roles.sql` needs an administrator. `protection.sql` needs the owner of the tables, and is repeated when the schema has
changed.
"""

import hashlib
from importlib.resources import files

from batch_pipeline.database import Connection, connect

OWNER = "bp_owner"
LOADER = "bp_loader"
API = "bp_api"
READER = "bp_reader"

_IS_SET_UP = """\
SELECT EXISTS (
    SELECT FROM pg_class WHERE oid = to_regclass('public.batches') AND pg_get_userbyid(relowner) = %s
)"""
# What the protection depends on: which tables there are, and its own text.
_STATE = """\
SELECT md5(string_agg(c.relname || c.relrowsecurity, ' ' ORDER BY c.relname)),
       obj_description('staging'::regnamespace, 'pg_namespace')
FROM pg_class c
WHERE c.relnamespace IN (SELECT oid FROM pg_namespace WHERE nspname IN ('public', 'dagster'))
  AND c.relkind IN ('r', 'p') AND NOT c.relispartition"""


def roles_sql() -> str:
    """The SQL that creates the roles and gives them the system's objects."""
    return _read("roles.sql")


def protection_sql() -> str:
    """The SQL with the roles' rights and row-level security on the tables that exist."""
    return _read("protection.sql")


def set_up(database_url: str) -> None:
    """Creates the roles and protects the tables, unless that is done. Needs a superuser."""
    with connect(database_url) as connection:
        if not _is_set_up(connection):
            connection.execute(roles_sql().encode())
        protect(connection)


def protect(connection: Connection) -> None:
    """Applies `protection_sql` if the roles own the tables and the schema has changed since the last time.

    In the connection's transaction.
    """
    if not _is_set_up(connection):
        return
    if _state(connection)[0] == _state(connection)[1]:
        return
    connection.execute(protection_sql().encode())
    comment = _state(connection)[0]
    connection.execute(f"COMMENT ON SCHEMA staging IS '{comment}'".encode())


def _is_set_up(connection: Connection) -> bool:
    row = connection.execute(_IS_SET_UP, (OWNER,)).fetchone()
    return row is not None and bool(row[0])


def _state(connection: Connection) -> tuple[str, str | None]:
    """The comment that a protected schema has, and the comment that it has."""
    row = connection.execute(_STATE).fetchone()
    assert row is not None  # noqa: S101 - an aggregate gives one row
    text = hashlib.sha256(protection_sql().encode()).hexdigest()[:16]
    return f"protected: {row[0]} {text}", row[1]


def _read(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")
