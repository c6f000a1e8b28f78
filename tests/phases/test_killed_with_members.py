"""A run that writes memberships, killed at any instant and re-run, ends as one that was never disturbed."""

from dataclasses import asdict
from typing import Any

import pytest
from driving import run_attempt
from killing import KillPoint, end_state, kill, retry
from worlds import World

from batch_pipeline.batches.model import Action, Batch
from batch_pipeline.batches.stats import Stats
from batch_pipeline.system import System

ROWS = 90
CHUNK_ROWS = 20
GROUPS = ["g1", "g2", "g3"]

KILL_POINTS = [
    KillPoint("batch_pipeline.loading.references:Resolver.resolve", after=True),
    KillPoint("batch_pipeline.loading.memberships:LinkWriter.write", 2, after=True),
    KillPoint("batch_pipeline.loading.chunks:ChunkWriter.write", 2, after=True),
    KillPoint("batch_pipeline.loading.memberships:LinkRemover.remove", 2, after=True),
]


@pytest.fixture(scope="module")
def system_settings() -> dict[str, str]:
    return {"BATCH_CHUNK_ROWS": str(CHUNK_ROWS)}


def _item(row: int) -> dict[str, str]:
    name = f"c{row:03}"
    kinds = [
        {"name": f"New {name}", "groups.add": "g1,g2"},
        {"name": name, "groups.add": "g3", "groups.remove": "g1"},
        {"name": name, "groups.set": "g2"},
        {"name": name, "groups.add": "g1"},  # as it is
        {"name": name, "groups.add": "nowhere"},
    ]
    return {"external_id": f"new-{name}" if row % 5 == 0 else name, **kinds[row % 5]}


UPLOAD = [_item(row) for row in range(ROWS)]


def _new_batch(system: System) -> tuple[World, Batch]:
    """An overwrite: of the contacts that are in g1, it means most and deletes the rest."""
    world = World.new(system)
    world.insert("groups", *({"external_id": name, "name": name} for name in GROUPS))
    stored = [f"c{row:03}" for row in range(ROWS + 2 * CHUNK_ROWS)]
    world.insert("contacts", *({"external_id": name, "name": name} for name in stored))
    world.join("g1", *stored, primary=True)
    options: dict[str, Any] = {"blank_cells": "keep", "action": Action.overwrite, "delete_limit": "none"}
    return world, world.arrived("contact", UPLOAD, flat=True, **options)


def _left(world: World, batch: Batch) -> dict[str, Any]:
    return {**end_state(world.system, batch), "members": world.members()}


@pytest.fixture(scope="module")
def undisturbed(module_system: System) -> dict[str, Any]:
    world, batch = _new_batch(module_system)
    return _left(world, run_attempt(module_system, batch))


def test_the_undisturbed_run_covers_all_outcomes(undisturbed: dict[str, Any]) -> None:
    a_fifth = ROWS // 5
    expected = Stats(
        created=a_fifth,
        updated=2 * a_fifth,
        unchanged=a_fifth,
        rejected=a_fifth,
        overwritten=2 * CHUNK_ROWS + a_fifth,
    )
    assert undisturbed["stats"] == asdict(expected)
    by_group = {name: sum(group == name for group, _ in undisturbed["members"]) for name in GROUPS}
    assert by_group == {"g1": 3 * a_fifth, "g2": 2 * a_fifth, "g3": a_fifth}


@pytest.mark.parametrize("point", KILL_POINTS, ids=str)
def test_a_killed_run_ends_like_an_undisturbed_run(
    module_system: System, undisturbed: dict[str, Any], point: KillPoint
) -> None:
    world, batch = _new_batch(module_system)
    batch = kill(module_system, batch, point)
    assert batch.status != "completed"
    batch = retry(module_system, batch)
    assert batch.attempts == 2
    assert _left(world, batch) == undisturbed
