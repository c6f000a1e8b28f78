"""Batches of many chunks, slow enough that helpers come in time, and all that they leave."""

import dataclasses
import json
from typing import Any

import psycopg
from batch_runs import Row, arrived, as_csv, records
from change_logs import logged

from batch_pipeline.batches.model import Batch, Starter
from batch_pipeline.orchestration.execute import execute_batch
from batch_pipeline.orchestration.instance import open_instance
from batch_pipeline.storage import keys
from batch_pipeline.system import System

CHUNK_ROWS = 40
CHUNKS = 40
ITEMS = CHUNK_ROWS * CHUNKS
MEMBERS = 12

# Stands for what the database refuses, and for chunks that take long.
SLOW_TABLES = """
CREATE TABLE slow_organizations (id text PRIMARY KEY, seconds double precision);
CREATE OR REPLACE FUNCTION slow_or_refused() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.name LIKE 'slow%' THEN
        PERFORM pg_sleep(seconds) FROM slow_organizations WHERE id = NEW.organization_id;
    END IF;
    IF NEW.name = 'refused' THEN RAISE EXCEPTION 'refused by a trigger'; END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER slow_or_refused BEFORE INSERT OR UPDATE ON contacts FOR EACH ROW EXECUTE FUNCTION slow_or_refused();
CREATE TRIGGER slow_or_refused BEFORE INSERT OR UPDATE ON groups FOR EACH ROW EXECUTE FUNCTION slow_or_refused()
"""


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


def large_batch(
    system: System, organization: str, rows: list[Row], resource: str = "contact", *, slow_seconds: float = 0.2
) -> Batch:
    """A batch for the workers, slow enough that helpers come in time: so long for each slow record."""
    with psycopg.connect(system.database_url) as connection:
        connection.execute(
            "INSERT INTO slow_organizations VALUES (%s, %s) ON CONFLICT DO NOTHING", (organization, slow_seconds)
        )
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


def writers_of(system: System, batch: Batch) -> list[str]:
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
