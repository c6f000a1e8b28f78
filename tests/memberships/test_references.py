"""How references resolve and change memberships: many cases, each an item of one batch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from worlds import World, record_id

from batch_pipeline.system import System


@dataclass(frozen=True)
class Case:
    """An item and what becomes of it: the record's links afterwards and the outcome, or the errors' codes."""

    name: str
    before: tuple[str, ...]
    item: dict[str, Any]
    after: list[str] | None = None
    outcome: str = "updated"
    codes: tuple[str, ...] = ()
    about: str | None = None


VIP_ID, DEPOT_ID = record_id("groups", "vip"), record_id("groups", "depot")
ADA_ID = record_id("contacts", "ada")

CONTACT_CASES = [
    Case("by name", (), {"groups": ["The VIPs"]}, ["vip"]),
    Case("by external id", (), {"groups": ["vip"]}, ["vip"]),
    Case("by id", (), {"groups": [VIP_ID]}, ["vip"]),
    Case("external id before name", (), {"groups": ["staff"]}, ["staff"]),
    Case("named as another's external id", (), {"groups": [record_id("groups", "namesake")]}, ["namesake"]),
    Case("several ways to name one", (), {"groups": ["vip", "The VIPs", VIP_ID, "vip"]}, ["vip"]),
    Case("add what is there", ("vip",), {"groups": ["vip"]}, ["vip"], "unchanged"),
    Case("add to others", ("staff",), {"groups": ["vip"]}, ["staff", "vip"]),
    Case("remove", ("staff", "vip"), {"groups": {"remove": ["The VIPs"]}}, ["staff"]),
    Case("remove what is not there", ("staff",), {"groups": {"remove": ["vip"]}}, ["staff"], "unchanged"),
    Case("add and remove", ("staff",), {"groups": {"add": ["vip"], "remove": ["staff"]}}, ["vip"]),
    Case("set more", ("staff",), {"groups": {"set": ["vip", " staff "]}}, ["staff", "vip"]),
    Case("set others", ("staff",), {"groups": {"set": ["vip"]}}, ["vip"]),
    Case("set the same", ("staff", "vip"), {"groups": {"set": ["vip", "staff"]}}, ["staff", "vip"], "unchanged"),
    Case("set none", ("staff", "vip"), {"groups": {"set": []}}, []),
    Case("set none of none", (), {"groups": {"set": []}}, [], "unchanged"),
    Case("null", ("staff", "vip"), {"groups": None}, []),
    Case("an empty list adds none", ("staff",), {"groups": []}, ["staff"], "unchanged"),
    Case("not carried", ("staff",), {"notes": "x"}, ["staff"]),
    Case("not found", ("vip",), {"groups": {"set": ["nobody"]}}, codes=("reference_not_found",), about="nobody"),
    Case(
        "each that is not found, once",
        (),
        {"groups": {"add": ["x", "vip", "x"], "remove": ["y"]}},
        codes=("reference_not_found", "reference_not_found"),
        about="x",
    ),
    Case("remove what does not exist", (), {"groups": {"remove": ["x"]}}, codes=("reference_not_found",), about="x"),
    Case("case matters", (), {"groups": ["the vips"]}, codes=("reference_not_found",), about="the vips"),
    Case("ambiguous", (), {"groups": ["Twins"]}, codes=("ambiguous_match",), about="Twins"),
    Case("one of the ambiguous", (), {"groups": ["twin1"]}, ["twin1"]),
    Case("a group of locations", (), {"groups": ["depot"]}, codes=("reference_not_found",), about="depot"),
    Case("its id", (), {"groups": [DEPOT_ID]}, codes=("reference_not_found",), about=DEPOT_ID),
    Case("its name, which a group of contacts has too", (), {"groups": ["Shared"]}, ["shared"]),
    Case("of another organization", (), {"groups": ["foreign"]}, codes=("reference_not_found",), about="foreign"),
    Case(
        "an id that looks like one",
        (),
        {"groups": ["grp_" + "2" * 22]},
        codes=("reference_not_found",),
        about="grp_" + "2" * 22,
    ),
    Case(
        "in add and remove", (), {"groups": {"add": ["vip"], "remove": ["The VIPs"]}}, codes=("conflict",), about="vip"
    ),
    Case("set and add", (), {"groups": {"set": ["vip"], "add": ["staff"]}}, codes=("conflict",)),
    Case(
        "with other errors",
        (),
        {"email": "no address", "groups": ["x"]},
        codes=("invalid_format", "reference_not_found"),
    ),
]

NEW_CONTACT_CASES = [
    Case("new", (), {"name": "New", "groups": ["vip", "Shared"]}, ["shared", "vip"], "created"),
    Case("new and removed", (), {"name": "New", "groups": {"remove": ["vip"]}}, [], "created"),
    Case("new, null", (), {"name": "New", "groups": None}, [], "created"),
    Case("new but nameless", (), {"groups": ["x"]}, codes=("reference_not_found", "required")),
]

GROUP_CASES = [
    Case("by id", (), {"children": [ADA_ID]}, ["ada"]),
    Case("by external id", (), {"children": ["ada", "bob"]}, ["ada", "bob"]),
    Case("by email", (), {"children": ["Ada@Example.COM"]}, ["ada"]),
    Case("by name and email", (), {"children": ["Tim:::twins@example.com"]}, ["tim"]),
    Case("a name with colons", (), {"children": ["A:::B ::: colons@example.com"]}, ["colons"]),
    Case("external id before email", (), {"children": ["mail@example.com"]}, ["known"]),
    Case("several ways to name one", (), {"children": ["ada", ADA_ID, "Ada:::ada@example.com"]}, ["ada"]),
    Case("others", ("ada", "bob"), {"children": ["bob", "tim"]}, ["bob", "tim"]),
    Case("the same", ("ada", "bob"), {"children": ["bob", "ada"]}, ["ada", "bob"], "unchanged"),
    Case("none", ("ada",), {"children": []}, []),
    Case("null", ("ada",), {"children": None}, []),
    Case("not carried", ("ada",), {"location_id": "loc_1"}, ["ada"]),
    Case("comma-separated text", (), {"children": "ada, bob"}, ["ada", "bob"]),
    Case(
        "ambiguous email",
        (),
        {"children": ["twins@example.com"]},
        codes=("ambiguous_match",),
        about="twins@example.com",
    ),
    Case("ambiguous name and email", (), {"children": ["Same:::same@example.com"]}, codes=("ambiguous_match",)),
    Case(
        "another's name",
        (),
        {"children": ["Ada:::twins@example.com"]},
        codes=("reference_not_found",),
        about="Ada:::twins@example.com",
    ),
    Case("a name alone", (), {"children": ["Ada"]}, codes=("reference_not_found",), about="Ada"),
    Case("a location", (), {"children": ["loc_1"]}, codes=("reference_not_found",), about="loc_1"),
    Case("keeps who is primary", ("ada*", "bob"), {"children": ["ada", "tim"]}, ["ada*", "tim"]),
    Case("primary", ("ada*", "bob"), {"primary": ["bob@example.com"]}, ["ada", "bob*"]),
    Case("the same primary", ("ada*", "bob"), {"primary": ["ada"]}, ["ada*", "bob"], "unchanged"),
    Case("both", ("ada*",), {"children": ["ada", "bob"], "primary": ["bob", "bob"]}, ["ada", "bob*"]),
    Case("no primary", ("ada*", "bob*"), {"primary": []}, ["ada", "bob"]),
    Case("primary null", ("ada*", "bob"), {"primary": None}, ["ada", "bob"]),
    Case("primary of no member", ("ada",), {"primary": ["bob"]}, codes=("conflict",), about="bob"),
    Case(
        "primary of one that goes",
        ("ada",),
        {"children": ["bob"], "primary": ["ada"]},
        codes=("conflict",),
        about="ada",
    ),
    Case("primary of none", ("ada",), {"children": None, "primary": ["ada"]}, codes=("conflict",), about="ada"),
    Case("primary unknown", ("ada",), {"primary": ["x"]}, codes=("reference_not_found",), about="x"),
    Case("to locations", (), {"resource": "location", "children": ["loc_1", "loc_b-2"]}, ["loc_1", "loc_b-2"]),
    Case("members of the other kind stay", ("ada",), {"resource": "location"}, codes=("conflict",)),
    Case("members of the other kind go", ("ada",), {"resource": "location", "children": ["loc_1"]}, ["loc_1"]),
    Case("members of the other kind go for none", ("ada",), {"resource": "location", "children": []}, []),
    Case(
        "marks are not members",
        ("ada",),
        {"resource": "location", "primary": ["loc_1"]},
        codes=("conflict", "conflict"),
    ),
    Case("no location", (), {"resource": "location", "children": ["ada"]}, codes=("invalid_format",), about="ada"),
    Case(
        "no right form",
        (),
        {"resource": "location", "children": ["loc_", "loc_a b", "loc_" + "x" * 65, "loc_" + "x" * 64]},
        codes=("invalid_format",) * 3,
        about="loc_",
    ),
]

LOCATION_CASES = [
    Case("as stored", ("loc_1",), {"children": ["loc_1", "loc_2"], "primary": ["loc_2"]}, ["loc_1", "loc_2*"]),
    Case("contacts", ("loc_1",), {"children": ["ada"]}, codes=("invalid_format",), about="ada"),
    Case("the same", ("loc_1",), {"children": ["loc_1"]}, ["loc_1"], "unchanged"),
    Case("back to contacts", ("loc_1",), {"resource": None, "children": ["ada"]}, ["ada"]),
    Case("back to contacts with locations", ("loc_1",), {"resource": None}, codes=("conflict",)),
    Case("back without members", (), {"resource": "contact"}, []),
]

NEW_GROUP_CASES = [
    Case("new", (), {"name": "New", "children": ["ada", "bob"], "primary": ["ada"]}, ["ada*", "bob"], "created"),
    Case("new, of locations", (), {"name": "New", "resource": "location", "children": ["loc_9"]}, ["loc_9"], "created"),
    Case("new, primary of none", (), {"name": "New", "primary": ["ada"]}, codes=("conflict",), about="ada"),
]


@dataclass
class Outcomes:
    """What one batch made of the cases, by their names."""

    outcomes: dict[str, str]
    errors: dict[str, list[dict[str, Any]]]
    after: dict[str, list[str]]


def _settled(world: World) -> None:
    world.insert(
        "groups",
        {"external_id": "vip", "name": "The VIPs"},
        {"external_id": "staff", "name": "Employees"},
        {"external_id": "namesake", "name": "staff"},
        {"external_id": "twin1", "name": "Twins"},
        {"external_id": "twin2", "name": "Twins", "location_id": "loc_1"},
        {"external_id": "depot", "name": "Depots", "resource": "location"},
        {"external_id": "shared", "name": "Shared", "resource": None},
        {"external_id": "shared2", "name": "Shared", "resource": "location"},
    )
    world.insert(
        "contacts",
        {"external_id": "ada", "name": "Ada", "email": "ada@example.com"},
        {"external_id": "bob", "name": "Bob", "email": "Bob@example.com"},
        {"external_id": "tim", "name": "Tim", "email": "twins@example.com"},
        {"external_id": "tom", "name": "Tom", "email": "Twins@example.com"},
        {"external_id": "same1", "name": "Same", "email": "same@example.com"},
        {"external_id": "same2", "name": "Same", "email": "same@example.com"},
        {"external_id": "colons", "name": "A:::B", "email": "colons@example.com"},
        {"external_id": "mail@example.com", "id": record_id("contacts", "known"), "name": "Known"},
        {"external_id": "mailed", "name": "Mailed", "email": "mail@example.com"},
    )


@pytest.fixture(scope="module")
def contact_outcomes(module_system: System) -> Outcomes:
    foreign = World.new(module_system)
    foreign.insert("groups", {"external_id": "foreign", "name": "foreign"})
    world = World.new(module_system)
    _settled(world)
    items = []
    for number, case in enumerate(CONTACT_CASES):
        world.insert("contacts", {"external_id": f"c{number}", "name": case.name})
        for group in case.before:
            world.join(group, f"c{number}")
        items.append({"external_id": f"c{number}", **case.item})
    items += [{"external_id": f"n{number}", **case.item} for number, case in enumerate(NEW_CONTACT_CASES)]
    batch = world.run("contact", *items)
    assert batch.status == "completed"
    return _outcomes(world, batch, CONTACT_CASES + NEW_CONTACT_CASES, items, world.groups_of)


@pytest.fixture(scope="module")
def group_outcomes(module_system: System) -> Outcomes:
    world = World.new(module_system)
    _settled(world)
    items = []
    for number, case in enumerate(GROUP_CASES + LOCATION_CASES):
        resource = "location" if case in LOCATION_CASES else "contact"
        world.insert("groups", {"external_id": f"g{number}", "name": f"Group {number}", "resource": resource})
        for member in case.before:
            world.join(f"g{number}", member.rstrip("*"), primary=member.endswith("*"))
        items.append({"external_id": f"g{number}", **case.item})
    items += [{"external_id": f"n{number}", **case.item} for number, case in enumerate(NEW_GROUP_CASES)]
    batch = world.run("group", *items)
    assert batch.status == "completed"
    found = _outcomes(world, batch, GROUP_CASES + LOCATION_CASES + NEW_GROUP_CASES, items, world.members_of)
    found.after = {
        name: ["known" if member == "mail@example.com" else member for member in members]
        for name, members in found.after.items()
    }
    return found


def _outcomes(
    world: World, batch: Any, cases: list[Case], items: list[dict[str, Any]], links: Callable[[str], list[str]]
) -> Outcomes:
    assert batch.stats.items_read == len(items)
    assert batch.stats.rejected == sum(bool(case.codes) for case in cases)
    outcomes, errors = world.outcomes(batch), world.errors(batch)
    keyed = [(_key(case, cases), row, item) for row, (case, item) in enumerate(zip(cases, items, strict=True), start=1)]
    return Outcomes(
        {name: outcomes[row] for name, row, _ in keyed},
        {name: errors.get(row, []) for name, row, _ in keyed},
        {name: links(item["external_id"]) for name, _, item in keyed},
    )


def _key(case: Case, cases: list[Case]) -> str:
    return f"{next(place for place, other in enumerate(cases) if other is case)} {case.name}"


def _check(case: Case, cases: list[Case], found: Outcomes) -> None:
    name = _key(case, cases)
    errors = found.errors[name]
    assert sorted(error["code"] for error in errors) == sorted(case.codes)
    if not case.codes:
        assert (found.after[name], found.outcomes[name]) == (case.after, case.outcome)
        return
    assert found.outcomes[name] == "rejected"
    assert found.after[name] == sorted(case.before)
    if case.about is not None:
        assert case.about in [error["value"] for error in errors]
        assert all(error["message"].startswith(f'{error["field"]} "{error["value"]}": ') for error in errors)


@pytest.mark.parametrize("case", CONTACT_CASES + NEW_CONTACT_CASES, ids=lambda case: case.name)
def test_groups_of_a_contact(contact_outcomes: Outcomes, case: Case) -> None:
    _check(case, CONTACT_CASES + NEW_CONTACT_CASES, contact_outcomes)


@pytest.mark.parametrize("case", GROUP_CASES + LOCATION_CASES + NEW_GROUP_CASES, ids=lambda case: case.name)
def test_members_of_a_group(group_outcomes: Outcomes, case: Case) -> None:
    _check(case, GROUP_CASES + LOCATION_CASES + NEW_GROUP_CASES, group_outcomes)
