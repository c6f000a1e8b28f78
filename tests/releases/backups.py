"""A backup of the system and its restore elsewhere, as docs/deployment.md describes them: pg_dump, psql, objects."""

import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from batch_pipeline.dagster_home import dagster_database_url
from batch_pipeline.local.postgres_files import postgres_program
from batch_pipeline.settings import get_settings
from batch_pipeline.storage.store import Store
from batch_pipeline.system import System, open_system


def back_up(system: System, folder: Path) -> None:
    """Dumps the database into `folder`, then copies the objects. In this order the copy has all files of the dump."""
    _run("pg_dump", "--no-owner", "--file", str(folder / "database.sql"), system.database_url)
    copy_objects(system.store, folder / "objects")


def copy_objects(store: Store, folder: Path) -> None:
    """Copies every object below the store's prefix to a file."""
    for found in store.list(""):
        target = folder / found.key
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(store.read(found.key))


def restore(folder: Path, *, database_url: str, store: Store) -> None:
    """Restores a backup into an empty database and an empty prefix."""
    _run("psql", "--quiet", "--no-psqlrc", "-v", "ON_ERROR_STOP=1", "-f", str(folder / "database.sql"), database_url)
    objects = folder / "objects"
    for path in sorted(objects.rglob("*")):
        if path.is_file():
            store.write(path.relative_to(objects).as_posix(), path.read_bytes())


@contextmanager
def restored(folder: Path, environment: dict[str, str]) -> Iterator[System]:
    """The system of a backup, in a database and a prefix of its own; ``os.environ`` leads to it. It is not upgraded."""
    server_url = environment["BATCH_DATABASE_URL"]
    name = f"restored_{secrets.token_hex(6)}"
    url = urlsplit(server_url)._replace(path=f"/{name}").geturl()
    storage_url = f"{environment['BATCH_STORAGE_URL']}/{name}"
    with psycopg.connect(server_url, autocommit=True) as connection, pytest.MonkeyPatch.context() as patch:
        connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
        restore(folder, database_url=url, store=Store(storage_url))
        patch.setenv("BATCH_DATABASE_URL", url)
        patch.setenv("BATCH_STORAGE_URL", storage_url)
        patch.setenv("DAGSTER_POSTGRES_URL", dagster_database_url(url))
        patch.setenv("BATCH_CHUNK_ROWS", "3")
        get_settings.cache_clear()
        with open_system() as system:
            yield system
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
    get_settings.cache_clear()


def _run(name: str, *arguments: str) -> None:
    done = subprocess.run([str(postgres_program(name)), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
