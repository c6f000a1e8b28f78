"""The option `reject_limit`: a batch with too many rejected items fails before it writes anything."""

import json
from typing import Any

import pytest
from batch_runs import Row, arrived, as_csv, contacts, insert_contacts, new_organization
from driving import run_attempt
from killing import KillPoint, kill, retry

from batch_pipeline.batches.model import Action, Batch, Starter
from batch_pipeline.storage import keys
from batch_pipeline.system import System

# 10 rows, 4 of them rejected: one while it is read, one by the rules of its values, two by the plan.
ROWS = b"""external_id,name,email
a,Ada,
b,Bob,
a,Ada,
c,Cy,no address
d,Dan,d@example.com,too many cells
twice,Eve,
twice,Eva,
e,Flo,
f,Gil,
g,Hal,
"""
REJECTED = [4, 5, 6, 7]


@pytest.fixture(scope="module")
def system_settings() -> dict[str, str]:
    return {"BATCH_CHUNK_ROWS": "2", "BATCH_DATABASE_WRITERS": "1"}


@pytest.fixture
def organization_id(module_system: System) -> str:
    return new_organization(module_system)


def _code(batch: Batch) -> tuple[str, str | None]:
    return batch.status.value, batch.reason and batch.reason.code


def _rejected_rows(system: System, batch: Batch) -> list[int]:
    assert batch.has_errors_file
    assert system.store.exists(keys.errors_csv(batch.id))
    return [entry["row"] for entry in json.loads(system.store.read(keys.errors_json(batch.id)))]


def _names(system: System, organization_id: str) -> list[str]:
    return [record["name"] for record in contacts(system, organization_id)]


@pytest.mark.parametrize("limit", ["4", 4, "40%", "100%", "none", "None", None])
def test_a_batch_within_its_limit_writes_its_valid_items(
    module_system: System, organization_id: str, limit: Any
) -> None:
    batch = run_attempt(module_system, arrived(module_system, organization_id, ROWS, reject_limit=limit))
    stats = batch.stats
    assert _code(batch) == ("completed", None)
    assert (stats.created, stats.duplicates, stats.rejected, stats.items_read) == (5, 1, 4, 10)
    assert _rejected_rows(module_system, batch) == REJECTED


@pytest.mark.parametrize(("limit", "shown"), [("3", "3"), (0, "0"), ("39.9%", "39.9%"), ("0%", "0%")])
def test_a_batch_over_its_limit_writes_nothing_and_keeps_its_errors_files(
    module_system: System, organization_id: str, limit: Any, shown: str
) -> None:
    batch = run_attempt(module_system, arrived(module_system, organization_id, ROWS, reject_limit=limit))
    assert _code(batch) == ("failed", "reject_limit_exceeded")
    assert batch.is_refused
    assert batch.reason is not None
    assert batch.reason.message.startswith(
        f"The batch would reject 4 of 10 items (40.0%), and reject_limit is {shown}. Nothing was written."
    )
    assert _rejected_rows(module_system, batch) == REJECTED
    assert batch.stats.items_read == 0
    assert _names(module_system, organization_id) == []


def test_equal_items_and_duplicates_are_not_rejected(module_system: System, organization_id: str) -> None:
    rows: list[Row] = [{"external_id": "a", "name": name} for name in ("Ada", "Ada", "Eve")]
    batch = arrived(module_system, organization_id, as_csv(rows), duplicate_handling="use_first", reject_limit="0")
    batch = run_attempt(module_system, batch)
    assert (*_code(batch), batch.stats.created, batch.stats.duplicates) == ("completed", None, 1, 2)


@pytest.mark.parametrize("action", [Action.overwrite, Action.delete])
def test_too_many_rejected_items_are_the_reason_even_if_too_many_records_would_be_deleted(
    module_system: System, organization_id: str, action: Action
) -> None:
    """Correcting the items can change what is deleted, so their errors come first."""
    others = [{"id": "ctct_" + digit * 21 + organization_id[-1].replace("0", "z"), "name": digit} for digit in "23"]
    insert_contacts(module_system, organization_id, *others)
    known = others[0]["id"]
    wrong = {"id": "ctct_" + "9" * 22, "name": "Nobody"}
    payload = as_csv([{"id": known, "name": "Kept"}, wrong])
    limits = {"delete_limit": "0", "reject_limit": "0"}
    batch = run_attempt(module_system, arrived(module_system, organization_id, payload, action=action, **limits))
    assert _code(batch) == ("failed", "reject_limit_exceeded")
    assert _rejected_rows(module_system, batch) == [2]
    assert _names(module_system, organization_id) == ["2", "3"]


def test_without_a_valid_item_that_is_the_reason(module_system: System, organization_id: str) -> None:
    batch = arrived(module_system, organization_id, as_csv([{"name": "", "email": "@"}]), reject_limit="0")
    assert _code(run_attempt(module_system, batch)) == ("failed", "no_valid_items")


def test_a_retry_is_refused_again_until_the_cause_is_gone(module_system: System, organization_id: str) -> None:
    """Two contacts have the address, so it means neither of them until one is deleted."""
    doubles = [{"name": name, "external_id": name, "email": "a@example.com"} for name in ("Ada", "Eve")]
    run_attempt(module_system, arrived(module_system, organization_id, as_csv(doubles)))
    items = as_csv([{"name": "Ann", "email": "a@example.com"}, {"name": "Bob", "email": "b@example.com"}])
    batch = run_attempt(module_system, arrived(module_system, organization_id, items, reject_limit="0"))
    for _ in range(2):
        assert _code(batch) == ("failed", "reject_limit_exceeded")
        assert _rejected_rows(module_system, batch) == [1]
        assert _names(module_system, organization_id) == ["Ada", "Eve"]
        batch = run_attempt(module_system, module_system.ledger.request_rerun(batch.id, Starter.caller))
    gone = next(record for record in contacts(module_system, organization_id) if record["name"] == "Eve")
    deletes = arrived(module_system, organization_id, as_csv([{"id": gone["id"]}]), action=Action.delete)
    assert run_attempt(module_system, deletes).stats.deleted == 1

    batch = run_attempt(module_system, module_system.ledger.request_rerun(batch.id, Starter.caller))

    assert (*_code(batch), batch.stats.updated, batch.stats.created) == ("completed", None, 1, 1)
    assert not batch.has_errors_file


def test_a_plan_that_processing_makes_again_is_held_to_the_limit(module_system: System, organization_id: str) -> None:
    """The item was valid in validation; then the batch before it created the address a second time."""
    doubles = [{"name": name, "external_id": name, "email": "a@example.com"} for name in ("Ada", "Eve")]
    before = arrived(module_system, organization_id, as_csv(doubles))
    items = as_csv([{"name": "Ann", "email": "a@example.com"}, {"name": "Bob", "email": "b@example.com"}])
    batch = arrived(module_system, organization_id, items, reject_limit="0")

    def write_before() -> None:
        assert module_system.ledger.get(batch.id).status == "queued"
        assert run_attempt(module_system, before).stats.created == 2

    batch = run_attempt(module_system, batch, once_validated=write_before)

    assert _code(batch) == ("failed", "reject_limit_exceeded")
    assert _rejected_rows(module_system, batch) == [1]
    assert _names(module_system, organization_id) == ["Ada", "Eve"]


def test_a_plan_over_the_limit_is_not_offered_for_a_decision(module_system: System, organization_id: str) -> None:
    batch = arrived(module_system, organization_id, ROWS, reject_limit="3", plan_only=True)
    batch = run_attempt(module_system, batch)
    assert _code(batch) == ("failed", "reject_limit_exceeded")
    assert (_rejected_rows(module_system, batch), batch.plan) == (REJECTED, None)


def test_a_plan_that_applying_makes_again_is_held_to_the_limit(module_system: System, organization_id: str) -> None:
    """First the changed plan is shown, as a decision is due on it; to apply that one is refused."""
    items = as_csv([{"name": "Ann", "email": "a@example.com"}, {"name": "Bob", "email": "b@example.com"}])
    batch = arrived(module_system, organization_id, items, reject_limit="0", plan_only=True)
    batch = run_attempt(module_system, batch)
    assert batch.status == "planned"
    doubles = [{"name": name, "external_id": name, "email": "a@example.com"} for name in ("Ada", "Eve")]
    run_attempt(module_system, arrived(module_system, organization_id, as_csv(doubles)))

    for code in (("planned", None), ("failed", "reject_limit_exceeded")):
        requested = module_system.ledger.request_apply(batch.id, Starter.caller)
        batch = run_attempt(module_system, requested)
        assert _code(batch) == code
        assert batch.plan is not None
        assert batch.plan["counts"]["reject"] == 1
        assert _names(module_system, organization_id) == ["Ada", "Eve"]
    assert _rejected_rows(module_system, batch) == [1]


def test_once_a_chunk_is_written_the_rest_is_written_whatever_is_rejected(
    module_system: System, organization_id: str
) -> None:
    """A run was killed after its first chunk; before the retry another batch made items of the second one invalid."""
    items = as_csv([{"name": name, "email": f"{name.lower()}@example.com"} for name in ("Ada", "Bob", "Cy", "Dan")])
    batch = arrived(module_system, organization_id, items, reject_limit="0")
    point = KillPoint("batch_pipeline.loading.merging:MergeWriter.write", 1, after=True)
    batch = kill(module_system, batch, point)
    assert _names(module_system, organization_id) == ["Ada", "Bob"]
    doubles = [{"name": name, "external_id": name, "email": "cy@example.com"} for name in ("Eve", "Flo")]
    assert run_attempt(module_system, arrived(module_system, organization_id, as_csv(doubles))).stats.created == 2

    batch = retry(module_system, batch)

    assert (*_code(batch), batch.stats.created, batch.stats.rejected) == ("completed", None, 3, 1)
    assert _rejected_rows(module_system, batch) == [3]
    assert _names(module_system, organization_id) == ["Ada", "Bob", "Dan", "Eve", "Flo"]
