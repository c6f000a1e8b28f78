"""The history of a record: who changed which field, newest first, from its creation on."""

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from worlds import World, record_id

from batch_pipeline.batches.model import Action, Batch
from batch_pipeline.errors import NotFoundError, StateError
from batch_pipeline.history.creation import find_creation
from batch_pipeline.history.reading import HistoryPage, record_history
from batch_pipeline.loading import log_support
from batch_pipeline.records.contact import CONTACT
from batch_pipeline.system import System


@pytest.fixture
def world(module_system: System) -> World:
    return World.new(module_system)


def page_of(world: World, resource: str, id_: str, *, page: int = 1, limit: int = 100) -> HistoryPage:
    return record_history(
        world.system.engine, world.organization_id, resource, id_, changes_days=30, page=page, limit=limit
    )


def history(world: World, id_: str, resource: str = "contact") -> list[tuple[Any, ...]]:
    """Of each line: batch, row, change, field, before, after."""
    lines = [entry.to_json() for entry in page_of(world, resource, id_).entries]
    names = ("batch", "row", "change", "field", "before", "after")
    return [tuple(line[name] for name in names) for line in lines]


def id_of(world: World, name: str, table: str = "contacts") -> str:
    return next(str(row["id"]) for row in world.rows(table) if row["external_id"] == name)


def outside(world: World, statement: str, *parameters: Any) -> None:
    with psycopg.connect(world.system.database_url) as connection:
        connection.execute(statement, parameters)


def test_each_change_shows_the_values_before_and_after_it(world: World) -> None:
    first = world.run("contact", {"external_id": "a", "name": "Ada", "metadata": {"k": "1", "m": "x"}})
    id_ = id_of(world, "a")
    second = world.run(
        "contact", {"external_id": "z", "name": "Z"}, {"external_id": "a", "name": "Ann", "metadata": {"k": "2"}}
    )
    outside(world, "UPDATE contacts SET name = 'Else' WHERE id = %s", id_)
    third = world.run("contact", {"external_id": "a", "name": "Amy", "metadata": {"k": None}, "notes": "n"})

    found = history(world, id_)
    assert sorted(found[:3], key=str) == sorted(
        [
            (third.id, 1, "updated", "name", "Else", "Amy"),
            (third.id, 1, "updated", "notes", None, "n"),
            (third.id, 1, "updated", "metadata.k", "2", None),
        ],
        key=str,
    )
    assert found[3] == (None, None, "updated", "name", "Ann", "Else")
    assert sorted(found[4:6]) == [
        (second.id, 2, "updated", "metadata.k", "1", "2"),
        (second.id, 2, "updated", "name", "Ada", "Ann"),
    ]
    (created,) = found[6:]
    assert created[:5] == (first.id, 1, "created", None, None)
    assert {"id": id_, "external_id": "a", "name": "Ada", "metadata": {"k": "1", "m": "x"}}.items() <= created[
        5
    ].items()
    assert "notes" not in created[5]


def test_a_line_names_its_time_and_who_caused_the_batch(world: World) -> None:
    batch = world.run("contact", {"external_id": "a", "name": "Ada"})
    id_ = id_of(world, "a")
    outside(world, "UPDATE contacts SET notes = 'x' WHERE id = %s", id_)
    other, created = page_of(world, "contact", id_).entries
    assert (created.by, other.by) == (batch.updated_by, None)
    assert abs(created.change.at - datetime.now(UTC)) < timedelta(minutes=5)
    assert created.change.at <= other.change.at


def test_a_deleted_record_keeps_its_history(world: World) -> None:
    first = world.run("contact", {"external_id": "a", "name": "Ada", "notes": "old"})
    id_ = id_of(world, "a")
    second = world.run("contact", {"external_id": "a", "notes": "new"})
    third = world.run("contact", {"id": id_}, action=Action.delete)
    deleted, updated, created = history(world, id_)
    assert deleted[:4] == (third.id, 1, "deleted", None)
    assert (deleted[4]["notes"], deleted[5]) == ("new", None)
    assert updated == (second.id, 1, "updated", "notes", "old", "new")
    assert (created[:3], created[5]["notes"]) == ((first.id, 1, "created"), "old")


def test_a_restored_record_shows_its_deletion_and_restoration(world: World) -> None:
    world.run("contact", {"external_id": "a", "name": "Ada"})
    (before,) = world.rows("contacts")
    world.run("contact", {"id": before["id"]}, action=Action.delete)
    outside(  # as an undo does
        world,
        "INSERT INTO contacts (organization_id, id, external_id, name, batch_id)"
        " VALUES (%s, %s, 'a', 'Ada', 'batch_u')",
        world.organization_id,
        before["id"],
    )
    outside(
        world,
        "INSERT INTO contact_changes (organization_id, record_id, batch_id, row, op, changed)"
        " VALUES (%s, %s, 'batch_u', 1, 'i', 0)",
        world.organization_id,
        before["id"],
    )
    restored, deleted, created = history(world, before["id"])
    assert (restored[2], restored[4], restored[5]["name"]) == ("restored", None, "Ada")
    assert (deleted[2], deleted[4]["name"], deleted[5]) == ("deleted", "Ada", None)
    assert (created[2], created[5]["name"]) == ("created", "Ada")


def test_members_are_seen_from_both_sides(world: World) -> None:
    world.insert("contacts", *({"external_id": name, "name": name} for name in ("ada", "bob")))
    ada = record_id("contacts", "ada")
    made = world.run("group", {"external_id": "vip", "name": "Vip", "children": ["ada", "bob"], "primary": ["ada"]})
    group = id_of(world, "vip", "groups")
    changed = world.run("group", {"external_id": "vip", "primary": ["bob"]})
    left = world.run("contact", {"external_id": "ada", "groups": {"remove": ["vip"]}})

    assert history(world, ada) == [
        (left.id, 1, "updated", "groups", [group], []),
        (made.id, 1, "updated", "groups", [], [group]),
    ]
    of_group = history(world, group, "group")
    bob = record_id("contacts", "bob")
    assert of_group[0] == (left.id, 1, "updated", "children", [ada], [])
    assert sorted(of_group[1:3]) == [
        (changed.id, 1, "updated", "primary", [], [bob]),
        (changed.id, 1, "updated", "primary", [ada], []),
    ]
    assert sorted(of_group[3:6]) == sorted(
        [
            (made.id, 1, "updated", "children", [], [ada]),
            (made.id, 1, "updated", "children", [], [bob]),
            (made.id, 1, "updated", "primary", [], [ada]),
        ]
    )
    assert of_group[6][:4] == (made.id, 1, "created", None)
    assert len(of_group) == 7


def test_pages_divide_the_history(world: World) -> None:
    world.run("contact", {"external_id": "a", "name": "Ada"})
    id_ = id_of(world, "a")
    for number in range(3):
        world.run("contact", {"external_id": "a", "notes": str(number), "phone": f"+1415555267{number}"})
    whole = [entry.to_json() for entry in page_of(world, "contact", id_).entries]
    pages = [page_of(world, "contact", id_, page=number, limit=3) for number in (1, 2, 3, 4)]
    assert [entry.to_json() for page in pages for entry in page.entries] == whole
    assert [(len(page.entries), page.total_count, page.has_more) for page in pages] == [
        (3, 7, True),
        (3, 7, True),
        (1, 7, False),
        (0, 7, False),
    ]


def test_of_a_creation_before_the_log_the_values_are_unknown(world: World) -> None:
    world.run("contact", {"external_id": "a", "name": "Ada"})
    id_ = id_of(world, "a")
    outside(world, "UPDATE contacts SET created_at = now() - interval '40 days' WHERE id = %s", id_)
    (created,) = history(world, id_)
    assert (created[2], created[5]) == ("created", None)


def test_a_record_that_another_tool_made_has_no_creation(world: World) -> None:
    world.insert("contacts", {"external_id": "a", "name": "Ada"})
    assert history(world, record_id("contacts", "a")) == []


def test_other_organizations_records_and_unknown_ones_are_not_found(world: World) -> None:
    world.run("contact", {"external_id": "a", "name": "Ada"})
    id_ = id_of(world, "a")
    other = World.new(world.system)
    for where, resource, wanted in (
        (other, "contact", id_),
        (world, "group", id_),
        (world, "person", id_),
        (world, "contact", "x"),
        (world, "contact", "\x00"),
    ):
        with pytest.raises(NotFoundError):
            history(where, wanted, resource)


def test_a_creation_is_found_by_the_id_alone_and_only_if_the_id_is_genuine(world: World) -> None:
    batch = world.run("contact", *({"name": f"N{number}"} for number in range(5)))
    ids = sorted(str(row["id"]) for row in world.rows("contacts"))
    with psycopg.connect(world.system.database_url) as connection:

        def creation(id_: str, organization: str = world.organization_id) -> tuple[str, int] | None:
            found = find_creation(connection, CONTACT, organization, id_)
            return None if found is None else (found.batch_id, found.row)

        assert [creation(id_) for id_ in ids] == [(batch.id, row) for row in range(1, 6)]
        changed = ids[0][:-1] + ("1" if ids[0][-1] != "1" else "2")
        wrong = [changed, ids[0].replace("ctct_", "grp_"), ids[0][:-1], ids[0] + "1", "ctct_" + "0" * 22]
        assert {creation(id_) for id_ in wrong} == {None}
        assert creation(ids[0], World.new(world.system).organization_id) is None


def test_before_postgresql_18_batches_run_without_the_log_and_history_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.run("contact", {"external_id": "a", "name": "Ada"})
    id_ = id_of(world, "a")
    monkeypatch.setattr(log_support, "MINIMUM_VERSION", 190_000)
    batch: Batch = world.run("contact", {"external_id": "a", "notes": "x"})
    assert (batch.status, batch.stats.updated) == ("completed", 1)
    with pytest.raises(StateError) as refused:
        history(world, id_)
    assert refused.value.code == "needs_postgresql_18"
    monkeypatch.undo()
    assert [line[2] for line in history(world, id_)] == ["created"]


def test_without_the_setting_changes_are_missing_and_the_rest_is_shown(world: World) -> None:
    world.run("contact", {"external_id": "a", "name": "Ada"})
    off = dataclasses.replace(world.system, settings=world.system.settings.model_copy(update={"changes": False}))
    World(off, world.organization_id).run("contact", {"external_id": "a", "notes": "x"})
    assert [line[2] for line in history(world, id_of(world, "a"))] == ["created"]
