"""Upgrades of the database's schema: again, from earlier releases, by several processes at once."""

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from batch_pipeline import migrations
from batch_pipeline.database import connect, url_of_role
from batch_pipeline.errors import UnavailableError
from batch_pipeline.loading.change_indexes import find_missing_indexes
from batch_pipeline.loading.change_partitions import index_ended_day
from batch_pipeline.local.system import LocalServers
from batch_pipeline.migrations import roles
from batch_pipeline.records.registry import CHANGES_KEYS


@pytest.fixture
def empty_database_url(servers: LocalServers) -> Iterator[str]:
    """A database without any tables."""
    server_url = servers.environment["BATCH_DATABASE_URL"]
    name = f"test_{secrets.token_hex(6)}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
        yield urlsplit(server_url)._replace(path=f"/{name}").geturl()
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def test_migrating_again_changes_nothing_and_loses_nothing(database_url: str) -> None:
    with connect(database_url, autocommit=True) as connection:
        connection.execute("INSERT INTO contacts (organization_id, id, name) VALUES ('default', 'x', 'Ann')")
        before = _schema(database_url)

        migrations.upgrade(database_url)
        migrations.upgrade(database_url)

        assert connection.execute("SELECT name FROM contacts").fetchall() == [("Ann",)]
    assert _schema(database_url) == before


def test_batches_of_the_previous_release_are_migrated(empty_database_url: str) -> None:
    """A batch that awaited its re-run was `failed`; whether a payload was refused followed from the reason's code."""
    migrations.upgrade(empty_database_url, "0013")
    rows = {
        "waits": ("failed", "launcher", "pending", "worker_lost"),
        "validated": ("timed_out", "launcher", "completed", "timed_out"),
        "refused": ("failed", None, "pending", "unknown_columns"),
        "lost": ("failed", None, "completed", "worker_lost"),
    }
    with connect(empty_database_url, autocommit=True) as connection:
        for name, (status, awaits_run, validation, code) in rows.items():
            phases = [{"status": "completed"}, {"status": validation}]
            connection.execute(
                "INSERT INTO batches (id, name, mode, via, options, stats, work, status, awaits_run, phases, reason)"
                " VALUES (%s, 'n', 'mixed', 'file', '{}', '{}', '{}', %s, %s, %s, %s)",
                (name, status, awaits_run, json.dumps(phases), json.dumps({"code": code, "message": "m"})),
            )
        migrations.upgrade(empty_database_url)
        found = connection.execute("SELECT id, status, reason -> 'is_refusal' FROM batches").fetchall()
        moved = connection.execute("SELECT batch_id, before, after FROM batch_transitions").fetchall()
    assert {row[0]: row[1:] for row in found} == {
        "waits": ("requested", None),
        "validated": ("queued", None),
        "refused": ("failed", True),
        "lost": ("failed", False),
    }
    assert sorted(moved) == [("validated", "timed_out", "queued"), ("waits", "failed", "requested")]


def test_the_newest_schema_is_found_without_the_libraries_of_migrations(database_url: str) -> None:
    """Most commands find it, and the import of Alembic and of all migrations takes longer than they do."""
    code = (
        "import os, sys; from batch_pipeline import migrations; assert migrations.upgrade(os.environ['DATABASE']);"
        "assert not {name for name in sys.modules if name.startswith('alembic') or 'versions' in name}"
    )
    environment = {**os.environ, "DATABASE": database_url}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


def test_a_change_log_with_partitions_is_migrated(empty_database_url: str) -> None:
    """The B-trees of open days go. Those of ended days are made again by retention, and no change is lost."""
    migrations.upgrade(empty_database_url, "0022")
    now = datetime.now(UTC)
    with connect(empty_database_url) as connection:
        for log, keys in CHANGES_KEYS.items():
            yesterday = sql.Identifier(f"{log}_{now - timedelta(days=1):%Y%m%d}")
            connection.execute(
                sql.SQL("CREATE TABLE {} PARTITION OF {} FOR VALUES FROM ({}) TO ({})").format(
                    yesterday,
                    sql.Identifier(log),
                    *(sql.Literal(f"{now - timedelta(days=number):%Y-%m-%d} 00:00+00") for number in (1, 0)),
                )
            )
            for days in (-1, 0, 1, 40):  # 40 days ago: DEFAULT
                values = dict.fromkeys(keys, f"r{days}") | {"at": now - timedelta(days=days), "organization_id": "o"}
                if keys == ("record_id",):
                    values |= {"op": "u", "changed": 8}
                else:
                    values |= {"before": "a", "after": "m"}
                connection.execute(
                    sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
                        sql.Identifier(log),
                        sql.SQL(", ").join(map(sql.Identifier, values)),
                        sql.SQL(", ").join(map(sql.Literal, values.values())),
                    )
                )
    roles.set_up(empty_database_url)
    migrations.upgrade(url_of_role(empty_database_url, roles.OWNER))
    with connect(url_of_role(empty_database_url, roles.LOADER)) as connection:
        missing = find_missing_indexes(connection, now.date())
        assert {(item.partition, item.column) for item in missing} == {
            (f"{log}_{now - timedelta(days=1):%Y%m%d}", key) for log, keys in CHANGES_KEYS.items() for key in keys
        }
        assert all(index_ended_day(connection, item) for item in missing)
        for log, keys in CHANGES_KEYS.items():
            records = sql.SQL("SELECT {} FROM {}").format(sql.Identifier(keys[0]), sql.Identifier(log))
            assert sorted(connection.execute(records).fetchall()) == [("r-1",), ("r0",), ("r1",), ("r40",)]
            btrees = connection.execute(
                "SELECT indrelid::regclass::text FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid"
                " WHERE relam = (SELECT oid FROM pg_am WHERE amname = 'btree')"
                " AND indrelid IN (SELECT relid FROM pg_partition_tree(%s))",
                (log,),
            )
            days = {row[0].removeprefix(f"{log}_") for row in btrees.fetchall()}
            assert days == {f"{now - timedelta(days=1):%Y%m%d}", "default"}


def test_processes_that_migrate_at_once_all_succeed(empty_database_url: str, database_url: str) -> None:
    code = (
        "import os; from batch_pipeline import migrations; print('ready', flush=True); input();"
        "migrations.upgrade(os.environ['DATABASE'])"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, "DATABASE": empty_database_url},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    results = [(process.communicate(timeout=60)[1], process.returncode) for process in processes]

    assert [code for _, code in results] == [0, 0, 0], results
    assert _schema(empty_database_url) == _schema(database_url)


def test_a_migration_releases_its_lock_for_others(database_url: str) -> None:
    migrations.upgrade(database_url)

    with connect(database_url) as connection:
        held = connection.execute(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        ).fetchone()
    assert held == (0,)


def test_an_unavailable_database_is_an_outage() -> None:
    with pytest.raises(UnavailableError):
        migrations.upgrade("postgresql://user@127.0.0.1:1/name")


def _schema(url: str) -> list[tuple[Any, ...]]:
    """Columns, constraints and indexes of all that is ours."""
    with connect(url) as connection:
        return [
            row
            for query in (
                "SELECT table_schema, table_name, column_name, data_type, is_nullable, column_default, collation_name"
                " FROM information_schema.columns WHERE table_schema IN ('public', 'staging') ORDER BY 1, 2, 3",
                "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint"
                " WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2",
                "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1, 2",
                "SELECT version_num FROM batch_pipeline_schema",
            )
            for row in connection.execute(query).fetchall()
        ]


def test_the_schema_of_a_newer_version_is_left_as_it_is(database_url: str) -> None:
    with connect(database_url, autocommit=True) as connection:
        connection.execute("UPDATE batch_pipeline_schema SET version_num = '9999'")

    assert not migrations.upgrade(database_url)

    with connect(database_url) as connection:
        assert connection.execute("SELECT version_num FROM batch_pipeline_schema").fetchall() == [("9999",)]
