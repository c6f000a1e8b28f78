"""What the model once found wrong, each as one example that is easy to follow."""

import json
from typing import Any

import pytest
from batch_runs import contacts, insert_contacts, new_organization
from driving import run_attempt
from model_items import Action, Handling, UnreadableRow, Upload
from sequences import run_upload

from batch_pipeline.batches.model import Starter
from batch_pipeline.storage import keys
from batch_pipeline.system import System

RECORDS = [{"id": "ctct_" + str(place) * 22, "name": name} for place, name in enumerate(("Ada", "Bob"), start=1)]


@pytest.mark.parametrize("limit", [None, "0", "1", "50%"])
def test_an_overwrite_without_a_valid_item_has_that_reason_for_any_delete_limit(
    module_system: System, limit: str | None
) -> None:
    organization_id = new_organization(module_system)
    insert_contacts(module_system, organization_id, *RECORDS)
    upload = Upload("overwrite", "json", [{"email": "eve@example.com"}], delete_limit=limit)

    batch = run_upload(module_system, organization_id, upload, chunk_rows=2)

    assert batch.reason is not None
    assert (batch.reason.code, batch.has_errors_file) == ("no_valid_items", True)
    assert [record["name"] for record in contacts(module_system, organization_id)] == ["Ada", "Bob"]


@pytest.mark.parametrize("limit", [None, "0"])
def test_an_overwrite_with_an_unreadable_row_deletes_counts_and_reports_no_record(
    module_system: System, limit: str | None
) -> None:
    organization_id = new_organization(module_system)
    insert_contacts(module_system, organization_id, *RECORDS)
    items: list[Any] = [{"name": "Ada", "notes": "new"}, UnreadableRow("5")]
    upload = Upload("overwrite", "json", items, delete_limit=limit)

    batch = run_upload(module_system, organization_id, upload, chunk_rows=2)

    assert (batch.status, batch.stats.overwritten) == ("completed", 0)
    result = json.loads(module_system.store.read(keys.result_json(batch.id)))
    assert [entry["outcome"] for entry in result] == ["updated", "rejected"]
    assert [record["name"] for record in contacts(module_system, organization_id)] == ["Ada", "Bob"]


def test_an_item_that_is_dropped_gives_its_external_id_to_nobody(module_system: System) -> None:
    organization_id = new_organization(module_system)
    insert_contacts(module_system, organization_id, *RECORDS)
    ada = RECORDS[0]["id"]
    items: list[Any] = [{"external_id": "e3", "name": "Zoë"}, {"id": ada, "external_id": "e3"}, {"id": ada}]
    upload = Upload("merge", "json", items, duplicate_handling="use_last")

    batch = run_upload(module_system, organization_id, upload, chunk_rows=2)

    assert (batch.stats.created, batch.stats.duplicates, batch.stats.unchanged) == (1, 1, 1)


def test_an_item_that_means_several_records_is_rejected_even_if_it_would_change_none(module_system: System) -> None:
    organization_id = new_organization(module_system)
    insert_contacts(module_system, organization_id, *({**record, "name": "Ada"} for record in RECORDS))
    upload = Upload("merge", "json", [{"name": "Ada"}, {"name": "Eve"}])

    batch = run_upload(module_system, organization_id, upload, chunk_rows=2)

    assert (batch.stats.created, batch.stats.rejected, batch.stats.unchanged) == (1, 1, 0)
    [entry] = json.loads(module_system.store.read(keys.errors_json(batch.id)))
    assert [error["code"] for error in entry["errors"]] == ["ambiguous_match"]


@pytest.mark.parametrize("action", ["merge", "overwrite"])
def test_items_with_only_ids_are_unchanged(module_system: System, action: Action) -> None:
    organization_id = new_organization(module_system)
    insert_contacts(module_system, organization_id, *RECORDS)
    upload = Upload(action, "json", [{"id": record["id"]} for record in RECORDS])

    batch = run_upload(module_system, organization_id, upload, chunk_rows=2)

    assert (batch.status, batch.stats.unchanged) == ("completed", 2)


@pytest.mark.parametrize(("handling", "deleted"), [("ignore_all", 1), ("use_first", 1), ("use_last", 3)])
def test_one_of_several_equal_ids_is_deleted_and_the_others_are_duplicates(
    module_system: System, handling: Handling, deleted: int
) -> None:
    organization_id = new_organization(module_system)
    insert_contacts(module_system, organization_id, *RECORDS)
    rows = [{"id": RECORDS[0]["id"], "notes": text} for text in ("same", "same", "other")]
    upload = Upload("delete", "json", rows, duplicate_handling=handling)

    batch = run_upload(module_system, organization_id, upload, chunk_rows=2)

    result = json.loads(module_system.store.read(keys.result_json(batch.id)))
    assert [entry["row"] for entry in result if entry["outcome"] == "deleted"] == [deleted]
    assert (batch.stats.deleted, batch.stats.duplicates, batch.stats.rejected) == (1, 2, 0)


@pytest.mark.parametrize(
    ("rejected", "survives"),
    [
        ({"external_id": "e5", "name": "Bob", "email": "bob@example.com"}, True),  # an email beside the record's key
        ({"external_id": "e5", "name": "Bob", "phone": "12"}, False),  # a phone that can't be read is no missing one
    ],
)
def test_a_rejected_item_keeps_the_records_whose_keys_it_carries(
    module_system: System, rejected: dict[str, str], survives: bool
) -> None:
    organization_id = new_organization(module_system)
    insert_contacts(module_system, organization_id, *RECORDS)
    wrong = {**rejected, "is_primary": "perhaps"}
    upload = Upload("overwrite", "json", [{"name": "Ada", "notes": "new"}, wrong])

    batch = run_upload(module_system, organization_id, upload, chunk_rows=2)

    assert (batch.status, batch.stats.rejected, batch.stats.overwritten) == ("completed", 1, 0 if survives else 1)
    names = [record["name"] for record in contacts(module_system, organization_id)]
    assert names == (["Ada", "Bob"] if survives else ["Ada"])


def test_the_difference_of_a_plan_leaves_out_duplicates_that_only_mean_another_record(module_system: System) -> None:
    organization_id = new_organization(module_system)
    items = [{"external_id": "e1", "name": "Ada"}, {"external_id": "e1", "name": "Bob"}]
    upload = Upload("merge", "json", items, duplicate_handling="use_last")
    batch = run_upload(module_system, organization_id, upload, chunk_rows=2, plan_only=True)
    insert_contacts(module_system, organization_id, {**RECORDS[0], "external_id": "e1"})
    run_upload(module_system, organization_id, Upload("merge", "json", [{"name": "Eve"}]), chunk_rows=2)

    changed = run_attempt(module_system, module_system.ledger.request_apply(batch.id, Starter.caller))

    assert changed.plan is not None
    assert [(line["row"], line["now"]["outcome"]) for line in changed.plan["difference"]] == [(2, "update")]
    lines = json.loads(module_system.store.read(keys.plan_json(batch.id)))
    assert [line["row"] for line in lines if "was" in line] == [2]
