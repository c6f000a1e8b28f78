"""Shipments, trackers, assets and the nested fields of contacts, from their file to their rows in the database."""

import random
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from batch_runs import Row, Runner, new_organization
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from batch_pipeline.batches.model import Action, Batch
from batch_pipeline.errors import RefusedError
from batch_pipeline.intake.inbox import take_in
from batch_pipeline.loading import record_checks
from batch_pipeline.local.samples import load_samples
from batch_pipeline.records.descriptions import all_resources
from batch_pipeline.records.registry import check_action
from batch_pipeline.records.resource import Resource
from batch_pipeline.storage import keys
from batch_pipeline.system import System

UPS, WRONG_UPS = "1Z5R89390357567127", "1Z5R89390357567128"
ASSET = {"item_id": "item_1", "location_id": "loc_1"}


@pytest.fixture
def run(module_system: System) -> Runner:
    return Runner(module_system, new_organization(module_system))


def stats(batch: Batch) -> dict[str, int]:
    """What isn't zero."""
    assert batch.reason is None, batch.reason
    return {name: count for name, count in vars(batch.stats).items() if count}


def by_id(rows: list[Row]) -> dict[str, Row]:
    return {row["external_id"]: row for row in rows}


def test_a_shipment_from_a_flat_file_gets_its_types_and_defaults(run: Runner) -> None:
    batch = run.csv(
        {
            "tracking_number": "1z 5r8 939-0357567127",
            "provider": "ups",
            "sender.name": "Ann",
            "sender.email": "Ann@EXAMPLE.com",
            "recipient.phone": "(415) 555-0132",
            "parcels.0.weight": "1.250",
            "parcels.0.type": "box",
            "parcels.1.length": "30",
            "amount": "12.5",
            "coordinates": "52.5,13.4",
            "pickup_at": "2026-01-31T12:30:00+02:00",
            "paid": "yes",
        },
        {"tracking_number": "ABCD", "amount": ""},
        resource="shipment",
    )

    assert stats(batch) == {"created": 2}
    found = {row["tracking_number"]: row for row in run.records("shipments")}
    full, plain = found[UPS], found["ABCD"]
    assert full["sender"] == {"name": "Ann", "email": "Ann@example.com"}
    assert full["recipient"] == {"phone": "+14155550132"}
    assert full["parcels"] == [{"type": "box", "weight": 1.25}, {"length": 30}]
    assert full["amount"] == Decimal("12.50")
    assert full["coordinates"] == [52.5, 13.4]
    assert full["pickup_at"] == datetime(2026, 1, 31, 10, 30, tzinfo=UTC)
    assert full["paid"] is True
    for row in (plain, full):
        assert (row["currency"], row["status"]) == ("usd", "created")
    assert (plain["sender"], plain["parcels"], plain["coordinates"], plain["amount"]) == ({}, [], None, None)


def test_objects_merge_key_by_key_lists_are_replaced_and_defaults_come_back(run: Runner) -> None:
    first = {
        "external_id": "s",
        "tracking_number": "ABCD",
        "sender": {"name": "Ann", "email": "ann@example.com"},
        "recipient": {"name": "Bo"},
        "parcels": [{"weight": 1}, {"weight": 2}],
        "coordinates": [1, 2],
        "currency": "EUR",
        "status": "delivered",
    }
    assert stats(run.json(first, resource="shipment")) == {"created": 1}
    assert stats(run.json(first, resource="shipment")) == {"unchanged": 1}
    same = {"external_id": "s", "sender": {"name": "Ann"}, "parcels": [{"weight": "1.0"}, {"weight": 2.00}]}
    assert stats(run.json(same, resource="shipment")) == {"unchanged": 1}

    changed = {
        "external_id": "s",
        "sender": {"name": None, "phone": "+14155550132"},
        "recipient": None,
        "recipient.address": "Here",
        "parcels": [{"type": "bag"}],
        "coordinates": None,
        "currency": None,
        "status": "",
    }
    assert stats(run.json(changed, resource="shipment")) == {"updated": 1}
    (row,) = run.records("shipments")
    assert row["sender"] == {"email": "ann@example.com", "phone": "+14155550132"}
    assert row["recipient"] == {"address": "Here"}
    assert (row["parcels"], row["coordinates"]) == ([{"type": "bag"}], None)
    assert (row["currency"], row["status"]) == ("usd", "created")

    assert stats(run.json({"external_id": "s", "parcels": None}, resource="shipment")) == {"updated": 1}
    assert run.records("shipments")[0]["parcels"] == []


def test_a_shipment_is_identified_by_number_and_provider_also_if_null(run: Runner) -> None:
    first = [{"tracking_number": "ABCD"}, {"tracking_number": "ABCD", "provider": "x"}]
    assert stats(run.json(*first, resource="shipment")) == {"created": 2}
    again = [
        {"tracking_number": "ab-cd", "paid": True},
        {"tracking_number": "AB CD", "provider": "x", "paid": False},
        {"tracking_number": "ABCD", "provider": "y"},
        {"provider": "x", "paid": True},
    ]
    batch = run.json(*again, resource="shipment")

    assert stats(batch) == {"created": 1, "updated": 2, "rejected": 1}
    assert run.codes(batch) == [(4, ["required"])]
    assert sorted((row["provider"] or "", row["paid"]) for row in run.records("shipments")) == [
        ("", True), ("x", False), ("y", None)
    ]  # fmt: skip


@pytest.mark.parametrize(("resource", "carrier"), [("shipment", "provider"), ("tracker", "provider_id")])
def test_a_changed_number_or_carrier_is_checked_against_the_stored_other(
    run: Runner, monkeypatch: pytest.MonkeyPatch, resource: str, carrier: str
) -> None:
    monkeypatch.setattr(record_checks, "FETCHED_ROWS", 2)  # so that six items need several looks
    created = run.json(
        {"external_id": "a", "tracking_number": UPS, carrier: "ups"},
        {"external_id": "b", "tracking_number": WRONG_UPS},
        {"external_id": "c", "tracking_number": WRONG_UPS, carrier: "ours"},
        {"external_id": "d", "tracking_number": "K1506235622"},
        {"external_id": "e", "tracking_number": UPS, carrier: "ups"},
        {"external_id": "f", "tracking_number": UPS, carrier: "ups"},
        resource=resource,
    )
    assert stats(created) == {"created": 6}

    batch = run.json(
        {"external_id": "a", "tracking_number": WRONG_UPS},
        {"external_id": "b", carrier: "UPS"},
        {"external_id": "c", carrier: None},
        {"external_id": "d", carrier: "ups"},
        {"external_id": "e", "tracking_number": WRONG_UPS, carrier: None},
        {"external_id": "f", "status": "delivered"},
        resource=resource,
    )

    assert stats(batch) == {"updated": 3, "rejected": 3}
    assert run.codes(batch) == [(row, ["invalid_checksum"]) for row in (1, 2, 4)]
    (error,) = run.errors(batch)[1]["errors"]
    assert (error["field"], error["value"]) == ("tracking_number", WRONG_UPS)
    stored = by_id(run.records(f"{resource}s"))
    assert [stored[name][carrier] for name in "abcdef"] == ["ups", None, None, None, None, "ups"]
    assert stored["e"]["tracking_number"] == WRONG_UPS


def test_an_asset_is_identified_by_serial_number_or_sequence(run: Runner) -> None:
    first = run.json(
        {**ASSET, "serial_number": "S1"},
        {**ASSET, "sequence_id": "1"},
        {**ASSET, "location_id": "loc_2", "sequence_id": "1"},
        {**ASSET, "item_id": "item_2", "serial_number": "S1"},
        resource="asset",
    )
    assert stats(first) == {"created": 4}

    batch = run.json(
        {"item_id": "item_1", "serial_number": "S1", "location_id": "loc_9", "value": 5},  # moved
        {**ASSET, "sequence_id": "1", "value": 6},
        {**ASSET, "value": 7},  # the asset with S1 is not meant
        {"serial_number": "S1", "value": 8},
        resource="asset",
    )

    assert stats(batch) == {"updated": 2, "rejected": 2}
    assert run.codes(batch) == [(3, ["conflict"]), (4, ["required", "required"])]
    found = {(row["item_id"], row["serial_number"], row["location_id"]): row["value"] for row in run.records("assets")}
    assert found == {
        ("item_1", "S1", "loc_9"): 5, ("item_1", None, "loc_1"): 6, ("item_1", None, "loc_2"): None,
        ("item_2", "S1", "loc_1"): None,
    }  # fmt: skip


def judged(run: Runner, resource: str, base: Row, cases: list[tuple[Row, Row, str | None]]) -> None:
    """Each case: what a record is made with, what is merged into it, and the field of the conflict; None: fine."""
    created = run.json(*({**base, **stored, "external_id": f"{n}"} for n, (stored, _, _) in enumerate(cases)),
                          resource=resource)  # fmt: skip
    assert stats(created) == {"created": len(cases)}
    before = by_id(run.records(f"{resource}s"))

    batch = run.json(*({"external_id": f"{n}", **item} for n, (_, item, _) in enumerate(cases)), resource=resource)

    found = {entry["row"] - 1: entry["errors"] for entry in run.errors(batch)}
    said = {n: [(error["code"], error["field"]) for error in errors] for n, errors in found.items()}
    assert said == {n: [("conflict", named)] for n, (_, _, named) in enumerate(cases) if named}
    after = by_id(run.records(f"{resource}s"))
    for n, (_, _, named) in enumerate(cases):
        assert (before[f"{n}"] == after[f"{n}"]) is (named is not None)


def test_rules_of_an_asset_apply_to_the_record_as_stored(run: Runner) -> None:
    disposed = {"disposed_at": 2, "status": "disposed"}
    cases: list[tuple[Row, Row, str | None]] = [
        ({}, {"sequence_id": "1"}, "serial_number"),
        ({}, {"serial_number": None}, "serial_number"),
        ({}, {"serial_number": None, "sequence_id": "1"}, None),
        ({}, {"value": 5}, None),
        ({}, {"status": "disposed"}, "disposed_at"),
        ({"disposed_at": 2}, {"status": "disposed"}, None),
        (disposed, {"disposed_at": None}, "disposed_at"),
        (disposed, {"disposed_at": None, "status": None}, None),
        ({"disposed_at": 2}, {"purchased_at": 3}, "disposed_at"),
        ({"disposed_at": 2}, {"purchased_at": 2}, None),
        ({"purchased_at": 2}, {"disposed_at": 1}, "disposed_at"),
        ({"purchased_at": 2, "disposed_at": 3}, {"purchased_at": 5, "disposed_at": 4}, "disposed_at"),
        ({"purchased_at": 2, "disposed_at": 3}, {"purchased_at": None}, None),
    ]
    numbered: list[tuple[Row, Row, str | None]] = [
        ({**stored, "serial_number": f"S{n}"}, item, named) for n, (stored, item, named) in enumerate(cases)
    ]
    judged(run, "asset", ASSET, numbered)

    new = run.json({**ASSET, "serial_number": "X", "sequence_id": "1"}, {**ASSET, "status": "disposed"},
                   resource="asset")  # fmt: skip
    assert run.codes(new) == [(1, ["conflict"]), (2, ["conflict", "conflict"])]


def test_rules_of_a_contact_apply_to_the_record_as_stored(run: Runner) -> None:
    cases: list[tuple[Row, Row, str | None]] = [
        ({}, {"alternate_emails": {"work": "w@example.com"}}, "alternate_emails"),
        ({}, {"alternate_emails": {"work": "w@example.com"}, "email": "p1@example.com"}, None),
        ({"email": "p2@example.com"}, {"alternate_emails": {"work": "w@example.com"}}, None),
        ({"email": "p3@example.com", "alternate_emails": {"work": "w@example.com"}}, {"email": None},
         "alternate_emails"),
        ({"email": "p4@example.com", "alternate_emails": {"work": "w@example.com"}},
         {"email": None, "alternate_emails": {"work": None}}, None),
        ({"email": "p5@example.com"}, {"email": None}, None),
        ({"address": "1 Main St"}, {"alternate_addresses": {"home": "1 MAIN ST"}}, "alternate_addresses"),
        ({"address": "1 Main St"}, {"alternate_addresses": {"home": "1 Main St", "home_line2": "2nd"}}, None),
        ({"alternate_addresses": {"home": "A", "work": "B"}}, {"alternate_addresses.work": "a"},
         "alternate_addresses"),
        ({"alternate_addresses": {"home": "A", "work": "B"}}, {"alternate_addresses": {"home": None, "work": "A"}},
         None),
        ({"alternate_addresses": {"home": "Straße"}}, {"address": "STRASSE"}, None),
        ({"alternate_addresses": {"home": "Élan"}}, {"address": "élan"}, "alternate_addresses"),
        ({"address": "A", "address_line2": "x", "alternate_addresses": {"home": "A"}}, {"address_line2": None},
         "alternate_addresses"),
    ]  # fmt: skip
    named: list[tuple[Row, Row, str | None]] = [
        ({**stored, "name": f"N{n}"}, item, wrong) for n, (stored, item, wrong) in enumerate(cases)
    ]
    judged(run, "contact", {}, named)


def test_a_primary_address_must_differ_from_stored_alternate_addresses(run: Runner) -> None:
    run.json(
        {"external_id": "a", "name": "A", "alternate_addresses": {"home": "1 Main St"}},
        {"external_id": "b", "name": "B"},
    )

    batch = run.csv(
        {"external_id": "a", "name": "A", "address": "1 main st"},
        {"external_id": "b", "name": "B", "address": "1 main st"},
        {"external_id": "c", "name": "C", "address": "1 main st"},
    )

    assert stats(batch) == {"created": 1, "updated": 1, "rejected": 1}
    assert run.codes(batch) == [(1, ["conflict"])]


VALID: dict[str, Row] = {
    "contact": {"name": "Good"},
    "group": {"name": "Good"},
    "shipment": {"tracking_number": "GOOD"},
    "tracker": {"tracking_number": "GOOD"},
    "asset": {**ASSET, "serial_number": "GOOD"},
}
VALUES: dict[str, list[Any]] = {
    "external_id": ["e1", "e2", "e3", "e4", "e5", None, ""],
    "tracking_number": ["ABCD", "EFGH", UPS, WRONG_UPS, None, 5],
    "provider": ["ups", "x", None],
    "sender": [{"name": "Ann"}, {"email": "no"}, None, {"who": 1}],
    "parcels": [[{"weight": 1}], [], None, "box"],
    "provider_id": ["ups", "x", None],
    "tags": [["fragile"], "fragile,lithium", ["no"], None],
    "item_id": ["item_1", "item_2", None, "thing"],
    "location_id": ["loc_1", None, "place"],
    "serial_number": ["S1", "S2", None],
    "sequence_id": ["1", None],
    "name": ["Ann", "Bo", None],
    "email": ["a@example.com", "B@example.com", None, "nobody"],
    "phone": ["+14155550132", None],
    "alternate_emails": [{"work": "w@example.com"}, None, {"work": None}],
    "alternate_names": [["A"], None, ["x"] * 6],
    "address": ["A", None],
    "alternate_addresses": [{"home": "A"}, None],
    "amount": [1, "2.50", "-1", None],
    "value": [1, "2.50", "x", None],
    "status": ["created", "in_use", "disposed", None],
    "disposed_at": [5, None],
    "purchased_at": [4, 6, None],
}


@pytest.mark.parametrize("resource", all_resources(), ids=lambda resource: resource.name)
@given(seed=st.integers(0, 2**32))
# Each example is two whole batches: smaller failing ones are not looked for.
@settings(
    max_examples=2,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_every_item_is_counted_and_reported_once(module_system: System, resource: Resource, seed: int) -> None:
    run = Runner(module_system, new_organization(module_system))
    known = [name for name in VALUES if resource.knows(name)]
    rng = random.Random(seed)  # noqa: S311 - test data
    handling = rng.choice(["ignore_all", "use_first", "use_last"])
    for _ in range(2):
        upload = [
            {name: rng.choice(VALUES[name]) for name in known if rng.random() < rng.random()}
            for _ in range(rng.randint(30, 60))
        ]
        # One that is valid, so that the batch completes.
        upload.append({"external_id": "good", **VALID.get(resource.name, {})})
        batch = run.json(*upload, resource=resource.name, save_result=True, duplicate_handling=handling)

        assert batch.status == "completed"
        assert batch.stats.items_read == len(upload)
        assert [entry["row"] for entry in run.results(batch)] == list(range(1, len(upload) + 1))
        outcomes = Counter(run.outcomes(batch))
        rejected = [entry["row"] for entry in run.errors(batch)] if batch.has_errors_file else []
        assert batch.stats.rejected == len(set(rejected)) == len(rejected) == outcomes["rejected"]
        assert batch.stats.created == outcomes["created"]
        assert batch.stats.updated == outcomes["updated"]
        records_now = run.records(resource.table)
        shown = [row["external_id"] for row in records_now if row["external_id"]]
        assert len(set(shown)) == len(shown)
        assert "good" in shown


def test_the_sample_files_have_their_expected_results(run: Runner) -> None:
    samples = {sample.title: sample for sample in load_samples(1_000)}
    shown = [name for name in samples if name in ("newsletter.json", "shipments.csv", "trackers.ndjson", "assets.tsv")]
    for title in (*shown, "groups.json"):  # of readers of the newsletter
        sample = samples[title]
        assert isinstance(sample.content, bytes)
        resource = sample.folder.split("/")[0]
        batch = run.bytes(sample.content, name=sample.name, resource=resource)

        assert batch.stats == sample.expected.stats
        codes = Counter(error["code"] for entry in run.errors(batch) for error in entry["errors"])
        assert codes == Counter(sample.expected.codes)


def test_an_action_that_a_resource_lacks_is_refused_before_anything_is_stored(module_system: System) -> None:
    organization = new_organization(module_system)
    refused = {
        f"{keys.INBOX}/{organization}/{resource}/{action.value}/some.csv": (resource, action)
        for resource in ("shipment", "tracker", "asset")
        for action in (Action.overwrite, Action.delete)
    }
    for key, (resource, action) in refused.items():
        with pytest.raises(RefusedError, match=f"{action.value} is not available for {resource}: use merge"):
            check_action(resource, action)
        module_system.store.write(key, b"tracking_number\nABCD\n")

    taken_in = {batch.source_key: batch for batch in take_in(module_system, limit=20)}

    for key in refused:
        assert taken_in[key].status == "failed"
        assert taken_in[key].reason is not None
        assert taken_in[key].reason.code == "action_not_available"
