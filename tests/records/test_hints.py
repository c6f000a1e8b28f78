"""What senders are told about errors: hints for known wrong forms, else what the field expects; never the value."""

import pytest

from batch_pipeline.records.descriptions import get_resource
from batch_pipeline.records.fields import RuleContext
from batch_pipeline.records.hints import expected, field_at, hint

CONTEXT = RuleContext(region="DE")


@pytest.mark.parametrize(
    ("resource", "path", "code", "value", "told"),
    [
        ("shipment", "status", "not_allowed", "In Transit", "use in_transit"),
        ("shipment", "status", "not_allowed", "shipped", None),
        ("tracker", "tags.1", "not_allowed", "Dry Cleaning", "use dry_cleaning"),
        ("shipment", "currency", "not_allowed", "€", "use eur"),
        ("shipment", "currency", "not_allowed", "$", None),
        ("shipment", "pickup_at", "invalid_format", "31.12.2026", "write the year first"),
        ("shipment", "pickup_at", "invalid_format", "12/31/26 14:00", "write the year first"),
        ("shipment", "pickup_at", "invalid_format", "2026-12-31", "add a time and an offset"),
        ("shipment", "pickup_at", "invalid_format", "2026-12-31 14:00", "add an offset"),
        ("shipment", "pickup_at", "invalid_format", "tomorrow", None),
        ("shipment", "amount", "invalid_format", "17,50", "decimal point"),
        ("shipment", "amount", "invalid_format", "1.117,50", "decimal point"),
        ("shipment", "amount", "invalid_format", "1,117.50", "thousands separators"),
        ("shipment", "amount", "invalid_format", "1,117", None),  # may be either
        ("shipment", "amount", "invalid_format", "17.50 EUR", "leave out the currency"),
        ("shipment", "parcels.3.weight", "invalid_format", "17,5", "decimal point"),
        ("shipment", "coordinates.1", "invalid_format", "17,123456", "decimal point"),
        ("shipment", "sender.phone", "invalid_format", "030 123", "read as those of DE: set default_region"),
        ("contact", "phone", "invalid_format", "+1 1", None),
        ("contact", "phone", "invalid_format", "0049 1", None),
        ("contact", "is_primary", "invalid_type", "Y", "use true or false"),
        ("contact", "is_primary", "invalid_type", "maybe", None),
        ("contact", "email", "invalid_format", "ada@example.com; eve@example.com", "give one address"),
        ("contact", "email", "invalid_format", "Ada <ada@example.com>", "give the address alone"),
        ("contact", "alternate_emails.work", "invalid_format", "nowhere", None),
        ("contact", "notes", "too_long", "17,50", None),
    ],
)
def test_a_hint_names_the_right_form_and_never_the_value(
    resource: str, path: str, code: str, value: str, told: str | None
) -> None:
    field = field_at(get_resource(resource), path)
    assert field is not None
    found = hint(field, code, value, CONTEXT)
    if told is None:
        assert found is None
    else:
        assert found is not None
        assert told in found
        assert value not in found


@pytest.mark.parametrize(
    ("resource", "path", "code", "told"),
    [
        ("contact", "email", "invalid_format", "write it as name@example.com"),
        ("contact", "phone", "invalid_format", "write it as +14155550132, or as it is dialled within DE"),
        ("contact", "name", "too_long", "at most 255 characters"),
        ("contact", "name", "required", "give a value, or a default for all items (properties: name)"),
        ("contact", "id", "required", "give the id of each record"),
        ("contact", "alternate_emails", "conflict", "give email as well"),
        ("asset", "disposed_at", "conflict", None),  # two rules
        ("shipment", "amount", "invalid_format", "write it as 1250.00; or at most two decimal places"),
        ("shipment", "amount", "out_of_range", "must be 0 or more, and less than 10^15"),
        ("tracker", "type", "not_allowed", "must be one of inbound, outbound"),
        ("shipment", "sender", "invalid_type", "must be an object"),
        ("contact", "E-Mail", "unknown_field", "did you mean email?"),
        ("contact", "colour", "unknown_field", "remove or rename it, or set unknown_columns to ignore"),
        ("shipment", "sender.phone_no", "unknown_field", "remove or rename it"),
        ("shipment", "sender.emial", "unknown_field", "did you mean sender.email?"),
        ("contact", None, "duplicate_key",
         "keep one of the items, or set duplicate_handling to use_first or use_last"),
        ("contact", None, "conflict", None),
        ("contact", None, "write_failed", None),
    ],
)  # fmt: skip
def test_what_is_expected_where_a_field_has_an_error(
    resource: str, path: str | None, code: str, told: str | None
) -> None:
    assert expected(get_resource(resource), path, code, CONTEXT) == told
