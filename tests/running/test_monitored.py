"""The figures of a running system: complete, and the same in every process."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import promql_parser
import pytest
import yaml
from monitoring_files import ALERTS, ROOT, expressions, names_in, promtool, rules
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from receivers import Receiver, receiving
from waiting import eventually

from batch_pipeline.database import create_engine
from batch_pipeline.local.system import LocalSystem
from batch_pipeline.notifications.alerts import Alarm
from batch_pipeline.notifications.people import People
from batch_pipeline.orchestration.heartbeats import daemon_heartbeat_ages
from batch_pipeline.orchestration.instance import open_instance
from batch_pipeline.settings import get_settings
from running.conftest import KillPart

PATIENCE_SECONDS = 150.0
pytestmark = pytest.mark.timeout(600)

CUSTOMERS_VALUE = "value-of-a-customer"
DAEMON_SILENT = "batch_pipeline: Dagster's daemon is silent"

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Monitored:
    """A running system and scrapes of it."""

    def __init__(self, system: LocalSystem) -> None:
        self.system = system
        self.http = httpx.Client(base_url=system.api_url, timeout=PATIENCE_SECONDS)

    def text(self) -> str:
        answer = self.http.get("/metrics")
        assert answer.status_code == 200, answer.text
        return answer.text

    def until(self, condition: Callable[[Samples], bool]) -> Samples:
        """The samples, once the condition holds."""

        def met() -> Samples | None:
            found = samples(self.text())
            return found if condition(found) else None

        return eventually(met, pause=0.5, about=self.text)

    def until_ended(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch, once it is completed or failed."""

        def read() -> dict[str, Any]:
            answer = self.http.get(f"/v1/batches/{batch['id']}", headers={"X-API-Key": self.system.api_key})
            found: dict[str, Any] = answer.json()["data"]
            return found

        eventually(lambda: read()["status"] in ("completed", "failed"))
        return read()

    def until_run_ended(self, run_id: str) -> None:
        """Waits until the run has logged its end, which comes after that of its batch."""
        log = self.system.log_folder / "code-server.log"
        eventually(lambda: any(run_id in line and "RUN_SUCCESS" in line for line in log.read_text().splitlines()))

    def create(self, body: dict[str, Any]) -> dict[str, Any]:
        answer = self.http.post("/v1/batches", json=body, headers={"X-API-Key": self.system.api_key})
        found: dict[str, Any] = answer.json()["data"]
        return found


def samples(text: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def of(found: Samples, name: str) -> dict[str, float]:
    """The samples with this name, by their only label's value."""
    return {labels[0][1]: value for (each, labels), value in found.items() if each == name}


def counters(found: Samples) -> Samples:
    """All that counts up in the ledger."""
    names = ("batch_batches_total", "batch_rows_total", "batch_phase_seconds", "batch_turn_wait_seconds")
    return {key: value for key, value in found.items() if key[0].startswith(names)}


def documented() -> dict[str, set[str]]:
    """The metrics of docs/monitoring.md with their labels."""
    page = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\| `(batch_\w+)(?:\{([\w,]+)\})?` \|", page, re.MULTILINE)
    return {name: set(labels.split(",")) if labels else set() for name, labels in lines}


def is_healthy(found: Samples) -> bool:
    """Every daemon and every sensor has done something lately; two sensors tick every five minutes."""
    return silent_daemons(found) == set() and max(of(found, "batch_sensor_tick_age_seconds").values()) < 400


def titles(people: Receiver) -> list[str]:
    """The titles of the messages that people got."""
    return [json.loads(call.body)["title"] for call in people.received]


def silent_daemons(found: Samples) -> set[str]:
    """The daemons for which the rule's expression holds."""
    (rule,) = (rule for rule in rules() if rule.get("alert") == "BatchDaemonSilent")
    comparison = promql_parser.parse(rule["expr"])
    assert isinstance(comparison, promql_parser.BinaryExpr)
    assert (str(comparison.op), names_in(rule["expr"])) == (">", {"batch_daemon_heartbeat_age_seconds"})
    ages = of(found, "batch_daemon_heartbeat_age_seconds")
    return {daemon for daemon, age in ages.items() if age > comparison.rhs.val}


def raised_by_prometheus(found: Samples, folder: Path) -> set[str]:
    """The alerts that Prometheus raises if the figures stay like this for ten minutes."""
    series = [
        {
            "series": name + "{" + ",".join(f"{key}={json.dumps(value)}" for key, value in labels) + "}",
            "values": f"{value}x40",
        }
        for (name, labels), value in found.items()
        if value != float("inf")
    ]
    test = folder / "scraped.test.yaml"
    names = [rule["alert"] for rule in rules() if "alert" in rule]
    expected = [{"eval_time": "10m", "alertname": name, "exp_alerts": []} for name in names]
    test.write_text(
        yaml.safe_dump(
            {
                "rule_files": [str(ALERTS)],
                "evaluation_interval": "15s",
                "tests": [{"interval": "15s", "input_series": series, "alert_rule_test": expected}],
            }
        )
    )
    done = promtool("test", "rules", str(test))
    return set(re.findall(r"alertname: (\w+), time", done.stderr + done.stdout))


def test_a_killed_daemon_is_seen_and_told_until_another_runs_all_processes_have_the_same_counts_and_log_json(
    running: LocalSystem, kill_part: KillPart, tmp_path: Path
) -> None:
    each = Monitored(running)
    logged_before = {log: log.stat().st_size for log in running.log_folder.glob("*.log")}
    done = each.create({"resource": "contact", "action": "merge", "mode": "sync", "data": [{"name": "Ada"}]})
    assert done["status"] == "completed"
    refused = each.create({"resource": "contact", "action": "merge", "data": [{"colour": "red"}]})
    assert refused["status"] == "failed"
    items = [{"name": CUSTOMERS_VALUE}, {"name": CUSTOMERS_VALUE, "email": CUSTOMERS_VALUE}]
    batch = each.create({"resource": "contact", "action": "merge", "data": items})  # the second is rejected
    run_id = each.until_ended(batch)["run_id"]
    each.until_run_ended(run_id)
    healthy = each.until(is_healthy)
    _is_complete(each.text())
    printed = _printed()
    assert counters(printed) == counters(healthy)
    assert is_healthy(printed)
    assert set(printed) == {key for key in healthy if not key[0].startswith("batch_api_request_seconds")}

    start_webserver = kill_part("dagster_webserver")
    late = each.create({"resource": "contact", "action": "merge", "data": [{"name": CUSTOMERS_VALUE}]})
    each.until_ended(late)
    start_webserver()
    start_daemon = kill_part("dagster._daemon")
    before = _a_killed_daemon_is_seen_and_told(each, tmp_path)
    start_daemon()
    again = each.until(is_healthy)
    assert raised_by_prometheus(again, tmp_path) == set()
    after = _printed()
    assert counters(after) == counters(before)
    assert of(after, "batch_batches") == of(before, "batch_batches")

    logged = {log.stem: _records(log.read_bytes()[start:]) for log, start in logged_before.items()}
    assert logged.keys() == {"api", "code-server", "dagster-daemon", "dagster-webserver", "warm-process"}
    of_run = [record for record in logged["code-server"] if record.get("run") == run_id]
    assert {(record["batch"], record["organization"]) for record in of_run} == {(batch["id"], "default")}
    assert any("RUN_SUCCESS" in record["message"] for record in of_run)
    (warned,) = (record for record in logged["api"] if f"did not launch batch {late['id']}" in record["message"])
    assert (warned["level"], warned["organization"]) == ("warning", "default")
    assert any(record["logger"].startswith("dagster.daemon") for record in logged["dagster-daemon"])


def _a_killed_daemon_is_seen_and_told(each: Monitored, folder: Path) -> Samples:
    """Waits until the daemon is silent for the rule, whose alert people get; the samples then."""
    first = of(each.until(lambda _: True), "batch_daemon_heartbeat_age_seconds")
    each.until(
        lambda found: all(
            age > first[daemon] + 5 for daemon, age in of(found, "batch_daemon_heartbeat_age_seconds").items()
        )
    )
    _let_heartbeats_age(seconds=200)
    before = each.until(lambda found: silent_daemons(found) == set(first))
    assert "BatchDaemonSilent" in raised_by_prometheus(before, folder)
    _people_are_told_of_the_daemon()
    return before


def _people_are_told_of_the_daemon() -> None:
    """Runs what a thread of each API process runs, which first gives a daemon three minutes to start."""
    url, stop = get_settings().require_database_url(), threading.Event()

    def ages() -> Mapping[str, float]:
        with open_instance(in_process=True) as instance:
            return daemon_heartbeat_ages(instance)

    with receiving() as receiver, ThreadPoolExecutor(1) as pool:
        people = People(SecretStr(f"json://127.0.0.1:{receiver.port}/"))
        alarm = Alarm(create_engine(url), people, ages, silent_seconds=1)
        running = pool.submit(alarm.run, stop)
        try:
            eventually(lambda: DAEMON_SILENT in titles(receiver))
        finally:
            stop.set()
        running.result()
        assert titles(receiver).count(DAEMON_SILENT) == 1


def _records(logged: bytes) -> list[dict[str, str]]:
    """What was logged: records, each of which is JSON, tells when, how bad and what, and has nothing of a customer."""
    text = logged.decode()
    assert CUSTOMERS_VALUE not in text
    records: list[dict[str, str]] = [json.loads(line) for line in text.splitlines()]
    for record in records:
        assert list(record)[:4] == ["time", "level", "message", "logger"]
        assert datetime.fromisoformat(record["time"]).tzinfo is not None
    return records


def _is_complete(text: str) -> None:
    """Every documented metric has a series with its labels, and every series that a rule or panel reads exists."""
    families = list(text_string_to_metric_families(text))
    exposed = {
        f"{family.name}_total" if family.type == "counter" else family.name: {
            label for sample in family.samples for label in sample.labels if label != "le"
        }
        for family in families
    }
    assert exposed == documented()
    series = {sample.name for family in families for sample in family.samples}
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    assert set().union(*map(names_in, expressions())) - recorded <= series


def _printed() -> Samples:
    """What the command prints, in a process of its own."""
    command = [sys.executable, "-m", "batch_pipeline", "metrics"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return samples(done.stdout)


def _let_heartbeats_age(*, seconds: float) -> None:
    """As if this time had passed since the daemon was killed."""
    with open_instance(in_process=True) as instance:
        for heartbeat in instance.get_daemon_heartbeats().values():
            instance.add_daemon_heartbeat(heartbeat._replace(timestamp=heartbeat.timestamp - seconds))
