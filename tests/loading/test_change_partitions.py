"""Partitions of the change log are made ahead, and dropped when they are old."""

import dataclasses
from datetime import UTC, date, datetime, timedelta

import psycopg
import pytest
from change_logs import logged
from psycopg import sql
from worlds import World

from batch_pipeline.database import connect
from batch_pipeline.loading.change_partitions import (
    DAYS_AHEAD,
    drop_day,
    find_old_days,
    make_partitions_ahead,
    partition_exists,
    partition_of_tomorrow,
)
from batch_pipeline.records.registry import CHANGES_TABLES
from batch_pipeline.system import System

NOW = datetime.now(UTC)
TODAY = NOW.date()


def partitions(database_url: str, table: str = "contact_changes") -> set[str]:
    """The days that have a partition, and `default`."""
    with connect(database_url) as connection:
        rows = connection.execute("SELECT relid::regclass::text FROM pg_partition_tree(%s) WHERE isleaf", (table,))
        return {str(row[0]).removeprefix(f"{table}_") for row in rows}


def days(first: date, count: int) -> set[str]:
    return {f"{first + timedelta(days=number):%Y%m%d}" for number in range(count)}


def log_change(database_url: str, at: datetime, table: str = "contact_changes") -> None:
    with connect(database_url) as connection:
        connection.execute(
            sql.SQL(
                "INSERT INTO {} (at, organization_id, record_id, op, changed) VALUES (%s, 'o', 'r', 'u', 8)"
            ).format(sql.Identifier(table)),
            (at,),
        )


def count(database_url: str, table: str) -> int:
    with connect(database_url) as connection:
        row = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))).fetchone()
    assert row is not None
    return int(row[0])


def test_the_migration_makes_the_partitions_of_a_week(database_url: str) -> None:
    for table in CHANGES_TABLES:
        found = partitions(database_url, table) - {"default"}
        assert len(found) == DAYS_AHEAD + 1
        assert min(found) in days(TODAY - timedelta(days=1), 2)  # made before midnight, perhaps


def test_partitions_are_made_ahead_for_every_table(database_url: str) -> None:
    later = NOW + timedelta(days=5)
    with connect(database_url) as connection:
        make_partitions_ahead(connection, later)
    for table in CHANGES_TABLES:
        assert days(later.date() + timedelta(days=1), DAYS_AHEAD) <= partitions(database_url, table)


def test_the_day_that_has_begun_gets_no_partition(database_url: str) -> None:
    later = NOW + timedelta(days=20)
    with connect(database_url) as connection:
        make_partitions_ahead(connection, later)
    assert f"{later:%Y%m%d}" not in partitions(database_url)


def test_a_partition_keeps_the_changes_of_its_day(database_url: str) -> None:
    tomorrow = NOW + timedelta(days=12)
    with connect(database_url) as connection:
        make_partitions_ahead(connection, tomorrow - timedelta(days=1))
    log_change(database_url, tomorrow)
    log_change(database_url, NOW - timedelta(days=3))
    assert count(database_url, f"contact_changes_{tomorrow:%Y%m%d}") == 1
    assert count(database_url, "contact_changes_default") == 1
    with connect(database_url) as connection:
        numbers = connection.execute("SELECT count(DISTINCT number), min(number) FROM contact_changes").fetchone()
    assert numbers == (2, 1)


def test_changes_that_default_has_already_stay_there(database_url: str) -> None:
    later = NOW + timedelta(days=20)
    log_change(database_url, later + timedelta(days=1))
    with connect(database_url) as connection:
        make_partitions_ahead(connection, later)
    assert f"{later + timedelta(days=1):%Y%m%d}" not in partitions(database_url)
    assert count(database_url, "contact_changes_default") == 1


def test_a_missing_partition_of_tomorrow_is_noticed_and_made(database_url: str) -> None:
    before = partitions(database_url)
    tomorrow = partition_of_tomorrow("contact_changes")
    with connect(database_url) as connection:
        connection.execute(f"DROP TABLE contact_changes_{TODAY + timedelta(days=2):%Y%m%d}")
        connection.commit()
        assert partition_exists(connection, tomorrow)
        connection.execute(f"DROP TABLE {tomorrow}")
        connection.commit()
        assert not partition_exists(connection, tomorrow)
        connection.commit()
        make_partitions_ahead(connection, NOW)
    assert partitions(database_url) >= before


def test_old_days_are_dropped_and_deleted_from_default(database_url: str) -> None:
    log_change(database_url, NOW)
    log_change(database_url, NOW - timedelta(days=3), "group_changes")
    log_change(database_url, NOW + timedelta(days=30))
    with connect(database_url) as connection:
        old = find_old_days(connection, TODAY + timedelta(days=2))
        assert {*old} >= {TODAY - timedelta(days=3), TODAY, TODAY + timedelta(days=1)}
        assert all(drop_day(connection, day) for day in old)
        assert find_old_days(connection, TODAY + timedelta(days=2)) == []
    assert count(database_url, "group_changes") == 0
    assert count(database_url, "contact_changes") == 1
    assert f"{TODAY + timedelta(days=2):%Y%m%d}" in partitions(database_url)


def test_a_day_in_use_is_dropped_by_a_later_pass(database_url: str) -> None:
    with connect(database_url) as reader, connect(database_url) as connection:
        reader.execute("SELECT FROM contact_changes")
        assert not drop_day(connection, TODAY)
        reader.rollback()
        assert drop_day(connection, TODAY)
    assert f"{TODAY:%Y%m%d}" not in partitions(database_url)


def test_before_the_migration_there_is_nothing_to_do(database_url: str) -> None:
    with connect(database_url) as connection:
        for table in CHANGES_TABLES:
            connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(table)))
        connection.commit()
        make_partitions_ahead(connection, NOW)
        assert find_old_days(connection, TODAY + timedelta(days=50)) == []


@pytest.mark.parametrize("is_on", [True, False])
def test_a_batch_makes_the_partition_of_tomorrow(system: System, is_on: bool) -> None:
    tomorrow = f"{datetime.now(UTC) + timedelta(days=1):%Y%m%d}"
    settings = system.settings.model_copy(update={"changes": is_on})
    world = World.new(dataclasses.replace(system, settings=settings))
    with psycopg.connect(system.database_url) as connection:
        connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(f"contact_changes_{tomorrow}")))
    assert world.run("contact", {"name": "Ada"}).status == "completed"
    assert (tomorrow in partitions(system.database_url)) is is_on


def test_a_batch_does_not_wait_long_for_its_partition(system: System) -> None:
    tomorrow = f"{datetime.now(UTC) + timedelta(days=1):%Y%m%d}"
    world = World.new(system)
    world.insert("contacts", {"external_id": "ada", "name": "ada"})
    with psycopg.connect(system.database_url, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(f"contact_changes_{tomorrow}")))
        with connection.transaction():
            connection.execute("SELECT FROM contact_changes_default")
            assert world.run("contact", {"external_id": "ada", "notes": "x"}).status == "completed"
    assert tomorrow not in partitions(system.database_url)
    assert len(logged(system, world.organization_id, "contact_changes")) == 1
