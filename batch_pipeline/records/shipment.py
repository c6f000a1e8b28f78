"""Shipments: parcels on their way from a sender to a recipient."""

from batch_pipeline.records.fields import Boolean, Choice, Email, Phone, Text
from batch_pipeline.records.lists import ScalarList
from batch_pipeline.records.object_lists import ObjectList
from batch_pipeline.records.objects import KeyedObject
from batch_pipeline.records.resource import NaturalKey, Resource
from batch_pipeline.records.transport import STATUSES, check_digit_of_carrier
from batch_pipeline.records.typed_fields import (
    Currency,
    Latitude,
    Longitude,
    Measure,
    Moment,
    Money,
    TrackingNumber,
    Url,
)

_PARTY = (
    Text("name", max_length=255),
    Email("email"),
    Phone("phone"),
    Text("address", max_length=500),
    Text("address_line2", max_length=500),
)

SHIPMENT = Resource(
    name="shipment",
    id_prefix="ship_",
    own_fields=(
        TrackingNumber("tracking_number", required=True),
        Text("provider", max_length=50),
        KeyedObject("sender", keys=_PARTY),
        KeyedObject("recipient", keys=_PARTY),
        ObjectList(
            "parcels",
            keys=(*map(Measure, ("length", "width", "height", "weight")), Text("type", max_length=255)),
        ),
        Money("amount"),
        Money("billed_amount"),
        Currency("currency", default="usd"),
        Choice("status", values=STATUSES, default="created"),
        Boolean("paid"),
        Text("payment_reference", max_length=255),
        Text("rma_number", max_length=255),
        Url("label_url"),
        Url("tracking_url"),
        ScalarList("coordinates", elements=(Latitude(""), Longitude("")), min_items=2, max_items=2),
        Moment("estimated_delivery_at"),
        Moment("pickup_at"),
    ),
    natural_keys=(NaturalKey(("tracking_number", "provider")),),
    arrow_rules=(check_digit_of_carrier("provider", sandbox=False),),
)
