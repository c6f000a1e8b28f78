"""The indexes of the change log by record: BRIN while a day is open, and a B-tree when it has ended.

A B-tree on the open day costs each row that a batch changes as much as the rest of its row in the log. A BRIN index
costs almost nothing: autovacuum adds ranges of full pages later. Its Bloom filters find a record in any order of rows.
A look-up of many records reads the pages since a time (`at`), so callers give one.

The partition DEFAULT has B-trees from the beginning (migration 0023): it has few rows, and no day ends in it.
"""

from dataclasses import dataclass
from datetime import date

from psycopg import sql

from batch_pipeline.database import Connection
from batch_pipeline.records.registry import CHANGES_KEYS

# A range of 64 pages has 2,000 to 3,500 changes. Its filter has 3.6 kB, so a page of the index has two, and takes 1 of
# 100 to 1,000 other ranges for one with the record. Autovacuum adds at most 256 ranges a minute, the rest later.
_OPEN = """\
CREATE INDEX {name} ON {partition} USING brin (
    {column} text_bloom_ops (n_distinct_per_range = 3000), at
) WITH (pages_per_range = 64, autosummarize = on)"""

# CREATE INDEX makes a filter for the first range even of an empty table. Each insert into the range would rewrite it.
_WITHOUT_FILTERS = "SELECT brin_desummarize_range(%s::regclass, 0)"

_ENDED = "CREATE INDEX {name} ON {partition} ({column})"

_MISSING = """\
SELECT c.relname, k.key
FROM pg_inherits i
JOIN pg_class p ON p.oid = i.inhparent
JOIN pg_class c ON c.oid = i.inhrelid
JOIN unnest(%(logs)s::text[], %(keys)s::text[]) AS k (log, key) ON k.log = p.relname
WHERE p.relnamespace = 'public'::regnamespace
  AND c.relname COLLATE "C" < k.log || '_' || %(today)s
  AND to_regclass('public.' || quote_ident(c.relname || '_' || k.key || '_idx')) IS NULL
ORDER BY c.relname, k.key"""


@dataclass(frozen=True)
class MissingIndex:
    """A B-tree that a partition needs because its day has ended."""

    partition: str
    column: str


def index_open_partition(connection: Connection, log: str, partition: str) -> None:
    """Creates the indexes of a new partition, before it is attached to its log."""
    for column in CHANGES_KEYS[log]:
        name = _create(connection, _OPEN, partition, column, "brin")
        connection.execute(_WITHOUT_FILTERS, (f"public.{name}",))


def find_missing_indexes(connection: Connection, today: date) -> list[MissingIndex]:
    """The B-trees that partitions of days before `today` don't have yet; oldest day first."""
    pairs = [(log, key) for log, keys in CHANGES_KEYS.items() for key in keys]
    parameters = {
        "logs": [log for log, _ in pairs],
        "keys": [key for _, key in pairs],
        "today": f"{today:%Y%m%d}",
    }
    with connection.transaction():
        return [MissingIndex(*row) for row in connection.execute(_MISSING, parameters).fetchall()]


def create_missing_index(connection: Connection, missing: MissingIndex) -> None:
    """Creates the index. Nothing writes the partition any more, so a plain CREATE INDEX blocks nobody."""
    _create(connection, _ENDED, missing.partition, missing.column, "idx")


def _create(connection: Connection, statement: str, partition: str, column: str, suffix: str) -> str:
    """Creates the index and returns its name."""
    name = f"{partition}_{column}_{suffix}"
    connection.execute(
        sql.SQL(statement).format(
            name=sql.Identifier(name),
            partition=sql.Identifier("public", partition),
            column=sql.Identifier(column),
        )
    )
    return name
