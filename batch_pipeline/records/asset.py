"""Assets: single things of value, each at a location."""

from batch_pipeline.records.fields import Choice, ForeignId, Text
from batch_pipeline.records.lists import ScalarList
from batch_pipeline.records.record_rules import RecordRule, condition
from batch_pipeline.records.resource import NaturalKey, Resource
from batch_pipeline.records.typed_fields import Currency, Moment, Money

_STATUSES = (
    "in_use",
    "in_storage",
    "on_loan",
    "in_repair",
    "in_transit",
    "in_pipeline",
    "lost",
    "missing",
    "stolen",
    "donated",
    "disposed",
    "out_of_service",
    "for_sale",
    "sold",
)
_ATTRIBUTES = ("alcohol", "marijuana", "pharma", "dry_ice", "lithium")

ASSET = Resource(
    name="asset",
    id_prefix="ast_",
    own_fields=(
        ForeignId("item_id", prefix="item_", required=True),
        ForeignId("location_id", prefix="loc_", required=True),
        ForeignId("layout_id", prefix="lay_"),
        Text("serial_number", max_length=100),
        Text("sequence_id", max_length=100),
        Money("value"),
        Money("initial_value"),
        Currency("currency", default="usd"),
        Text("barcode", max_length=255),
        Text("category", max_length=255),
        Text("sub_category", max_length=255),
        Text("manifest_id", max_length=255),
        Text("disposal_reason_code", max_length=255),
        Choice("status", values=_STATUSES, default="in_storage"),
        ScalarList("attributes", elements=(Choice("", values=_ATTRIBUTES),), distinct=True),
        Choice("maintenance_schedule", values=("daily", "weekly", "monthly", "quarterly", "yearly")),
        Choice("maintenance_status", values=("good", "upcoming", "required", "ongoing")),
        Moment("purchased_at"),
        Moment("warranty_expires_at"),
        Moment("next_maintenance_at"),
        Moment("disposed_at"),
        Text("disposal_comment", max_length=5_000),
    ),
    natural_keys=(
        NaturalKey(("item_id", "serial_number"), when="serial_number"),
        NaturalKey(("item_id", "location_id", "sequence_id"), only_records_without="serial_number"),
    ),
    record_rules=(
        RecordRule(
            "conflict",
            "serial_number",
            "or else sequence_id is needed, and only one of the two",
            fields=("serial_number", "sequence_id"),
            violated=condition("num_nonnulls({serial_number}, {sequence_id}) <> 1"),
            by_giving=("serial_number", "sequence_id"),
            by_clearing=("serial_number", "sequence_id"),
            by_creating=True,
        ),
        RecordRule(
            "conflict",
            "disposed_at",
            "must not be before purchased_at",
            fields=("disposed_at", "purchased_at"),
            violated=condition("{disposed_at} < {purchased_at}"),
            by_giving=("disposed_at", "purchased_at"),
        ),
        RecordRule(
            "conflict",
            "disposed_at",
            "is needed where status is disposed",
            fields=("status", "disposed_at"),
            violated=condition("{status} = 'disposed' AND {disposed_at} IS NULL"),
            by_giving=("status",),
            by_clearing=("disposed_at",),
        ),
    ),
)
