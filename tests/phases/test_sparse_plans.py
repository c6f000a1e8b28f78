"""A large merge by a unique key has a sparse plan, without rows of unchanged items. The batch ends as with a full one.

The same upload with a result file has a full plan, so it shows what has to happen.
"""

from typing import Any

import psycopg
import pytest
from batch_runs import Row, Runner, arrived, as_csv, contacts, counted, fetched, insert_contacts, new_organization
from driving import run_attempt
from examples import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from killing import KillPoint, kill, retry
from psycopg import sql

from batch_pipeline.batches.model import Action
from batch_pipeline.batches.states import AT_REST
from batch_pipeline.loading.own_staging import OwnStaging
from batch_pipeline.system import System

NUMBERS = 12  # the even ones are stored


@pytest.fixture(scope="module")
def system_settings() -> dict[str, str]:
    return {"BATCH_CHUNK_ROWS": "4", "BATCH_SHARED_STAGING_ITEMS": "1", "BATCH_DATABASE_WRITERS": "1"}


@pytest.fixture(scope="module")
def stubborn_system(module_system: System) -> System:
    """A system whose database refuses some contacts."""
    with psycopg.connect(module_system.database_url) as connection:
        connection.execute("ALTER TABLE contacts ADD CHECK (notes <> 'refuse me')")
    return module_system


def _item(number: int, kind: str) -> Row:
    changes: dict[str, Row] = {
        "same": {"name": f"n{number}"},
        "bare": {},
        "other": {"name": "other"},
        "wrong": {"name": "other", "email": "no address"},
        "refused": {"name": "other", "notes": "refuse me"},
    }
    return {"external_id": str(number), "name": "", "email": "", "notes": ""} | changes[kind]


def _items(**lists: Any) -> st.SearchStrategy[list[Row]]:
    numbers = st.integers(0, NUMBERS - 1)
    kinds = st.sampled_from(["same", "same", "same", "bare", "other", "wrong", "refused"])
    return st.lists(st.tuples(numbers, kinds), min_size=1, max_size=NUMBERS, **lists).map(
        lambda pairs: [_item(*pair) for pair in pairs]
    )


def _id(number: int) -> str:
    return f"ctct_{'1' * 20}{number + 11}"


def _new_organization(system: System) -> str:
    organization_id = new_organization(system)
    stored = [{"id": _id(number), "external_id": str(number), "name": f"n{number}"} for number in range(0, NUMBERS, 2)]
    insert_contacts(system, organization_id, *stored)
    return organization_id


def _end(system: System, payload: bytes, killed_after: int, between: list[Row], *, save_result: bool) -> Any:
    """What is left of a batch; the run is killed after so many chunks, and another batch writes before the next run."""
    organization_id = _new_organization(system)
    batch = arrived(system, organization_id, payload, save_result=save_result)
    if killed_after:
        point = KillPoint("batch_pipeline.loading.chunks:ChunkWriter.write", killed_after, after=True)
        batch = kill(system, batch, point)
        Runner(system, organization_id).csv(*between)
        if batch.reason is not None and batch.reason.code == "worker_lost":
            batch = retry(system, batch)
    else:
        batch = run_attempt(system, batch)
    assert batch.status in AT_REST
    chunks = fetched(
        system,
        "SELECT phase, number, planned_new, planned_existing, planned_unchanged, planned_rejected, planned_duplicates,"
        " created, updated, unchanged, failed FROM batch_chunks WHERE batch_id = %s ORDER BY phase, number",
        (batch.id,),
    )
    found = [
        (record["external_id"], record["name"], record["email"], record["notes"], record["batch_id"] == batch.id)
        for record in contacts(system, organization_id)
    ]
    reason = None if batch.reason is None else batch.reason.code
    codes = Runner(system, organization_id).codes(batch) if batch.has_errors_file else []
    return batch.status, reason, batch.stats, chunks, sorted(found), codes


@pytest.mark.timeout(1800)  # minutes with the profile `thorough`
def test_a_batch_with_a_sparse_plan_ends_as_with_a_full_one_whenever_it_was_killed_and_whoever_wrote_then(
    stubborn_system: System,
) -> None:
    @settings(max_examples=examples(15, thorough=500), suppress_health_check=list(HealthCheck))
    @given(
        st.one_of(_items(unique_by=lambda pair: pair[0]), _items()),
        st.sampled_from([b"", b'"unreadable\n']),
        st.integers(0, 3),
        _items(),
    )
    def check(items: list[Row], last_row: bytes, killed_after: int, between: list[Row]) -> None:
        payload = as_csv(items) + last_row
        sparse = _end(stubborn_system, payload, killed_after, between, save_result=False)
        full = _end(stubborn_system, payload, killed_after, between, save_result=True)
        assert sparse == full

    check()


SAME = [_item(number, "same") for number in range(0, NUMBERS, 2)]
OTHER = _item(1, "other")


@pytest.mark.parametrize(
    ("items", "options", "rows"),
    [
        ([*SAME, OTHER], {}, 1),
        ([*SAME, _item(3, "wrong"), OTHER], {}, 2),
        ([*SAME, _item(2, "other")], {}, 7),  # a key twice
        ([*SAME, {"name": "no key"}], {}, 7),  # a natural key
        ([*SAME, {"id": _id(8), "name": "n8"}], {}, 7),  # another unique key, of the same record
        ([*SAME, OTHER], {"save_result": True}, 7),
        ([*SAME, OTHER], {"plan_only": True}, 7),
        ([*SAME, OTHER], {"action": Action.overwrite}, 7),
    ],
)
def test_only_a_plan_of_which_nobody_needs_the_unchanged_items_is_without_them(
    stubborn_system: System, items: list[Row], options: dict[str, Any], rows: int
) -> None:
    system = stubborn_system
    batch = arrived(system, _new_organization(system), as_csv(items), **options)
    kill(system, batch, KillPoint("batch_pipeline.phases.attempt:Attempt.complete", 2))
    count = sql.SQL("SELECT count(*) AS rows FROM {}").format(OwnStaging(batch.id).plan)
    assert fetched(system, count) == [{"rows": rows}]


@pytest.mark.parametrize("save_result", [False, True])
def test_a_record_that_a_finished_chunk_has_changed_is_not_written_again_by_an_item_that_got_its_key(
    stubborn_system: System, save_result: bool
) -> None:
    system, organization_id = stubborn_system, _new_organization(stubborn_system)
    items = [
        _item(0, "other"),
        *(_item(number, "same") for number in (2, 4, 6)),
        {"external_id": "1", "name": "second"},
    ]
    batch = arrived(system, organization_id, as_csv(items), save_result=save_result)
    kill(system, batch, KillPoint("batch_pipeline.loading.chunks:ChunkWriter.write", 1, after=True))
    with psycopg.connect(system.database_url) as outside:
        outside.execute(
            "UPDATE contacts SET external_id = '1' WHERE organization_id = %s AND external_id = '0'", (organization_id,)
        )
    Runner(system, organization_id).csv(_item(8, "other"))  # so that the plan is made again

    batch = retry(system, batch)

    assert counted(batch) == {"updated": 1, "unchanged": 3, "rejected": 1}
    assert Runner(system, organization_id).codes(batch) == [(5, ["duplicate_key"])]
