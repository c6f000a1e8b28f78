"""The parsed chunks of a batch that several workers stage: which are staged, and what was found in them.

The table is one of the batch's staging tables. It is made anew by each attempt that validates, like those that the
chunks are copied to, so a helper of an earlier attempt finds either no table or chunks that are not staged yet.
"""

from dataclasses import dataclass

from psycopg import sql

from batch_pipeline.database import Connection
from batch_pipeline.loading.own_staging import UNVACUUMED, OwnStaging

# Unlogged like the items: the two are emptied together by a crash of the server, which also ends the attempt.
_CREATE = """\
CREATE UNLOGGED TABLE {parsed} (
    number integer PRIMARY KEY,
    worker text,
    valid bigint NOT NULL DEFAULT 0,
    invalid bigint NOT NULL DEFAULT 0,
    clears boolean NOT NULL DEFAULT false,
    kinds smallint[] NOT NULL DEFAULT '{{}}'
) WITH {unvacuumed}"""

_FILL = "INSERT INTO {parsed} (number) SELECT generate_series(1, %s::integer)"

_CLAIM = """\
SELECT number FROM {parsed}
WHERE worker IS NULL
ORDER BY number
LIMIT 1
FOR UPDATE SKIP LOCKED"""

_NOTE = """\
UPDATE {parsed} SET worker = %s, valid = %s, invalid = %s, clears = %s, kinds = %s
WHERE number = %s"""

_READ = """\
SELECT count(worker), count(*), count(DISTINCT worker), sum(valid)::bigint, sum(invalid)::bigint, bool_or(clears)
FROM {parsed}"""

_KINDS = "SELECT DISTINCT unnest(kinds) AS kind FROM {parsed} ORDER BY kind"

_BY_WORKER = """\
SELECT worker, count(*) FROM {parsed}
WHERE worker IS NOT NULL
GROUP BY worker
ORDER BY 2 DESC, 1"""


@dataclass(frozen=True)
class ParsedDone:
    """What is staged of a batch's parsed chunks.

    Attributes:
        chunks: number of staged chunks.
        total: number of all chunks.
        workers: number of processes that staged them.
        valid: items that break no row rule.
        invalid: the other items.
        clears: whether any item clears a field.
    """

    chunks: int
    total: int
    workers: int
    valid: int
    invalid: int
    clears: bool


class ParsedChunks:
    """The list of the parsed chunks, over one connection."""

    def __init__(self, connection: Connection, staging: OwnStaging) -> None:
        self._connection = connection
        self._parsed = staging.parsed

    def create(self, chunks: int) -> None:
        """Makes the list of chunks 1 to `chunks`, of which none is staged."""
        self._connection.execute(self._composed(_CREATE))
        self._connection.execute(self._composed(_FILL), (chunks,))

    def claim_next(self) -> int | None:
        """The first chunk that is not staged and that nobody has claimed, locked until the transaction ends."""
        row = self._connection.execute(self._composed(_CLAIM)).fetchone()
        return None if row is None else int(row[0])

    def note(self, number: int, worker: str, *, valid: int, invalid: int, clears: bool, kinds: list[int]) -> None:
        """Notes that the worker has staged the chunk. The transaction must have claimed it."""
        self._connection.execute(self._composed(_NOTE), (worker, valid, invalid, clears, kinds, number))

    def done(self) -> ParsedDone:
        """What is staged."""
        row = self._connection.execute(self._composed(_READ)).fetchone()
        assert row is not None  # noqa: S101 - an aggregate gives one row
        return ParsedDone(*row)

    def kinds(self) -> tuple[int, ...]:
        """The kinds of deciding keys that staged items have."""
        return tuple(int(kind) for (kind,) in self._connection.execute(self._composed(_KINDS)))

    def count_by_worker(self) -> dict[str, int]:
        """The number of chunks by the process that staged them, the most first."""
        return {str(worker): int(chunks) for worker, chunks in self._connection.execute(self._composed(_BY_WORKER))}

    def _composed(self, template: str) -> sql.Composed:
        return sql.SQL(template).format(parsed=self._parsed, unvacuumed=UNVACUUMED)
