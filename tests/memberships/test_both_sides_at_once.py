"""Batches of contacts and of groups write the same memberships at the same time: none is ever left dangling."""

import dataclasses
import random
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import psycopg
import pytest
from psycopg import sql
from waiting import eventually
from worlds import World, record_id, stats

from batch_pipeline.batches.model import Action, Batch
from batch_pipeline.system import System

DEADLINE_SECONDS = 60.0


@pytest.fixture
def world(module_system: System) -> World:
    settings = module_system.settings.model_copy(update={"chunk_rows": 20, "database_writers": 2})
    return World.new(dataclasses.replace(module_system, settings=settings))


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def dangling(world: World) -> int:
    """Memberships of groups that are not there, or of contacts that are not there."""
    with psycopg.connect(world.system.database_url) as connection:
        row = connection.execute(
            """
            SELECT count(*) FROM group_members m
            LEFT JOIN groups g ON g.organization_id = m.organization_id AND g.id = m.group_id
            LEFT JOIN contacts c ON c.organization_id = m.organization_id AND c.id = m.member_id
            WHERE m.organization_id = %s AND (g.id IS NULL OR c.id IS NULL)
            """,
            (world.organization_id,),
        ).fetchone()
    assert row is not None
    return int(row[0])


def until_blocked(world: World, blocker: psycopg.Connection, running: Future[Batch]) -> None:
    """Waits until some other connection waits for what this one has locked."""
    query = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid)))"
    with psycopg.connect(world.system.database_url, autocommit=True) as connection:

        def is_blocked() -> bool:
            if connection.execute(query, (blocker.info.backend_pid,)).fetchone() == (True,):
                return True
            assert not running.done(), running.result()
            return False

        eventually(is_blocked, pause=0.02)


@pytest.mark.parametrize("side", ["contact", "group"])
def test_a_member_deleted_while_it_is_added_is_not_added(world: World, threads: ThreadPoolExecutor, side: str) -> None:
    """What is referred to is being deleted when the chunk that adds it begins."""
    world.insert("contacts", *({"external_id": name, "name": name} for name in ("ada", "bob")))
    world.insert("groups", *({"external_id": name, "name": name} for name in ("vip", "staff")))
    gone, items = {
        "contact": ("groups", [{"external_id": "ada", "groups": ["vip", "staff"]}]),
        "group": ("contacts", [{"external_id": "staff", "children": ["ada", "bob"], "primary": ["ada"]}]),
    }[side]
    victim = record_id(gone, "vip" if side == "contact" else "bob")
    with psycopg.connect(world.system.database_url) as deleting:
        deleting.execute(sql.SQL("DELETE FROM {} WHERE id = %s").format(sql.Identifier(gone)), (victim,))
        running = threads.submit(world.run, side, *items)
        until_blocked(world, deleting, running)
    assert stats(running.result()) == {"updated": 1}
    assert world.members() == {("staff", "ada"): side == "group"}


@pytest.mark.parametrize(("resource", "action"), [("contact", "delete"), ("group", "delete"), ("contact", "overwrite")])
def test_a_member_added_while_it_is_deleted_is_deleted(
    world: World, threads: ThreadPoolExecutor, resource: str, action: str
) -> None:
    """A membership that is committed only after the deleting statement began."""
    world.insert("contacts", *({"external_id": name, "name": name} for name in ("ada", "bob")))
    world.insert("groups", *({"external_id": name, "name": name} for name in ("vip", "staff")))
    table = f"{resource}s"
    deleted, kept = {"contacts": ("ada", "bob"), "groups": ("vip", "staff")}[table]
    listed = {"id": record_id(table, deleted if action == "delete" else kept), "name": kept}
    with psycopg.connect(world.system.database_url) as adding:
        adding.execute(
            sql.SQL("SELECT FROM {} WHERE id = %s FOR KEY SHARE").format(sql.Identifier(table)),
            (record_id(table, deleted),),
        )
        adding.execute(
            "INSERT INTO group_members (organization_id, group_id, member_id) VALUES (%s, %s, %s)",
            (world.organization_id, record_id("groups", "vip"), record_id("contacts", "ada")),
        )
        running = threads.submit(world.run, resource, listed, action=Action(action))
        until_blocked(world, adding, running)
    assert stats(running.result())
    assert world.members() == {}
    assert dangling(world) == 0


def test_a_chunk_rolled_back_by_a_deadlock_is_repeated(world: World, threads: ThreadPoolExecutor) -> None:
    """Two records are locked crosswise: PostgreSQL ends one of the two transactions, here always the batch's."""
    world.insert("contacts", *({"external_id": name, "name": name} for name in ("ada", "bob")))
    world.insert("groups", {"external_id": "vip", "name": "vip"})
    first, second = sorted(record_id("contacts", name) for name in ("ada", "bob"))
    with psycopg.connect(world.system.database_url) as other:
        other.execute("SET LOCAL deadlock_timeout = '60s'")
        other.execute("SELECT FROM contacts WHERE id = %s FOR UPDATE", (second,))
        running = threads.submit(world.run, "group", {"external_id": "vip", "children": ["ada", "bob"]})
        until_blocked(world, other, running)
        other.execute("SELECT FROM contacts WHERE id = %s FOR UPDATE", (first,))
    assert stats(running.result()) == {"updated": 1}
    assert world.members_of("vip") == ["ada", "bob"]


@pytest.mark.parametrize("seed", range(2))
def test_no_membership_dangles_after_concurrent_changes_of_both_sides(
    world: World, threads: ThreadPoolExecutor, seed: int
) -> None:
    contacts = [f"c{number}" for number in range(120)]
    groups = [f"g{number}" for number in range(40)]
    world.insert("contacts", *({"external_id": name, "name": name} for name in contacts))
    world.insert("groups", *({"external_id": name, "name": name} for name in groups))
    both = threading.Barrier(2, timeout=DEADLINE_SECONDS)
    ended: list[Batch] = []

    def side(resource: str, names: list[str], others: list[str]) -> None:
        chance = random.Random(f"{seed} {resource}")  # noqa: S311 - repeatable, not secret
        for turn in range(6):
            both.wait()
            some = chance.sample(names, len(names) // 2)
            refers = {name: chance.sample(others, 4) for name in some}
            if turn % 3 == 2:
                table = f"{resource}s"
                ids = [row["id"] for row in world.rows(table) if row["external_id"] in some]
                items = [{"id": known} for known in ids]
                ended.append(world.run(resource, *items, action=Action.delete))
            else:
                items = [{"external_id": name, "name": name, **_links(resource, refers[name])} for name in some]
                ended.append(
                    world.run(
                        resource, *items, action=chance.choice([Action.merge, Action.overwrite]), delete_limit="none"
                    )
                )

    running = [threads.submit(side, "contact", contacts, groups), threads.submit(side, "group", groups, contacts)]
    for future in running:
        future.result()
    assert dangling(world) == 0
    reasons = {batch.reason.code for batch in ended if batch.reason is not None}
    assert reasons <= {"no_valid_items", "no_items"}  # where all that is referred to has been deleted
    assert sum(batch.status == "completed" for batch in ended) > len(ended) / 2


def _links(resource: str, names: list[str]) -> dict[str, object]:
    return {"groups": {"set": names}} if resource == "contact" else {"children": names, "primary": names[:1]}
