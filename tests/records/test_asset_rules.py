"""Each rule of an asset's fields by name: what is valid and how it is stored, what isn't and which error says so."""

from typing import Any

import pytest
from record_samples import Found, check_csv, check_json, fields_in, found_in, value_of

from batch_pipeline.records.asset import ASSET
from batch_pipeline.records.descriptions import get_resource
from batch_pipeline.records.resource import Resource


@pytest.mark.parametrize(
    ("field", "text", "stored"),
    [
        ("item_id", "item_9", "item_9"),
        ("location_id", " loc_A-b_9 ", "loc_A-b_9"),
        ("layout_id", "lay_" + "x" * 64, "lay_" + "x" * 64),
        ("serial_number", "SN 1/2", "SN 1/2"),
        ("sequence_id", "0001", "0001"),
        ("value", "1250", "1250.00"),
        ("initial_value", "0.01", "0.01"),
        ("currency", "Chf", "chf"),
        ("status", "in_pipeline", "in_pipeline"),
        ("attributes", "pharma,dry_ice", '["pharma", "dry_ice"]'),
        ("attributes", "[]", "[]"),
        ("maintenance_schedule", "yearly", "yearly"),
        ("maintenance_status", "upcoming", "upcoming"),
        ("purchased_at", "2020-01-01T00:00:00Z", "2020-01-01T00:00:00.000000Z"),
        ("disposed_at", "0", "1970-01-01T00:00:00.000000Z"),
        ("disposal_comment", "c" * 5000, "c" * 5000),
    ],
)
def test_a_valid_value_is_stored_in_its_canonical_form(field: str, text: str, stored: Any) -> None:
    checked = check_csv({field: [text]}, ASSET)

    assert found_in(checked) == []
    assert value_of(checked, field) == stored


@pytest.mark.parametrize(
    ("field", "text", "code"),
    [
        ("item_id", "loc_9", "id_malformed"),
        ("item_id", "item_ä", "id_malformed"),
        ("location_id", "loc_a b", "id_malformed"),
        ("layout_id", "LAY_1", "id_malformed"),
        ("serial_number", "s" * 101, "too_long"),
        ("sequence_id", "s" * 101, "too_long"),
        ("value", "-1", "out_of_range"),
        ("initial_value", "0.001", "invalid_format"),
        ("barcode", "b" * 256, "too_long"),
        ("manifest_id", "a\x07b", "invalid_format"),
        ("status", "gone", "not_allowed"),
        ("maintenance_schedule", "hourly", "not_allowed"),
        ("maintenance_status", "bad", "not_allowed"),
        ("warranty_expires_at", "tomorrow", "invalid_format"),
        ("next_maintenance_at", "99999999999999", "out_of_range"),
        ("disposal_comment", "c" * 5001, "too_long"),
    ],
)
def test_a_wrong_value_is_named(field: str, text: str, code: str) -> None:
    checked = check_csv({field: [text]}, ASSET)

    assert found_in(checked) == [Found(code, field)]
    assert fields_in(checked.invalid[0], ASSET) == {field}


@pytest.mark.parametrize("field", ["item_id", "location_id"])
def test_a_required_field_of_an_asset_can_not_be_cleared(field: str) -> None:
    assert found_in(check_json({field: None}, resource=ASSET)) == [Found("required", field)]


FIELDS = {
    "shipment": """tracking_number provider sender recipient parcels amount billed_amount currency status paid
        payment_reference rma_number label_url tracking_url coordinates estimated_delivery_at pickup_at""",
    "tracker": "tracking_number provider_id type tags status estimated_delivery_at tracking_url location_id",
    "asset": """item_id location_id layout_id serial_number sequence_id value initial_value currency barcode category
        sub_category manifest_id disposal_reason_code status attributes maintenance_schedule maintenance_status
        purchased_at warranty_expires_at next_maintenance_at disposed_at disposal_comment""",
}


@pytest.mark.parametrize("resource", [get_resource(name) for name in FIELDS], ids=list(FIELDS))
def test_the_fields_are_those_of_the_specification(resource: Resource) -> None:
    assert [field.name for field in resource.fields] == [
        "id", "external_id", *FIELDS[resource.name].split(), "metadata"
    ]  # fmt: skip
