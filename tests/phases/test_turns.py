"""One batch at a time writes an organization's records of a resource, in the order of arrival, whatever starts it."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import psycopg
import pytest
from batch_runs import Row, arrived, as_csv, contacts, insert_contacts, new_organization
from dagster import DagsterInstance
from driving import run_attempt

from batch_pipeline.batches import locks
from batch_pipeline.batches.locks import take_turn
from batch_pipeline.batches.model import Action, Batch, Starter
from batch_pipeline.batches.queries import awaiting_launch
from batch_pipeline.definitions import defs
from batch_pipeline.orchestration import tags
from batch_pipeline.orchestration.config import run_request_of
from batch_pipeline.orchestration.execute import execute_batch
from batch_pipeline.orchestration.forking import fork_context
from batch_pipeline.orchestration.instance import open_instance
from batch_pipeline.orchestration.reconciling import cancel_batch, reconcile
from batch_pipeline.settings import get_settings
from batch_pipeline.storage import keys
from batch_pipeline.system import System, open_system

WAIT_SECONDS = 60.0  # for what comes at once on a machine that isn't overloaded
PROCESSES = 3
BATCHES = 4  # of each process
STORED = 20


@pytest.fixture(scope="module")
def system_settings() -> dict[str, str]:
    return {"BATCH_CHUNK_ROWS": "5"}


# ---- several processes at once ------------------------------------------------------------------------------------


def _stored_id(place: int, number: int) -> str:
    """The id of a stored contact; ids are unique among all organizations."""
    return f"ctct_{'12'[place]}{'1' * 18}{number:03}".replace("0", "z")


def _organization(system: System, place: int) -> str:
    organization_id = new_organization(system)
    rows = [
        {"id": _stored_id(place, number), "external_id": f"old-{number}", "name": f"Stored {number}"}
        for number in range(STORED)
    ]
    insert_contacts(system, organization_id, *rows)
    return organization_id


def _batch_of(process: int, place: int, number: int) -> tuple[Action, list[Row]]:
    """Every process merges the same new keys; one deletes, one overwrites, in between."""
    by = f"{process}.{number}"
    if (process, number) in ((0, 2), (1, 1)):
        return Action.delete, [{"id": _stored_id(place, n)} for n in range(process, STORED, 4)]
    if (process, number) in ((2, 2), (1, 3)):
        kept = [{"external_id": f"old-{n}", "name": f"Kept by {by}"} for n in range(process, STORED, 2)]
        return Action.overwrite, [
            *kept,
            *({"external_id": f"new-{n}", "name": f"Kept by {by}"} for n in range(0, 12, 2)),
        ]
    return Action.merge, [
        *({"external_id": f"new-{n}", "name": f"Merged by {by}"} for n in range(number, number + 8)),
        *({"external_id": f"old-{n}", "name": f"Merged by {by}"} for n in range(number, STORED, 3)),
        *({"external_id": f"only-{by}-{n}", "name": f"Merged by {by}"} for n in range(2)),
    ]


def _arrive(system: System, organization_id: str, action: Action, items: list[Row]) -> Batch:
    limit = {"delete_limit": "none"} if action is Action.overwrite else {}
    return arrived(system, organization_id, as_csv(items), action=action, save_result=True, **limit)


_CONTEXT = fork_context()
_VARIABLES = ("BATCH_", "AWS_", "DAGSTER_")


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(_VARIABLES)}


@contextmanager
def _opened(environment: Mapping[str, str]) -> Iterator[tuple[System, DagsterInstance]]:
    """In a child process: the system and instance of its parent."""
    for name in [name for name in os.environ if name.startswith(_VARIABLES)]:
        del os.environ[name]
    os.environ.update(environment)
    get_settings.cache_clear()
    with open_system() as system, open_instance(in_process=True) as instance:
        yield system, instance


def _makes_and_runs_batches(process: int, organization_id: str, environment: Mapping[str, str]) -> None:
    with _opened(environment) as (system, _):
        for number in range(BATCHES):
            run_attempt(system, _arrive(system, organization_id, *_batch_of(process, 0, number)))


def _without_ids(system: System, organization_id: str) -> list[Row]:
    dropped = ("id", "organization_id", "batch_id", "created_at", "updated_at")
    return sorted(
        (
            {name: value for name, value in record.items() if name not in dropped}
            for record in contacts(system, organization_id)
        ),
        key=lambda record: str(record["external_id"]),
    )


@pytest.mark.timeout(240)
def test_concurrent_batches_have_the_results_of_sequential_ones(system: System) -> None:
    together, in_turn = _organization(system, 0), _organization(system, 1)
    children = [
        _CONTEXT.Process(target=_makes_and_runs_batches, args=(process, together, _environment()))
        for process in range(PROCESSES)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * PROCESSES
    batches = sorted(system.ledger.find(organization_id=together), key=lambda batch: batch.arrival or 0)
    assert [(batch.status, batch.reason) for batch in batches] == [("completed", None)] * PROCESSES * BATCHES
    assert all(batch.stats.items_read == batch.facts.items for batch in batches)
    created: set[str] = set()
    for batch in batches:
        assert batch.action is not None
        items = _items(system, batch)
        repeated = _arrive(system, in_turn, batch.action, [_moved(item) for item in items])
        repeated = run_attempt(system, repeated)
        assert (repeated.status, repeated.stats) == (batch.status, batch.stats)
        assert _outcomes(system, repeated) == _outcomes(system, batch)
        created |= {f"{entry['external_id']}" for entry in _outcomes(system, batch) if entry["outcome"] == "created"}
    assert _without_ids(system, together) == _without_ids(system, in_turn)
    external_ids = [record["external_id"] for record in contacts(system, together)]
    assert len(external_ids) == len(set(external_ids))
    assert {f"new-{number}" for number in range(8)} <= created


def _items(system: System, batch: Batch) -> list[Row]:
    header, *lines = system.store.read(str(batch.upload_key)).decode().splitlines()
    return [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines]


def _moved(item: Row) -> Row:
    """The same item for the other organization."""
    own, other = _stored_id(0, 0)[:6], _stored_id(1, 0)[:6]
    return {**item, "id": str(item["id"]).replace(own, other)} if "id" in item else item


def _outcomes(system: System, batch: Batch) -> list[Row]:
    entries = json.loads(system.store.read(keys.result_json(batch.id)))
    # Cleanup's come in the order of ids, which are new for each batch.
    found = [{name: value for name, value in entry.items() if name != "id"} for entry in entries]
    return sorted(found, key=lambda entry: (entry["row"] is None, entry["row"] or 0, str(entry["external_id"])))


# ---- the turn ----------------------------------------------------------------------------------------------------


@contextmanager
def _waiting_elsewhere(system: System, batch: Batch, *, give_way_seconds: float = 30.0) -> Iterator[None]:
    """Another process runs the batch, which by now waits for its turn; at the end it has ended.

    (Not a thread: two of Dagster's runs in one process can block each other, by its configuration of logging.)
    """
    child = _CONTEXT.Process(target=_runs_batch, args=(batch.id, _environment(), give_way_seconds))
    child.start()
    while system.ledger.get(batch.id).status != "queued":
        assert child.is_alive()
    yield
    child.join(WAIT_SECONDS)
    assert child.exitcode == 0


def _runs_batch(batch_id: str, environment: Mapping[str, str], give_way_seconds: float) -> None:
    locks.YIELD_SECONDS = give_way_seconds
    with _opened(environment) as (system, instance):
        execute_batch(system, instance, system.ledger.get(batch_id))


@contextmanager
def _turn_taken(system: System, batch: Batch) -> Iterator[None]:
    """The batch that is first in line holds the turn and does nothing."""
    with take_turn(system.engine, batch, check=lambda: None, may_yield=False):
        yield


def test_a_batch_that_waits_for_its_turn_is_queued_and_makes_its_plan_again(
    system: System, instance: DagsterInstance
) -> None:
    """Both would create the same key; the second finds the first one's record."""
    organization_id = new_organization(system)
    first = arrived(system, organization_id, as_csv([{"external_id": "k", "name": "First", "notes": "kept"}]))
    second = arrived(system, organization_id, as_csv([{"external_id": "k", "name": "Second"}]))
    with _waiting_elsewhere(system, second):
        validated = system.ledger.get(second.id)
        statuses = [phase.status for phase in validated.phases]
        assert statuses == ["completed", "completed", "pending", "pending"]
        assert execute_batch(system, instance, first).stats.created == 1
    done = system.ledger.get(second.id)
    assert (done.status, done.stats.created, done.stats.updated) == ("completed", 0, 1)
    (record,) = contacts(system, organization_id)
    assert (record["name"], record["notes"]) == ("Second", "kept")


def test_other_organizations_are_not_blocked(system: System, instance: DagsterInstance) -> None:
    first = arrived(system, new_organization(system), b"name\nAda\n")
    with _turn_taken(system, first):
        other = arrived(system, new_organization(system), b"name\nAda\n")
        assert execute_batch(system, instance, other).status == "completed"


def test_a_failed_batch_does_not_block_others(system: System, instance: DagsterInstance) -> None:
    organization_id = new_organization(system)
    first = arrived(system, organization_id, b"name\nAda\n")
    second = arrived(system, organization_id, b"name\nBob\n")
    cancel_batch(system, instance, first.id)
    assert execute_batch(system, instance, second).status == "completed"


# ---- giving way ----------------------------------------------------------------------------------------------------


def _launch(instance: DagsterInstance, batch: Batch) -> bool:
    """As the daemon would: a run with one of Dagster's slots. Returns whether it succeeded."""
    request = run_request_of(batch)
    job = defs.resolve_job_def(tags.JOB_NAME)
    return job.execute_in_process(
        run_config=request.run_config, tags=dict(request.tags), instance=instance, raise_on_error=False
    ).success


@pytest.mark.timeout(120)
def test_a_launched_run_yields_its_slot_to_an_earlier_batch_and_another_run_completes_it(
    system: System, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "YIELD_SECONDS", 0.3)
    organization_id = new_organization(system)
    first = arrived(system, organization_id, b"name\nAda\n", starter=Starter.launcher)
    second = arrived(system, organization_id, b"name\nBob\n", starter=Starter.launcher)
    assert not _launch(instance, second)
    gave_way = system.ledger.get(second.id)
    assert (gave_way.status, gave_way.reason, gave_way.awaits_run) == ("queued", None, Starter.launcher)
    assert gave_way.arrival == second.arrival
    assert [batch.id for batch in awaiting_launch(system.engine, 10)] == [first.id, second.id]
    # Dagster never again starts a run under a key that it has seen.
    assert run_request_of(gave_way).run_key != run_request_of(second).run_key
    with psycopg.connect(system.database_url) as connection:
        connection.execute("UPDATE batches SET updated_at = updated_at - interval '2 min'")
        connection.execute("UPDATE dagster.runs SET create_timestamp = create_timestamp - interval '3 min'")
    assert reconcile(system, instance) == []
    assert _launch(instance, first)
    assert _launch(instance, gave_way)
    done = system.ledger.get(second.id)
    assert (done.status, done.attempts, done.stats.created) == ("completed", 2, 1)
    assert [record["name"] for record in contacts(system, organization_id)] == ["Ada", "Bob"]


@pytest.mark.timeout(120)
def test_a_run_in_a_callers_process_never_yields(system: System, instance: DagsterInstance) -> None:
    """It has none of the slots, and its caller is waiting for it."""
    organization_id = new_organization(system)
    first = arrived(system, organization_id, b"name\nAda\n", starter=Starter.launcher)
    second = arrived(system, organization_id, b"name\nBob\n")
    with _waiting_elsewhere(system, second, give_way_seconds=0.0):
        assert _launch(instance, first)
    done = system.ledger.get(second.id)
    assert (done.status, done.attempts) == ("completed", 1)
