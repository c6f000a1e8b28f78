"""Unknown columns: a refusal that names them and suggests a mapping, or `unknown_columns: ignore`."""

import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from batch_runs import arrived, as_csv, contacts, new_organization, records
from driving import run_attempt
from workbooks import by_openpyxl

from batch_pipeline.batches.model import Action, Batch
from batch_pipeline.records.descriptions import all_resources, get_resource
from batch_pipeline.storage import keys
from batch_pipeline.system import System

Rows = list[dict[str, str]]


def _xlsx(rows: Rows) -> bytes:
    return by_openpyxl([list(rows[0]), *(list(row.values()) for row in rows)])


def _parquet(rows: Rows) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


FLAT = {"csv": as_csv, "xlsx": _xlsx, "parquet": _parquet}
FORMATS = {**FLAT, "json": lambda rows: json.dumps(rows).encode()}

# An item of each resource, without optional fields.
ITEMS: dict[str, dict[str, str]] = {
    "contact": {"external_id": "1", "name": "Ada"},
    "group": {"external_id": "1", "name": "Team"},
    "shipment": {"external_id": "1", "tracking_number": "ABCD1234"},
    "tracker": {"external_id": "1", "tracking_number": "ABCD1234"},
    "asset": {"external_id": "1", "item_id": "item_1", "location_id": "loc_1", "serial_number": "1"},
}


def _run(system: System, organization: str, payload: bytes, **options: Any) -> Batch:
    return run_attempt(system, arrived(system, organization, payload, **options))


def _refusal(batch: Batch) -> str:
    assert batch.reason is not None
    assert (batch.status, batch.reason.code) == ("failed", "unknown_columns")
    assert batch.to_json()["suggested_mapping"] == batch.reason.suggested_mapping
    return batch.reason.message


@pytest.mark.parametrize("form", FLAT)
def test_a_refusal_names_the_columns_and_suggests_the_mapping_that_completes(module_system: System, form: str) -> None:
    organization = new_organization(module_system)
    rows = [{"E-Mail": "ada@example.com", "Full name": "Ada", "phone": "", "Shoe size": "38"}]
    payload = FLAT[form](rows)
    refused = _run(module_system, organization, payload)
    message = _refusal(refused)
    assert "does not have: E-Mail, Full name, Shoe size." in message
    assert "--map email=E-Mail --map name='Full name'." in message
    assert "map the others, or leave them out with --unknown-columns ignore" in message
    suggested = refused.to_json()["suggested_mapping"]
    assert suggested == {"email": "E-Mail", "name": "Full name"}
    assert (refused.to_json()["error_summary"], refused.to_json()["column_mapping"]) == (None, {})

    done = _run(module_system, organization, payload, column_mapping=suggested, unknown_columns="ignore")
    assert (done.status, done.stats.created, done.stats.rejected) == ("completed", 1, 0)
    assert done.to_json()["column_mapping"] == suggested
    assert done.to_json()["suggested_mapping"] is None
    (ada,) = contacts(module_system, organization)
    assert (ada["email"], ada["name"]) == ("ada@example.com", "Ada")


def test_a_refusal_completes_the_mapping_that_was_given(module_system: System) -> None:
    organization = new_organization(module_system)
    refused = _run(module_system, organization, b"E-Mail,Label\na@b.co,Ada\n", column_mapping={"name": "Label"})
    assert _refusal(refused).startswith("The header has columns that contact does not have: E-Mail. Map them")
    assert refused.to_json()["suggested_mapping"] == {"name": "Label", "email": "E-Mail"}


def test_names_in_a_refusal_are_few_and_short_and_never_look_like_values(module_system: System) -> None:
    organization = new_organization(module_system)
    odd = ["ada@example.com", "2026-01-31", "+1 415 555-2671"]
    header = ["name", "x" * 1_000, *odd, *(f"extra {number}" for number in range(9))]
    message = _refusal(_run(module_system, organization, (",".join(header) + "\nAda\n").encode()))
    shown = message.partition("does not have: ")[2].partition(". Remove")[0]
    extras = ", ".join(f"extra {number}" for number in range(6))
    assert shown == f"{'x' * 40}…, column 3, column 4, column 5, {extras} and 3 more"
    assert not any(text in message for text in odd)


@pytest.mark.parametrize("options", [{}, {"unknown_columns": "ignore"}])
@pytest.mark.parametrize("first", ["Ada Lovelace,secret,London", "Note,ada@example.com,London"])
@pytest.mark.parametrize("action", [Action.merge, Action.delete])
def test_a_file_without_a_header_is_refused_without_its_cells(
    module_system: System, action: Action, first: str, options: dict[str, Any]
) -> None:
    organization = new_organization(module_system)
    refused = _run(module_system, organization, f"{first}\nBob,hidden,Paris\n".encode(), action=action, **options)
    message = _refusal(refused)
    assert "seems to be data: add a header row" in message
    assert not any(cell in message for cell in first.split(","))
    assert refused.to_json()["suggested_mapping"] is None
    assert contacts(module_system, organization) == []


def test_a_delete_by_an_id_in_another_spelling_is_told_how_to_map_it(module_system: System) -> None:
    organization = new_organization(module_system)
    refused = _run(module_system, organization, b"ID,name\nctct_1,Ada\n", action=Action.delete)
    assert refused.reason is not None
    assert refused.reason.code == "missing_columns"
    assert "Map it: --map id=ID." in refused.reason.message


# Each format and each resource, and flat files of all.
CASES = [
    *(("contact", form) for form in FORMATS),
    *((resource.name, "csv") for resource in all_resources() if resource.name != "contact"),
]


@pytest.mark.parametrize(("name", "form"), CASES)
def test_ignored_columns_are_dropped_and_named_in_every_format_and_resource(
    module_system: System, name: str, form: str
) -> None:
    organization = new_organization(module_system)
    item = ITEMS[name]
    rows = [
        {**item, "Shoe size": "38", "row no": "1"},
        {**item, "Shoe size": " ", "row no": "2"},  # equal but for ignored columns
        {**dict.fromkeys(item, ""), "external_id": "x" * 256, "Shoe size": "=1", "row no": "3"},
    ]
    if form == "json":
        del rows[1]["Shoe size"]
    payload = FORMATS[form](rows)
    refused = _run(module_system, organization, payload, resource=name)
    assert refused.status == "failed"

    batch = _run(module_system, organization, payload, resource=name, unknown_columns="ignore", save_result=True)
    assert batch.status == "completed", batch.reason
    assert (batch.stats.created, batch.stats.duplicates, batch.stats.rejected) == (1, 1, 1)
    (warning,) = batch.to_json()["warnings"]
    assert warning["code"] == "unknown_columns_ignored"
    assert "so they were ignored: Shoe size (2 with a value), row no (3 with a value)." in warning["message"]
    assert len(records(module_system, organization, get_resource(name).table)) == 1
    # The errors file has the upload's own columns, and can be sent again with the same options.
    errors = module_system.store.read(keys.errors_csv(batch.id))
    assert b'"Shoe size","row no",_row' in errors
    again = _run(module_system, organization, errors, resource=name, unknown_columns="ignore")
    assert again.reason is not None
    assert again.reason.code == "no_valid_items"
    assert [entry["item"]["row no"] for entry in json.loads(module_system.store.read(keys.errors_json(again.id)))] == [
        "3"
    ]


def test_json_items_with_unknown_fields_are_rejected_unless_they_are_ignored(module_system: System) -> None:
    organization = new_organization(module_system)
    items = [
        {"name": "Ada", "E-Mail": "ada@example.com"},
        {"name": "Bob", "colour": None, "alternate_emails": {"x": "y"}},
    ]
    payload = json.dumps(items).encode()
    batch = _run(module_system, organization, payload, name="people.json")
    assert batch.error_summary is not None
    groups = {group["field"]: (group["code"], group["suggestion"]) for group in batch.error_summary["groups"]}
    assert groups["E-Mail"] == ("unknown_field", "did you mean email?")
    assert groups["colour"][1] == "remove or rename it, or set unknown_columns to ignore"

    ignoring = _run(module_system, organization, payload, name="people.json", unknown_columns="ignore")
    assert (ignoring.stats.created, ignoring.stats.rejected) == (1, 1)  # keys within a field are never ignored
    (warning,) = ignoring.to_json()["warnings"]
    assert "E-Mail (1 with a value), colour (0 with a value)" in warning["message"]
    assert "If they mean fields, map them: --map email=E-Mail." in warning["message"]


def test_ignored_columns_are_named_without_any_row(module_system: System) -> None:
    organization = new_organization(module_system)
    batch = _run(module_system, organization, b"name,E-Mail\n", unknown_columns="ignore")
    assert batch.status == "completed"
    (warning,) = batch.to_json()["warnings"]
    assert "E-Mail (0 with a value). If they mean fields, map them: --map email=E-Mail." in warning["message"]


def test_a_delete_ignores_unknown_columns_too(module_system: System) -> None:
    organization = new_organization(module_system)
    _run(module_system, organization, b"name\nAda\n")
    (ada,) = contacts(module_system, organization)
    payload = f"id,colour\n{ada['id']},red\n".encode()
    assert "colour" in _refusal(_run(module_system, organization, payload, action=Action.delete))
    done = _run(module_system, organization, payload, action=Action.delete, unknown_columns="ignore")
    assert (done.status, done.stats.deleted) == ("completed", 1)
