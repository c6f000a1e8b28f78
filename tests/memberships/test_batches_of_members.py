"""What deletes, overwrites, refusals, other batches and re-runs make of memberships, from the payload to the rows."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from driving import run_attempt
from psycopg import sql
from worlds import World, record_id, stats

from batch_pipeline.batches.model import Action, Starter
from batch_pipeline.errors import RefusedError
from batch_pipeline.system import System


@pytest.fixture
def world(module_system: System) -> World:
    """Ada, Bob and Cy; VIP has Ada (primary) and Bob, Staff has Bob and Cy; Depot has two locations."""
    world = World.new(module_system)
    world.insert("contacts", *({"external_id": name, "name": name} for name in ("ada", "bob", "cy")))
    world.insert("groups", *({"external_id": name, "name": name} for name in ("vip", "staff")))
    world.insert("groups", {"external_id": "depot", "name": "depot", "resource": "location"})
    world.join("vip", "ada", primary=True)
    world.join("vip", "bob")
    world.join("staff", "bob", "cy")
    world.join("depot", "loc_1", "loc_2")
    return world


def all_members(world: World) -> dict[str, list[str]]:
    return {group: world.members_of(group) for group in sorted({group for group, _ in world.members()})}


BEFORE = {"depot": ["loc_1", "loc_2"], "staff": ["bob", "cy"], "vip": ["ada*", "bob"]}


# ---- deleting ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("resource", "action", "items", "after"),
    [
        ("contact", Action.delete, ["bob"], {"depot": ["loc_1", "loc_2"], "staff": ["cy"], "vip": ["ada*"]}),
        ("group", Action.delete, ["vip"], {"depot": ["loc_1", "loc_2"], "staff": ["bob", "cy"]}),
        ("group", Action.delete, ["depot", "staff"], {"vip": ["ada*", "bob"]}),
        ("contact", Action.overwrite, ["ada"], {"depot": ["loc_1", "loc_2"], "vip": ["ada*"]}),
        ("group", Action.overwrite, ["vip"], {"vip": ["ada*", "bob"]}),
    ],
)
def test_deleting_records_deletes_their_memberships(
    world: World, resource: str, action: Action, items: list[str], after: dict[str, list[str]]
) -> None:
    other = World.new(world.system)
    other.insert("contacts", {"external_id": "bob", "name": "bob"})
    other.insert("groups", {"external_id": "vip", "name": "vip"})
    other.join("vip", "bob")
    table = f"{resource}s"
    batch = world.run(resource, *({"id": record_id(table, name)} for name in items), action=action)
    assert set(stats(batch)) <= {"deleted", "overwritten", "unchanged"}
    assert all_members(world) == after
    assert all_members(other) == {"vip": ["bob"]}


def test_a_blank_cell_of_an_overwrite_leaves_no_groups(world: World) -> None:
    rows = [
        {"id": record_id("contacts", "ada"), "name": "ada", "groups": "staff"},
        {"id": record_id("contacts", "bob"), "name": "bob", "groups": ""},
        {"id": record_id("contacts", "cy"), "name": "cy", "groups": "staff"},
    ]
    batch = world.run("contact", *rows, flat=True, action=Action.overwrite)
    assert stats(batch) == {"updated": 2, "unchanged": 1}
    assert all_members(world) == {"depot": ["loc_1", "loc_2"], "staff": ["ada", "cy"], "vip": ["ada*"]}
    assert stats(world.run("contact", *rows, flat=True)) == {"unchanged": 3}  # merge keeps what is blank


def test_a_rejected_group_of_an_overwrite_keeps_its_members(world: World) -> None:
    items = [{"external_id": "vip", "children": ["nobody"]}, {"external_id": "staff"}]
    batch = world.run("group", *items, action=Action.overwrite)
    assert stats(batch) == {"unchanged": 1, "rejected": 1, "overwritten": 1}
    assert all_members(world) == {"staff": ["bob", "cy"], "vip": ["ada*", "bob"]}


# ---- who is written ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("resource", "item", "written"),
    [
        ("contact", {"external_id": "ada", "groups": ["staff"]}, ("contacts", "ada")),
        ("group", {"external_id": "staff", "children": ["ada", "bob", "cy"]}, ("groups", "staff")),
        ("group", {"external_id": "staff", "primary": ["cy"]}, ("groups", "staff")),
    ],
)
def test_a_change_of_memberships_updates_the_record_that_lists_them(
    world: World, resource: str, item: dict[str, Any], written: tuple[str, str]
) -> None:
    before = {(table, row["external_id"]): row for table in ("contacts", "groups") for row in world.rows(table)}
    batch = world.run(resource, item)
    assert stats(batch) == {"updated": 1}
    for (table, name), row in before.items():
        after = next(other for other in world.rows(table) if other["external_id"] == name)
        if (table, name) == written:
            assert (after["batch_id"], after["updated_at"] > row["updated_at"]) == (batch.id, True)
        else:
            assert after == row


def test_an_upload_without_membership_columns_changes_no_membership(world: World) -> None:
    with psycopg.connect(world.system.database_url) as connection:
        connection.execute("LOCK TABLE group_members IN ACCESS EXCLUSIVE MODE")
        items = [{"external_id": "ada", "name": "Ada", "notes": "new"}, {"external_id": "new", "name": "New"}]
        batch = world.run("contact", *items, timeout_seconds=30)
        groups = world.run("group", {"external_id": "vip", "name": "VIPs"}, timeout_seconds=30)
    assert stats(batch) == {"updated": 1, "created": 1}
    assert stats(groups) == {"updated": 1}


@pytest.mark.parametrize("given", [{}, {"resource": "contact"}, {"resource": None}, {"location_id": None}])
def test_a_group_is_found_by_its_name_and_the_defaults_of_the_rest(world: World, given: dict[str, Any]) -> None:
    world.insert("groups", {"external_id": "vip2", "name": "vip", "location_id": "loc_1"})
    world.insert("groups", {"external_id": "vip3", "name": "vip", "resource": "location"})
    assert stats(world.run("group", {"name": "vip", "children": ["cy"], **given})) == {"updated": 1}
    assert all_members(world) == {**BEFORE, "vip": ["cy"]}


@pytest.mark.parametrize(("resource", "group"), [("location", "vip"), ("contact", "depot"), (None, "depot")])
def test_the_resource_of_a_group_with_members_can_not_change(world: World, resource: str | None, group: str) -> None:
    items = [{"external_id": group, "resource": resource}, {"external_id": "staff", "resource": "contact"}]
    batch = world.run("group", *items)
    assert stats(batch) == {"rejected": 1, "unchanged": 1}
    assert [(error["code"], error["field"]) for error in world.errors(batch)[1]] == [("conflict", "resource")]
    assert all_members(world) == BEFORE


# ---- what the database refuses -----------------------------------------------------------------------------------


def test_an_item_that_the_database_refuses_changes_no_membership_and_fails_alone(world: World) -> None:
    world.execute(
        sql.SQL("ALTER TABLE contacts ADD CONSTRAINT {} CHECK (organization_id <> {} OR notes <> 'refuse me')").format(
            sql.Identifier(f"refusing {world.organization_id}"), sql.Literal(world.organization_id)
        ),
        [],
    )
    items = [{"external_id": f"new{number}", "name": "New", "groups": ["vip"]} for number in range(5)]
    items[2]["notes"] = "refuse me"
    items += [
        {"external_id": "ada", "groups": {"set": ["staff"]}, "notes": "refuse me"},
        {"external_id": "bob", "groups": {"remove": ["vip"]}},
        {"external_id": "cy", "groups": {"add": ["staff"]}},
    ]
    batch = world.run("contact", *items)
    assert stats(batch) == {"created": 4, "updated": 1, "unchanged": 1, "rejected": 2}
    assert {row: [error["code"] for error in found] for row, found in world.errors(batch).items()} == {
        3: ["write_failed"],
        6: ["write_failed"],
    }
    assert all_members(world) == {**BEFORE, "vip": ["ada*", "new0", "new1", "new3", "new4"]}


# ---- other batches meanwhile -------------------------------------------------------------------------------------


def test_references_are_resolved_again_if_their_records_were_written_since(world: World) -> None:
    """Between validation and processing one group goes, another takes its name, a third appears."""

    def meanwhile() -> None:
        world.run("group", {"id": record_id("groups", "staff")}, action=Action.delete)
        world.run("group", {"external_id": "vip", "name": "was vip"}, {"external_id": "late", "name": "late"})
        world.run("group", {"external_id": "heir", "name": "vip"})

    items = [
        {"external_id": "ada", "groups": ["staff"]},
        {"external_id": "bob", "groups": ["late"]},
        {"external_id": "cy", "groups": ["vip"]},
        {"external_id": "new", "name": "New", "groups": ["heir", "was vip"]},
    ]
    batch = world.run("contact", *items, once_validated=meanwhile)
    assert {row: [error["value"] for error in found] for row, found in world.errors(batch).items()} == {1: ["staff"]}
    assert stats(batch) == {"updated": 2, "created": 1, "rejected": 1}
    assert all_members(world) == {
        "depot": ["loc_1", "loc_2"],
        "heir": ["new"],
        "late": ["bob"],
        "vip": ["ada*", "bob", "cy", "new"],
    }


def _broken_off(world: World, resource: str, items: list[dict[str, Any]], meanwhile: Callable[[], object]) -> Any:
    """A batch that is validated and then fails; after the other one it is run again."""

    def fail() -> None:
        raise RefusedError("broken_off", "for the test")

    batch = run_attempt(world.system, world.arrived(resource, items), once_validated=fail)
    assert (batch.status, batch.reason and batch.reason.code) == ("failed", "broken_off")
    meanwhile()
    return run_attempt(world.system, world.system.ledger.request_rerun(batch.id, Starter.caller))


def test_a_late_re_run_of_contacts_does_not_undo_a_later_batch(world: World) -> None:
    items = [
        {"external_id": "ada", "groups": {"remove": ["vip"]}},  # which the later batch has set
        {"external_id": "bob", "groups": ["vip"]},  # as it is
        {"external_id": "cy", "groups": {"set": []}},  # of a group that nobody else wrote
    ]
    batch = _broken_off(
        world,
        "contact",
        items,
        lambda: world.run("group", {"external_id": "vip", "children": ["ada", "bob"], "metadata": {"a": "b"}}),
    )
    assert stats(batch) == {"rejected": 1, "unchanged": 1, "updated": 1}
    assert [error["code"] for error in world.errors(batch)[1]] == ["conflict"]
    assert all_members(world) == {**BEFORE, "staff": ["bob"]}


def test_a_late_re_run_of_groups_does_not_undo_a_later_batch(world: World) -> None:
    items = [{"external_id": "vip", "children": ["ada"]}, {"external_id": "staff", "children": ["cy", "ada"]}]
    batch = _broken_off(
        world, "group", items, lambda: world.run("contact", {"external_id": "cy", "groups": {"set": ["vip"]}})
    )
    # In both the later batch has put cy where it is: out of one group, into the other.
    assert (batch.status, batch.reason and batch.reason.code) == ("failed", "no_valid_items")
    assert {row: [error["value"] for error in found] for row, found in world.errors(batch).items()} == {
        1: [record_id("contacts", "cy")],
        2: [record_id("contacts", "cy")],
    }
    assert all_members(world) == {"depot": ["loc_1", "loc_2"], "staff": ["bob"], "vip": ["ada*", "bob", "cy"]}


def test_a_first_run_ignores_the_order_of_arrival_of_other_resources(world: World) -> None:
    items = [{"external_id": "cy", "groups": ["vip"]}]
    batch = world.run(
        "contact", *items, once_validated=lambda: world.run("group", {"external_id": "vip", "children": ["bob"]})
    )
    assert stats(batch) == {"updated": 1}
    assert all_members(world) == {**BEFORE, "vip": ["bob", "cy"]}
