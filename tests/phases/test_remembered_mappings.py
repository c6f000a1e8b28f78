"""A column mapping with which a batch completed is remembered for its header, offered, and applied only on request."""

import json
from typing import Any

import psycopg
import pytest
from batch_runs import arrived, contacts, new_organization
from driving import run_attempt

from batch_pipeline.batches.mappings import forget_old_mappings
from batch_pipeline.batches.model import Action, Batch, Starter
from batch_pipeline.intake.inbox import take_in
from batch_pipeline.intake.rejected_items import create_from_rejected
from batch_pipeline.system import System

PAYLOAD = b"Wer,Wo,phone\nAda,Berlin,\n"
MAPPING = {"name": "Wer", "address": "Wo"}


@pytest.fixture
def organization(module_system: System) -> str:
    return new_organization(module_system)


def _run(system: System, organization: str, payload: bytes, **options: Any) -> Batch:
    return run_attempt(system, arrived(system, organization, payload, **options))


def _learned(system: System, organization: str, payload: bytes = PAYLOAD, **options: Any) -> Batch:
    batch = _run(system, organization, payload, column_mapping=MAPPING, **options)
    assert batch.status == "completed", batch.reason
    return batch


def _suggested(batch: Batch) -> dict[str, str] | None:
    assert (batch.status, batch.reason and batch.reason.code) == ("failed", "unknown_columns")
    found: dict[str, str] | None = batch.to_json()["suggested_mapping"]
    return found


def test_a_mapping_is_offered_for_its_header_and_applied_on_request(module_system: System, organization: str) -> None:
    first = _learned(module_system, organization)
    other_order = b"phone,Wo,Wer\n,Paris,Bob\n"
    refused = _run(module_system, organization, other_order)
    assert _suggested(refused) == MAPPING
    assert refused.reason is not None
    assert f"{first.id} completed with a column_mapping for this header" in refused.reason.message
    assert "send the file with --map remembered." in refused.reason.message

    done = _run(module_system, organization, other_order, column_mapping="remembered")
    assert done.status == "completed", done.reason
    shown = done.to_json()
    assert shown["column_mapping"] == MAPPING
    assert [(each["code"], first.id in each["message"]) for each in shown["warnings"]] == [("remembered_mapping", True)]
    assert [(row["name"], row["address"]) for row in contacts(module_system, organization)] == [
        ("Ada", "Berlin"),
        ("Bob", "Paris"),
    ]


def test_the_newest_mapping_of_a_header_is_remembered(module_system: System, organization: str) -> None:
    _learned(module_system, organization)
    newer = {"name": "Wo", "notes": "Wer"}
    assert _run(module_system, organization, PAYLOAD, column_mapping=newer).status == "completed"
    assert _suggested(_run(module_system, organization, PAYLOAD)) == newer


def test_a_mapping_counts_only_for_its_organization_resource_and_header(
    module_system: System, organization: str
) -> None:
    _learned(module_system, organization)
    for other, payload, options in (
        (new_organization(module_system), PAYLOAD, {}),
        (organization, PAYLOAD, {"resource": "group"}),
        (organization, b"Wer,Wo\nAda,Berlin\n", {}),
        (organization, b"Wer,Wo,phone,notes\nAda,Berlin,,\n", {}),
        (organization, b"wer,Wo,phone\nAda,Berlin,\n", {}),
    ):
        for asked in ({}, {"column_mapping": "remembered"}):
            refused = _run(module_system, other, payload, **options, **asked)
            assert refused.reason is not None
            assert refused.reason.code == "unknown_columns"
            assert refused.to_json()["suggested_mapping"] is None
            told = refused.reason.message.startswith("No mapping is remembered for this header.")
            assert told == bool(asked)
            assert "--map remembered" not in refused.reason.message
            assert refused.column_mapping == {}


def test_a_batch_that_does_not_complete_teaches_nothing(module_system: System, organization: str) -> None:
    failed = _run(module_system, organization, b"Wer,Wo,phone\n,Berlin,12\n", column_mapping=MAPPING)
    assert failed.reason is not None
    assert failed.reason.code == "no_valid_items"
    planned = _run(module_system, organization, PAYLOAD, column_mapping=MAPPING, plan_only=True)
    assert planned.status == "planned"
    assert _suggested(_run(module_system, organization, PAYLOAD)) is None


def test_without_a_remembered_mapping_a_known_header_is_used_as_it_is(module_system: System, organization: str) -> None:
    for payload, name in ((b"name\nAda\n", "people.csv"), (b'[{"name": "Ada"}]', "people.json")):
        batch = _run(module_system, organization, payload, name=name, column_mapping="remembered")
        assert batch.status == "completed", batch.reason
        assert [each["code"] for each in batch.to_json()["warnings"]] == ["no_remembered_mapping"]
        assert batch.to_json()["column_mapping"] == {}


def test_an_unattended_file_gets_a_remembered_mapping_only_if_its_sidecar_says_so(
    module_system: System, organization: str
) -> None:
    _learned(module_system, organization)
    folder = f"uploads/{organization}/contact/merge"
    module_system.store.write(f"{folder}/a.csv", PAYLOAD)
    module_system.store.write(f"{folder}/b.csv.options.json", json.dumps({"column_mapping": "remembered"}).encode())
    module_system.store.write(f"{folder}/b.csv", PAYLOAD)
    taken = {batch.name: run_attempt(module_system, batch) for batch in take_in(module_system, limit=10)}
    assert _suggested(taken["a.csv"]) == MAPPING
    assert (taken["b.csv"].status, taken["b.csv"].column_mapping) == ("completed", MAPPING)


def test_rejected_items_are_retried_with_the_mapping_that_was_applied(module_system: System, organization: str) -> None:
    _learned(module_system, organization)
    first = _run(
        module_system,
        organization,
        b"Wer,Wo,phone\nBob,Paris,\nEve,Rome,12\n",
        column_mapping="remembered",
    )
    assert (first.status, first.stats.rejected) == ("completed", 1)
    assert (
        _run(module_system, organization, PAYLOAD, column_mapping={"notes": "Wer", "name": "Wo"}).status == "completed"
    )
    again = run_attempt(module_system, create_from_rejected(module_system, first.id, starter=Starter.caller))
    assert (again.column_mapping, again.reason and again.reason.code) == (MAPPING, "no_valid_items")


def test_unused_mappings_are_forgotten(module_system: System, organization: str) -> None:
    _learned(module_system, organization)
    forget_old_mappings(module_system.engine, days=10)
    assert _suggested(_run(module_system, organization, PAYLOAD)) == MAPPING
    with psycopg.connect(module_system.database_url) as connection:
        connection.execute(
            "UPDATE column_mappings SET used_at = now() - interval '11 days' WHERE organization_id = %s",
            (organization,),
        )
    assert forget_old_mappings(module_system.engine, days=10) == 1
    assert _suggested(_run(module_system, organization, PAYLOAD)) is None


def test_a_delete_can_use_the_mapping_of_a_merge(module_system: System, organization: str) -> None:
    payload = b"Nr,Wer\n,Ada\n"
    assert _run(module_system, organization, payload, column_mapping={"id": "Nr", "name": "Wer"}).status == "completed"
    (ada,) = contacts(module_system, organization)
    listed = f"Nr,Wer\n{ada['id']},Ada\n".encode()
    done = _run(module_system, organization, listed, action=Action.delete, column_mapping="remembered")
    assert (done.status, done.stats.deleted) == ("completed", 1)
