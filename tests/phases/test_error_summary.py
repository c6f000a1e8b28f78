"""The summary of a batch's errors: exact, bounded, the largest groups first, without values."""

import json
from collections import Counter
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pytest
from batch_runs import arrived, as_csv, new_organization
from driving import run_attempt
from hypothesis import given
from hypothesis import strategies as st

from batch_pipeline.batches.model import Starter
from batch_pipeline.payloads.artifacts import RejectedChunk
from batch_pipeline.payloads.model import UNREADABLE_SCHEMA, RawChunk
from batch_pipeline.phases.error_summary import FIRST_ROWS, HELD_GROUPS, MOST_GROUPS, ErrorSummary
from batch_pipeline.records.contact import CONTACT
from batch_pipeline.records.errors import ERRORS_SCHEMA
from batch_pipeline.records.fields import RuleContext
from batch_pipeline.records.resource import Resource
from batch_pipeline.records.shipment import SHIPMENT
from batch_pipeline.storage import keys
from batch_pipeline.system import System

Error = tuple[int, str, str | None, str | None]  # row, code, field, value


def _summary(*chunks: list[Error], resource: Resource = CONTACT) -> dict[str, Any]:
    summary = ErrorSummary(resource, RuleContext(region="US"))
    for errors in chunks:
        table = pa.Table.from_pylist(
            [
                {"row": row, "code": code, "field": name, "message": "", "value": value}
                for row, code, name, value in errors
            ],
            schema=ERRORS_SCHEMA,
        )
        items = RawChunk(pa.array([], pa.int64()), {}, {}, UNREADABLE_SCHEMA.empty_table())
        summary.add(RejectedChunk(items, table))
    return summary.to_json()


_errors = st.lists(
    st.tuples(
        st.integers(1, 40),
        st.sampled_from(["required", "too_long"]),
        st.sampled_from([None, *(f"metadata.{n}" for n in range(40))]),
    ),
    max_size=400,
)


@given(_errors, st.lists(st.integers(1, 40), max_size=3))
def test_any_errors_in_any_chunks_are_grouped_exactly(
    errors: list[tuple[int, str, str | None]], cuts: list[int]
) -> None:
    errors.sort(key=lambda error: error[0])
    edges = [0, *sorted(cuts), 40]
    chunks: list[list[Error]] = [
        [(*error, None) for error in errors if low < error[0] <= high] for low, high in pairwise(edges)
    ]
    found = _summary(*chunks)
    counts = Counter((name, code) for _, code, name in errors)
    groups = found["groups"]
    assert len(groups) == min(len(counts), MOST_GROUPS)
    for group in groups:
        key = group["field"], group["code"]
        assert group["count"] == counts[key]
        rows = dict.fromkeys(row for row, code, name in errors if (name, code) == key)
        assert group["rows"] == list(rows)[:FIRST_ROWS]
    listed = [group["count"] for group in groups]
    assert listed == sorted(counts.values(), reverse=True)[:MOST_GROUPS]
    assert (found["errors"], found["others"]) == (len(errors), len(errors) - sum(listed))


def test_the_number_of_groups_is_bounded_and_every_error_is_counted() -> None:
    many: list[Error] = [(n + 1, "unknown_field", f"field {n}", None) for n in range(HELD_GROUPS + 100)]
    found = _summary(many, [(HELD_GROUPS + 200, "required", "name", None)])
    assert len(found["groups"]) == MOST_GROUPS
    assert found["errors"] == HELD_GROUPS + 101
    assert found["others"] == HELD_GROUPS + 101 - MOST_GROUPS


def test_the_first_rows_of_a_large_chunk_are_the_first_and_its_values_are_judged_by_the_first_of_them() -> None:
    """Hash tables of this size do not keep the order in which groups are first seen."""
    errors: list[Error] = []
    for row in range(1, 20_001):
        errors += [(row, "not_allowed", "status", "In Transit"), (row, "invalid_format", "amount", f"{row},50")]
    amount, status = _summary(errors, resource=SHIPMENT)["groups"]
    assert amount["rows"] == status["rows"] == [1, 2, 3, 4, 5]
    assert amount["suggestion"] == "write a decimal point and no thousands separators: 1250.00"
    assert status["suggestion"] == "use in_transit"


def test_the_suggestion_counts_the_values_of_each_wrong_form() -> None:
    values = ["In Transit"] * 3 + ["Delivered"] * 2 + ["who knows"]
    errors: list[Error] = [(n + 1, "not_allowed", "status", value) for n, value in enumerate(values)]
    (group,) = _summary(errors, resource=SHIPMENT)["groups"]
    assert group["suggestion"].startswith("use in_transit (3 of 6); use delivered (2 of 6); else must be one of rates_")
    assert len(group["suggestion"]) <= 300
    amounts: list[Error] = [(n + 1, "invalid_format", "amount", "17,50") for n in range(4)]
    (group,) = _summary(amounts[:2], amounts[2:], resource=SHIPMENT)["groups"]
    assert group["suggestion"] == "write a decimal point and no thousands separators: 1250.00"


@pytest.mark.parametrize(
    ("options", "ended"),
    [
        ({}, "completed"),
        ({"reject_limit": "0"}, "reject_limit_exceeded"),
        ({"properties": {"phone": "12"}}, "no_valid_items"),
    ],
)
def test_a_batch_has_the_summary_of_its_errors_file_however_it_ends(
    module_system: System, options: dict[str, Any], ended: str
) -> None:
    """The item without an e-mail address gets a wrong number by default in the last case."""
    organization = new_organization(module_system)
    payload = as_csv([{"name": "Ada", "email": ""}, *({"name": "Bob", "email": f"secret {n}"} for n in range(8))])
    payload += b"too,many,cells,here\n"
    batch = run_attempt(module_system, arrived(module_system, organization, payload, **options))
    assert (batch.reason.code if batch.reason else batch.status) == ended
    summary = batch.to_json()["error_summary"]
    entries = json.loads(module_system.store.read(keys.errors_json(batch.id)))
    counted = Counter((error["field"], error["code"]) for entry in entries for error in entry["errors"])
    assert {(each["field"], each["code"]): each["count"] for each in summary["groups"]} == counted
    by_field = {each["field"]: each for each in summary["groups"]}
    assert by_field["email"]["rows"] == [2, 3, 4, 5, 6]
    assert by_field[None] == {
        "field": None,
        "code": "unreadable_row",
        "count": 1,
        "rows": [10],
        "suggestion": by_field[None]["suggestion"],
    }
    assert "secret" not in json.dumps(summary)


def test_a_re_run_replaces_the_summary(module_system: System) -> None:
    organization = new_organization(module_system)
    payload = as_csv([{"name": "Ada", "email": "nowhere"}])
    batch = run_attempt(module_system, arrived(module_system, organization, payload))
    assert batch.error_summary is not None
    again = module_system.ledger.request_rerun(batch.id, Starter.caller)
    assert (again.status, again.error_summary) == ("queued", None)
    assert run_attempt(module_system, again).error_summary == batch.error_summary
    good = run_attempt(module_system, arrived(module_system, organization, as_csv([{"name": "Ada"}])))
    assert (good.status, good.to_json()["error_summary"]) == ("completed", None)
