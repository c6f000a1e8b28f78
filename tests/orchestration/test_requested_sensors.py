"""The sensors of upload URLs: what fails in one part of a tick keeps no other from being done, and is seen."""

from typing import Any

import pytest
from batch_runs import awaiting_upload
from dagster import DagsterInstance, SkipReason, build_sensor_context

from batch_pipeline.batches.accept import IDEMPOTENCY_SECONDS, IdempotencyKey, NewBatch, accept
from batch_pipeline.batches.ids import new_batch_id
from batch_pipeline.batches.model import Action
from batch_pipeline.batches.options import BatchOptions
from batch_pipeline.database import connect
from batch_pipeline.definitions import defs
from batch_pipeline.errors import UnavailableError
from batch_pipeline.storage import keys
from batch_pipeline.storage.store import Store
from batch_pipeline.system import System

KEY = IdempotencyKey("k", b"0" * 32)
SENSORS = ["requested_sensor", "upkeep_sensor"]


def _tick(instance: DagsterInstance, name: str) -> None:
    with build_sensor_context(instance=instance) as context:
        assert isinstance(defs.get_sensor_def(name)(context), SkipReason)


def _refusing(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """Storage refuses whatever is asked of it by this method of the store."""

    def refuses(*_: Any) -> None:
        raise UnavailableError("storage", "Storage refuses access to it.")

    monkeypatch.setattr(Store, method, refuses)


def _old_key(system: System) -> None:
    new = NewBatch(new_batch_id(), "default", "contact", Action.merge, "people.csv", BatchOptions())
    assert accept(system.engine, new, idempotency=KEY) is not None
    with connect(system.database_url) as connection:
        connection.execute(
            "UPDATE idempotency_keys SET created_at = now() - make_interval(secs => %s)", (IDEMPOTENCY_SECONDS + 1,)
        )


@pytest.mark.parametrize("name", SENSORS)
def test_batches_expire_although_no_file_can_be_taken_in_and_the_tick_fails(
    system: System, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    late, refused = awaiting_upload(system, "default", seconds=-1), awaiting_upload(system, "default")
    system.store.write(keys.requested(refused.id), b"name\nAda\n")
    with monkeypatch.context() as patch:
        _refusing(patch, "copy")
        with pytest.raises(UnavailableError, match="refuses access"):
            _tick(instance, name)
    assert system.ledger.get(late.id).status == "expired"
    _tick(instance, name)
    assert system.ledger.get(refused.id).awaits_run is not None


@pytest.mark.parametrize("name", SENSORS)
def test_files_are_taken_in_although_no_batch_can_be_expired_and_the_tick_fails(
    system: System, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    late, in_time = awaiting_upload(system, "default", seconds=-1), awaiting_upload(system, "default")
    system.store.write(keys.requested(in_time.id), b"name\nAda\n")
    with monkeypatch.context() as patch:
        _refusing(patch, "exists")
        with pytest.raises(UnavailableError, match="refuses access"):
            _tick(instance, name)
    assert system.ledger.get(in_time.id).awaits_run is not None
    _tick(instance, name)
    assert system.ledger.get(late.id).status == "expired"


def test_upkeep_deletes_old_keys_although_storage_is_unavailable_and_the_tick_fails(
    system: System, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    _old_key(system)
    _refusing(monkeypatch, "list")
    with pytest.raises(UnavailableError, match="refuses access"):
        _tick(instance, "upkeep_sensor")
    with connect(system.database_url) as connection:
        assert connection.execute("SELECT count(*) FROM idempotency_keys").fetchone() == (0,)
