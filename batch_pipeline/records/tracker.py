"""Trackers: the state of parcels that carriers have."""

from batch_pipeline.records.fields import Choice, ForeignId, Text
from batch_pipeline.records.lists import ScalarList
from batch_pipeline.records.resource import NaturalKey, Resource
from batch_pipeline.records.transport import STATUSES, SYNONYMS_OF_TRACKING_NUMBER, check_digit_of_carrier
from batch_pipeline.records.typed_fields import Moment, TrackingNumber, Url

_TAGS = (
    "fragile",
    "perishable",
    "dry_cleaning",
    "lithium",
    "alcohol",
    "cannabis",
    "confidential",
    "express_priority",
    "security_concern",
    "cold_storage",
    "high_value",
    "requires_equipment",
)

TRACKER = Resource(
    name="tracker",
    id_prefix="track_",
    own_fields=(
        TrackingNumber("tracking_number", required=True, sandbox=True),
        Text("provider_id", max_length=50),
        Choice("type", values=("inbound", "outbound"), default="outbound"),
        ScalarList("tags", elements=(Choice("", values=_TAGS),), distinct=True),
        Choice("status", values=STATUSES, default="package_at_waypoint"),
        Moment("estimated_delivery_at"),
        Url("tracking_url"),
        ForeignId("location_id", prefix="loc_"),
    ),
    natural_keys=(NaturalKey(("tracking_number", "provider_id")),),
    arrow_rules=(check_digit_of_carrier("provider_id", sandbox=True),),
    synonyms={
        "external_id": ("external ref", "foreign id", "order id", "order number"),
        "tracking_number": SYNONYMS_OF_TRACKING_NUMBER,
        "provider_id": ("provider", "carrier", "carrier id", "carrier code", "courier"),
        "type": ("direction", "tracker type", "richtung"),
        "tags": ("labels", "handling", "special handling"),
        "status": ("state", "tracking status", "delivery status"),
        "estimated_delivery_at": (
            "eta",
            "estimated delivery",
            "estimated delivery date",
            "expected delivery",
            "delivery date",
        ),
        "tracking_url": ("tracking link", "track url", "link"),
        "location_id": ("location", "site", "site id", "standort"),
    },
)
