"""A small batch in a process that has run others: what it needs is open, prepared and at hand."""

from contextlib import ExitStack

import psycopg
import pytest
from batch_runs import arrived, as_csv, new_organization
from driving import run_attempt
from killing import KillPoint, kill, retry

from batch_pipeline.batches.model import Batch, PhaseName
from batch_pipeline.database import borrowed
from batch_pipeline.errors import NotFoundError
from batch_pipeline.phases.parsed_uploads import read_parsed_chunk
from batch_pipeline.storage import keys
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


@pytest.mark.parametrize(
    "point",
    [KillPoint("batch_pipeline.phases.validate:store_chunks"), KillPoint("batch_pipeline.phases.cleanup:write_errors")],
    ids=str,
)
def test_a_killed_small_batch_is_parsed_again_from_its_upload(module_system: System, point: KillPoint) -> None:
    batch = kill(module_system, arrived(module_system, new_organization(module_system), UPLOAD), point)
    assert batch.phase(PhaseName.parsing).status == "completed"
    assert not module_system.store.exists(keys.parsed_chunk(batch.id, 1))

    batch = retry(module_system, batch)

    assert (batch.status, batch.stats.created, batch.stats.rejected) == ("completed", 1, 1)
    errors = module_system.store.read(keys.errors_csv(batch.id)).decode()
    assert "no address" in errors


def test_a_changed_upload_is_not_parsed_again(module_system: System) -> None:
    batch = _run(module_system, new_organization(module_system))
    assert read_parsed_chunk(module_system, batch, 1).num_rows == batch.facts.items
    module_system.store.write(str(batch.upload_key), UPLOAD.replace(b"Ada", b"Bob"))
    with pytest.raises(NotFoundError, match="has changed"):
        read_parsed_chunk(module_system, batch, 1)
