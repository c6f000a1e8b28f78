"""Copies of uploads as CSV and JSON: which exist, their keys, and that each is made once."""

import csv
import gzip
import io
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from batch_runs import arrived, as_csv, new_organization
from driving import run_attempt

from batch_pipeline.batches.locks import Ownership
from batch_pipeline.batches.model import Batch, Starter
from batch_pipeline.errors import UnavailableError
from batch_pipeline.phases import copies
from batch_pipeline.phases.copies import CopyFormat, can_be_copied, find_copy, make_copies
from batch_pipeline.storage import keys
from batch_pipeline.storage.store import Store
from batch_pipeline.system import System

ITEMS = [{"name": "Ada", "notes": "=x"}, {"name": "Bob", "email": "no address"}]
ROWS = [{"email": "", "notes": "", **item} for item in ITEMS]


def _run(system: System, payload: bytes, **options: Any) -> Batch:
    return run_attempt(system, arrived(system, new_organization(system), payload, **options))


def _of_copies(call: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Has `call` called before each copy is stored."""
    write = Store.write

    def write_later(store: Store, key: str, data: bytes) -> None:
        if key.endswith("/upload.json"):
            call()
        write(store, key, data)

    monkeypatch.setattr(Store, "write", write_later)


def _read(system: System, batch: Batch, copy_format: CopyFormat) -> bytes:
    key = find_copy(system, batch, copy_format)
    assert key is not None
    return system.store.read(key)


@pytest.mark.parametrize(
    ("name", "payload", "originals"),
    [
        ("x.csv", as_csv(ROWS), ["csv"]),
        ("x.csv.gz", gzip.compress(as_csv(ROWS)), []),
        ("x.csv", gzip.compress(as_csv(ROWS)), []),
        ("x", as_csv(ROWS), []),
        ("x.json", json.dumps(ITEMS).encode(), ["json"]),
        ("x.json", "\n".join(map(json.dumps, ITEMS)).encode() + b"\n", []),
        ("x.csv", json.dumps(ITEMS).encode(), []),
    ],
    ids=["CSV", "gzip", "gzip named CSV", "CSV without a name", "JSON", "NDJSON", "JSON named CSV"],
)
def test_a_small_upload_has_csv_and_json_copies_after_its_run(
    module_system: System, name: str, payload: bytes, originals: list[str]
) -> None:
    batch = _run(module_system, payload, name=name)
    assert batch.status == "completed"
    assert module_system.store.read(str(batch.upload_key)) == payload
    for copy_format in CopyFormat:
        is_original = find_copy(module_system, batch, copy_format) == batch.upload_key
        assert is_original == (copy_format in originals)
    as_rows = list(csv.DictReader(io.StringIO(_read(module_system, batch, CopyFormat.csv).decode(), newline="")))
    assert [{field: row.get(field, "") for field in ROWS[0]} for row in as_rows] == ROWS
    as_items = json.loads(_read(module_system, batch, CopyFormat.json))
    assert [{field: item.get(field, "") for field in ROWS[0]} for item in as_items] == ROWS


def test_a_large_upload_is_copied_on_request(module_system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "SMALL_UPLOAD_BYTES", 10)
    monkeypatch.setattr(copies, "MEMORY_BYTES", 10)
    batch = _run(module_system, as_csv(ROWS))
    assert find_copy(module_system, batch, CopyFormat.csv) == batch.upload_key
    assert find_copy(module_system, batch, CopyFormat.json) is None
    assert can_be_copied(batch)
    with Ownership(module_system.engine) as other:
        other.take(f"{batch.id}/copies")
        assert not make_copies(module_system, batch.id)
        assert find_copy(module_system, batch, CopyFormat.json) is None
    assert make_copies(module_system, batch.id)
    assert [item["name"] for item in json.loads(_read(module_system, batch, CopyFormat.json))] == ["Ada", "Bob"]


def test_concurrent_requests_make_the_copies_once(module_system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "SMALL_UPLOAD_BYTES", 10)
    batch = _run(module_system, gzip.compress(as_csv(ROWS)))
    written = []
    write = module_system.store.write
    monkeypatch.setattr(module_system.store, "write", lambda key, data: (written.append(key), write(key, data)))
    with ThreadPoolExecutor(6) as callers:
        answers = list(callers.map(lambda _: make_copies(module_system, batch.id), range(6)))
    assert any(answers)
    assert sorted(written) == [
        f"{keys.batch_folder(batch.id)}/copies/upload.csv",
        f"{keys.batch_folder(batch.id)}/upload.json",
    ]


def test_an_upload_that_is_unreadable_or_not_kept_has_no_copies(module_system: System) -> None:
    for batch in (_run(module_system, as_csv(ROWS), save_upload=False), _run(module_system, b"a,a\n1,2\n")):
        assert not can_be_copied(batch)
        assert not make_copies(module_system, batch.id)
        assert [find_copy(module_system, batch, copy_format) for copy_format in CopyFormat] == [None, None]
        listed = [found.key for found in module_system.store.list(keys.batch_folder(batch.id))]
        assert not [key for key in listed if "upload." in key and key != batch.upload_key]


def test_a_batch_that_failed_after_parsing_has_copies_on_request(module_system: System) -> None:
    batch = _run(module_system, as_csv(ROWS[1:]))
    assert (batch.status, batch.reason and batch.reason.code) == ("failed", "no_valid_items")
    assert make_copies(module_system, batch.id)
    assert [item["name"] for item in json.loads(_read(module_system, batch, CopyFormat.json))] == ["Bob"]


def test_an_upload_removed_by_retention_can_not_be_copied(
    module_system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "SMALL_UPLOAD_BYTES", 10)
    batch = _run(module_system, as_csv(ROWS))
    module_system.store.delete(str(batch.upload_key))
    assert not make_copies(module_system, batch.id)


def test_a_small_batch_is_written_while_its_copy_is_stored(
    module_system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_validated = threading.Event()
    waited: list[bool] = []
    _of_copies(lambda: waited.append(is_validated.wait(timeout=60)), monkeypatch)

    batch = arrived(module_system, new_organization(module_system), as_csv(ROWS))
    batch = run_attempt(module_system, batch, once_validated=is_validated.set)

    assert (batch.status, waited) == ("completed", [True])
    assert module_system.store.exists(keys.upload_copy(batch.id, CopyFormat.json, beside=batch.upload_key))


def test_a_batch_does_not_complete_without_its_copy(module_system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise UnavailableError("storage", "Storage can't be reached.")

    with monkeypatch.context() as patched:
        _of_copies(fail, patched)
        batch = _run(module_system, as_csv(ROWS))
    assert (batch.status, batch.reason and batch.reason.code) == ("failed", "storage_unavailable")

    module_system.ledger.request_rerun(batch.id, Starter.caller)
    batch = run_attempt(module_system, module_system.ledger.get(batch.id))

    assert (batch.status, batch.stats.created, batch.stats.rejected) == ("completed", 1, 1)
    assert make_copies(module_system, batch.id)
    assert json.loads(_read(module_system, batch, CopyFormat.json)) == ROWS
