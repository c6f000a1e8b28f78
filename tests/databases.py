"""Databases for tests: copies of a migrated template, which are emptied and used again."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

# What a test can have added beside rows. Staging tables of batches' own are dropped before.
_OBJECTS = """
SELECT (SELECT count(*) FROM pg_class WHERE oid >= 16384),
       (SELECT count(*) FROM pg_proc WHERE oid >= 16384),
       (SELECT count(*) FROM pg_trigger),
       (SELECT count(*) FROM pg_constraint),
       (SELECT count(*) FROM pg_attribute WHERE attrelid >= 16384 AND NOT attisdropped),
       (SELECT count(*) FROM pg_namespace),
       (SELECT count(*) FROM pg_db_role_setting WHERE setdatabase = (SELECT oid FROM pg_database
                                                                      WHERE datname = current_database())),
       (SELECT md5(string_agg(oid || tgenabled::text, ' ' ORDER BY oid)) FROM pg_trigger),
       (SELECT string_agg(DISTINCT obj_description(oid), ' ') FROM pg_namespace)
"""

_STAGED = """
SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'staging' AND c.relkind = 'r' AND c.relname NOT LIKE 'shared%'
"""

# Leaves of partitions are emptied through their parents.
_TABLES = """
SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.oid >= 16384
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
"""


def other_database(url: str, name: str) -> str:
    """The URL of another database of the same server."""
    return urlsplit(url)._replace(path=f"/{name}").geturl()


class DatabasePool:
    """Databases that are copies of one template.

    A copy takes 0.3 to 0.6 s, most of it for its thousand files; to empty one takes a twentieth of that. A database is
    used again only if it has exactly the objects and the rows of the template.
    """

    def __init__(self, connection: psycopg.Connection[Any], server_url: str, template: str) -> None:
        self._connection = connection
        self._server_url = server_url
        self._template = sql.Identifier(template)
        self._free: list[str] = []
        self._first: tuple[Any, ...] | None = None  # the objects and the rows of a fresh copy

    @contextmanager
    def database(self) -> Iterator[str]:
        """The URL of a database with the template's schema and rows, for the time of the ``with``."""
        name = self._free.pop() if self._free else self._copy()
        yield other_database(self._server_url, name)
        if self._restore(name):
            self._free.append(name)
        else:
            self._connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def _copy(self) -> str:
        name = f"test_{secrets.token_hex(6)}"
        # File by file: the log of every page would take twice as long.
        self._connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(sql.Identifier(name), self._template)
        )
        if self._first is None:
            with psycopg.connect(other_database(self._server_url, name), autocommit=True) as connection:
                self._first = _state(connection)
        return name

    def _restore(self, name: str) -> bool:
        """Removes what a test has left; returns whether the database is as the template again."""
        self._connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", (name,)
        )
        with psycopg.connect(other_database(self._server_url, name), autocommit=True) as connection:
            for (table,) in connection.execute(_STAGED).fetchall():
                connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier("staging", table)))
            kept = dict(self._first[1]) if self._first is not None else {}
            connection.execute("SET session_replication_role = replica")  # without triggers, those of foreign keys too
            tables = sorted(connection.execute(_TABLES).fetchall())
            added = {
                table: sql.SQL("FROM {} t WHERE t::text <> ALL({})").format(sql.Identifier(*table), kept.get(table, []))
                for table in tables
            }
            used = sql.SQL(" UNION ALL ").join(
                sql.SQL("SELECT {} WHERE EXISTS (SELECT {})").format(number, added[table])
                for number, table in enumerate(tables)
            )
            for (number,) in connection.execute(used).fetchall():
                connection.execute(sql.SQL("DELETE {}").format(added[tables[number]]))
            return _state(connection) == self._first


def _state(connection: psycopg.Connection[Any]) -> tuple[Any, ...]:
    """The objects of a database, and the content of each table that has rows."""
    tables = sorted(connection.execute(_TABLES).fetchall())
    each = (
        sql.SQL("SELECT {}, t::text FROM {} t").format(sql.Literal(number), sql.Identifier(*table))
        for number, table in enumerate(tables)
    )
    found: dict[tuple[str, str], list[str]] = {}
    for number, text in connection.execute(sql.SQL(" UNION ALL ").join(each)).fetchall():
        found.setdefault(tables[number], []).append(text)
    rows = tuple((table, sorted(found[table])) for table in sorted(found))
    return connection.execute(_OBJECTS).fetchone(), rows
