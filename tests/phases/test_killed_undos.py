"""An undo that is killed at any instant and re-run ends as if undisturbed: records, members, counts, result and log."""

import json
from dataclasses import asdict
from typing import Any, LiteralString

import psycopg
import pytest
from batch_runs import arrived, new_organization
from driving import run_attempt
from killing import KillPoint, kill, retry
from psycopg.rows import dict_row

from batch_pipeline.batches.model import Action, Batch, Starter
from batch_pipeline.batches.options import UndoOptions
from batch_pipeline.intake.undoing import request_undo
from batch_pipeline.storage import keys
from batch_pipeline.system import System

LOADING = "batch_pipeline.loading"
PHASES = "batch_pipeline.phases"
KILL_POINTS = [
    KillPoint(f"{PHASES}.validate:stage_undo"),
    KillPoint(f"{PHASES}.validate:stage_undo", after=True),
    KillPoint(f"{LOADING}.undo_planner:UndoPlanner.plan", after=True),
    KillPoint(f"{PHASES}.attempt:Attempt.complete"),
    KillPoint(f"{PHASES}.attempt:Attempt.complete", after=True),
    KillPoint(f"{LOADING}.undo_planner:UndoPlanner.plan", 2, after=True),
    KillPoint(f"{PHASES}.process:claim_version", after=True),
    KillPoint(f"{LOADING}.undo_writer:UndoWriter.apply"),
    KillPoint(f"{LOADING}.undo_writer:UndoWriter.write", after=True),
    KillPoint(f"{LOADING}.undo_links:UndoLinks.write", 2, after=True),
    KillPoint(f"{LOADING}.undo_writer:UndoWriter.reject", after=True),
    KillPoint(f"{LOADING}.undo_writer:UndoWriter.write", 3, after=True),
    KillPoint(f"{PHASES}.attempt:Attempt.complete", 2),
    KillPoint(f"{PHASES}.cleanup:write_undo_result"),
    KillPoint(f"{PHASES}.cleanup:drop_leftovers"),
]

BEFORE = [
    {"external_id": f"c{number:02}", "name": f"Name {number}", "email": f"c{number}@example.com", "groups": ["g"]}
    for number in range(12)
]
# Updates, with and without members; creates; deletes the rest.
BATCH = [
    *(
        {"external_id": f"c{number:02}", "name": f"New {number}", "notes": "stays" if number == 3 else "n"}
        for number in range(5)
    ),
    *({"external_id": f"c{number:02}", "groups": {"set": ["h"]}} for number in range(5, 7)),
    *({"external_id": f"n{number:02}", "name": f"Made {number}", "groups": ["h"]} for number in range(3)),
]


@pytest.fixture(scope="module")
def system_settings() -> dict[str, str]:
    return {"BATCH_CHUNK_ROWS": "4", "BATCH_DATABASE_WRITERS": "1"}


@pytest.fixture(scope="module")
def stubborn_system(module_system: System) -> System:
    """A system whose database refuses to change one contact back."""
    with psycopg.connect(module_system.database_url) as connection:
        connection.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'this one stays'; END $$"
        )
        connection.execute(
            "CREATE TRIGGER refuse BEFORE UPDATE ON contacts FOR EACH ROW"
            " WHEN (old.notes = 'stays') EXECUTE FUNCTION refuse()"
        )
    return module_system


def written(system: System, organization_id: str, rows: Any, **options: Any) -> Batch:
    """A completed batch of these rows."""
    payload = json.dumps(rows).encode()
    batch = arrived(system, organization_id, payload, name="rows.json", **options)
    done = run_attempt(system, batch)
    assert (done.status, done.stats.rejected) == ("completed", 0), done
    return done


def undo_to_be(system: System) -> Batch:
    """The undo, not run yet, of an overwrite; a later batch has changed one of its records."""
    organization_id = new_organization(system)
    written(system, organization_id, [{"external_id": n, "name": n} for n in "gh"], resource="group")
    written(system, organization_id, BEFORE)
    batch = written(system, organization_id, BATCH, action=Action.overwrite, blank_cells="keep", delete_limit="none")
    written(system, organization_id, [{"external_id": "c01", "name": "Later"}])
    return request_undo(system, batch.id, starter=Starter.caller, options=UndoOptions())


def end_state(system: System, undo: Batch) -> dict[str, Any]:
    """All that the undo leaves behind, without what differs between two organizations: ids of records and times."""
    organization_id = str(undo.organization_id)
    with psycopg.connect(system.database_url, row_factory=dict_row) as connection:

        def rows(query: LiteralString) -> list[dict[str, Any]]:
            return connection.execute(query, {"o": organization_id, "u": undo.id}).fetchall()

        names = {
            row["id"]: row["external_id"]
            for row in rows(
                "SELECT id, external_id FROM contacts WHERE organization_id = %(o)s"
                " UNION SELECT id, external_id FROM groups WHERE organization_id = %(o)s"
                " UNION SELECT record_id, external_id FROM contact_changes WHERE organization_id = %(o)s AND op = 'd'"
            )
        }
        found = {
            "contacts": rows(
                "SELECT external_id, name, email, notes, batch_id = %(u)s AS is_ours FROM contacts"
                " WHERE organization_id = %(o)s ORDER BY external_id"
            ),
            "members": rows("SELECT group_id, member_id FROM group_members WHERE organization_id = %(o)s"),
            "changes": rows(
                "SELECT record_id, row, op::text, changed, name, notes, undoes IS NULL AS is_creation"
                " FROM contact_changes WHERE organization_id = %(o)s AND batch_id = %(u)s"
            ),
            "link changes": rows(
                "SELECT group_id, member_id, row, before::text, after::text, undoes IS NULL AS is_new"
                " FROM group_member_changes WHERE organization_id = %(o)s AND batch_id = %(u)s"
            ),
        }
    result = json.loads(system.store.read(keys.result_json(undo.id)))
    assert found["changes"]

    def named(value: Any) -> Any:
        text = str(value)
        for record_id, name in names.items():
            text = text.replace(record_id, name)
        return text.replace(undo.id, "undo")

    return {
        "status": (undo.status, undo.reason),
        "stats": asdict(undo.stats),
        "phases": [
            (phase.name, phase.status, phase.total, phase.success, phase.error, phase.reason) for phase in undo.phases
        ],
        "result": [named({**line, "by": line["by"] and "later"}) for line in result],
        **{name: sorted(map(named, values)) for name, values in found.items()},
    }


@pytest.fixture(scope="module")
def undisturbed(stubborn_system: System) -> dict[str, Any]:
    """What the undo leaves behind if nothing disturbs it."""
    undo = run_attempt(stubborn_system, undo_to_be(stubborn_system))
    state = end_state(stubborn_system, undo)
    assert {name: count for name, count in state["stats"].items() if count} == {
        "reversed": 6,
        "kept": 1,
        "deleted": 3,
        "restored": 5,
        "conflict": 1,
    }
    return state


@pytest.mark.parametrize("point", KILL_POINTS, ids=str)
def test_a_killed_and_retried_undo_ends_as_if_undisturbed(
    stubborn_system: System, undisturbed: dict[str, Any], point: KillPoint
) -> None:
    killed = kill(stubborn_system, undo_to_be(stubborn_system), point)
    done = killed if killed.status == "completed" else retry(stubborn_system, killed)
    assert end_state(stubborn_system, done) == undisturbed
