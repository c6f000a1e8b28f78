"""Overwrite and delete, killed at any instant and re-run, end as if undisturbed; with another batch in between, nothing
that the other one wrote or created is changed or deleted."""

import json
from collections.abc import Iterable
from typing import Any

import psycopg
import pytest
from batch_runs import Row, arrived, as_csv, contacts, insert_contacts, new_organization
from driving import run_attempt
from killing import KillPoint, end_state, kill, retry

from batch_pipeline.batches.model import Action, Batch, UploadAction
from batch_pipeline.storage import keys
from batch_pipeline.system import System

STORED = 60
CHUNK_ROWS = 5

PHASES = "batch_pipeline.phases"
DELETING = "batch_pipeline.loading.deleting"
MERGING = "batch_pipeline.loading.merging"
LEDGER = "batch_pipeline.batches.ledger:Ledger"
KILL_POINTS = [
    (Action.overwrite, KillPoint(f"{MERGING}:MergeWriter.write", 2, after=True)),
    (Action.overwrite, KillPoint(f"{PHASES}.cleanup:claim_version")),  # cleanup's chunks are not committed yet
    (Action.overwrite, KillPoint(f"{PHASES}.cleanup:write_chunks")),
    (Action.overwrite, KillPoint(f"{DELETING}:CleanupWriter.apply", 2)),  # not after: the database may have refused it
    (Action.overwrite, KillPoint(f"{DELETING}:CleanupWriter.write", 2, after=True)),
    (Action.overwrite, KillPoint(f"{PHASES}.attempt:Attempt.complete", 4)),
    (Action.overwrite, KillPoint(f"{PHASES}.cleanup:_finish")),
    (Action.delete, KillPoint(f"{DELETING}:DeleteWriter.apply", 2)),
    (Action.delete, KillPoint(f"{DELETING}:DeleteWriter.write", 2, after=True)),
    (Action.delete, KillPoint(f"{PHASES}.attempt:Attempt.complete", 3)),
    (Action.delete, KillPoint(f"{LEDGER}.transition", 3)),
]


@pytest.fixture(scope="module")
def system_settings() -> dict[str, str]:
    return {"BATCH_CHUNK_ROWS": str(CHUNK_ROWS)}


def _stored_id(number: int) -> str:
    return f"ctct_{'1' * 19}{number:03}".replace("0", "z")


@pytest.fixture(scope="module")
def stubborn_system(module_system: System) -> System:
    """A system whose database refuses to let some contacts go."""
    with psycopg.connect(module_system.database_url) as connection:
        connection.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'this one stays'; END $$"
        )
        connection.execute(
            "CREATE TRIGGER refuse BEFORE DELETE ON contacts FOR EACH ROW"
            " WHEN (old.notes = 'stays') EXECUTE FUNCTION refuse()"
        )
    return module_system


def _organization(system: System, stubborn: Iterable[int] = ()) -> str:
    """An organization with contacts, some of which the database doesn't delete."""
    organization_id = new_organization(system)
    stays = set(stubborn)
    rows = [
        {
            "id": _stored_id(number),
            "external_id": f"old-{number}",
            "name": f"Stored {number:02}",
            "notes": "stays" if number in stays else None,
        }
        for number in range(STORED)
    ]
    insert_contacts(system, organization_id, *rows)
    return organization_id


# ---- nothing in between ------------------------------------------------------------------------------------------

OVERWRITE = as_csv(
    [
        row
        for number in range(0, 28, 4)
        for row in (
            {"external_id": f"old-{number}", "name": f"Renamed {number}"},
            {"external_id": f"old-{number + 1}", "name": f"Stored {number + 1:02}"},  # unchanged
            {"external_id": f"new-{number}", "name": f"New {number}"},
            {"external_id": f"old-{number + 2}", "name": "x", "email": "no address"},  # its record survives
            {"name": "Same"},
        )
    ]
)
DELETE = as_csv(
    [{"id": _stored_id(number % 40)} for number in range(44)]
    + [{"id": "ctct_" + "2" * 22}, {"id": "nonsense"}]
    + [{"id": _stored_id(number)} for number in range(40, 50)]
)


def _new_batch(system: System, action: Action) -> Batch:
    organization_id = _organization(system, stubborn=(7, 33, 52))
    payload = OVERWRITE if action is Action.overwrite else DELETE
    limit = {"delete_limit": "none"} if action is Action.overwrite else {}
    return arrived(system, organization_id, payload, action=action, save_result=True, **limit)


@pytest.fixture(scope="module")
def undisturbed(stubborn_system: System) -> dict[Action, dict[str, Any]]:
    found = {}
    for action in (Action.overwrite, Action.delete):
        batch = run_attempt(stubborn_system, _new_batch(stubborn_system, action))
        found[action] = end_state(stubborn_system, batch)
    return found


def test_the_undisturbed_runs_cover_all_outcomes(undisturbed: dict[Action, dict[str, Any]]) -> None:
    overwrite, delete = undisturbed[Action.overwrite], undisturbed[Action.delete]
    stats = {name: count for name, count in overwrite["stats"].items() if count}
    # Of 60 records 21 are meant by items; of the other 39 the database keeps 2.
    assert stats == {"created": 8, "updated": 7, "unchanged": 7, "rejected": 7, "duplicates": 6, "overwritten": 36}
    assert overwrite["phases"][3][1:5] == ("completed", 39, 36, 3)
    stats = {name: count for name, count in delete["stats"].items() if count}
    assert stats == {"deleted": 48, "rejected": 4, "duplicates": 4}
    codes = {error["code"] for entry in json.loads(delete["errors.json"]) for error in entry["errors"]}
    assert codes == {"id_not_found", "id_malformed", "write_failed"}


@pytest.mark.parametrize(("action", "point"), KILL_POINTS, ids=str)
def test_a_retry_of_a_killed_run_ends_like_an_undisturbed_run(
    stubborn_system: System,
    undisturbed: dict[Action, dict[str, Any]],
    action: Action,
    point: KillPoint,
) -> None:
    batch = kill(stubborn_system, _new_batch(stubborn_system, action), point)
    assert (batch.status, batch.attempts) == ("failed", 1)
    batch = retry(stubborn_system, batch)
    assert batch.attempts == 2
    assert end_state(stubborn_system, batch) == undisturbed[action]


# ---- a second batch in between -------------------------------------------------------------------------------------


def _first_items() -> list[Row]:
    """Stored contacts by id and by external id, and new ones, in turn."""
    items: list[Row] = []
    for number in range(16):
        items.append({"id": _stored_id(number), "name": f"First {number}"})
        items.append({"external_id": f"old-{number + 16}", "name": f"First {number + 16}"})
        items.append({"external_id": f"new-{number}", "name": f"First new {number}"})
    return items


def _second_items() -> list[Row]:
    """Every other one of what the first means, some that it doesn't, and new ones of its own."""
    numbers = [*range(0, 32, 2), *range(40, 50)]
    return [
        *({"external_id": f"old-{number}", "name": f"Second {number}"} for number in numbers),
        *({"external_id": f"new-{number}", "name": f"Second new {number}"} for number in range(0, 16, 3)),
        *({"external_id": f"second-{number}", "name": f"Second only {number}"} for number in range(4)),
    ]


def _items_of(action: Action, items: list[Row]) -> list[Row]:
    """The items as they are, or for a delete those of stored contacts, by id."""
    if action is not Action.delete:
        return items
    known = {f"old-{number}": _stored_id(number) for number in range(STORED)}
    ids = [item.get("id") or known.get(item["external_id"]) for item in items]
    return [{"id": record_id} for record_id in ids if record_id]


def _batch(system: System, organization_id: str, action: Action, items: list[Row]) -> Batch:
    payload = json.dumps(_items_of(action, items)).encode()  # JSON: an item by id says nothing of the external id
    limit = {"delete_limit": "none"} if action is Action.overwrite else {}
    return arrived(system, organization_id, payload, name="people.json", action=action, **limit)


def _done_rows(system: System, batch: Batch) -> set[int]:
    with psycopg.connect(system.database_url) as connection:
        chunks = connection.execute(
            "SELECT first_row, last_row FROM batch_chunks"
            " WHERE batch_id = %s AND phase = 'processing' AND done_at IS NOT NULL",
            (batch.id,),
        )
        return {row for first, last in chunks for row in range(first, last + 1)}


# Before a call: after one, the other writer may have done all the rest meanwhile.
MID_PROCESSING = {
    Action.merge: KillPoint(f"{MERGING}:MergeWriter.write", 4),
    Action.overwrite: KillPoint(f"{MERGING}:MergeWriter.write", 4),
    Action.delete: KillPoint(f"{DELETING}:DeleteWriter.write", 3),
}
MID_CLEANUP = KillPoint(f"{DELETING}:CleanupWriter.write", 1, after=True)


@pytest.mark.parametrize("second_action", [Action(action) for action in UploadAction])
@pytest.mark.parametrize(
    ("first_action", "point"),
    [*MID_PROCESSING.items(), (Action.overwrite, MID_CLEANUP)],
    ids=["merge", "overwrite", "delete", "overwrite in cleanup"],
)
def test_a_late_re_run_does_not_undo_a_batch_that_arrived_later(
    module_system: System,
    first_action: Action,
    point: KillPoint,
    second_action: Action,
) -> None:
    system = module_system
    organization_id = _organization(system)
    first = kill(system, _batch(system, organization_id, first_action, _first_items()), point)
    done_rows = _done_rows(system, first)
    assert done_rows
    assert len(done_rows) < first.facts.items or point == MID_CLEANUP

    second = _batch(system, organization_id, second_action, _second_items())
    second = run_attempt(system, second)
    assert second.status == "completed", second.reason
    between = {record["id"]: record for record in contacts(system, organization_id)}
    seconds = {key: record for key, record in between.items() if record["batch_id"] == second.id}
    assert bool(seconds) == (second_action is not Action.delete)

    first = retry(system, first)
    assert (first.status, first.attempts) == ("completed", 2), first.reason
    assert first.stats.items_read == first.facts.items
    after = {record["id"]: record for record in contacts(system, organization_id)}
    assert {key: after.get(key) for key in seconds} == seconds
    expected_codes, expected_names = _late_re_run(
        first, _items_of(first_action, _first_items()), done_rows, between, second.id
    )
    assert _codes(system, first) == expected_codes
    assert {record["external_id"]: record["name"] for record in after.values()} == expected_names


def _late_re_run(
    first: Batch, items: list[Row], done_rows: set[int], between: dict[str, Row], second_id: str
) -> tuple[dict[int, str], dict[str, str]]:
    """What the re-run of the first batch is to reject, and the names by external id that it is to leave behind."""
    records = {record["external_id"]: record for record in between.values()}
    names = {external_id: str(record["name"]) for external_id, record in records.items()}
    codes: dict[int, str] = {}
    meant = set()
    for row, item in enumerate(items, start=1):
        by_id = item.get("id")
        external_id = between.get(by_id, {}).get("external_id") if by_id else item["external_id"]
        meant.add(external_id)
        record = records.get(external_id)
        if row in done_rows:
            continue
        if record is None and by_id:
            codes[row] = "id_not_found"
        elif record is not None and record["batch_id"] == second_id:
            codes[row] = "conflict"
        elif first.action is Action.delete:
            del names[external_id]
        else:
            names[external_id] = item["name"]
    if first.action is Action.overwrite:
        for external_id, record in records.items():
            if external_id not in meant and record["batch_id"] not in (first.id, second_id):
                del names[external_id]
    return codes, names


def _codes(system: System, batch: Batch) -> dict[int, str]:
    if not batch.has_errors_file:
        return {}
    found = {}
    for entry in json.loads(system.store.read(keys.errors_json(batch.id))):
        (error,) = entry["errors"]
        found[entry["row"]] = error["code"]
    return found
