"""A small batch in a process that has run others: what it needs is open, prepared and at hand."""

from contextlib import ExitStack

import psycopg
import pytest
from batch_runs import arrived, as_csv, new_organization
from driving import run_attempt

from batch_pipeline.batches.model import Batch
from batch_pipeline.database import borrowed
from batch_pipeline.storage.store import Store
from batch_pipeline.system import System

# psycopg prepares a statement at its sixth execution on a connection, and the pool lends more than one in turn.
BATCHES = 14
POOLED = 4
UPLOAD = as_csv([{"name": "Ada"}, {"name": "Grace", "email": "no address"}])

_PREPARED = "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE %s"


def _run(system: System, organization_id: str) -> Batch:
    batch = run_attempt(system, arrived(system, organization_id, UPLOAD))
    assert batch.stats.rejected == 1
    return batch


def test_later_batches_open_no_connection_and_their_statements_are_prepared(
    module_system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    organization_id = new_organization(module_system)
    for _ in range(BATCHES):
        _run(module_system, organization_id)
    opened: list[str] = []
    connect = psycopg.connect
    with monkeypatch.context() as patch:
        patch.setattr(psycopg, "connect", lambda *args, **kwargs: opened.append("") or connect(*args, **kwargs))
        _run(module_system, organization_id)

    prepared = 0
    with ExitStack() as borrowing:
        for _ in range(POOLED):
            connection = borrowing.enter_context(borrowed(module_system.engine))
            row = connection.execute(_PREPARED, ('%INSERT INTO "staging"."plan"%',)).fetchone()
            prepared += 0 if row is None else row[0]
    assert opened == []
    assert prepared > 0


def test_the_parsed_items_of_a_small_batch_are_not_fetched_again(
    module_system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []
    read = Store.read_table
    monkeypatch.setattr(Store, "read_table", lambda store, key: fetched.append(key) or read(store, key))

    batch = _run(module_system, new_organization(module_system))

    assert batch.facts.shares_staging
    assert fetched == []
