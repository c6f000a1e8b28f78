"""Where the cases run: embedded servers at one `wal_level`, the files, and the states that the contacts start from."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from batch_pipeline.local.postgres import SERVER_SETTINGS
from batch_pipeline.local.servers import embedded_servers
from benchmarks.suite.files import Files
from benchmarks.suite.processes import batch_pipeline, measure_command

ORGANIZATION = "bench"
WAL_LEVELS = ("minimal", "replica")

# New partitions of the change log have no BRIN ranges; TRUNCATE leaves those that there were.
_FORGET_RANGES = """
    SELECT brin_desummarize_range(indexrelid, 0) FROM pg_partition_tree('contact_changes') AS t
    JOIN pg_index ON indrelid = relid JOIN pg_class ON pg_class.oid = indexrelid
    WHERE isleaf AND relam = (SELECT oid FROM pg_am WHERE amname = 'brin')
"""


@dataclass
class World:
    """The servers and files of the cases that run at one `wal_level`."""

    folder: Path
    environment: dict[str, str] = field(repr=False)
    wal_level: str
    files: Files
    kept: set[str] = field(default_factory=set)  #: tables with a copy that `restore` brings back

    @property
    def url(self) -> str:
        return self.environment["BATCH_DATABASE_URL"]

    @property
    def rows(self) -> int:
        return self.files.rows

    def clear(self) -> None:
        """Empties contacts, shipments and the change log, and brings the server to a comparable state."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("TRUNCATE contacts, contact_changes, shipments, shipment_changes")
            connection.execute(_FORGET_RANGES)
        self.settle()

    def keep(self) -> None:
        """Keeps the present contacts for `restore`."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("CREATE TABLE kept_contacts AS TABLE contacts")
        self.kept.add("contacts")

    def restore(self) -> None:
        """Brings the kept contacts back, and the server to a comparable state."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            with connection.transaction():
                connection.execute("TRUNCATE contacts, contact_changes")
                connection.execute("INSERT INTO contacts SELECT * FROM kept_contacts")
            connection.execute(_FORGET_RANGES)
        self.settle()

    def count(self, *, batch: str | None = None) -> int:
        """How many contacts there are, or how many this batch wrote last."""
        with psycopg.connect(self.url) as connection:
            statement = "SELECT count(*) FROM contacts WHERE %(batch)s::text IS NULL OR batch_id = %(batch)s"
            row = connection.execute(statement, {"batch": batch}).fetchone()
        assert row is not None
        return int(row[0])

    def settle(self) -> None:
        """Does now what the server would otherwise do at some time during a measurement."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE contacts")
            connection.execute("CHECKPOINT")


@contextmanager
def opened_world(wal_level: str, rows: int) -> Iterator[World]:
    """Starts the servers in a temporary folder, with the schema and an organization."""
    with tempfile.TemporaryDirectory(prefix="batch-bench-", dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL of root runs under another account
        files = folder / "files"
        files.mkdir()
        usual = dict(SERVER_SETTINGS)
        SERVER_SETTINGS["wal_level"] = wal_level
        try:
            with embedded_servers(folder / "servers") as servers:
                environment = {
                    **os.environ,
                    **servers.environment,
                    "BATCH_INBOX_QUIET_SECONDS": "0",
                    "BATCH_TIMEOUT_SECONDS": "14400",  # ten times the rows on a slow machine
                }
                world = World(folder, environment, wal_level, Files(files, rows))
                for command in (["db", "upgrade"], ["organizations", "create", ORGANIZATION]):
                    measure_command(batch_pipeline(*command), database_url=world.url, environment=environment)
                yield world
        finally:
            SERVER_SETTINGS.update(usual)
