"""Every chunk logs exactly what it changes in records and memberships; a trigger logs what no batch changed."""

import dataclasses
from typing import Any

import psycopg
import pytest
from batch_runs import Row
from change_logs import changed_fields, logged, restored, state
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import World, record_id, stats

from batch_pipeline.batches.model import Action, Batch
from batch_pipeline.records.contact import CONTACT
from batch_pipeline.records.group import GROUP
from batch_pipeline.system import System


@pytest.fixture
def world(module_system: System) -> World:
    """Ada, Bob and Cy; VIP has Ada (primary) and Bob, Staff has Bob and Cy."""
    world = World.new(module_system)
    world.insert("contacts", *({"external_id": name, "name": name} for name in ("ada", "bob", "cy")))
    world.insert("groups", *({"external_id": name, "name": name} for name in ("vip", "staff")))
    world.join("vip", "ada", primary=True)
    world.join("vip", "bob")
    world.join("staff", "bob", "cy")
    return world


def changes(world: World, batch: Batch | None = None) -> list[tuple[str, str, int | None, Row]]:
    """What is logged of contacts: record, op, row, before-values of the changed fields."""
    names = {record_id("contacts", name): name for name in ("ada", "bob", "cy")}
    return [
        (names.get(row["record_id"], row["record_id"]), row["op"], row["row"], changed_fields(CONTACT, row))
        for row in logged(world.system, world.organization_id, "contact_changes")
        if batch is None or row["batch_id"] == batch.id
    ]


def link_changes(world: World, batch: Batch) -> list[tuple[str, str, int | None, str]]:
    """What the batch logged of memberships: group, member, row, states; by group and member."""
    names = {row["id"]: row["external_id"] for table in ("contacts", "groups") for row in world.rows(table)}
    for row in logged(world.system, world.organization_id, "contact_changes"):
        names.setdefault(row["record_id"], row["external_id"])
    for row in logged(world.system, world.organization_id, "group_changes"):
        names.setdefault(row["record_id"], row["external_id"])
    return sorted(
        (names[row["group_id"]], names[row["member_id"]], row["row"], row["before"] + row["after"])
        for row in logged(world.system, world.organization_id, "group_member_changes")
        if row["batch_id"] == batch.id
    )


def chunks(world: World, batch: Batch) -> list[tuple[Any, ...]]:
    """Of each chunk: the phase, the rows that it created, and whether it logged."""
    with psycopg.connect(world.system.database_url) as connection:
        return connection.execute(
            "SELECT phase, created_rows::text, is_logged FROM batch_chunks WHERE batch_id = %s ORDER BY phase, number",
            (batch.id,),
        ).fetchall()


def execute(world: World, statement: str, *parameters: Any) -> None:
    """A statement of another tool."""
    with psycopg.connect(world.system.database_url) as connection:
        connection.execute(statement, parameters)


# ---- records -----------------------------------------------------------------------------------------------------


def test_an_update_logs_the_values_before_of_changed_fields_only(world: World) -> None:
    execute(
        world, "UPDATE contacts SET notes = 'old', email = 'a@example.com' WHERE id = %s", record_id("contacts", "ada")
    )
    execute(world, "UPDATE contacts SET batch_id = 'earlier' WHERE id = %s", record_id("contacts", "ada"))
    batch = world.run(
        "contact",
        {"external_id": "bob", "name": "bob"},
        {"external_id": "ada", "name": "Ada L", "notes": None, "email": "a@example.com", "phone": "+14155552671"},
        {"external_id": "new", "name": "New"},
        {"external_id": "cy", "email": "no address"},
    )
    assert stats(batch) == {"created": 1, "updated": 1, "unchanged": 1, "rejected": 1}
    assert changes(world, batch) == [("ada", "u", 2, {"name": "ada", "notes": "old", "phone": None})]
    (row,) = [
        row for row in logged(world.system, world.organization_id, "contact_changes") if row["batch_id"] == batch.id
    ]
    assert (row["before_batch"], row["undoes"], row["email"], row["external_id"]) == ("earlier", None, None, None)
    assert chunks(world, batch) == [("processing", "{[3,4)}", True)]


def test_of_an_object_the_changed_keys_are_logged(world: World) -> None:
    world.run("contact", {"external_id": "ada", "metadata": {"same": "1", "changed": "2", "removed": "3"}})
    batch = world.run(
        "contact", {"external_id": "ada", "metadata": {"changed": "two", "removed": None, "added": "4", "same": "1"}}
    )
    assert changes(world, batch) == [("ada", "u", 1, {"metadata": {"changed": "2", "removed": "3", "added": None}})]
    batch = world.run("contact", {"external_id": "ada", "metadata": None})
    assert changes(world, batch) == [
        ("ada", "u", 1, {"metadata": {"same": "1", "changed": "two", "added": "4"}}),
    ]


@pytest.mark.parametrize("saves_result", [True, False])
def test_a_delete_logs_the_whole_record_with_its_row(world: World, saves_result: bool) -> None:
    before = {row["id"]: row for row in world.rows("contacts")}[record_id("contacts", "bob")]
    items = [{"id": record_id("contacts", "cy2")}, {"id": record_id("contacts", "bob")}]
    batch = world.run("contact", *items, action=Action.delete, save_result=saves_result)
    assert stats(batch) == {"deleted": 1, "rejected": 1}
    (row,) = logged(world.system, world.organization_id, "contact_changes")
    assert (row["op"], row["row"], row["changed"], row["before_batch"]) == ("d", 2, 0, None)
    assert {name: row[name] for name in before if name not in ("id", "batch_id")} == {
        name: value for name, value in before.items() if name not in ("id", "batch_id")
    }
    assert (row["record_id"], row["batch_id"]) == (before["id"], batch.id)


def test_the_cleanup_of_an_overwrite_logs_deletions_without_a_row(world: World) -> None:
    batch = world.run("contact", {"external_id": "ada", "name": "ada"}, action=Action.overwrite)
    assert stats(batch) == {"unchanged": 1, "overwritten": 2}
    assert sorted(name for name, *_ in changes(world, batch)) == ["bob", "cy"]
    assert {change[1:3] for change in changes(world, batch)} == {("d", None)}
    assert chunks(world, batch) == [("cleanup", None, True), ("processing", None, True)]


def test_rows_that_were_created_are_stored_with_the_chunk(world: World) -> None:
    execute(world, "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'no'; END$$")
    execute(
        world,
        "CREATE TRIGGER refuse BEFORE INSERT ON contacts FOR EACH ROW WHEN (NEW.notes = 'refused')"
        " EXECUTE FUNCTION refuse()",
    )
    items: list[Row] = [{"external_id": f"n{number}", "name": "N"} for number in range(1, 7)]
    items[2]["notes"] = "refused"
    items[4] = {"external_id": "ada", "notes": "changed"}
    batch = world.run("contact", *items)
    execute(world, "DROP TRIGGER refuse ON contacts")
    execute(world, "DROP FUNCTION refuse")

    assert stats(batch) == {"created": 4, "updated": 1, "rejected": 1}
    assert chunks(world, batch) == [("processing", "{[1,3),[4,5),[6,7)}", True)]
    assert changes(world, batch) == [("ada", "u", 5, {"notes": None})]
    all_new = world.run("contact", *({"external_id": f"m{number}", "name": "M"} for number in range(3)))
    assert chunks(world, all_new) == [("processing", "{[1,4)}", True)]


def test_without_the_setting_a_batch_logs_nothing(world: World) -> None:
    off = dataclasses.replace(world.system, settings=world.system.settings.model_copy(update={"changes": False}))
    quiet = World(off, world.organization_id)
    quiet.run("contact", {"external_id": "ada", "notes": "x", "groups": ["staff"]}, {"external_id": "n", "name": "N"})
    quiet.run("group", {"external_id": "vip", "children": [], "metadata": {"k": "v"}})
    quiet.run("contact", {"id": record_id("contacts", "bob")}, action=Action.delete)
    batch = quiet.run("contact", {"external_id": "ada", "name": "Ada"}, action=Action.overwrite)
    assert batch.stats.overwritten == 2
    tables = ("contact_changes", "group_changes", "group_member_changes")
    assert [logged(world.system, world.organization_id, table) for table in tables] == [[], [], []]
    assert {is_logged for _, _, is_logged in chunks(world, batch)} == {False}


# ---- memberships -------------------------------------------------------------------------------------------------


def test_links_are_logged_from_the_side_of_contacts(world: World) -> None:
    batch = world.run(
        "contact",
        {"external_id": "new", "name": "New", "groups": ["vip"]},
        {"external_id": "bob", "groups": {"remove": ["staff"]}},
        {"external_id": "ada", "groups": ["vip"]},
        {"external_id": "cy", "groups": {"add": ["vip"]}},
    )
    assert stats(batch) == {"created": 1, "updated": 2, "unchanged": 1}
    assert link_changes(world, batch) == [
        ("staff", "bob", 2, "ma"),
        ("vip", "cy", 4, "am"),
        ("vip", "new", 1, "am"),
    ]
    assert changes(world, batch) == []


def test_links_are_logged_from_the_side_of_groups(world: World) -> None:
    batch = world.run(
        "group",
        {"external_id": "vip", "children": ["bob", "cy"], "primary": ["bob"]},
        {"external_id": "staff", "primary": ["cy"], "name": "Crew"},
        {"external_id": "new", "name": "New", "children": ["ada"], "primary": ["ada"]},
    )
    assert stats(batch) == {"created": 1, "updated": 2}
    assert link_changes(world, batch) == [
        ("new", "ada", 3, "ap"),
        ("staff", "cy", 2, "mp"),
        ("vip", "ada", 1, "pa"),
        ("vip", "bob", 1, "mp"),
        ("vip", "cy", 1, "am"),
    ]
    (row,) = logged(world.system, world.organization_id, "group_changes")
    assert (changed_fields(GROUP, row), row["row"]) == ({"name": "staff"}, 2)


@pytest.mark.parametrize(
    ("resource", "items", "action", "expected"),
    [
        ("contact", ["bob"], Action.delete, [("staff", "bob", 1, "ma"), ("vip", "bob", 1, "ma")]),
        ("group", ["vip"], Action.delete, [("vip", "ada", 1, "pa"), ("vip", "bob", 1, "ma")]),
        ("group", ["vip"], Action.overwrite, [("staff", "bob", None, "ma"), ("staff", "cy", None, "ma")]),
        ("contact", ["bob", "ada"], Action.overwrite, [("staff", "cy", None, "ma")]),
    ],
)
def test_the_links_of_a_deleted_record_are_logged_with_it(
    world: World, resource: str, items: list[str], action: Action, expected: list[tuple[str, str, int | None, str]]
) -> None:
    batch = world.run(resource, *({"id": record_id(f"{resource}s", name)} for name in items), action=action)
    assert link_changes(world, batch) == expected


# ---- other tools -------------------------------------------------------------------------------------------------


def test_a_change_by_another_tool_is_logged_without_a_batch(world: World) -> None:
    batch = world.run("contact", {"external_id": "ada", "metadata": {"a": "1", "b": "2"}, "phone": "+14155552671"})
    execute(
        world,
        "UPDATE contacts SET name = 'Else', metadata = metadata - 'a' || '{\"c\": \"3\"}' WHERE organization_id = %s"
        " AND id = %s",
        world.organization_id,
        record_id("contacts", "ada"),
    )
    row = logged(world.system, world.organization_id, "contact_changes")[-1]
    assert (row["batch_id"], row["row"], row["op"], row["before_batch"]) == (None, None, "u", batch.id)
    assert changed_fields(CONTACT, row) == {"name": "ada", "metadata": {"a": "1", "c": None}}
    ada = {row["external_id"]: row for row in world.rows("contacts")}["ada"]
    assert (ada["batch_id"], ada["name"], ada["metadata"]) == (None, "Else", {"b": "2", "c": "3"})


def test_a_statement_that_changes_no_field_is_not_logged(world: World) -> None:
    batch = world.run("contact", {"external_id": "ada", "notes": "x"})
    before = len(changes(world))
    for statement in (
        "UPDATE contacts SET name = name WHERE organization_id = %s",
        "UPDATE contacts SET updated_at = now() WHERE organization_id = %s AND external_id = 'bob'",
    ):
        execute(world, statement, world.organization_id)
    assert len(changes(world)) == before
    ada = {row["external_id"]: row for row in world.rows("contacts")}["ada"]
    assert ada["batch_id"] == batch.id


def test_another_tool_needs_rights_on_the_records_only(world: World) -> None:
    with psycopg.connect(world.system.database_url) as connection:
        connection.execute("CREATE ROLE another_tool")
        connection.execute("GRANT SELECT, UPDATE ON contacts TO another_tool")
        connection.execute("CREATE POLICY another_tool ON contacts TO another_tool USING (true)")  # docs/roles.md
        connection.execute("SET ROLE another_tool")
        connection.execute("UPDATE contacts SET notes = 'x' WHERE organization_id = %s", (world.organization_id,))
        connection.execute("RESET ROLE")
        count = connection.execute(
            "SELECT count(*) FROM contact_changes WHERE organization_id = %s", (world.organization_id,)
        ).fetchone()
        connection.rollback()
    assert count == (3,)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("{}", "{}", None),
        ('{"a": 1}', '{"a": 1}', None),
        ('{"a": 1, "b": [2]}', '{"b": [2, 3], "c": null}', {"a": 1, "b": [2], "c": None}),
        (None, '{"a": "x"}', {"a": None}),
        ('{"a": "x"}', None, {"a": "x"}),
        ("[1]", '{"a": "x"}', {"a": None}),
    ],
)
def test_changed_keys(module_database_url: str, before: str | None, after: str | None, expected: Row | None) -> None:
    with psycopg.connect(module_database_url) as connection:
        row = connection.execute("SELECT changed_keys(%s::jsonb, %s::jsonb)", (before, after)).fetchone()
    assert row == (expected,)


# ---- the whole ---------------------------------------------------------------------------------------------------

_TEXT = st.sampled_from(["x", "y", "z", None])
_ITEM = st.fixed_dictionaries(
    {"external_id": st.sampled_from(["a", "b", "c", "d"])},
    optional={
        "name": st.sampled_from(["n", "m"]),
        "email": st.sampled_from(["a@example.com", "b@example.com", None]),
        "notes": _TEXT,
        "is_primary": st.sampled_from([True, False, None]),
        "alternate_names": st.sampled_from([["p"], ["p", "q"], []]),
        "metadata": st.dictionaries(st.sampled_from(["k", "l"]), _TEXT, max_size=2) | st.none(),
    },
)
_STEP = st.tuples(
    st.sampled_from([Action.merge, Action.merge, Action.overwrite, Action.delete, None]),
    st.lists(_ITEM, min_size=1, max_size=4),
)


@given(st.lists(_STEP, min_size=1, max_size=5))
@settings(max_examples=examples(6, thorough=200))
def test_the_log_read_backwards_gives_every_earlier_state(
    module_system: System, steps: list[tuple[Action | None, list[Row]]]
) -> None:
    world = World.new(module_system)
    states = [state(world.rows("contacts"))]
    newest = [0]
    for action, items in steps:
        if action is None:
            execute(
                world,
                "UPDATE contacts SET notes = 'outside', metadata = metadata || '{\"k\": \"outside\"}'"
                " WHERE organization_id = %s AND external_id = %s",
                world.organization_id,
                items[0]["external_id"],
            )
        elif action is Action.delete:
            ids = {row["external_id"]: row["id"] for row in world.rows("contacts")}
            named = [{"id": ids.get(item["external_id"], record_id("contacts", "absent"))} for item in items]
            world.run("contact", *named, action=action)
        else:
            world.run("contact", *items, action=action)
        states.append(state(world.rows("contacts")))
        newest.append(max((row["number"] for row in logged_of(world)), default=0))

    records, log = dict(states[-1]), logged_of(world)
    for earlier, later, since in reversed(list(zip(states, states[1:], newest, strict=False))):
        for row in [row for row in reversed(log) if row["number"] > since]:
            restored(CONTACT, records, row)
            log.remove(row)
        for created in set(later) - set(earlier):
            del records[created]
        assert records == earlier


def logged_of(world: World) -> list[Row]:
    return logged(world.system, world.organization_id, "contact_changes")
