"""Parsed chunks of a large batch that its process keeps on local disk."""

from collections.abc import Callable
from dataclasses import replace

import pyarrow as pa
import pytest
from batch_runs import arrived, as_csv, new_organization
from driving import run_attempt

from batch_pipeline.phases import kept_chunks
from batch_pipeline.storage.store import Store
from batch_pipeline.system import System

ROWS = 10
CHUNK_ROWS = 4
UPLOAD = as_csv(
    [{"external_id": f"c{number}", "name": f"Ada {number}"} for number in range(ROWS)] + [{"name": "", "email": "no"}]
)


@pytest.fixture
def large_batches(module_system: System) -> System:
    """The system, with chunks of four rows and no shared staging tables."""
    settings = module_system.settings.model_copy(update={"chunk_rows": CHUNK_ROWS, "shared_staging_items": 0})
    return replace(module_system, settings=settings)


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of the parsed chunks that are read from storage."""
    keys: list[str] = []
    read: Callable[[Store, str], pa.Table] = Store.read_table
    monkeypatch.setattr(Store, "read_table", lambda store, key: keys.append(key) or read(store, key))
    return keys


@pytest.mark.parametrize(("most_bytes", "from_storage"), [(kept_chunks.MOST_BYTES, 0), (0, 9)])
def test_a_run_fetches_only_chunks_for_which_there_was_no_room(
    large_batches: System,
    fetched: list[str],
    monkeypatch: pytest.MonkeyPatch,
    most_bytes: int,
    from_storage: int,
) -> None:
    monkeypatch.setattr(kept_chunks, "MOST_BYTES", most_bytes)

    batch = run_attempt(large_batches, arrived(large_batches, new_organization(large_batches), UPLOAD))

    assert (batch.status, batch.stats.created, batch.stats.rejected, batch.facts.chunks) == ("completed", ROWS, 1, 3)
    assert len(fetched) == from_storage  # for staging, the copies of the upload, and the errors files
