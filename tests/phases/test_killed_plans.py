"""A run that makes, compares or writes a plan, killed at any instant: nothing is written that the plan does not say."""

import json
from typing import Any

import pytest
from batch_runs import arrived, as_csv, contacts, insert_contacts, new_organization
from driving import run_attempt
from killing import KillPoint, kill, retry, run_phases_until_killed
from worlds import record_id

from batch_pipeline.batches.model import Action, Batch, IfChanged, Starter
from batch_pipeline.batches.states import BatchStatus
from batch_pipeline.storage import keys
from batch_pipeline.system import System

SHOWING = "batch_pipeline.phases.showing"
PROCESS = "batch_pipeline.phases.process"
MERGING = "batch_pipeline.loading.merging"
PLANNING_POINTS = [
    KillPoint(f"{SHOWING}:_make_preview", after=True),
    KillPoint(f"{SHOWING}:_write_plan"),
    KillPoint(f"{SHOWING}:_store"),
    KillPoint(f"{SHOWING}:_store", after=True),
]
APPLYING_POINTS = [
    KillPoint(f"{PROCESS}:compare_plan"),
    KillPoint(f"{PROCESS}:compare_plan", after=True),
    KillPoint(f"{PROCESS}:claim_version"),
    KillPoint(f"{MERGING}:MergeWriter.write", 2, after=True),
    KillPoint("batch_pipeline.phases.cleanup:_finish"),
]
CHANGED_POINTS = [
    KillPoint(f"{PROCESS}:compare_plan", after=True),
    KillPoint(f"{PROCESS}:show_changed_plan"),
    KillPoint(f"{SHOWING}:_write_plan", after=True),
    KillPoint(f"{SHOWING}:_store", after=True),
]
UPLOAD = as_csv([{"external_id": f"e{number}", "name": f"New {number}"} for number in range(12)])


@pytest.fixture(scope="module")
def system_settings() -> dict[str, str]:
    return {"BATCH_CHUNK_ROWS": "3"}


def new_batch(system: System, **options: Any) -> Batch:
    """An overwrite of contacts that creates some, changes some and deletes some."""
    organization_id = new_organization(system)
    insert_contacts(
        system,
        organization_id,
        *(
            {
                "id": record_id("contacts", f"{organization_id[-4:]}{number}"),
                "external_id": f"e{number + 8}",
                "name": f"Old {number}",
            }
            for number in range(8)
        ),
    )
    return arrived(system, organization_id, UPLOAD, action=Action.overwrite, plan_only=True, **options)


def lines(system: System, batch: Batch) -> list[Any]:
    found: list[Any] = json.loads(system.store.read(keys.plan_json(batch.id)))
    return found


def rows(system: System, batch: Batch) -> list[tuple[str, str]]:
    return [(row["external_id"], row["name"]) for row in contacts(system, str(batch.organization_id))]


def apply(system: System, batch: Batch) -> Batch:
    return system.ledger.request_apply(batch.id, Starter.caller)


EXPECTED = sorted((f"e{number}", f"New {number}") for number in range(12))


@pytest.mark.parametrize("point", PLANNING_POINTS, ids=str)
def test_a_killed_plan_is_made_again_and_is_the_same(module_system: System, point: KillPoint) -> None:
    batch = new_batch(module_system)
    before = rows(module_system, batch)

    if point.function.endswith("_store") and point.after:
        assert run_phases_until_killed(module_system, batch.id, point)  # the plan is shown, so the batch is not at work
    else:
        kill(module_system, batch, point)
        batch = retry(module_system, batch)

    batch = module_system.ledger.get(batch.id)
    assert batch.status == BatchStatus.planned
    assert rows(module_system, batch) == before
    assert [line["outcome"] for line in lines(module_system, batch)] == (
        ["create"] * 8 + ["update"] * 4 + ["overwrite"] * 4
    )
    done = run_attempt(module_system, apply(module_system, batch))
    assert done.status == BatchStatus.completed
    assert sorted(rows(module_system, batch)) == EXPECTED


@pytest.mark.parametrize("point", APPLYING_POINTS, ids=str)
def test_a_killed_apply_continues_with_the_shown_plan(module_system: System, point: KillPoint) -> None:
    batch = run_attempt(module_system, new_batch(module_system, save_result=True))
    shown = batch.plan

    kill(module_system, apply(module_system, batch), point)
    done = retry(module_system, batch)

    assert (done.status, done.plan) == (BatchStatus.completed, shown)
    assert (done.stats.created, done.stats.updated, done.stats.overwritten) == (8, 4, 4)
    assert sorted(rows(module_system, batch)) == EXPECTED
    result = json.loads(module_system.store.read(keys.result_json(batch.id)))
    assert [line["id"] for line in result] == [line["id"] for line in lines(module_system, batch)]


@pytest.mark.parametrize("point", CHANGED_POINTS, ids=str)
def test_a_killed_apply_of_a_changed_plan_still_shows_the_difference_to_what_was_shown(
    module_system: System, point: KillPoint
) -> None:
    batch = run_attempt(module_system, new_batch(module_system))
    other = arrived(module_system, str(batch.organization_id), as_csv([{"external_id": "e0", "name": "New 0"}]))
    assert run_attempt(module_system, other).stats.created == 1
    between = rows(module_system, batch)

    if point.function.endswith("_store") and point.after:
        assert run_phases_until_killed(module_system, apply(module_system, batch).id, point)
    else:
        kill(module_system, apply(module_system, batch), point)
        retry(module_system, batch)

    again = module_system.ledger.get(batch.id)
    assert again.status == BatchStatus.planned
    assert rows(module_system, batch) == between
    assert again.plan is not None
    ((row, was, now),) = [(each["row"], each["was"], each["now"]) for each in again.plan["difference"]]
    assert (row, was["outcome"], now["outcome"]) == (1, "create", "unchanged")
    assert [line["row"] for line in lines(module_system, again) if "was" in line] == [1]
    assert run_attempt(module_system, apply(module_system, again)).status == BatchStatus.completed
    assert sorted(rows(module_system, batch)) == EXPECTED


def test_the_files_of_a_changed_plan_that_is_written_are_its_own_after_a_kill(module_system: System) -> None:
    batch = run_attempt(module_system, new_batch(module_system))
    other = arrived(module_system, str(batch.organization_id), as_csv([{"external_id": "e0", "name": "New 0"}]))
    assert run_attempt(module_system, other).stats.created == 1

    requested = module_system.ledger.request_apply(batch.id, Starter.caller, if_changed=IfChanged.replan)
    kill(module_system, requested, KillPoint(f"{PROCESS}:write_chunks"))
    done = retry(module_system, batch)

    assert done.status == BatchStatus.completed
    assert done.plan is not None
    assert done.plan["counts"]["unchanged"] == 1
    assert [line["outcome"] for line in lines(module_system, done)].count("unchanged") == 1
