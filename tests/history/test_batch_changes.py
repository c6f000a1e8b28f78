"""The changes of a batch, in pages."""

import dataclasses

import psycopg
import pytest
from worlds import World, record_id

from batch_pipeline.batches.model import Action, Batch
from batch_pipeline.errors import StateError
from batch_pipeline.history.reading import ChangesPage, batch_changes
from batch_pipeline.system import System


@pytest.fixture
def world(module_system: System) -> World:
    """Ada, Bob and Cy; VIP has Ada and Bob."""
    world = World.new(module_system)
    world.insert("contacts", *({"external_id": name, "name": name} for name in ("ada", "bob", "cy")))
    world.insert("groups", {"external_id": "vip", "name": "vip"})
    world.join("vip", "ada", "bob")
    return world


def page_of(world: World, batch: Batch, *, page: int = 1, limit: int = 100, changes_days: int = 30) -> ChangesPage:
    return batch_changes(world.system.engine, batch, changes_days=changes_days, page=page, limit=limit)


def test_updates_creations_and_links_are_listed_in_this_order(world: World) -> None:
    batch = world.run(
        "contact",
        {"external_id": "new", "name": "New", "groups": ["vip"]},
        {"external_id": "ada", "notes": "x", "metadata": {"k": "v"}},
        {"external_id": "bob", "groups": {"remove": ["vip"]}},
        {"external_id": "cy", "name": "cy"},
    )
    ids = {row["external_id"]: row["id"] for row in world.rows("contacts")}
    world.run("contact", {"external_id": "ada", "notes": "later"})
    group = record_id("groups", "vip")
    found = page_of(world, batch).to_json()
    assert [(line["id"], line["row"], line["change"]) for line in found] == [
        (ids["ada"], 2, "updated"),
        (ids["new"], 1, "created"),
        (ids["bob"], 3, "updated"),
        (ids["new"], 1, "updated"),
    ]
    assert sorted(found[0]["changes"], key=str) == [
        {"field": "metadata.k", "before": None, "after": "v"},
        {"field": "notes", "before": None, "after": "x"},
    ]
    assert [line["changes"] for line in found[1:]] == [
        [],
        [{"field": "groups", "before": [group], "after": []}],
        [{"field": "groups", "before": [], "after": [group]}],
    ]


def test_deletions_show_the_record(world: World) -> None:
    batch = world.run("contact", {"external_id": "ada", "name": "ada"}, action=Action.overwrite)
    found = page_of(world, batch).to_json()
    assert {(line["id"], line["row"], line["change"]) for line in found[:2]} == {
        (record_id("contacts", name), None, "deleted") for name in ("bob", "cy")
    }
    assert {line["changes"][0]["before"]["name"] for line in found[:2]} == {"bob", "cy"}
    assert [line["changes"][0]["field"] for line in found] == [None, None, "groups"]


def test_pages_divide_the_changes(world: World) -> None:
    items = [{"external_id": f"n{number}", "name": "N", "groups": ["vip"]} for number in range(5)]
    changed = [{"external_id": name, "notes": "x"} for name in ("ada", "bob", "cy")]
    batch = world.run("contact", *items[:2], *changed, *items[2:])
    whole = page_of(world, batch).to_json()
    assert len(whole) == 13
    for limit in (1, 2, 3, 4, 5, 7, 13):
        pages = [page_of(world, batch, page=number, limit=limit) for number in range(1, 13 // limit + 3)]
        assert [line for page in pages for line in page.to_json()] == whole
        assert {page.total_count for page in pages} == {13}
        assert [page.has_more for page in pages] == [number * limit < 13 for number in range(1, len(pages) + 1)]


def test_a_batch_that_wrote_nothing_has_no_changes(world: World) -> None:
    batch = world.run("contact", {"name": "", "email": "no"})
    assert batch.status == "failed"
    assert (page_of(world, batch).to_json(), page_of(world, batch).total_count) == ([], 0)


def test_a_batch_without_the_log_is_refused(world: World) -> None:
    off = dataclasses.replace(world.system, settings=world.system.settings.model_copy(update={"changes": False}))
    batch = World(off, world.organization_id).run("contact", {"external_id": "ada", "notes": "x"})
    with pytest.raises(StateError) as refused:
        page_of(world, batch)
    assert refused.value.code == "changes_off"


def test_a_batch_older_than_the_log_is_refused(world: World) -> None:
    batch = world.run("contact", {"external_id": "ada", "notes": "x"})
    with psycopg.connect(world.system.database_url) as connection:
        connection.execute(
            "UPDATE batch_chunks SET done_at = done_at - interval '32 days' WHERE batch_id = %s", (batch.id,)
        )
    with pytest.raises(StateError) as refused:
        page_of(world, batch)
    assert refused.value.code == "changes_expired"
