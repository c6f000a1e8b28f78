"""One large batch on several Celery workers: the results of one worker, also if some are killed or it is cancelled."""

import dataclasses
import json
from typing import Any

import psycopg
import pytest
from batch_runs import Row, arrived, as_csv, new_organization, records
from change_logs import logged
from crew import PROCESSES, Crew, Redis, eventually

from batch_pipeline.batches.model import Batch, Starter
from batch_pipeline.batches.states import FINAL, BatchStatus
from batch_pipeline.orchestration.execute import execute_batch
from batch_pipeline.orchestration.instance import open_instance
from batch_pipeline.orchestration.reconciling import cancel_batch
from batch_pipeline.storage import keys
from batch_pipeline.system import System

pytestmark = pytest.mark.timeout(600)
CHUNK_ROWS = 40
CHUNKS = 40
ITEMS = CHUNK_ROWS * CHUNKS
MEMBERS = 12

# Stands for what the database refuses, and for chunks that take long.
_TRIGGER = """
CREATE TABLE slow_organizations (id text);
CREATE OR REPLACE FUNCTION slow_or_refused() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.name LIKE 'slow%' AND NEW.organization_id IN (SELECT id FROM slow_organizations) THEN
        PERFORM pg_sleep(0.2);
    END IF;
    IF NEW.name = 'refused' THEN RAISE EXCEPTION 'refused by a trigger'; END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER slow_or_refused BEFORE INSERT OR UPDATE ON contacts FOR EACH ROW EXECUTE FUNCTION slow_or_refused();
CREATE TRIGGER slow_or_refused BEFORE INSERT OR UPDATE ON groups FOR EACH ROW EXECUTE FUNCTION slow_or_refused()
"""


@pytest.fixture(scope="module")
def system_settings(redis_server: Redis) -> dict[str, str]:
    return {
        "BATCH_LAUNCHER": "celery",
        "BATCH_CELERY_BROKER_URL": redis_server.url,
        "BATCH_CHUNK_ROWS": str(CHUNK_ROWS),
        "BATCH_PARALLEL_ITEMS": str(ITEMS // 2),
        "BATCH_RERUN_PAUSE_SECONDS": "0.5",
    }


@pytest.fixture(scope="module")
def slow_tables(module_system: System) -> None:
    with psycopg.connect(module_system.database_url) as connection:
        connection.execute(_TRIGGER)


def name_of(place: int) -> str:
    """Five slow records in each chunk, and a refused one in every tenth."""
    if place % CHUNK_ROWS in (5, 12, 19, 26, 33):
        return f"slow {place}"
    return "refused" if place % (10 * CHUNK_ROWS) == 7 else f"Person {place}"


def very_slow_rows() -> list[Row]:
    """Contacts that take two seconds a chunk."""
    return [
        {"external_id": f"c-{place}", "name": "slow" if place % (CHUNK_ROWS // 10) == 0 else "fast"}
        for place in range(ITEMS)
    ]


def contact_rows(*, version: int) -> list[Row]:
    """Contacts, among them rejected, equal and refused ones; version 2 changes most of what version 1 creates."""
    rows = [
        {
            "external_id": f"c-{place}",
            "name": name_of(place),
            "email": "wrong" if place % 97 == 1 else f"p{place}@example.com",
            "notes": f"version {version}" if place % 3 else "",
        }
        for place in range(ITEMS - 40)
    ]
    return [*rows, *rows[100:140]]


def group_rows() -> list[Row]:
    """Groups that share members: each contact joins many groups, whose chunks are written at the same time."""
    return [
        {
            "external_id": f"g-{place}",
            "name": f"slow {place}" if place % CHUNK_ROWS in (5, 25) else f"Group {place}",
            "children": ",".join(f"m-{(place + step) % 50}" for step in range(MEMBERS)),
        }
        for place in range(ITEMS)
    ]


def sent(system: System, organization: str, rows: list[Row], resource: str = "contact") -> Batch:
    """A batch for the workers, slow enough that helpers come in time."""
    with psycopg.connect(system.database_url) as connection:
        connection.execute("INSERT INTO slow_organizations VALUES (%s)", (organization,))
    payload = as_csv(rows)
    return arrived(
        system, organization, payload, resource=resource, starter=Starter.launcher, save_result=True, name="many.csv"
    )


def run_alone(system: System, organization: str, rows: list[Row], resource: str = "contact") -> Batch:
    """The batch, run by this process alone, on one connection and with all chunks in order."""
    settings = system.settings.model_copy(update={"database_writers": 1, "parallel_items": 10 * ITEMS})
    batch = arrived(system, organization, as_csv(rows), resource=resource, save_result=True, name="many.csv")
    with open_instance(in_process=True) as instance:
        return execute_batch(dataclasses.replace(system, settings=settings), instance, batch)


def ended(crew: Crew, batch: Batch) -> Batch:
    found: Batch = eventually(
        lambda: (now := crew.batch(batch)).status in FINAL and now.next_attempt_at is None and now
    )
    return found


def workers_of(system: System, batch: Batch) -> list[str]:
    """The processes that wrote chunks of the batch."""
    with psycopg.connect(system.database_url) as connection:
        rows = connection.execute("SELECT DISTINCT worker FROM batch_chunks WHERE batch_id = %s", (batch.id,))
        return [worker for (worker,) in rows if worker is not None]


def left_behind(system: System, batch: Batch, table: str) -> dict[str, Any]:
    """All that the batch leaves, without new ids and times."""
    organization = str(batch.organization_id)
    stored = records(system, organization, table)
    keys_of = {record["id"]: record["external_id"] for record in stored}
    plain = ("id", "organization_id", "batch_id", "created_at", "updated_at")
    changes = [
        {
            name: value is not None if name == "before_batch" else keys_of.get(value, value)
            for name, value in row.items()
            if name not in (*plain, "number", "at")
        }
        for row in logged(system, organization, f"{table.removesuffix('s')}_changes")
        if row["batch_id"] == batch.id
    ]
    with psycopg.connect(system.database_url) as connection:
        members = connection.execute(
            "SELECT g.external_id, c.external_id FROM group_members m"
            " JOIN groups g ON g.organization_id = m.organization_id AND g.id = m.group_id"
            " JOIN contacts c ON c.organization_id = m.organization_id AND c.id = m.member_id"
            " WHERE m.organization_id = %s ORDER BY 1, 2",
            (organization,),
        ).fetchall()
    result = json.loads(system.store.read(keys.result_json(batch.id)))
    return {
        "status": (batch.status, batch.reason),
        "stats": batch.stats,
        "phases": [(phase.name, phase.status, phase.total, phase.success, phase.error) for phase in batch.phases],
        "records": [{name: value for name, value in record.items() if name not in plain} for record in stored],
        "members": members,
        "changes": sorted(changes, key=lambda row: (row["record_id"], row["op"])),
        "errors.csv": batch.has_errors_file and system.store.read(keys.errors_csv(batch.id)),
        "errors.json": batch.has_errors_file and system.store.read(keys.errors_json(batch.id)),
        "error_summary": batch.error_summary,
        "result.json": [{**entry, "id": keys_of.get(entry["id"])} for entry in result],
    }


@pytest.mark.usefixtures("slow_tables")
def test_a_batch_on_several_workers_leaves_what_it_leaves_on_one(crew: Crew) -> None:
    system = crew.system
    alone, together = new_organization(system), new_organization(system)
    crew.have(2)
    members: list[Row] = [{"external_id": f"m-{place}", "name": f"Member {place}"} for place in range(50)]
    for organization in (alone, together):
        run_alone(system, organization, members)
    for resource, rows in (
        ("contact", contact_rows(version=1)),
        ("contact", contact_rows(version=2)),
        ("group", group_rows()),
    ):
        batch = ended(crew, sent(system, together, rows, resource))
        one = run_alone(system, alone, rows, resource)
        assert (batch.status, batch.reason) == (one.status, one.reason) == (BatchStatus.completed, None)
        assert left_behind(system, batch, f"{resource}s") == left_behind(system, one, f"{resource}s")
        assert len(workers_of(system, batch)) > 1 == len(workers_of(system, one))
        assert batch.attempts == 1


def in_the_middle(crew: Crew, rows: list[Row], *, processes: int) -> Batch:
    """A batch that so many processes are writing; no chunk or few of them are done."""
    system = crew.system
    batch = sent(system, new_organization(system), rows)
    return eventually(lambda: len(workers_of(system, batch)) >= processes and crew.batch(batch))


@pytest.mark.usefixtures("slow_tables")
def test_a_killed_helper_and_then_the_killed_worker_of_the_run_lose_and_double_nothing(crew: Crew) -> None:
    system = crew.system
    crew.have(2)
    begun = in_the_middle(crew, contact_rows(version=1), processes=3)
    owner, helper = sorted(crew.workers, key=lambda worker: not worker.is_executing(begun.run_id))
    assert f"Helps batch {begun.id} with processing" in helper.log.read_text()
    helper.kill()
    done = crew.batch(begun).phases[2].processed
    eventually(lambda: crew.batch(begun).phases[2].processed > done)
    assert crew.batch(begun).status is BatchStatus.processing
    owner.kill()
    crew.have(2)
    batch = ended(crew, begun)
    assert (batch.status, batch.attempts) == (BatchStatus.completed, 2)
    one = run_alone(system, new_organization(system), contact_rows(version=1))
    assert left_behind(system, batch, "contacts") == left_behind(system, one, "contacts")


@pytest.mark.usefixtures("slow_tables")
def test_helpers_leave_for_a_run_that_waits_come_back_and_stop_with_a_cancelled_batch(crew: Crew) -> None:
    crew.stop()
    (worker,) = crew.have(1)
    begun = in_the_middle(crew, very_slow_rows(), processes=PROCESSES)
    helps, leaves = f"Helps batch {begun.id} with processing", f"Leaves batch {begun.id}"
    small = sent(crew.system, new_organization(crew.system), contact_rows(version=1)[:3])
    assert ended(crew, small).status is BatchStatus.completed
    assert crew.batch(begun).status is BatchStatus.processing
    log = worker.log.read_text()
    assert leaves in log
    eventually(lambda: worker.log.read_text().count(helps) > log.count(leaves))
    with open_instance() as instance:
        cancelled = cancel_batch(crew.system, instance, begun.id)
    assert cancelled.reason is not None
    assert cancelled.reason.code == "cancelled"
    eventually(lambda: f"Helps batch {begun.id} no more" in worker.log.read_text(), seconds=20.0)
    written = records(crew.system, str(begun.organization_id), "contacts")
    assert len(written) == crew.batch(begun).phases[2].success < ITEMS
