"""How batches and their runs come about: the inbox, the sensor's ticks, the Launchpad, and re-execution."""

import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest
from aiobotocore.client import AioBaseClient
from batch_runs import arrived, as_csv, contacts, new_organization
from dagster import (
    DagsterEventType,
    DagsterInstance,
    DagsterRunStatus,
    ExecuteInProcessResult,
    JobDefinition,
    JobExecutionResult,
    ReexecutionOptions,
    RunRequest,
    SkipReason,
    build_sensor_context,
    execute_job,
    reconstructable,
)

from batch_pipeline.batches.model import Batch, Starter
from batch_pipeline.batches.states import BatchStatus, Reason
from batch_pipeline.definitions import defs
from batch_pipeline.errors import UnavailableError
from batch_pipeline.intake import inbox
from batch_pipeline.local.system import LocalServers
from batch_pipeline.orchestration import tags
from batch_pipeline.orchestration.execute import execute_batch
from batch_pipeline.orchestration.reconciling import reconcile
from batch_pipeline.storage import keys
from batch_pipeline.storage.store import Store
from batch_pipeline.system import System

WAIT_SECONDS = 60.0  # for what comes at once on a machine that isn't overloaded
INBOX = "uploads/default/contact/merge"
WAITING_FOR_LOCKS = """
    SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


def _tick(instance: DagsterInstance) -> list[RunRequest]:
    """One tick of the upload sensor; the runs that it asks for."""
    sensor = defs.get_sensor_def("upload_sensor")
    with build_sensor_context(instance=instance) as context:
        answers = list(cast("Iterator[RunRequest | SkipReason]", sensor(context)))
    assert all(isinstance(answer, RunRequest | SkipReason) for answer in answers)
    return [answer for answer in answers if isinstance(answer, RunRequest)]


def _batches(system: System) -> list[Batch]:
    return system.ledger.find(newest_first=False)


def _launch(instance: DagsterInstance, request: RunRequest) -> ExecuteInProcessResult:
    return defs.resolve_job_def(tags.JOB_NAME).execute_in_process(
        run_config=request.run_config, tags=dict(request.tags), instance=instance, raise_on_error=False
    )


def _launchpad(instance: DagsterInstance, *, run_tags: dict[str, str] | None = None, **config: Any) -> Any:
    full = {"organization": "default", "resource": "contact", "action": "merge", **config}
    return defs.resolve_job_def(tags.JOB_NAME).execute_in_process(
        run_config={"ops": {tags.PARSE: {"config": full}}}, tags=run_tags, instance=instance, raise_on_error=False
    )


def _failure(result: ExecuteInProcessResult) -> str:
    event = result.failure_data_for_node(tags.PARSE)
    assert event is not None
    assert event.user_failure_data is not None
    return str(event.user_failure_data.metadata["code"].value)


# ---- the inbox -------------------------------------------------------------------------------------------------


def test_a_file_becomes_one_batch_with_one_run_however_often_the_sensor_ticks(
    system: System, instance: DagsterInstance
) -> None:
    payload = as_csv([{"name": "Ada"}])
    system.store.write(f"{INBOX}/people.csv", payload)
    (request,) = _tick(instance)
    (batch,) = _batches(system)
    assert (batch.status, batch.name, batch.via, batch.awaits_run) == ("requested", "people.csv", "file", "launcher")
    assert request.tags[tags.BATCH_ID] == batch.id
    assert system.store.list("uploads/") == []
    assert system.store.read(keys.upload(batch.id, "people.csv", saved=True)) == payload
    (again,) = _tick(instance)  # it has no run yet; the key keeps Dagster from starting two
    assert again.run_key == request.run_key
    assert _launch(instance, request).success
    assert _tick(instance) == []
    assert [found.id for found in _batches(system)] == [batch.id]
    assert [record["name"] for record in contacts(system, "default")] == ["Ada"]


def test_the_same_file_put_there_again_is_another_batch(system: System, instance: DagsterInstance) -> None:
    for count in (1, 2, 3):
        system.store.write(f"{INBOX}/people.csv", b"name\nAda\n")
        _tick(instance)
        assert len(_batches(system)) == count


def test_options_come_from_the_sidecar_which_goes_with_the_file(system: System, instance: DagsterInstance) -> None:
    options = {"name": "My people", "duplicate_handling": "use_last", "save_upload": False}
    system.store.write(f"{INBOX}/people.csv.options.json", json.dumps(options).encode())
    assert _tick(instance) == []
    system.store.write(f"{INBOX}/people.csv", b"name\nAda\n")
    (request,) = _tick(instance)
    (batch,) = _batches(system)
    assert {name: batch.options[name] for name in options} == options
    assert (batch.name, batch.has_upload_file) == ("My people", False)
    assert request.run_config["ops"][tags.PARSE]["config"]["duplicate_handling"] == "use_last"
    assert system.store.list("uploads/") == []


@pytest.mark.parametrize(
    ("key", "sidecar", "expected"),
    [
        ("uploads/nobody/contact/merge/a.csv", None, ("unknown_folder", None, "contact", "merge")),
        ("uploads/default/person/merge/a.csv", None, ("unknown_folder", "default", None, "merge")),
        ("uploads/default/contact/upsert/a.csv", None, ("unknown_folder", "default", "contact", None)),
        ("uploads/a.csv", None, ("unknown_folder", None, None, None)),
        (f"{INBOX}/a.csv", b'{"colour": "red"}', ("invalid_options", "default", "contact", "merge")),
        (f"{INBOX}/a.csv", b"{", ("invalid_options", "default", "contact", "merge")),
        (f"{INBOX}/a.csv", b"\xff", ("invalid_options", "default", "contact", "merge")),
    ],
)
def test_a_file_that_can_not_be_meant_becomes_a_failed_batch_that_says_why(
    system: System, instance: DagsterInstance, key: str, sidecar: bytes | None, expected: tuple[str | None, ...]
) -> None:
    if sidecar is not None:
        system.store.write(f"{key}.options.json", sidecar)
    system.store.write(key, b"name\nAda\n")
    assert _tick(instance) == []
    (batch,) = _batches(system)
    assert batch.reason is not None
    assert batch.status == "failed"
    assert (batch.reason.code, batch.organization_id, batch.resource, batch.action) == expected
    assert system.store.list("uploads/") == []
    assert _tick(instance) == []
    assert len(_batches(system)) == 1


def test_hidden_and_unfinished_files_wait(system: System, instance: DagsterInstance) -> None:
    for name in (".people.csv", "people.csv.tmp", "people.csv.part", "people.csv.options.json"):
        system.store.write(f"{INBOX}/{name}", b"{}")
    assert _tick(instance) == []
    assert _batches(system) == []


@pytest.mark.parametrize("error", [UnavailableError("storage", "It refuses."), ZeroDivisionError()], ids=type)
def test_a_file_that_can_not_be_taken_in_does_not_keep_waiting_batches_from_their_runs(
    system: System, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    system.store.write(f"{INBOX}/people.csv", b"name\nAda\n")
    waiting = arrived(system, "default", b"name\nEva\n", starter=Starter.launcher)

    def fails(*_: Any) -> None:
        raise error

    monkeypatch.setattr(Store, "copy", fails)
    (request,) = _tick(instance)
    assert request.tags[tags.BATCH_ID] == waiting.id
    system.ledger.end(waiting.id, BatchStatus.failed, Reason("never_started", "It waits no more."))
    with pytest.raises(type(error)):
        _tick(instance)  # nothing waits: the tick fails, and is seen to


def test_a_tick_takes_organizations_in_turn_and_files_in_order(system: System) -> None:
    flood, quiet = new_organization(system), new_organization(system)
    for number in range(4):
        system.store.write(f"uploads/{flood}/contact/merge/{number}.csv", b"name\nAda\n")
    system.store.write(f"uploads/{quiet}/contact/merge/only.csv", b"name\nAda\n")
    taken = inbox.take_in(system, limit=3)
    assert sorted(str(batch.organization_id) for batch in taken) == sorted([flood, quiet, flood])
    assert len(inbox.take_in(system, limit=3)) == 2
    names = [batch.source_key for batch in _batches(system) if batch.organization_id == flood]
    assert names == [f"uploads/{flood}/contact/merge/{number}.csv" for number in range(4)]


def test_a_file_that_is_refused_at_intake_is_a_failed_run_in_dagster_too(
    system: System, instance: DagsterInstance
) -> None:
    system.store.write("uploads/default/spaceship/merge/people.csv", b"name\nAda\n")
    assert _tick(instance) == []
    (batch,) = _batches(system)
    (run,) = instance.get_runs()
    assert (run.status, run.tags[tags.BATCH_ID]) == (DagsterRunStatus.FAILURE, batch.id)
    (failure,) = instance.all_logs(run.run_id, of_type=DagsterEventType.RUN_FAILURE)
    assert batch.reason is not None
    assert failure.dagster_event is not None
    assert failure.dagster_event.message == batch.reason.message
    assert reconcile(system, instance) == []


def test_a_runs_config_and_tags_hold_nothing_of_what_its_batch_contains(
    system: System, instance: DagsterInstance
) -> None:
    """They stand in Dagster's tables and ticks, which more people read than may read customers' values."""
    batch = arrived(
        system,
        new_organization(system),
        b"Full name\nAda\n",
        starter=Starter.launcher,
        name="secret-name.csv",
        properties={"notes": "secret-value"},
        column_mapping={"name": "Full name"},
        save_result=True,
    )
    (request,) = _tick(instance)
    assert "secret" not in repr((request.run_config, request.tags))
    assert "Full name" not in repr(request.run_config)
    assert request.run_config["ops"]["parse"]["config"]["save_result"] is True
    done = execute_batch(system, instance, batch)
    assert done.status == "completed", done.reason
    assert [(row["name"], row["notes"]) for row in contacts(system, str(batch.organization_id))] == [
        ("Ada", "secret-value")
    ]


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
def test_a_crash_between_any_two_steps_of_intake_neither_skips_nor_doubles(
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
    batches = _batches(system)
    assert sorted(str(batch.source_key) for batch in batches) == [f"{INBOX}/{number}.csv" for number in range(2)]
    assert all(batch.awaits_run is Starter.launcher and batch.arrival is not None for batch in batches)
    assert all(system.store.read(str(batch.upload_key)) == b"name\nAda\n" for batch in batches)
    assert system.store.list("uploads/") == []


@pytest.mark.parametrize("step", ["copy", "accept", "release_source"])
def test_two_takers_at_once_make_one_batch(system: System, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
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
    assert len(_batches(system)) == 1
    assert system.store.list("uploads/") == []


def test_a_tick_asks_storage_for_the_inbox_alone_however_many_batches_are_finished(
    system: System, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []
    real = AioBaseClient._make_api_call

    async def noted(client: Any, operation: str, parameters: dict[str, Any]) -> Any:
        asked.append((operation, parameters.get("Prefix", parameters.get("Key", ""))))
        return await real(client, operation, parameters)

    monkeypatch.setattr(AioBaseClient, "_make_api_call", noted)
    assert _tick(instance) == []
    empty = asked.copy()
    for _ in range(3):
        execute_batch(system, instance, arrived(system, "default", b"name\nAda\n"))
    asked.clear()
    assert _tick(instance) == []
    assert asked == empty
    assert {key.removeprefix(f"{system.store.prefix}/").rstrip("/") for _, key in asked} == {keys.INBOX}


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
def test_a_file_overwritten_while_it_is_taken_in_is_not_lost_nor_are_its_options(  # noqa: PLR0917
    system: System, inbox_folder: Path, monkeypatch: pytest.MonkeyPatch, owner: object, step: str, before: bool
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
    deadline = time.monotonic() + WAIT_SECONDS
    while not [batch for batch in _batches(system) if batch.name == "The second"]:
        inbox.take_in(system, limit=10)
        assert time.monotonic() < deadline, _batches(system)
    payloads = [system.store.read(str(batch.upload_key)) for batch in _batches(system)]
    # Until it was copied, the first was not taken in; a copy that may be torn is none.
    assert payloads == ([] if step == "copy" else [b"name\nAda\n"]) + [b"name\nGrace\n"]
    assert list(inbox_folder.parent.rglob("*.*")) == []


def test_a_file_with_a_name_that_is_not_utf_8_is_reported_once_and_kept(
    system: System, inbox_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The server lists it under a name by which it can't be read."""
    file = Path(os.fsdecode(os.fsencode(inbox_folder) + b"/caf\xe9.csv"))
    file.write_bytes(b"name\nAda\n")
    deadline = time.monotonic() + WAIT_SECONDS
    while not caplog.messages:  # the server lists it after a second
        inbox.take_in(system, limit=10)
        assert time.monotonic() < deadline
    inbox.take_in(system, limit=10)
    (message,) = caplog.messages
    assert "caf\\ufffd.csv" in message
    assert "Rename the file" in message
    assert file.exists()
    assert _batches(system) == []


# ---- the Launchpad ---------------------------------------------------------------------------------------------


def test_the_launchpad_runs_a_file_of_the_inbox_once(system: System, instance: DagsterInstance) -> None:
    system.store.write(f"{INBOX}/people.csv", b"name\nAda\n")
    result = _launchpad(instance, file=f"{INBOX}/people.csv", save_result=True)
    assert result.success
    (batch,) = _batches(system)
    assert (batch.status, batch.run_id, batch.has_result_file) == ("completed", result.run_id, True)
    assert _tick(instance) == []
    run = instance.get_run_by_id(result.run_id)
    assert run is not None
    assert run.tags[tags.BATCH_ID] == batch.id


def test_the_launchpad_runs_any_other_file_of_the_bucket_and_leaves_it_there(
    system: System, instance: DagsterInstance
) -> None:
    system.store.write("elsewhere/people.csv", b"name\nAda\n")
    for count in (1, 2):
        assert _launchpad(instance, file="elsewhere/people.csv").success
        assert len(_batches(system)) == count
    assert system.store.exists("elsewhere/people.csv")
    assert len(contacts(system, "default")) == 1


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ({"file": "s3://other/people.csv"}, "invalid_file"),
        ({"file": "/etc/passwd"}, "invalid_file"),
        ({"file": "uploads/../batches/x"}, "invalid_file"),
        ({"file": "elsewhere//x"}, "invalid_file"),
        ({"file": ""}, "invalid_file"),
        ({"file": "elsewhere/absent.csv"}, "object_not_found"),
        ({"file": "uploads/other/contact/merge/people.csv"}, "wrong_folder"),
        ({"file": f"{INBOX}/people.csv", "organization": "nobody"}, "unknown_organization"),
        ({"file": f"{INBOX}/people.csv", "default_region": "XX"}, "invalid_options"),
        ({"file": f"{INBOX}/people.csv", "timeout_seconds": 0}, "invalid_options"),
        ({"file": f"{INBOX}/people.csv", "delete_limit": "many"}, "invalid_options"),
    ],
)
def test_a_launchpad_config_that_can_not_be_meant_makes_no_batch(
    system: System, instance: DagsterInstance, config: dict[str, Any], code: str
) -> None:
    system.store.write(f"{INBOX}/people.csv", b"name\nAda\n")
    system.store.write("uploads/other/contact/merge/people.csv", b"name\nAda\n")
    assert _failure(_launchpad(instance, **config)) == code
    assert _batches(system) == []
    assert system.store.exists(f"{INBOX}/people.csv")


def test_a_run_that_brings_the_id_of_a_batch_that_awaits_none_is_refused(
    system: System, instance: DagsterInstance
) -> None:
    done = execute_batch(system, instance, arrived(system, "default", b"name\nAda\n"))
    result = _launchpad(instance, file="x", run_tags={tags.BATCH_ID: done.id})
    assert _failure(result) == "run_refused"
    assert system.ledger.get(done.id) == done


# ---- re-execution ----------------------------------------------------------------------------------------------


def batch_job() -> JobDefinition:
    return defs.resolve_job_def(tags.JOB_NAME)


def _reexecute(instance: DagsterInstance, batch: Batch, *, from_failure: bool = False) -> JobExecutionResult:
    """Executes the batch's newest run again, as Dagster's UI does."""
    run_id = str(batch.run_id)
    options = ReexecutionOptions.from_failure(run_id, instance) if from_failure else ReexecutionOptions(run_id)
    return execute_job(reconstructable(batch_job), instance, reexecution_options=options)


def test_executing_a_completed_batch_again_does_nothing_and_succeeds(system: System, instance: DagsterInstance) -> None:
    done = execute_batch(system, instance, arrived(system, "default", b"name\nAda\n"))
    before = contacts(system, "default")
    result = _reexecute(instance, done)
    assert result.success
    after = system.ledger.get(done.id)
    assert (after.status, after.attempts, after.run_id, after.stats) == ("completed", 2, result.run_id, done.stats)
    assert contacts(system, "default") == before


@pytest.mark.parametrize("from_failure", [False, True])
def test_a_failed_batch_that_is_re_executed_in_dagster_is_the_same_batch(
    system: System, instance: DagsterInstance, from_failure: bool
) -> None:
    with psycopg.connect(system.database_url) as connection:
        connection.execute("ALTER TABLE contacts RENAME TO contacts_away")
    failed = execute_batch(system, instance, arrived(system, "default", b"name\nAda\n"))
    assert (failed.status, failed.reason and failed.reason.code) == ("failed", "internal_error")
    with psycopg.connect(system.database_url) as connection:
        connection.execute("ALTER TABLE contacts_away RENAME TO contacts")
    result = _reexecute(instance, failed, from_failure=from_failure)
    assert result.success
    (batch,) = _batches(system)
    assert (batch.id, batch.status, batch.attempts, batch.run_id) == (failed.id, "completed", 2, result.run_id)
    assert batch.arrival is not None
    assert failed.arrival is not None
    assert batch.arrival > failed.arrival  # it lined up anew
