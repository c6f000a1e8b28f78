"""What `record.py` left undone in a recorded system, and how this release finishes it."""

from dataclasses import asdict
from typing import Any

import psycopg
from batch_runs import Row
from dagster import DagsterInstance
from psycopg import sql
from psycopg.rows import dict_row

from batch_pipeline.batches.model import Batch, IfChanged, Starter
from batch_pipeline.batches.options import UndoOptions
from batch_pipeline.intake.undoing import request_undo
from batch_pipeline.orchestration.execute import execute_batch
from batch_pipeline.system import System

TABLES = ("contacts", "groups", "shipments", "trackers", "assets", "group_members")
_OF_ONE_RUN = ("created_at", "updated_at", "batch_id")


def finish(system: System, instance: DagsterInstance, ids: dict[str, str]) -> dict[str, Any]:
    """Runs what is not done: the killed batch again, the waiting one, the plan, and the undo of a completed batch.

    Returns the outcome of each and the records after all of them. Ids of new records follow from the ids of their
    batches, so two releases that finish the same system give the same.
    """

    def rerun(name: str) -> Batch:
        return execute_batch(system, instance, system.ledger.request_rerun(ids[name], Starter.caller))

    def waiting(name: str) -> Batch:
        return execute_batch(system, instance, system.ledger.get(ids[name]))

    def applied(name: str) -> Batch:
        requested = system.ledger.request_apply(ids[name], Starter.caller, if_changed=IfChanged.replan)
        return execute_batch(system, instance, requested)

    def undone(name: str) -> Batch:
        undo = request_undo(system, ids[name], starter=Starter.caller, options=UndoOptions())
        return execute_batch(system, instance, undo)

    outcomes = {
        "waiting": _outcome(waiting("waiting")),
        "killed": _outcome(rerun("killed")),  # it lines up anew, behind the waiting one
        "planned": _outcome(applied("planned")),
        "undo of second": _outcome(undone("second")),
    }
    return {"outcomes": outcomes, "records": records_of(system)}


def state_of(system: System, ids: dict[str, str]) -> dict[str, Any]:
    """The status of each batch, and the records."""
    statuses = {name: system.ledger.get(batch_id).status.value for name, batch_id in ids.items()}
    return {"statuses": statuses, "records": records_of(system)}


def records_of(system: System) -> dict[str, list[Row]]:
    """All records, as JSON has them, without what differs between two runs of the same batch."""
    with psycopg.connect(system.database_url, row_factory=dict_row) as connection:
        return {
            table: [
                {name: value for name, value in row["record"].items() if name not in _OF_ONE_RUN}
                for row in connection.execute(
                    sql.SQL("SELECT to_jsonb(t) AS record FROM {} t ORDER BY t::text").format(sql.Identifier(table))
                )
            ]
            for table in TABLES
        }


def _outcome(batch: Batch) -> dict[str, Any]:
    return {
        "status": batch.status.value,
        "reason": None if batch.reason is None else batch.reason.code,
        "stats": asdict(batch.stats),
    }
