"""History and undo read ended days of the change log by their B-trees, and the open day without one."""

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import sql
from undo_world import UndoWorld, counts, undo_world

from batch_pipeline.batches.model import Batch
from batch_pipeline.database import connect
from batch_pipeline.history.reading import batch_changes, record_history
from batch_pipeline.loading.change_indexes import MissingIndex, find_missing_indexes
from batch_pipeline.loading.change_partitions import index_ended_day, make_partitions_ahead
from batch_pipeline.records.registry import CHANGES_KEYS
from batch_pipeline.system import System

NOW = datetime.now(UTC)
LOGS = ("contact_changes", "group_member_changes")


@pytest.fixture(scope="module")
def world(module_system: System) -> UndoWorld:
    with connect(module_system.database_url) as connection:
        make_partitions_ahead(connection, NOW - timedelta(days=3))  # of the two days before today
    return undo_world(module_system)


def move_to_the_past(world: UndoWorld, batch: Batch, days: int) -> None:
    """Makes the batch one that ran some days ago."""
    for table, column, key in (("batches", "created_at", "id"), *((log, "at", "batch_id") for log in LOGS)):
        statement = sql.SQL("UPDATE {} SET {column} = {column} - make_interval(days => %s) WHERE {} = %s")
        names = {"column": sql.Identifier(column)}
        world.execute(statement.format(sql.Identifier(table), sql.Identifier(key), **names), days, batch.id)


def index_columns(world: UndoWorld, log: str, day: datetime) -> set[str]:
    """The first columns of the B-trees of a day's partition."""
    rows = world.execute(
        "SELECT attname FROM pg_index JOIN pg_class c ON c.oid = indexrelid JOIN pg_am m ON m.oid = relam"
        " JOIN pg_attribute a ON attrelid = indrelid AND attnum = indkey[0]"
        " WHERE indrelid = to_regclass(%s) AND amname = 'btree'",
        f"public.{log}_{day:%Y%m%d}",
    )
    return {row["attname"] for row in rows}


def index_ended_days(world: UndoWorld, today: datetime) -> None:
    with connect(world.system.database_url) as connection:
        for missing in find_missing_indexes(connection, today.date()):
            assert index_ended_day(connection, missing)
        assert find_missing_indexes(connection, today.date()) == []


def history(world: UndoWorld, name: str) -> list[tuple[Any, ...]]:
    """Of each line: batch, field, before, after."""
    page = record_history(
        world.system.engine,
        world.organization_id,
        "contact",
        world.by(name)["id"],
        changes_days=30,
        page=1,
        limit=100,
    )
    lines = [entry.to_json() for entry in page.entries if entry.field.field is not None]
    return [(line["batch"], line["field"], line["before"], line["after"]) for line in lines]


def test_history_and_undo_are_right_across_open_and_ended_days(world: UndoWorld) -> None:
    world.run([{"external_id": "vip", "name": "VIP"}], resource="group")
    people = [{"external_id": name, "name": name} for name in "abcdefg"]
    created = world.run(people)
    states = [world.contacts()]
    batches = []
    for number in range(3):
        changed = [{"external_id": name, "name": f"{name}{number}", "groups": None} for name in "abcdefg"[number:]]
        if number == 0:
            changed[0]["groups"] = "vip"
        batches.append(world.run(changed))
        states.append(world.contacts())
    vip = world.by("vip", "groups")["id"]
    first, second, third = batches
    for batch, days in ((created, 2), (first, 2), (second, 1)):
        move_to_the_past(world, batch, days)
    index_ended_days(world, NOW - timedelta(days=1))  # the day before yesterday, not yesterday

    for log, keys in CHANGES_KEYS.items():
        assert index_columns(world, log, NOW - timedelta(days=2)) == set(keys)
        assert index_columns(world, log, NOW) == set()
    assert history(world, "g") == [
        (third.id, "name", "g1", "g2"),
        (second.id, "name", "g0", "g1"),
        (first.id, "name", "g", "g0"),
    ]
    assert (first.id, "groups", [], [vip]) in history(world, "a")
    for batch, number in ((first, 0), (second, 1), (third, 2)):
        page = batch_changes(world.system.engine, world.system.ledger.get(batch.id), changes_days=30, page=1, limit=100)
        fields = [field for change in page.changes for field in change.fields if field.field == "name"]
        assert sorted((field.before, field.after) for field in fields) == [
            (f"{name}{number - 1}" if number else name, f"{name}{number}") for name in "abcdefg"[number:]
        ]

    kept = world.undo(first)  # later batches changed all names but that of "a"
    assert counts(kept) == {"reversed": 1, "kept": 6}
    world.undo(kept)
    index_ended_days(world, NOW)
    for batch, state in zip(reversed(batches), reversed(states[:-1]), strict=True):
        world.undo(batch)
        assert world.contacts() == state
    world.undo(created)
    assert world.contacts() == {}
    assert world.rows("group_members") == {}


def test_a_day_is_indexed_when_nothing_writes_it_any_more(world: UndoWorld) -> None:
    partition = f"contact_changes_{NOW:%Y%m%d}"
    missing = MissingIndex(partition, "record_id")
    with psycopg.connect(world.system.database_url) as late, connect(world.system.database_url) as connection:
        late.execute(
            "INSERT INTO contact_changes (at, organization_id, record_id, op, changed) VALUES (%s, 'o', 'r', 'u', 1)",
            (NOW,),
        )
        assert missing in find_missing_indexes(connection, (NOW + timedelta(days=1)).date())
        assert not index_ended_day(connection, missing)
        late.rollback()
        assert index_ended_day(connection, missing)
    assert index_columns(world, "contact_changes", NOW) == {"record_id"}
