"""Locks are taken in one order, and one clock decides when an attempt's time is up."""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from batch_runs import arrived, as_csv, contacts, new_organization
from driving import run_attempt
from waiting import eventually

from batch_pipeline.batches.model import Batch
from batch_pipeline.batches.options import BatchOptions
from batch_pipeline.batches.states import BatchStatus, Reason
from batch_pipeline.phases import attempt as attempts
from batch_pipeline.phases import process
from batch_pipeline.phases.attempt import Attempt
from batch_pipeline.records.descriptions import get_resource
from batch_pipeline.system import System

WAITING_FOR_LOCKS = (
    "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
)
WHY = Reason("test", "The test says so.")


@pytest.fixture
def batch(system: System) -> Batch:
    return arrived(system, new_organization(system), as_csv([{"name": "Ada"}]))


def test_ending_a_batch_while_its_plan_becomes_final_causes_no_deadlock(
    system: System, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim_version, ends = process.claim_version, list[Future[Batch]]()
    with ThreadPoolExecutor(1) as other, psycopg.connect(system.database_url, autocommit=True) as observer:

        def claim_while_it_is_ended(*arguments: Any, **named: Any) -> None:
            claim_version(*arguments, **named)
            ends.append(other.submit(system.ledger.end, batch.id, BatchStatus.failed, WHY))
            eventually(lambda: observer.execute(WAITING_FOR_LOCKS).fetchone() == (True,), pause=0.01)

        def change_version() -> None:  # as a batch that writes meanwhile: else no transaction makes the plan final
            observer.execute("UPDATE turns SET version = version + 1")

        monkeypatch.setattr(process, "claim_version", claim_while_it_is_ended)
        ended = run_attempt(system, batch, once_validated=change_version)
    assert (ended.status, ended.reason) == ("failed", WHY)
    assert ends[0].result() == ended
    assert contacts(system, str(batch.organization_id)) == []


@pytest.fixture
def attempt(system: System, batch: Batch, tmp_path: Path) -> Attempt:
    system.ledger.begin_attempt(batch.id, "the run")
    return Attempt(
        system=system,
        batch=batch,
        run_id="the run",
        resource=get_resource("contact"),
        options=BatchOptions(timeout_seconds=1),
        scratch=tmp_path,
        report=lambda progress: None,
        used_seconds=system.ledger.attempt_seconds("the run"),
    )


def test_the_statements_of_an_attempt_share_its_time(attempt: Attempt) -> None:
    """A second one has no further time of its own."""

    def sleep_twice() -> None:
        with attempt.borrow() as connection:
            connection.execute("SELECT pg_sleep(0.6)")
            connection.execute("SELECT pg_sleep(600)")

    with pytest.raises(psycopg.errors.TransactionTimeout):
        sleep_twice()
    assert attempt.remaining_seconds <= 0


def test_time_outs_do_not_depend_on_the_clock_of_the_worker(attempt: Attempt, monkeypatch: pytest.MonkeyPatch) -> None:
    two_hours = 7200.0
    ahead = SimpleNamespace(time=lambda: time.time() + two_hours, monotonic=time.monotonic)
    monkeypatch.setattr(attempts, "time", ahead)
    again = Attempt(**{**_fields(attempt), "options": BatchOptions(timeout_seconds=600)})
    assert 0 < again.remaining_seconds <= 600
    again.check()


def _fields(attempt: Attempt) -> dict[str, Any]:
    return {name: value for name, value in vars(attempt).items() if not name.startswith("_")}
