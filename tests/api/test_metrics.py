"""`GET /metrics`: without a key or an organization, cheap where many ask, and clear where the database is away."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families
from serving import Client, new_client, served

from batch_pipeline.metrics import scraping
from batch_pipeline.metrics.calls import sharing_calls
from batch_pipeline.system import System


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Every sample by its name and labels."""
    return {
        (sample.name, *sorted(f"{name}={value}" for name, value in sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def http(system: System) -> Iterator[httpx.Client]:
    with served(sync_workers=1) as address, httpx.Client(base_url=address, timeout=120) as client:
        yield client


def test_calls_are_timed_by_route_and_status_and_nothing_names_an_organization(
    system: System, http: httpx.Client
) -> None:
    client: Client = new_client(system, http)
    created = client.create()["data"]
    for _ in range(2):
        client.batch(created["id"])
    assert http.get("/v1/batches/batch_2Nq8XW6vCkT1aBcDeFgHiJ").status_code == 401
    assert http.get(f"/nothing/{client.organization_id}").status_code == 404

    answer = http.get("/metrics")

    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    found = samples(answer.text)
    counted = {key[1:]: number for key, number in found.items() if key[0] == "batch_api_request_seconds_count"}
    assert counted == {
        ("route=/v1/batches", "status=201"): 1,
        ("route=/v1/batches/{batch_id}", "status=200"): 2,
        ("route=/v1/batches/{batch_id}", "status=401"): 1,
        ("route=unmatched", "status=404"): 1,
    }
    assert found["batch_batches_total", "action=merge", "reason=", "resource=contact", "status=requested"] == 1
    assert found["batch_batches", "status=requested"] == 1
    assert found["batch_oldest_waiting_seconds", "status=requested"] == 0  # it waits for its sender
    assert found["batch_daemon_heartbeat_age_seconds", "daemon=SENSOR"] == float("inf")
    for text in (client.organization_id, created["id"], "organization", "_created"):
        assert text not in answer.text


COUNT_AND_SCRAPE = """
import multiprocessing
from prometheus_client import generate_latest
from batch_pipeline.metrics.calls import call_seconds, scraped_calls

def count_and_scrape():
    seconds = call_seconds()
    seconds.labels("/v1/batches", "200").observe(0.1)
    print(generate_latest(scraped_calls(seconds)).decode())

process = multiprocessing.get_context("fork").Process(target=count_and_scrape)
process.start()
process.join()
"""


def test_a_process_whose_file_is_still_empty_has_counted_nothing() -> None:
    with sharing_calls():
        for name in ("histogram_1.db", "counter_1.db"):
            (Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]) / name).touch()
        done = subprocess.run([sys.executable, "-c", COUNT_AND_SCRAPE], capture_output=True, text=True, check=False)

    assert done.stderr == ""
    assert samples(done.stdout)["batch_api_request_seconds_count", "route=/v1/batches", "status=200"] == 1


def test_scrapes_at_once_read_the_database_once(
    system: System, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []
    read = scraping.read_figures

    def counted(connection: psycopg.Connection[tuple[object, ...]]) -> object:
        reads.append(1)
        return read(connection)

    monkeypatch.setattr(scraping, "read_figures", counted)
    answers: list[int] = []
    threads = [threading.Thread(target=lambda: answers.append(http.get("/metrics").status_code)) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert answers == [200] * 10
    assert len(reads) <= 2  # starting ten threads may take a busy machine longer than the cache lives


def test_a_database_that_is_too_busy_is_a_503_and_the_process_lives_on(
    system: System, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scraping, "STATEMENT_SECONDS", 1.0)
    monkeypatch.setattr(scraping, "CACHE_SECONDS", 0.0)
    with psycopg.connect(system.database_url) as connection:
        connection.execute("LOCK TABLE metric_counts IN ACCESS EXCLUSIVE MODE")
        answer = http.get("/metrics")
        assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
        assert http.get("/healthz").status_code == 200

    assert http.get("/metrics").status_code == 200


def test_a_database_that_is_away_is_a_503_and_figures_come_back_with_it(
    system: System, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scraping, "CACHE_SECONDS", 0.0)
    assert http.get("/metrics").status_code == 200
    name = psycopg.conninfo.conninfo_to_dict(system.database_url)["dbname"]
    server = system.database_url.replace(f"/{name}", "/postgres")
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(
            psycopg.sql.SQL("ALTER DATABASE {} WITH ALLOW_CONNECTIONS false").format(psycopg.sql.Identifier(str(name)))
        )
        connection.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", (name,))
        try:
            answer = http.get("/metrics")
            assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
            assert "can't be reached" in answer.json()["message"]
            assert http.get("/healthz").status_code == 200
        finally:
            connection.execute(
                psycopg.sql.SQL("ALTER DATABASE {} WITH ALLOW_CONNECTIONS true").format(
                    psycopg.sql.Identifier(str(name))
                )
            )

    assert http.get("/metrics").status_code == 200


def test_metrics_can_be_turned_off(system: System) -> None:
    with served(metrics=False) as address:
        assert httpx.get(f"{address}/metrics").status_code == 404
        assert httpx.get(f"{address}/healthz").status_code == 200
