"""Databases for tests: copies of a migrated template, which are emptied and used again."""

import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import psycopg
from psycopg import sql
from waiting import eventually

_Table = tuple[str, str]  # schema and name

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
        # One connection to each database stays open: in a new one, the server reads the descriptions of all tables.
        self._cleaners: dict[str, psycopg.Connection[Any]] = {}
        self._fresh: _Fresh | None = None

    @contextmanager
    def database(self) -> Iterator[str]:
        """The URL of a database with the template's schema and rows, for the time of the ``with``."""
        name = self._free.pop() if self._free else self._copy()
        yield other_database(self._server_url, name)
        if self._restore(name):
            self._free.append(name)
        else:
            self._cleaners.pop(name).close()
            self._connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def close(self) -> None:
        """Closes the pool's own connections."""
        for cleaner in self._cleaners.values():
            cleaner.close()

    def _copy(self) -> str:
        name = f"test_{secrets.token_hex(6)}"
        # File by file: the log of every page would take twice as long.
        self._connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(sql.Identifier(name), self._template)
        )
        if self._fresh is None:
            self._fresh = _Fresh.of(self._cleaner(name))
        return name

    def _cleaner(self, name: str) -> psycopg.Connection[Any]:
        cleaner = self._cleaners.get(name)
        if cleaner is not None:
            try:
                cleaner.execute("")
            except psycopg.OperationalError:  # a test has ended it
                cleaner = None
        if cleaner is None:
            cleaner = psycopg.connect(other_database(self._server_url, name), autocommit=True)
            cleaner.execute("SET session_replication_role = replica")  # without triggers, those of foreign keys too
            self._cleaners[name] = cleaner
        return cleaner

    def _restore(self, name: str) -> bool:
        """Removes what a test has left; returns whether the database is as the template again."""
        cleaner, fresh = self._cleaner(name), self._fresh
        assert fresh is not None
        _end_other_connections(cleaner)
        for (table,) in cleaner.execute(_STAGED).fetchall():
            cleaner.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier("staging", table)))
        if cleaner.execute(_OBJECTS).fetchone() != fresh.objects:
            return False
        for (number,) in cleaner.execute(fresh.tables_with_more, prepare=True).fetchall():
            cleaner.execute(sql.SQL("DELETE {}").format(fresh.more_rows[number]))
        return _rows(cleaner, fresh.rows) == fresh.rows


def _end_other_connections(connection: psycopg.Connection[Any]) -> None:
    """Ends those that a test has left in the database, and waits for those that it has closed."""
    ending = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    # With a time-out, the function itself would wait: a tenth of a second for each of them.
    eventually(lambda: not connection.execute(ending).fetchall(), pause=0.003)


@dataclass(frozen=True)
class _Fresh:
    """The objects of a fresh copy, its rows by table, and queries that find what it doesn't have."""

    objects: Any
    rows: dict[_Table, list[str]]
    more_rows: list[sql.Composed]
    tables_with_more: sql.Composed

    @classmethod
    def of(cls, connection: psycopg.Connection[Any]) -> "_Fresh":
        tables = sorted(connection.execute(_TABLES).fetchall())
        rows = {table: texts for table, texts in _rows(connection, tables).items() if texts}
        more_rows = [
            sql.SQL("FROM {} t WHERE t::text <> ALL({})").format(sql.Identifier(*table), rows.get(table, []))
            for table in tables
        ]
        return cls(
            connection.execute(_OBJECTS).fetchone(),
            rows,
            more_rows,
            sql.SQL(" UNION ALL ").join(
                sql.SQL("SELECT {} WHERE EXISTS (SELECT {})").format(number, more)
                for number, more in enumerate(more_rows)
            ),
        )


def _rows(connection: psycopg.Connection[Any], tables: Iterable[_Table]) -> dict[_Table, list[str]]:
    """The sorted rows of each table, as text."""
    return {
        table: sorted(
            text for (text,) in connection.execute(sql.SQL("SELECT t::text FROM {} t").format(sql.Identifier(*table)))
        )
        for table in tables
    }
