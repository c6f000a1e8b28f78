"""Shipments: parcels on their way from a sender to a recipient."""

from batch_pipeline.records.fields import Boolean, Choice, Email, Phone, Text
from batch_pipeline.records.lists import ScalarList
from batch_pipeline.records.object_lists import ObjectList
from batch_pipeline.records.objects import KeyedObject
from batch_pipeline.records.resource import NaturalKey, Resource
from batch_pipeline.records.transport import STATUSES, SYNONYMS_OF_TRACKING_NUMBER, check_digit_of_carrier
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
    synonyms={
        "external_id": ("external ref", "foreign id", "order id", "order number", "shipment number"),
        "tracking_number": SYNONYMS_OF_TRACKING_NUMBER,
        "provider": ("carrier", "carrier code", "carrier name", "courier", "shipping company", "versanddienstleister"),
        "sender.name": ("sender", "from", "from name", "shipper", "shipper name", "absender"),
        "sender.email": ("from email", "shipper email"),
        "sender.phone": ("from phone", "shipper phone"),
        "sender.address": ("from address", "origin address", "shipper address"),
        "recipient.name": ("recipient", "to", "to name", "receiver", "receiver name", "consignee", "empfänger"),
        "recipient.email": ("to email", "receiver email", "consignee email"),
        "recipient.phone": ("to phone", "receiver phone", "consignee phone"),
        "recipient.address": ("to address", "destination address", "delivery address", "receiver address"),
        "amount": ("price", "cost", "shipping cost", "rate", "betrag"),
        "billed_amount": ("billed", "charge", "charged amount", "invoice amount"),
        "currency": ("currency code", "währung"),
        "status": ("state", "shipment status", "delivery status"),
        "paid": ("is paid", "payment received", "bezahlt"),
        "payment_reference": ("payment id", "payment ref", "transaction id"),
        "rma_number": ("rma", "return number", "return authorization"),
        "label_url": ("label", "label link", "shipping label"),
        "tracking_url": ("tracking link", "track url"),
        "coordinates": ("gps", "lat long", "geo", "koordinaten"),
        "estimated_delivery_at": (
            "eta",
            "estimated delivery",
            "estimated delivery date",
            "expected delivery",
            "delivery date",
        ),
        "pickup_at": ("pickup", "pickup date", "pickup time", "collection date", "abholdatum"),
    },
)
