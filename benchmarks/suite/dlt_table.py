"""Measures dlt: its own environment, a database of its own on the same server, its table with and without our indexes.

dlt reads the same CSV by pyarrow, with ids and organization ready-made, and merges it by its strategy "upsert". It
validates nothing and keeps no history.
"""

import functools
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from benchmarks.suite.model import ContestantMissingError, Sample
from benchmarks.suite.processes import measure_command
from benchmarks.suite.world import World

VERSION = "1.31.0"
PACKAGES = (f"dlt[postgres]=={VERSION}", "pyarrow>=21")
PROGRAM = Path(__file__).with_name("dlt_load.py")
_DATABASE = "dlt"


@functools.cache
def environment() -> Path:
    """The Python that has dlt. Makes its environment in the user's cache folder, if there is none.

    Raises ContestantMissingError if the packages can't be installed.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "batch-pipeline-bench"
    folder = cache / f"dlt-{VERSION}"
    program = folder / "bin" / "python"
    installed = folder / "installed"
    if not installed.exists():
        print(f"Installing dlt {VERSION} into {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(program), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES]
        done = subprocess.run(pip, check=False, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            raise ContestantMissingError(
                f"dlt {VERSION} could not be installed: {errors[-1] if errors else 'pip failed'}"
            )
        installed.touch()
    return program


class Dlt:
    """dlt's table in a world, empty or with the contacts that `keep` loaded."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.python = environment()
        self.url = urlsplit(world.url)._replace(path=f"/{_DATABASE}").geturl()
        # dlt wants a host and a password, which a Unix socket needs not; libpq takes the host of the query.
        self.dlt_url = self.url.replace("@/", ":none@localhost:5432/", 1)
        if "dlt" not in world.kept:
            with psycopg.connect(world.url, autocommit=True) as connection:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(_DATABASE)))
            world.kept.add("dlt")
            self.load(world.files.with_ids(world.files.contacts(100)))  # makes the tables

    def load(self, file: Path) -> Sample:
        """Merges a file with ids."""
        command = [str(self.python), "-P", str(PROGRAM), self.dlt_url, str(file), str(self.world.folder / "dlt")]
        environment = {**os.environ, "RUNTIME__DLTHUB_TELEMETRY": "false", "RUNTIME__LOG_LEVEL": "ERROR"}
        sample, printed = measure_command(command, database_url=self.world.url, environment=environment)
        return replace(sample, seconds=float(printed.split()[-1]))

    def keep(self) -> None:
        """Loads the contacts for `prepare`, once."""
        if "dlt contacts" in self.world.kept:
            return
        self.prepare(restored=False, indexed=False)
        self.load(self.world.files.with_ids(self.world.files.contacts()))
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("CREATE TABLE public.kept_contacts AS TABLE bench.contacts")
        self.world.kept.add("dlt contacts")

    def prepare(self, *, restored: bool, indexed: bool) -> None:
        """Empties the table, or brings the kept contacts back, with or without the indexes of our table."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("DROP INDEX IF EXISTS bench.by_id, bench.by_external_id, bench.by_email, bench.by_name")
            connection.execute("TRUNCATE bench.contacts")
            if restored:
                connection.execute("INSERT INTO bench.contacts SELECT * FROM public.kept_contacts")
            if indexed:
                for definition in _INDEXES:
                    connection.execute(definition)
            connection.execute("VACUUM ANALYZE bench.contacts")
            connection.execute("CHECKPOINT")

    def count(self) -> int:
        """How many contacts the table has."""
        with psycopg.connect(self.url) as connection:
            row = connection.execute("SELECT count(*) FROM bench.contacts").fetchone()
        assert row is not None
        return int(row[0])


# As our table has them: the primary key, and the keys that identify a record.
_INDEXES: tuple[sql.SQL, ...] = (
    sql.SQL("CREATE UNIQUE INDEX by_id ON bench.contacts (organization_id, id)"),
    sql.SQL(
        "CREATE UNIQUE INDEX by_external_id ON bench.contacts (organization_id, external_id)"
        " WHERE external_id IS NOT NULL"
    ),
    sql.SQL(
        'CREATE INDEX by_email ON bench.contacts (organization_id, lower(email COLLATE "pg_c_utf8"))'
        " WHERE email IS NOT NULL"
    ),
    sql.SQL(
        "CREATE INDEX by_name ON bench.contacts (organization_id, coalesce(name, '') COLLATE \"C\","
        " coalesce(phone, '') COLLATE \"C\") WHERE email IS NULL"
    ),
)
