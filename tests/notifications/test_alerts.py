"""People are alerted once of each batch that failed and of a silent daemon, by any number of processes."""

import json
import logging
import math
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from batch_runs import accepted
from dagster import DagsterInstance
from dagster._daemon.types import DaemonHeartbeat
from pydantic import SecretStr
from receivers import Receiver, receiving

from batch_pipeline.batches.ledger import Ledger
from batch_pipeline.batches.reruns import Reruns
from batch_pipeline.batches.states import BatchStatus, Reason
from batch_pipeline.database import create_engine
from batch_pipeline.errors import SettingError
from batch_pipeline.notifications.alerts import NobodyToldError, tell_of_batches, tell_of_daemons
from batch_pipeline.notifications.people import People
from batch_pipeline.orchestration.heartbeats import daemon_heartbeat_ages
from batch_pipeline.system import System

WHY = Reason("unknown_columns", "The column 'a customer's value' is unknown.")


def people_at(*receivers: Receiver) -> People:
    return People(SecretStr(" , ".join(f"json://127.0.0.1:{receiver.port}/secret" for receiver in receivers)))


def fail(ledger: Ledger, number: int, status: BatchStatus = BatchStatus.failed) -> list[str]:
    return [
        ledger.end(accepted(ledger.engine, "default", key="k", name="people of Ada").id, status, WHY).id
        for _ in range(number)
    ]


def messages(receiver: Receiver) -> list[tuple[str, str]]:
    bodies = [json.loads(call.body) for call in receiver.received]
    return [(body["title"], body["message"]) for body in bodies]


def test_many_failures_are_told_in_one_message_once_by_eight_processes(ledger: Ledger, database_url: str) -> None:
    ids = [*fail(ledger, 12), *fail(ledger, 1, BatchStatus.timed_out)]
    ledger.end(accepted(ledger.engine, "default").id, BatchStatus.expired, WHY)

    def process(_: int) -> int:
        engine = create_engine(database_url)
        told = sum(tell_of_batches(engine, people, group_seconds=0) for _ in range(3))
        engine.dispose()
        return told

    with receiving() as receiver:
        people = people_at(receiver)
        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(process, range(8))) == 13
        ((title, text),) = messages(receiver)
        assert title == "batch_pipeline: 12 batches failed, 1 batch timed out"
        assert [line.split(":")[0] for line in text.splitlines()[:10]] == ids[:10]
        assert text.splitlines()[0] == f"{ids[0]}: contact merge of default: failed, unknown_columns"
        assert text.splitlines()[10].startswith("and 3 more")
        assert "Ada" not in title + text
        assert "customer" not in text

        fail(ledger, 1)
        assert tell_of_batches(ledger.engine, people) == 0  # within a minute of the last message
        assert tell_of_batches(ledger.engine, people, group_seconds=0) == 1
    assert messages(receiver)[1][0] == "batch_pipeline: 1 batch failed"


def test_an_alert_that_nobody_accepts_is_told_later_and_one_that_somebody_accepts_is_not_repeated(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    fail(ledger, 1)
    with receiving(lambda call: 500) as broken, receiving() as working, caplog.at_level(logging.DEBUG):
        with pytest.raises(NobodyToldError):
            tell_of_batches(ledger.engine, people_at(broken))
        assert tell_of_batches(ledger.engine, people_at(broken, working)) == 1
        assert tell_of_batches(ledger.engine, people_at(broken, working), group_seconds=0) == 0
    assert (len(broken.received), len(working.received)) == (2, 1)
    assert "Address 1 of BATCH_ALERT_URL" in caplog.text
    assert "secret" not in "".join(record.getMessage() for record in caplog.records if record.levelno > logging.DEBUG)


def test_a_batch_that_will_run_again_by_itself_is_told_only_if_it_stays_failed(ledger: Ledger) -> None:
    rerunning = Ledger(ledger.engine, Reruns(limit=1, pause_seconds=1000))
    lost = Reason("worker_lost", "The worker was lost.")
    batch = accepted(ledger.engine, "default", key="k")
    with receiving() as receiver:
        people = people_at(receiver)
        rerunning.end(batch.id, BatchStatus.failed, lost)
        assert tell_of_batches(ledger.engine, people, group_seconds=0) == 0
        rerunning.cancel_rerun(batch.id, WHY)
        assert tell_of_batches(ledger.engine, people, group_seconds=0) == 1
    assert [title for title, _ in messages(receiver)] == ["batch_pipeline: 1 batch failed"]


def test_failures_of_more_than_a_day_ago_are_not_told(ledger: Ledger) -> None:
    fail(ledger, 3)
    with ledger.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE batch_transitions SET at = at - interval '25 h'")
    with receiving() as receiver:
        assert tell_of_batches(ledger.engine, people_at(receiver)) == 0
    assert receiver.received == []


def test_a_silent_daemon_is_told_once_until_it_is_heard_again(system: System, instance: DagsterInstance) -> None:
    def beat(seconds_ago: float) -> None:
        for daemon in instance.get_required_daemon_types():
            instance.add_daemon_heartbeat(DaemonHeartbeat(time.time() - seconds_ago, daemon, "id", []))

    def tell(ages: dict[str, float] | None = None) -> bool:
        return tell_of_daemons(system.engine, people, ages or daemon_heartbeat_ages(instance))

    with receiving() as receiver:
        people = people_at(receiver)
        beat(5)
        assert not tell()
        beat(600)
        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(lambda _: tell(), range(16))) == 1
        assert not tell({"SENSOR": math.inf})
        ((title, text),) = messages(receiver)
        assert title == "batch_pipeline: Dagster's daemon is silent"
        assert "SENSOR: no heartbeat for 60" in text
        beat(-600)  # heard after the message; then silent again, seen by the ages
        assert not tell()
        with system.engine.begin() as connection:
            connection.exec_driver_sql("UPDATE alerts SET told_at = told_at - interval '1 h'")
        assert tell({"SENSOR": 300.0, "SCHEDULER": 310.0})
    assert len(receiver.received) == 2


@pytest.mark.parametrize("urls", ["nonsense://token@host", "mailto://", "json://host, slack://secret"])
def test_a_wrong_address_is_named_by_its_place_without_its_text(urls: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(SettingError, match=r"BATCH_ALERT_URL: address [12] is none that Apprise knows") as caught:
        People(SecretStr(urls))
    for word in ("token", "secret", "//host"):
        assert word not in caught.value.message + caplog.text
