"""Sample uploads of groups, shipments, trackers and assets, each with its share of mistakes."""

import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from batch_pipeline.batches.model import Stats
from batch_pipeline.local.sample_files import Expected, Sample, csv_text

Item = dict[str, Any]

_CITIES = ("Springfield", "Riverton", "Lakeside", "Hillview", "Brookhaven")
_SHIPMENTS = 400
_TRACKERS = 250
_ASSETS = 300
_GROUPS = 30
_DAY = 86_400
_BEGAN = 1_767_225_600  # 2026-01-01


def make_logistics_samples(rng: random.Random, *, readers: str) -> list[Sample]:
    """One file of each resource; the groups are of contacts that the sample titled `readers` has made."""
    return [_groups(readers), _shipments(rng), _trackers(rng), _assets(rng)]


def ups_number(serial: int) -> str:
    """A tracking number of UPS, its check digit included."""
    body = f"5R8939{1 + serial % 3:02}{serial:07}"
    values = [int(each) if each.isdigit() else (ord(each) - 3) % 10 for each in body]
    return f"1Z{body}{-sum(value * (1 + place % 2) for place, value in enumerate(values)) % 10}"


def _groups(readers: str) -> Sample:
    """Ten readers each, one of them the primary one; two name somebody who is not there."""
    items: list[Item] = [
        {
            "name": f"Reading circle {number:02}",
            "children": [_reader(number * 10 + place) for place in range(100, 110)],
            "primary": [_reader(number * 10 + 100)],
            "metadata": {"meets": ("weekly", "monthly")[number % 2]},
        }
        for number in range(_GROUPS - 12)
    ] + [
        {"name": f"Depot {number}", "resource": "location", "children": [f"loc_{number}A", f"loc_{number}B"]}
        for number in range(12)
    ]
    items[3]["children"][4] = "nobody@news.example.com"
    items[8]["children"][9] = "loc_9A"
    items[20]["location_id"] = "depot 9"
    codes = {"reference_not_found": 2, "id_malformed": 1}
    expected = Expected(stats=Stats(created=_GROUPS - 3, rejected=3), codes=codes)
    content = json.dumps(items, indent=1).encode()
    return Sample("groups.json", "group/merge", "groups.json", content, expected, after=readers, once_ended=True)


def _reader(number: int) -> str:
    return f"reader{number}@news.example.com"


def _shipments(rng: random.Random) -> Sample:
    """A flat file whose dotted headers make objects and lists."""
    rows = [_shipment(rng, number) for number in range(_SHIPMENTS)]
    codes = _spoil(
        rows,
        {
            "invalid_checksum": lambda row: row.update(tracking_number=_with_next_digit(row["tracking_number"])),
            "invalid_format": lambda row: row.update({"recipient.email": "at home"}),
            "out_of_range": lambda row: row.update({"parcels.0.weight": "0"}),
            "not_allowed": lambda row: row.update(status="on its way"),
            "required": lambda row: row.update(tracking_number=""),
        },
        each=3,
    )
    rows.append(dict(rows[-1]))
    rejected = sum(codes.values())
    expected = Expected(stats=Stats(created=_SHIPMENTS - rejected, rejected=rejected, duplicates=1), codes=codes)
    content = csv_text(list(rows[0]), [list(row.values()) for row in rows]).encode()
    return Sample("shipments.csv", "shipment/merge", "shipments.csv", content, expected)


def _shipment(rng: random.Random, number: int) -> dict[str, str]:
    is_ups = number % 3 > 0
    city = rng.choice(_CITIES)
    return {
        "tracking_number": ups_number(number) if is_ups else f"OWN-{number:05}",
        "provider": "ups" if is_ups else "own vans",
        "sender.name": "Harbour Warehouse",
        "sender.phone": "(212) 555-0142",
        "recipient.name": f"Customer {number:04}",
        "recipient.email": f"customer{number}@example.com",
        "recipient.address": f"{rng.randint(1, 999)} Oak Ave, {city}",
        "parcels.0.weight": f"{rng.randint(1, 300) / 10}",
        "parcels.0.type": rng.choice(("box", "tube", "pallet")),
        "parcels.1.weight": f"{rng.randint(1, 90) / 10}" if number % 4 == 0 else "",
        "parcels.1.type": "box" if number % 4 == 0 else "",
        "amount": f"{rng.randint(500, 20_000) / 100:.2f}",
        "currency": rng.choice(("", "", "EUR", "cad")),
        "status": rng.choice(("", "created", "in_transit", "out_for_delivery", "delivered")),
        "paid": rng.choice(("yes", "no")),
        "coordinates": f"{rng.randint(3_500, 4_800) / 100}, -{rng.randint(7_000, 12_000) / 100}",
        "estimated_delivery_at": f"2026-02-{rng.randint(1, 28):02}T{rng.randint(8, 18):02}:00:00-05:00",
    }


def _with_next_digit(number: str) -> str:
    return f"{number[:-1]}{(int(number[-1]) + 1) % 10}"


def _trackers(rng: random.Random) -> Sample:
    """One JSON object per line, with lists; some numbers are those of the sandbox."""
    items: list[Item] = [
        {
            "tracking_number": f"PKGX-{number:07}-TRACKER" if number % 5 == 0 else ups_number(10_000 + number),
            "provider_id": "ups",
            "type": ("inbound", "outbound")[number % 2],
            "tags": rng.sample(["fragile", "perishable", "high_value", "cold_storage"], number % 3),
            "estimated_delivery_at": _BEGAN + rng.randint(1, 60) * _DAY,
            "location_id": f"loc_{number % 7}A",
        }
        for number in range(_TRACKERS)
    ]
    codes = _spoil(
        items,
        {
            "invalid_checksum": lambda item: item.update(tracking_number=_with_next_digit(ups_number(77_777))),
            "not_allowed": lambda item: item.update(tags=["fragile", "explosive"]),
            "id_malformed": lambda item: item.update(location_id="dock 4"),
            "invalid_type": lambda item: item.update(tracking_number=123_456_789),
        },
        each=1,
    )
    rejected = sum(codes.values())
    expected = Expected(stats=Stats(created=_TRACKERS - rejected, rejected=rejected), codes=codes)
    content = "".join(f"{json.dumps(item)}\n" for item in items).encode()
    return Sample("trackers.ndjson", "tracker/merge", "trackers.ndjson", content, expected)


def _assets(rng: random.Random) -> Sample:
    """Things with a serial number each, and a few that are numbered within their place."""
    rows = [_asset(rng, number) for number in range(_ASSETS)]
    codes = _spoil(
        rows,
        {
            "conflict": lambda row: row.update(serial_number="X-1", sequence_id="1"),
            "invalid_format": lambda row: row.update(value="12.345"),
            "id_malformed": lambda row: row.update(item_id="forklift"),
            "not_allowed": lambda row: row.update(attributes="pharma,paper"),
        },
        each=2,
    )
    disposed_too_early, not_disposed = rows[0], rows[1]
    disposed_too_early.update(purchased_at="2024-05-01T00:00:00Z", disposed_at="2023-05-01T00:00:00Z")
    not_disposed.update(status="disposed", disposed_at="")
    codes["conflict"] += 2
    rejected = sum(codes.values())
    expected = Expected(stats=Stats(created=_ASSETS - rejected, rejected=rejected), codes=codes)
    content = csv_text(list(rows[0]), [list(row.values()) for row in rows], delimiter="\t").encode()
    return Sample("assets.tsv", "asset/merge", "assets.tsv", content, expected)


def _asset(rng: random.Random, number: int) -> dict[str, str]:
    is_disposed = number % 25 == 7
    return {
        "item_id": f"item_{rng.choice(('forklift', 'scanner', 'pallet-jack', 'cold-box'))}",
        "location_id": f"loc_{number % 7}A",
        "serial_number": "" if number % 10 == 3 else f"SN-{number:05}",
        "sequence_id": f"{number:03}" if number % 10 == 3 else "",
        "value": f"{rng.randint(10_000, 2_000_000) / 100:.2f}",
        "category": rng.choice(("vehicles", "handhelds", "containers")),
        "status": "disposed" if is_disposed else rng.choice(("", "in_use", "in_storage", "in_repair")),
        "attributes": rng.choice(("", "", "pharma", "pharma,dry_ice")),
        "maintenance_schedule": rng.choice(("", "monthly", "yearly")),
        "purchased_at": f"20{rng.randint(18, 25)}-0{rng.randint(1, 9)}-15T09:00:00Z",
        "disposed_at": "2026-01-20T09:00:00Z" if is_disposed else "",
    }


def _spoil(rows: Sequence[Item], mistakes: dict[str, Callable[[Item], None]], *, each: int) -> Counter[str]:
    """Makes each mistake in some rows of their own. Returns how many errors of each code there are now."""
    for number, mistake in enumerate(mistakes.values()):
        for row in rows[31 + number * 20 : 31 + number * 20 + 3 * each : 3]:
            mistake(row)
    return Counter(dict.fromkeys(mistakes, each))
