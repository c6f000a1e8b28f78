"""Runs in the caller's process: several at once, and without effects on the caller."""

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from batch_runs import arrived, new_organization
from dagster import DagsterInstance
from interrupting import interrupt_in_callback

from batch_pipeline import database
from batch_pipeline.orchestration.execute import execute_batch, execute_until_interrupted
from batch_pipeline.phases import validate
from batch_pipeline.storage.local_copy import copy_file
from batch_pipeline.system import System

AT_ONCE = 4
SECONDS = 120.0


class _Callers(logging.Handler):
    """A handler of the caller's own, which says whether somebody closed it."""

    closed = False

    def emit(self, record: logging.LogRecord) -> None:
        del record

    def close(self) -> None:
        self.closed = True
        super().close()


def test_several_runs_at_once_all_complete_and_leave_the_callers_logging_alone(
    module_system: System, module_instance: DagsterInstance
) -> None:
    handler = _Callers()
    batches = [arrived(module_system, new_organization(module_system), b"name\nAda\n") for _ in range(2 * AT_ONCE)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        running = [pool.submit(execute_batch, module_system, module_instance, batch) for batch in batches]
        ended = [each.result(SECONDS) for each in running]

    assert [(batch.status, batch.stats.created) for batch in ended] == [("completed", 1)] * len(batches)
    # Closing handlers takes their locks under logging's own: two runs would wait for each other for ever.
    assert not handler.closed


@pytest.mark.parametrize("is_file", [False, True])
def test_a_run_does_not_fetch_the_upload_that_its_caller_has(
    module_system: System, module_instance: DagsterInstance, tmp_path: Path, is_file: bool
) -> None:
    upload = b"name\nAda\n"
    batch = arrived(module_system, new_organization(module_system), upload)
    fetched = arrived(module_system, new_organization(module_system), upload)
    done = execute_batch(module_system, module_instance, fetched)
    module_system.store.delete(str(batch.upload_key))
    (tmp_path / "people.csv").write_bytes(upload)
    copied = copy_file(tmp_path / "people.csv", tmp_path / "copy", is_left=lambda: False)
    handed = execute_batch(module_system, module_instance, batch, upload=copied if is_file else upload)
    assert (handed.status, handed.checksum) == (done.status, done.checksum)
    assert module_system.ledger.get(batch.id) == handed


def test_later_runs_open_no_connection(
    module_system: System, module_instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    organization_id = new_organization(module_system)
    execute_batch(module_system, module_instance, arrived(module_system, organization_id, b"name\nAda\n"))
    waiting = arrived(module_system, organization_id, b"name\nBob\n")
    opened: list[str] = []
    connect = psycopg.connect
    monkeypatch.setattr(psycopg, "connect", lambda *args, **kwargs: opened.append("") or connect(*args, **kwargs))

    batch = execute_batch(module_system, module_instance, waiting)

    assert batch.status == "completed"
    assert opened == []


def test_a_run_succeeds_after_dagsters_pooled_connections_were_lost(
    module_system: System, module_instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "TRUSTED_SECONDS", 0.0)  # as if they had been at rest for longer
    organization_id = new_organization(module_system)
    assert execute_batch(module_system, module_instance, arrived(module_system, organization_id, b"name\nAda\n"))
    with psycopg.connect(module_system.database_url, autocommit=True) as connection:
        ended = connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name <> 'batch_pipeline'"
        ).fetchall()
    assert ended

    batch = execute_batch(module_system, module_instance, arrived(module_system, organization_id, b"name\nBob\n"))

    assert (batch.status, batch.stats.created) == ("completed", 1)


def test_a_run_is_interrupted_though_python_drops_the_exception_of_the_signals_handler(
    module_system: System, module_instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    validate_items = validate.validate

    def interrupted(*arguments: Any, **named: Any) -> Any:
        interrupt_in_callback()
        time.sleep(60)  # the repeated signal ends it
        return validate_items(*arguments, **named)

    monkeypatch.setattr(validate, "validate", interrupted)
    waiting = arrived(module_system, new_organization(module_system), b"name\nAda\n")
    batch, was_interrupted = execute_until_interrupted(module_system, module_instance, waiting)
    assert was_interrupted
    assert batch.reason is not None
    assert batch.reason.code == "cancelled"
