"""The upload of a command's file, which goes on in the background."""

from pathlib import Path

import pytest
import sqlalchemy as sa
from batch_runs import new_organization

from batch_pipeline.batches import accept
from batch_pipeline.batches.model import Action, Starter
from batch_pipeline.batches.options import BatchOptions
from batch_pipeline.cli.running import Target, uploading
from batch_pipeline.errors import NotFoundError, UnavailableError
from batch_pipeline.settings import MIB
from batch_pipeline.storage.store import Store
from batch_pipeline.system import System


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "people.csv"
    path.write_bytes(b"name\n" + b"Ada\n" * (5 * MIB))
    return path


def test_a_batch_is_recorded_once_its_file_is_uploaded(system: System, source: Path) -> None:
    target = Target(new_organization(system), "contact", Action.merge)
    with uploading(system, source, target, BatchOptions(), Starter.caller) as accepted:
        batch = accepted()
    assert system.ledger.get(batch.id).upload_key == batch.upload_key
    assert system.store.stat(str(batch.upload_key)).size == source.stat().st_size


def test_no_upload_stays_of_a_command_that_fails_before_its_batch_is_recorded(system: System, source: Path) -> None:
    target = Target(new_organization(system), "contact", Action.merge)
    with pytest.raises(KeyboardInterrupt), uploading(system, source, target, BatchOptions(), Starter.caller):
        raise KeyboardInterrupt
    assert system.store.list("batches/") == []


def test_the_upload_stays_if_the_database_recorded_its_batch_but_the_answer_was_lost(
    system: System, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = accept.accept

    def lose_answer(engine: sa.Engine, new: accept.NewBatch, *, payload: accept.ArrivedPayload) -> accept.Accepted:
        record(engine, new, payload=payload)
        raise UnavailableError("database", "The connection was lost.")

    monkeypatch.setattr(accept, "accept", lose_answer)
    target = Target(new_organization(system), "contact", Action.merge)
    with (
        pytest.raises(UnavailableError),
        uploading(system, source, target, BatchOptions(), Starter.launcher) as accepted,
    ):
        accepted()
    (stored,) = system.store.list("batches/")
    assert system.ledger.get(stored.key.split("/")[1]).upload_key == stored.key


def test_an_unknown_organization_is_refused_before_the_file_is_uploaded(system: System, source: Path) -> None:
    target = Target("nobody", "contact", Action.merge)
    with pytest.raises(NotFoundError), uploading(system, source, target, BatchOptions(), Starter.caller):
        pass
    assert system.store.list("batches/") == []


def test_an_upload_in_the_background_reports_an_outage(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    upload = Store("s3://anywhere").begin_upload(source, "people.csv")
    with pytest.raises(UnavailableError):
        upload.wait()
