"""Intake of inbox files that crash, run twice at once, or are overwritten: none is lost or taken in twice."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from launches import INBOX, all_batches
from waiting import eventually

from batch_pipeline.batches.model import Starter
from batch_pipeline.intake import inbox
from batch_pipeline.local.system import LocalServers
from batch_pipeline.storage.store import Store
from batch_pipeline.system import System

WAITING_FOR_LOCKS = """
    SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


class CrashError(Exception):
    """The process dies here."""


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (Store, "copy"),
        (inbox, "accept"),
        (Store, "delete"),
        (inbox, "release_source"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_after_a_crash_between_any_steps_of_intake_each_file_becomes_one_batch(
    system: System, monkeypatch: pytest.MonkeyPatch, owner: object, name: str, after: bool
) -> None:
    for number in range(2):
        system.store.write(f"{INBOX}/{number}.csv", b"name\nAda\n")
    step: Callable[..., Any] = getattr(owner, name)

    def crash(*args: Any, **kwargs: Any) -> None:
        if after:
            step(*args, **kwargs)
        raise CrashError

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, crash)
        with pytest.raises(CrashError):
            inbox.take_in(system, limit=10)
    for _ in range(2):
        inbox.take_in(system, limit=10)
    batches = all_batches(system)
    assert sorted(str(batch.source_key) for batch in batches) == [f"{INBOX}/{number}.csv" for number in range(2)]
    assert all(batch.awaits_run is Starter.launcher and batch.arrival is not None for batch in batches)
    assert all(system.store.read(str(batch.upload_key)) == b"name\nAda\n" for batch in batches)
    assert system.store.list("uploads/") == []


@pytest.mark.parametrize("step", ["copy", "accept", "release_source"])
def test_two_concurrent_intakes_make_one_batch(system: System, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """The other one comes at a step of the first, and gets as far as it can before the first goes on."""
    system.store.write(f"{INBOX}/people.csv", b"name\nAda\n")
    owner: object = Store if step == "copy" else inbox
    real: Callable[..., Any] = getattr(owner, step)
    with ThreadPoolExecutor(1) as pool, psycopg.connect(system.database_url, autocommit=True) as connection:

        def with_the_other(*args: Any, **kwargs: Any) -> Any:
            monkeypatch.setattr(owner, step, real)
            other = pool.submit(inbox.take_in, system, limit=10)
            while not other.done() and connection.execute(WAITING_FOR_LOCKS).fetchone() != (1,):
                pass
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, step, with_the_other)
        inbox.take_in(system, limit=10)
    assert len(all_batches(system)) == 1
    assert system.store.list("uploads/") == []


@pytest.fixture
def inbox_folder(system: System, servers: LocalServers) -> Path:
    """The folder that is `INBOX` to those who copy files there: past the S3 server, which may look only later."""
    folder = servers.storage_folder / system.store.path(INBOX).removeprefix(f"{system.store.bucket}/")
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    ("owner", "step", "before"),
    [(Store, "copy", True), (Store, "copy", False), (inbox, "accept", False)],
    ids=["before the copy", "after the copy", "before the removal"],
)
def test_a_file_overwritten_during_intake_is_kept_with_its_options(
    system: System, inbox_folder: Path, monkeypatch: pytest.MonkeyPatch, *, owner: object, step: str, before: bool
) -> None:
    """Past the S3 server, which remembers for a second how the file was."""
    system = replace(system, settings=system.settings.model_copy(update={"inbox_quiet_seconds": 1.2}))
    file = inbox_folder / "people.csv"
    file.write_bytes(b"name\nAda\n")
    os.utime(file, (time.time() - 10, time.time() - 10))
    real: Callable[..., Any] = getattr(owner, step)

    def overwritten(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(owner, step, real)
        answer = None if before else real(*args, **kwargs)
        (inbox_folder / "people.csv.options.json").write_text('{"name": "The second"}')
        file.write_bytes(b"name\nGrace\n")
        return real(*args, **kwargs) if before else answer

    monkeypatch.setattr(owner, step, overwritten)

    def second_taken_in() -> bool:
        inbox.take_in(system, limit=10)
        return any(batch.name == "The second" for batch in all_batches(system))

    eventually(second_taken_in, about=lambda: all_batches(system))
    payloads = [system.store.read(str(batch.upload_key)) for batch in all_batches(system)]
    # Until it was copied, the first was not taken in; a copy that may be torn is none.
    assert payloads == ([] if step == "copy" else [b"name\nAda\n"]) + [b"name\nGrace\n"]
    assert list(inbox_folder.parent.rglob("*.*")) == []


def test_a_file_with_a_name_that_is_not_utf_8_is_reported_once_and_kept(
    system: System, inbox_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The server lists it under a name by which it can't be read."""
    file = Path(os.fsdecode(os.fsencode(inbox_folder) + b"/caf\xe9.csv"))
    file.write_bytes(b"name\nAda\n")

    def reported() -> bool:
        inbox.take_in(system, limit=10)
        return bool(caplog.messages)

    eventually(reported)  # the server lists it after a second
    inbox.take_in(system, limit=10)
    (message,) = caplog.messages
    assert "caf\\ufffd.csv" in message
    assert "Rename the file" in message
    assert file.exists()
    assert all_batches(system) == []
