"""What shipments and trackers share: their statuses, and the check digit of a carrier's tracking number."""

import pyarrow as pa

from batch_pipeline.records.record_rules import ArrowRule
from batch_pipeline.records.rules import Complaint
from batch_pipeline.values.judged import Judged, Refusal
from batch_pipeline.values.tracking import canonical_tracking_numbers

STATUSES = (
    "rates_generated",
    "created",
    "address_issue",
    "provider_at_pickup",
    "contact_provider",
    "delayed",
    "delivery_attempted",
    "delivery_rescheduled",
    "delivery_scheduled",
    "out_for_delivery",
    "package_accepted",
    "package_at_waypoint",
    "in_transit",
    "pickup_available",
    "provider_at_dropoff",
    "package_damaged",
    "delivered",
    "return_to_sender",
    "package_undeliverable",
    "package_lost",
    "canceled",
)


SYNONYMS_OF_TRACKING_NUMBER = (
    "tracking",
    "tracking no",
    "tracking code",
    "waybill",
    "waybill number",
    "awb",
    "awb number",
    "consignment number",
    "parcel number",
    "sendungsnummer",
)


def check_digit_of_carrier(carrier: str, *, sandbox: bool) -> ArrowRule:
    """The rule on `tracking_number` for a resource whose field ``carrier`` has the carrier.

    Args:
        carrier: the field's name.
        sandbox: as for `canonical_tracking_numbers`.
    """

    def judge(numbers: pa.StringArray, carriers: pa.StringArray) -> Judged:
        return canonical_tracking_numbers(numbers, carriers, sandbox=sandbox)

    return ArrowRule(
        "tracking_number",
        carrier,
        judge,
        {Refusal.CHECKSUM: Complaint("invalid_checksum", f"has a wrong check digit for its carrier ({carrier})")},
    )
