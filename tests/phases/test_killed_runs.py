"""A run killed at any instant and re-run by `retry` ends as one that was never disturbed."""

import json
import random
from typing import Any

import psycopg
import pytest
from batch_runs import Row, arrived, as_csv, contacts, insert_contacts, new_organization
from dagster import DagsterInstance
from driving import run_attempt
from killing import KillPoint, end_state, kill, kill_run, retry

from batch_pipeline.batches.model import Batch, Starter
from batch_pipeline.storage import keys
from batch_pipeline.system import System

ROWS = 180
KINDS = 10
CHUNK_ROWS = 30

P = "batch_pipeline.phases"
AFTER_ALL = KillPoint("batch_pipeline.batches.ledger:Ledger.transition", 3, after=True)  # `completed` is recorded
KILL_POINTS = [
    KillPoint("batch_pipeline.storage.store:Store.download", after=True),
    KillPoint("batch_pipeline.storage.store:Store.write_table", 3, after=True),
    KillPoint(f"{P}.attempt:Attempt.complete", 1, after=True),
    KillPoint("batch_pipeline.loading.own_staging:OwnStaging.copy", 4),
    KillPoint(f"{P}.validate:store_chunks"),
    KillPoint(f"{P}.attempt:Attempt.complete", 2),
    KillPoint(f"{P}.writing:take_turn"),
    KillPoint(f"{P}.process:claim_version"),
    KillPoint("batch_pipeline.loading.chunks:ChunkWriter.write", 1),
    KillPoint("batch_pipeline.loading.chunks:ChunkWriter.write", 3, after=True),
    KillPoint("batch_pipeline.loading.chunks:ChunkWriter._write_rows", 24, after=True),
    KillPoint(f"{P}.attempt:Attempt.complete", 3),
    KillPoint(f"{P}.cleanup:_finish"),
    KillPoint("batch_pipeline.payloads.artifacts:ErrorsWriter.write", 2, after=True),
    KillPoint("batch_pipeline.storage.store:Store.upload", 1, after=True),
    KillPoint("batch_pipeline.batches.ledger:Ledger.transition", 1),
    KillPoint("batch_pipeline.batches.ledger:Ledger.transition", 3),
    AFTER_ALL,
]


@pytest.fixture(scope="module")
def system_settings() -> dict[str, str]:
    return {"BATCH_CHUNK_ROWS": str(CHUNK_ROWS), "BATCH_SHARED_STAGING_ITEMS": "1"}


def _stored_id(number: int) -> str:
    return f"ctct_{'1' * 19}{number:03}".replace("0", "z")


STORED = [
    {
        "id": _stored_id(number),
        "external_id": f"old-{number}",
        "name": f"Stored {number:03}",
        "email": f"stored{number}@example.com",
        "metadata": '{"kept": "yes"}',
    }
    for number in range(ROWS // KINDS * 3)
]


def _item(row: int) -> Row:
    """Items of all kinds, in turn."""
    number = row // KINDS
    other, third = number + ROWS // KINDS, number + 2 * (ROWS // KINDS)
    new = {"external_id": f"new-{row}", "name": f"New {row:03}", "email": f"new{row}@example.com"}
    kinds: list[Row] = [
        new,
        {"id": _stored_id(number), "name": f"Renamed {row:03}", "metadata.row": str(row)},
        {"external_id": f"old-{other}"},  # unchanged
        {**new, "email": "no address"},
        {"name": f"Twice {number // 2}", "email": f"twice{number // 2}@example.com", "notes": str(row)},
        {"name": f"Plain {row:03}"},
        {"id": "ctct_" + "2" * 22, "name": "nobody"},
        {**new, "notes": "refuse me"},  # by the database
        {"name": "Same", "email": "same@example.com"},
        {"email": f"STORED{third}@example.com", "notes": f"by email {row}"},
    ]
    return kinds[row % KINDS]


UPLOAD = as_csv([_item(row) for row in range(ROWS - 1)]) + b'"unreadable,row\n'


@pytest.fixture(scope="module")
def stubborn_system(module_system: System) -> System:
    """A system whose database refuses some contacts."""
    with psycopg.connect(module_system.database_url) as connection:
        connection.execute("ALTER TABLE contacts ADD CHECK (notes <> 'refuse me')")
    return module_system


def _new_batch(system: System) -> Batch:
    organization_id = new_organization(system)
    insert_contacts(system, organization_id, *STORED)
    return arrived(system, organization_id, UPLOAD, save_result=True)


@pytest.fixture(scope="module")
def undisturbed(stubborn_system: System) -> dict[str, Any]:
    batch = run_attempt(stubborn_system, _new_batch(stubborn_system))
    return end_state(stubborn_system, batch)


def test_the_undisturbed_run_covers_all_outcomes(undisturbed: dict[str, Any]) -> None:
    stats = undisturbed["stats"]
    assert sum(stats.values()) == ROWS
    assert all(stats[name] for name in ("created", "updated", "unchanged", "rejected", "duplicates"))
    codes = {error["code"] for entry in json.loads(undisturbed["errors.json"]) for error in entry["errors"]}
    assert codes >= {"invalid_format", "duplicate_key", "id_not_found", "write_failed", "unreadable_row"}


@pytest.mark.parametrize("point", KILL_POINTS, ids=str)
def test_a_retry_of_a_killed_run_ends_like_an_undisturbed_run(
    stubborn_system: System, undisturbed: dict[str, Any], point: KillPoint
) -> None:
    batch = _new_batch(stubborn_system)
    batch = kill(stubborn_system, batch, point)
    assert batch.attempts == 1
    if point == AFTER_ALL:
        assert batch.status == "completed"
    else:
        batch = retry(stubborn_system, batch)
        assert batch.attempts == 2
    assert end_state(stubborn_system, batch) == undisturbed


@pytest.mark.parametrize("seed", range(2))
def test_a_run_killed_twice_at_any_calls_ends_like_an_undisturbed_run(
    stubborn_system: System, module_instance: DagsterInstance, undisturbed: dict[str, Any], seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311 - repeatable, not secret
    batch = _new_batch(stubborn_system)
    for number in range(2):
        if number:
            batch = stubborn_system.ledger.request_rerun(batch.id, Starter.caller)
        function = chance.choice(sorted({point.function for point in KILL_POINTS}))
        point = KillPoint(function, chance.randint(1, 6), after=chance.random() < 0.5)
        batch = kill_run(stubborn_system, module_instance, batch, point)
        if batch.status == "completed":
            break
    else:
        batch = retry(stubborn_system, batch)
    assert end_state(stubborn_system, batch) == undisturbed


def test_the_rest_of_a_killed_run_is_planned_again_after_another_batch(stubborn_system: System) -> None:
    """The other one has created and renamed records that the unfinished chunks mean. It came later: its data stay."""
    batch = _new_batch(stubborn_system)
    batch = kill(
        stubborn_system,
        batch,
        KillPoint("batch_pipeline.loading.chunks:ChunkWriter.write", 3, after=True),
    )
    organization_id = str(batch.organization_id)
    before = {record["id"]: record for record in contacts(stubborn_system, organization_id)}
    assert 0 < len(before) - len(STORED) < batch.facts.items  # some, not all, are written
    other = [{"external_id": f"new-{row}", "name": "Other"} for row in range(0, ROWS, KINDS)]
    done = run_attempt(stubborn_system, arrived(stubborn_system, organization_id, as_csv(other)))
    assert done.stats.created > 0
    assert done.stats.updated > 0

    batch = retry(stubborn_system, batch)
    assert (batch.status, batch.attempts, batch.stats.items_read) == ("completed", 2, ROWS)
    after = {record["id"]: record for record in contacts(stubborn_system, organization_id)}
    assert set(before) <= set(after)
    assert len(after) == len(STORED) + batch.stats.created + done.stats.created
    names = {record["external_id"]: record["name"] for record in after.values()}
    assert {names[item["external_id"]] for item in other} == {"Other"}
    # The open items that mean those records would undo it, and are rejected, as many as the other one created.
    reported = json.loads(stubborn_system.store.read(keys.errors_json(batch.id)))
    undoing = [entry for entry in reported if [error["code"] for error in entry["errors"]] == ["conflict"]]
    assert len(undoing) == done.stats.created
    assert {entry["item"]["external_id"] for entry in undoing} <= {item["external_id"] for item in other}
