"""The partitions of the change log: one a day (UTC) and table, made ahead and dropped as a whole.

A change whose day has no partition is kept in the DEFAULT partition. A partition is only made for a day that has not
begun, because its changes would have to be moved out of DEFAULT.

Attaching and dropping a partition waits for transactions that use the log, and others wait behind it. So it gives up
after `LOCK_TIMEOUT`; the next batch or retention pass tries again.
"""

import logging
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from functools import partial

from psycopg import errors, sql

from batch_pipeline.batches.locks import PARTITIONS
from batch_pipeline.database import Connection
from batch_pipeline.loading.change_indexes import MissingIndex, create_missing_index, index_open_partition
from batch_pipeline.records.registry import CHANGES_TABLES

DAYS_AHEAD = 7
LOCK_TIMEOUT = "2s"

logger = logging.getLogger(__name__)

_TABLES = """\
SELECT relname FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind = 'p' AND relname = ANY(%s)
ORDER BY relname"""

_PARTITIONS = """\
SELECT c.relname FROM pg_inherits i
JOIN pg_class p ON p.oid = i.inhparent
JOIN pg_class c ON c.oid = i.inhrelid
WHERE p.relnamespace = 'public'::regnamespace AND p.relname = ANY(%s)"""

_DEFAULT_DAYS = "SELECT DISTINCT (at AT TIME ZONE 'UTC')::date FROM {} WHERE at < %s"


def make_partitions_ahead(connection: Connection, now: datetime) -> None:
    """Makes the missing partitions of the next `DAYS_AHEAD` days. The connection must not be in a transaction."""
    today = now.astimezone(UTC).date()
    tables = _tables(connection)
    existing = _partitions(connection, tables)
    for table in tables:
        for day in (today + timedelta(days=number) for number in range(1, DAYS_AHEAD + 1)):
            name = _name(table, day)
            if name not in existing and not _briefly(connection, partial(_make, connection, table, day)):
                logger.warning("The partition %s can't be made now: changes go to DEFAULT until then", name)
                return


def partition_of_tomorrow(table: str) -> str:
    """The name of this table's partition for tomorrow. `make_partitions_ahead` makes it."""
    return _name(table, datetime.now(UTC).date() + timedelta(days=1))


def partition_exists(connection: Connection, partition: str) -> bool:
    """Whether there is a partition of this name."""
    row = connection.execute("SELECT to_regclass(%s) IS NOT NULL", (f"public.{partition}",)).fetchone()
    return row is not None and bool(row[0])


def find_old_days(connection: Connection, before: date) -> list[date]:
    """The days before `before` that have a partition, or changes in DEFAULT; oldest first."""
    tables = _tables(connection)
    days = {day for name in _partitions(connection, tables) if (day := _day(name)) is not None and day < before}
    with connection.transaction():
        for table in tables:
            days.update(
                row[0]
                for row in connection.execute(sql.SQL(_DEFAULT_DAYS).format(_default(table)), (_midnight(before),))
            )
    return sorted(days)


def drop_day(connection: Connection, day: date) -> bool:
    """Drops the day's partitions and deletes its changes in DEFAULT. False if a part of them is left."""
    return all(_briefly(connection, partial(_drop, connection, table, day)) for table in _tables(connection))


def index_ended_day(connection: Connection, missing: MissingIndex) -> bool:
    """Creates a missing index of a day that has ended. False if a transaction that began on that day still writes."""
    return _briefly(connection, partial(create_missing_index, connection, missing))


def _make(connection: Connection, table: str, day: date) -> None:
    # CREATE … PARTITION OF would lock the whole log; ATTACH locks only DEFAULT.
    name = sql.Identifier("public", _name(table, day))
    connection.execute(sql.SQL("CREATE TABLE {} (LIKE {})").format(name, sql.Identifier("public", table)))
    index_open_partition(connection, table, _name(table, day))
    connection.execute(
        sql.SQL("ALTER TABLE {} ATTACH PARTITION {} FOR VALUES FROM ({}) TO ({})").format(
            sql.Identifier("public", table),
            name,
            sql.Literal(_midnight(day)),
            sql.Literal(_midnight(day + timedelta(days=1))),
        )
    )


def _drop(connection: Connection, table: str, day: date) -> None:
    connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier("public", _name(table, day))))
    connection.execute(
        sql.SQL("DELETE FROM {} WHERE at >= %s AND at < %s").format(_default(table)),
        (_midnight(day), _midnight(day + timedelta(days=1))),
    )


def _briefly(connection: Connection, change: Callable[[], None]) -> bool:
    """Executes the change in a transaction. False if another process changes partitions, or uses the log for long."""
    try:
        with connection.transaction():
            connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(LOCK_TIMEOUT))
            row = connection.execute(
                "SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 0))", (PARTITIONS,)
            ).fetchone()
            if row is None or not row[0]:
                return False
            change()
    # CheckViolation: midnight has passed, and DEFAULT has changes of the day.
    except (errors.LockNotAvailable, errors.DuplicateTable, errors.CheckViolation):
        return False
    return True


def _tables(connection: Connection) -> list[str]:
    """The tables of changes; none before the migration."""
    with connection.transaction():
        return [str(row[0]) for row in connection.execute(_TABLES, (list(CHANGES_TABLES),))]


def _partitions(connection: Connection, tables: list[str]) -> set[str]:
    with connection.transaction():
        return {str(row[0]) for row in connection.execute(_PARTITIONS, (tables,))}


def _default(table: str) -> sql.Identifier:
    return sql.Identifier("public", f"{table}_default")


def _name(table: str, day: date) -> str:
    return f"{table}_{day:%Y%m%d}"


def _day(partition: str) -> date | None:
    """The day of a partition; None for DEFAULT."""
    text = partition.rpartition("_")[2]
    return datetime.strptime(text, "%Y%m%d").replace(tzinfo=UTC).date() if text.isdecimal() else None


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), tzinfo=UTC)
