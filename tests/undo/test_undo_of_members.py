"""What an undo does with members of groups, from both sides."""

import pytest
from undo_world import UndoWorld, counts, undo_world

from batch_pipeline.system import System


@pytest.fixture
def world(module_system: System) -> UndoWorld:
    """Contacts a to d, and the groups g (with a, and b as primary) and h (with c)."""
    world = undo_world(module_system, chunk_rows=2)
    world.run([{"external_id": name, "name": name, "email": f"{name}@example.com"} for name in "abcd"])
    world.run(
        [
            {"external_id": "g", "name": "G", "children": ["a", "b"], "primary": ["b"]},
            {"external_id": "h", "name": "H", "children": ["c"]},
        ],
        resource="group",
    )
    return world


def members(world: UndoWorld) -> dict[str, str]:
    """The members of each group, primary ones with a star."""
    found = world.execute(
        "SELECT g.external_id AS name, string_agg(coalesce(c.external_id, m.member_id)"
        " || CASE WHEN m.is_primary THEN '*' ELSE '' END, ' ' ORDER BY coalesce(c.external_id, m.member_id)) AS all"
        " FROM groups g LEFT JOIN group_members m ON m.group_id = g.id LEFT JOIN contacts c ON c.id = m.member_id"
        " WHERE g.organization_id = %s GROUP BY 1",
        world.organization_id,
    )
    return {row["name"]: row["all"] or "" for row in found}


def test_added_removed_and_marked_members_are_taken_back(world: UndoWorld) -> None:
    before = world.rows("group_members")
    batch = world.run(
        [
            {"external_id": "g", "children": ["a", "c", "d"], "primary": ["a"]},
            {"external_id": "h", "name": "H2"},
            {"external_id": "n", "name": "N", "children": ["a"]},
        ],
        resource="group",
    )
    assert members(world) == {"g": "a* c d", "h": "c", "n": "a"}
    undo = world.undo(batch)
    assert world.rows("group_members") == before
    assert counts(undo) == {"reversed": 2, "deleted": 1}
    redo = world.undo(undo)
    assert members(world) == {"g": "a* c d", "h": "c", "n": "a"}
    assert counts(redo) == {"reversed": 2, "restored": 1}
    world.undo(redo)
    assert world.rows("group_members") == before


def test_a_member_that_somebody_changed_since_is_kept(world: UndoWorld) -> None:
    batch = world.run([{"external_id": "d", "groups": '["g", "h"]'}, {"external_id": "a", "groups.remove": "g"}])
    assert members(world) == {"g": "b* d", "h": "c d"}
    later = world.run([{"external_id": "h", "children": ["c"]}], resource="group")
    world.execute("UPDATE group_members SET is_primary = true WHERE member_id = %s", world.by("d")["id"])
    undo = world.undo(batch)
    assert members(world) == {"g": "a b* d*", "h": "c"}
    groups = {name: world.by(name, "groups")["id"] for name in "gh"}
    assert sorted(world.outcomes(undo)) == sorted(
        [
            (1, "kept", f"groups.{groups['g']}", None),
            (1, "kept", f"groups.{groups['h']}", later.id),
            (2, "reversed", f"groups.{groups['g']}", None),
        ]
    )
    assert counts(undo) == {"reversed": 1, "kept": 1}


def test_a_created_contact_stays_if_another_batch_made_it_a_member(world: UndoWorld) -> None:
    batch = world.run(
        [{"external_id": "x", "name": "X", "groups": "g"}, {"external_id": "y", "name": "Y", "groups": "h"}]
    )
    later = world.run([{"external_id": "h", "children": ["c", "y", "x"]}], resource="group")
    undo = world.undo(batch)
    assert members(world) == {"g": "a b* x", "h": "c x"}
    assert world.outcomes(undo) == [(1, "kept", None, later.id), (2, "deleted", None, None)]


def test_a_restored_contact_is_back_in_those_groups_that_still_exist(world: UndoWorld) -> None:
    world.run([{"external_id": "a", "groups": "h"}])
    ids = {name: world.by(name)["id"] for name in "abc"}
    before = world.rows("group_members")
    batch = world.run([{"id": ids[name]} for name in "abc"], action="delete")
    assert members(world) == {"g": "", "h": ""}
    gone = world.by("h", "groups")["id"]
    world.run([{"id": gone}], resource="group", action="delete")
    undo = world.undo(batch)
    assert members(world) == {"g": "a b*"}
    assert counts(undo) == {"restored": 3}
    assert (1, "gone", f"groups.{gone}", None) in world.outcomes(undo)
    world.undo(undo)
    restored = world.undo(batch)
    assert members(world) == {"g": "a b*"}
    assert counts(restored) == {"restored": 3}
    assert before.keys() >= world.rows("group_members").keys()


def test_a_deleted_group_is_back_with_its_members(world: UndoWorld) -> None:
    before = world.rows("group_members")
    batch = world.run([{"external_id": "h", "name": "H"}], resource="group", action="overwrite")
    assert members(world) == {"h": "c"}
    world.run([{"id": world.by("a")["id"]}], action="delete")
    world.undo(batch)
    assert members(world) == {"g": "b*", "h": "c"}
    assert len(world.rows("group_members")) == len(before) - 1
