"""Each rule of a shipment's and a tracker's fields by name: what is valid and how it is stored, and what isn't."""

import json
from typing import Any

import pytest
from record_samples import Found, check_csv, check_json, errors_of, fields_in, found_in, value_of

from batch_pipeline.records.resource import Resource
from batch_pipeline.records.shipment import SHIPMENT
from batch_pipeline.records.tracker import TRACKER

UPS, WRONG_UPS = "1Z5R89390357567127", "1Z5R89390357567128"


@pytest.mark.parametrize(
    ("field", "text", "stored"),
    [
        ("tracking_number", " ab-12 34 ", "AB1234"),
        ("provider", "Ups", "Ups"),
        ("amount", "12.5", "12.50"),
        ("amount", "0", "0.00"),
        ("billed_amount", "99999999999999.99", "99999999999999.99"),
        ("currency", "EUR", "eur"),
        ("status", "return_to_sender", "return_to_sender"),
        ("paid", "yes", True),
        ("payment_reference", "p" * 255, "p" * 255),
        ("label_url", "https://example.com/a?b=c#d", "https://example.com/a?b=c#d"),
        ("tracking_url", "HTTP://example.com", "HTTP://example.com"),
        ("estimated_delivery_at", "1700000000", "2023-11-14T22:13:20.000000Z"),
        ("pickup_at", "2026-01-31T12:30:00+02:00", "2026-01-31T10:30:00.000000Z"),
        ("coordinates", "52.50, -13.4", "[52.5, -13.4]"),
        ("coordinates", "[-90, 180]", "[-90, 180]"),
        ("sender.name", "Ann", '{"name": "Ann"}'),
        ("sender.email", "Ann@EXAMPLE.com", '{"email": "Ann@example.com"}'),
        ("recipient.phone", "(415) 555-0132", '{"phone": "+14155550132"}'),
        ("recipient.address", 'a "b"\n\\c', '{"address": "a \\"b\\"\\n\\\\c"}'),
        ("recipient", '{"address_line2": "2nd", "name": null}', '{"name": null, "address_line2": "2nd"}'),
        ("parcels.2.weight", "1.50", '[{"weight": 1.5}]'),
        ("parcels", '[{"length": 12345678901234.123456789, "type": "box"}, {}]',
         '[{"length": 12345678901234.123456789, "type": "box"}]'),
    ],
)  # fmt: skip
def test_a_valid_value_is_stored_in_its_canonical_form(field: str, text: str, stored: Any) -> None:
    checked = check_csv({field: [text]}, SHIPMENT)

    assert found_in(checked) == []
    assert value_of(checked, field.split(".", maxsplit=1)[0]) == stored


@pytest.mark.parametrize(
    ("field", "text", "code", "named"),
    [
        ("tracking_number", "A-1 2", "too_short", None),
        ("tracking_number", "A" * 51, "too_long", None),
        ("tracking_number", "AB_123", "invalid_format", None),
        ("tracking_number", "PKGX-ABCDEF1-ABCDEFG!", "invalid_format", None),
        ("provider", "p" * 51, "too_long", None),
        ("amount", "-0.01", "out_of_range", None),
        ("amount", "1.005", "invalid_format", None),
        ("amount", "NaN", "invalid_format", None),
        ("amount", "1,000", "invalid_format", None),
        ("currency", "eurs", "not_allowed", None),
        ("currency", "xyz", "not_allowed", None),
        ("status", "Created", "not_allowed", None),
        ("paid", "maybe", "invalid_type", None),
        ("rma_number", "r" * 256, "too_long", None),
        ("label_url", "ftp://example.com", "invalid_format", None),
        ("tracking_url", "example.com", "invalid_format", None),
        ("pickup_at", "2026-01-31", "invalid_format", None),
        ("pickup_at", "2026-02-30T00:00:00Z", "invalid_format", None),
        ("estimated_delivery_at", "2026-01-31T12:30:00", "invalid_format", None),
        ("coordinates", "90.01, 0", "out_of_range", "coordinates.0"),
        ("coordinates", "0, -180.5", "out_of_range", "coordinates.1"),
        ("coordinates", "1", "invalid_format", "coordinates"),
        ("coordinates", "1,2,3", "too_many", "coordinates"),
        ("coordinates", "1,north", "invalid_format", "coordinates.1"),
        ("coordinates", "[1,2", "invalid_type", "coordinates"),
        ("sender.email", "nobody", "invalid_format", "sender.email"),
        ("sender.name", "n" * 256, "too_long", "sender.name"),
        ("sender", '{"nme": "Ann"}', "unknown_field", "sender.nme"),
        ("sender", '{"name": 5}', "invalid_type", "sender.name"),
        ("sender", "Ann", "invalid_type", "sender"),
        ("sender", '["Ann"]', "invalid_type", "sender"),
        ("recipient", '{"phone": "12"}', "invalid_format", "recipient.phone"),
        ("parcels.0.weight", "0", "out_of_range", "parcels.0.weight"),
        ("parcels.1.length", "-5", "out_of_range", "parcels.1.length"),
        ("parcels", '[{"weight": 1}, {"width": "wide"}]', "invalid_format", "parcels.1.width"),
        ("parcels", '[{"weight": 1}, 7]', "invalid_type", "parcels.1"),
        ("parcels", '[{"wight": 1}]', "unknown_field", "parcels.0.wight"),
        ("parcels", '{"weight": 1}', "invalid_type", "parcels"),
        ("parcels", "box", "invalid_type", "parcels"),
        ("parcels", "[" + ",".join(["{}"] * 1001) + "]", "too_many", "parcels"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_its_path(field: str, text: str, code: str, named: str | None) -> None:
    checked = check_csv({field: [text, text]}, SHIPMENT)

    name = named or field
    assert found_in(checked) == found_in(checked, row=2) == [Found(code, name)]
    assert errors_of(checked)[0]["message"].startswith(f"{name} ")
    top = field.split(".", maxsplit=1)[0]
    assert value_of(checked, top) is None
    assert fields_in(checked.invalid[0], SHIPMENT) == {top}


@pytest.mark.parametrize(
    ("item", "stored"),
    [
        ({"amount": 10}, {"amount": "10.00"}),
        ({"amount": "0.10"}, {"amount": "0.10"}),
        ({"pickup_at": 1700000000.5}, {"pickup_at": "2023-11-14T22:13:20.500000Z"}),
        ({"paid": False}, {"paid": False}),
        ({"coordinates": [1, -2.5]}, {"coordinates": "[1, -2.5]"}),
        ({"coordinates": ["1", "2"]}, {"coordinates": "[1, 2]"}),
        ({"sender": {"name": " Ann ", "email": None, "phone": ""}},
         {"sender": '{"name": "Ann", "email": null, "phone": null}'}),
        ({"sender": {}}, {"sender": None}),
        ({"sender": {"name": "Ann"}, "sender.address": "Here"}, {"sender": '{"name": "Ann", "address": "Here"}'}),
        ({"parcels": []}, {"parcels": "[]"}),
        ({"parcels": [{"weight": 2, "type": None}, None, {"type": "bag"}]},
         {"parcels": '[{"weight": 2}, {"type": "bag"}]'}),
    ],
)  # fmt: skip
def test_json_values_are_read_as_they_are(item: dict[str, Any], stored: dict[str, Any]) -> None:
    checked = check_json(item, resource=SHIPMENT)

    assert found_in(checked) == []
    assert {field: value_of(checked, field) for field in stored} == stored
    assert fields_in(checked.cleared[0], SHIPMENT) == set()


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ({"amount": True}, [("invalid_type", "amount")]),
        ({"amount": [1]}, [("invalid_type", "amount")]),
        ({"tracking_number": 123456}, [("invalid_type", "tracking_number")]),
        ({"pickup_at": "soon"}, [("invalid_format", "pickup_at")]),
        ({"coordinates": {"lat": 1}}, [("invalid_type", "coordinates")]),
        ({"coordinates": []}, [("invalid_format", "coordinates")]),
        ({"coordinates": [None, 5]}, [("invalid_format", "coordinates")]),
        ({"coordinates": [91, 181]}, [("out_of_range", "coordinates.0"), ("out_of_range", "coordinates.1")]),
        ({"coordinates": [True, 1]}, [("invalid_type", "coordinates.0")]),
        ({"sender": "Ann"}, [("invalid_type", "sender")]),
        ({"sender": {"email": "x", "phone": "y", "who": 1}},
         [("invalid_format", "sender.email"), ("invalid_format", "sender.phone"), ("unknown_field", "sender.who")]),
        ({"sender.who": "x"}, [("unknown_field", "sender.who")]),
        ({"sender": {"name": "A"}, "sender.name": "B"}, [("conflict", "sender.name")]),
        ({"parcels": [{"weight": 1}], "parcels.0.weight": "2"}, [("conflict", "parcels")]),
        ({"parcels": [{"weight": {"kg": 1}}]}, [("invalid_type", "parcels.0.weight")]),
        ({"parcels.0.depth": 1}, [("unknown_field", "parcels.0.depth")]),
        ({"parcels.00.weight": 1}, [("unknown_field", "parcels.00.weight")]),
    ],
)  # fmt: skip
def test_wrong_json_values_are_rejected(item: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    checked = check_json({"status": "created"}, item, resource=SHIPMENT)

    assert found_in(checked, row=1) == []
    assert sorted(found_in(checked, row=2)) == sorted(Found(*each) for each in expected)


def test_null_clears_an_object_and_an_empty_cell_follows_blank_cells() -> None:
    item = {"sender": None, "parcels": None, "coordinates": "", "status": None, "amount": None}
    assert fields_in(check_json(item, resource=SHIPMENT).cleared[0], SHIPMENT) == set(item)

    blank = {name: [""] for name in ("sender", "parcels", "parcels.0.weight", "coordinates.0", "coordinates.1")}
    assert fields_in(check_csv(blank, SHIPMENT).cleared[0], SHIPMENT) == set()
    cleared = check_csv(blank, SHIPMENT, blank_clears=True).cleared[0]
    assert fields_in(cleared, SHIPMENT) == {"sender", "parcels", "coordinates"}


def test_dotted_columns_make_one_list_in_any_order_and_with_gaps() -> None:
    checked = check_csv(
        {
            "parcels.10.type": ["b", "", ""],
            "parcels.2.weight": ["1", "", "3"],
            "parcels.2.type": ["a", "", ""],
            "coordinates.1": ["2", "", "5"],
            "coordinates.0": ["1", "", "4"],
        },
        SHIPMENT,
    )

    assert found_in(checked) == []
    assert checked.fields["parcels"].to_pylist() == [
        '[{"weight": 1, "type": "a"}, {"type": "b"}]', None, '[{"weight": 3}]'
    ]  # fmt: skip
    assert checked.fields["coordinates"].to_pylist() == ["[1, 2]", None, "[4, 5]"]


def test_a_default_value_fills_a_key_that_an_object_leaves_open() -> None:
    checked = check_json(
        {"sender": {"email": "a@example.com"}},
        {"sender": {"name": "Ann"}},
        {"sender": None},
        resource=SHIPMENT,
        properties={"sender.name": "Shop", "currency": "EUR"},
    )

    senders = [json.loads(sender) for sender in checked.fields["sender"].to_pylist()]
    assert senders == [{"name": "Shop", "email": "a@example.com"}, {"name": "Ann"}, {"name": "Shop"}]
    assert checked.fields["currency"].to_pylist() == ["eur"] * 3


@pytest.mark.parametrize(("resource", "carrier"), [(SHIPMENT, "provider"), (TRACKER, "provider_id")])
def test_a_tracking_number_has_the_right_check_digit_for_its_carrier(resource: Resource, carrier: str) -> None:
    numbers = {
        (UPS, "ups"): [],
        (UPS.lower(), "UPS"): [],
        (WRONG_UPS, "ups"): [Found("invalid_checksum", "tracking_number")],
        ("12345678", "ups"): [],
        ("GM2951173225174494", "dhl"): [],
        ("3318810026", "DHL Express"): [Found("invalid_checksum", "tracking_number")],
        (WRONG_UPS, "a carrier of our own"): [],
        (WRONG_UPS, ""): [],
        ("9400 1118 9922 3818 2184 07", "usps"): [],
        ("9400111899223818218408", "usps"): [Found("invalid_checksum", "tracking_number")],
    }
    columns = {"tracking_number": [number for number, _ in numbers], carrier: [code for _, code in numbers]}

    checked = check_csv(columns, resource)

    assert [found_in(checked, row=row) for row in range(1, len(numbers) + 1)] == list(numbers.values())


def test_sandbox_numbers_are_valid_only_for_trackers_and_keep_their_dashes() -> None:
    columns = {"tracking_number": ["pkgx-abcdefg-1234567", "PKGX-ABCDEFG-1234567"], "provider_id": ["ups", ""]}
    checked = check_csv(columns, TRACKER)

    assert checked.errors.num_rows == 0
    assert checked.fields["tracking_number"].to_pylist() == ["PKGX-ABCDEFG-1234567"] * 2

    shipments = check_csv({"tracking_number": ["PKGX-ABCDEFG-1234567"]}, SHIPMENT)
    assert value_of(shipments, "tracking_number") == "PKGXABCDEFG1234567"


@pytest.mark.parametrize(
    ("item", "stored"),
    [
        ({"tags": "fragile, lithium,fragile"}, {"tags": '["fragile", "lithium"]'}),
        ({"tags": ["alcohol"]}, {"tags": '["alcohol"]'}),
        ({"tags.1": "alcohol", "tags.0": "cannabis"}, {"tags": '["cannabis", "alcohol"]'}),
        ({"type": "inbound", "location_id": "loc_A-b_9"}, {"type": "inbound", "location_id": "loc_A-b_9"}),
        ({"status": "delivered"}, {"status": "delivered"}),
    ],
)
def test_valid_fields_of_a_tracker_are_stored(item: dict[str, Any], stored: dict[str, Any]) -> None:
    checked = check_json(item, resource=TRACKER)

    assert found_in(checked) == []
    assert {field: value_of(checked, field) for field in stored} == stored


@pytest.mark.parametrize(
    ("item", "code", "named"),
    [
        ({"tags": "fragile,Fragile"}, "not_allowed", "tags.1"),
        ({"tags": ["alcohol", 5]}, "invalid_type", "tags.1"),
        ({"tags": {"a": 1}}, "invalid_type", "tags"),
        ({"type": "sideways"}, "not_allowed", "type"),
        ({"location_id": "location_1"}, "id_malformed", "location_id"),
        ({"location_id": "loc_"}, "id_malformed", "location_id"),
        ({"location_id": "loc_" + "a" * 65}, "id_malformed", "location_id"),
        ({"tracking_number": None}, "required", "tracking_number"),
    ],
)
def test_wrong_fields_of_a_tracker_are_rejected(item: dict[str, Any], code: str, named: str) -> None:
    assert found_in(check_json(item, resource=TRACKER)) == [Found(code, named)]
