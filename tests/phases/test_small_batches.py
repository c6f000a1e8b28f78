"""A small batch in a process that has run others: what it needs is open, prepared and at hand."""

from typing import Any

import pytest
from batch_runs import arrived, as_csv, new_organization
from driving import run_attempt

from batch_pipeline.batches.model import Batch
from batch_pipeline.database import borrowed
from batch_pipeline.storage.store import Store
from batch_pipeline.system import System

# psycopg prepares a statement at its sixth execution on a connection.
BATCHES = 8
UPLOAD = as_csv([{"name": "Ada"}, {"name": "Grace", "email": "no address"}])

_NEW_SESSIONS = "SELECT sessions FROM pg_stat_database WHERE datname = current_database()"
_PREPARED = "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE %s"


def _run(system: System, organization_id: str) -> Batch:
    batch = run_attempt(system, arrived(system, organization_id, UPLOAD))
    assert batch.stats.created == 1
    assert batch.stats.rejected == 1
    return batch


def _number(system: System, query: str, *parameters: Any) -> int:
    with borrowed(system.engine) as connection:
        connection.execute("SELECT pg_stat_force_next_flush(), pg_stat_clear_snapshot()")
        row = connection.execute(query, parameters).fetchone()
    assert row is not None
    return int(row[0])


def test_later_batches_open_no_connection_and_their_statements_are_prepared(module_system: System) -> None:
    organization_id = new_organization(module_system)
    for _ in range(BATCHES):
        _run(module_system, organization_id)
    before = _number(module_system, _NEW_SESSIONS)

    _run(module_system, organization_id)

    assert _number(module_system, _NEW_SESSIONS) == before
    assert _number(module_system, _PREPARED, '%INSERT INTO "staging"."plan"%') == 1


def test_the_parsed_items_of_a_small_batch_are_not_fetched_again(
    module_system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []
    read = Store.read_table
    monkeypatch.setattr(Store, "read_table", lambda store, key: fetched.append(key) or read(store, key))

    batch = _run(module_system, new_organization(module_system))

    assert batch.facts.shares_staging
    assert fetched == []
