"""Shipments and trackers alike: a tracking number is one of its carrier's, where the carrier is known."""

import pyarrow as pa

from batch_pipeline.records.record_rules import KernelRule
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


def number_of_carrier(carrier: str, *, sandbox: bool) -> KernelRule:
    """The rule for a resource whose field of this name holds the carrier."""

    def judge(numbers: pa.StringArray, carriers: pa.StringArray) -> Judged:
        return canonical_tracking_numbers(numbers, carriers, sandbox=sandbox)

    return KernelRule(
        "tracking_number",
        carrier,
        judge,
        {
            Refusal.FORMAT: Complaint("invalid_format", f"is no number of its carrier ({carrier}): compare the two"),
            Refusal.CHECKSUM: Complaint("invalid_checksum", f"has a wrong check digit for its carrier ({carrier})"),
        },
    )
