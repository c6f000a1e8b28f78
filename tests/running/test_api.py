"""Batches on the running system: PostgreSQL, S3, Dagster's daemon and the API, as `batch-pipeline up` starts them.

Each status and each transition between them is reached by calls of the API (and of Dagster, for what only it can do).
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import httpx
import psutil
import psycopg
import pytest
from dagster import DagsterInstance
from dagster._core.scheduler.instigation import InstigatorType
from passing_time import eventually_reconciled
from process_table import command_of
from psycopg import sql
from serving import PATIENCE_SECONDS, Client, new_client
from waiting import eventually

from batch_pipeline.batches.states import TRANSITIONS, BatchStatus
from batch_pipeline.local.system import LocalSystem
from batch_pipeline.orchestration import tags
from batch_pipeline.system import System

pytestmark = pytest.mark.timeout(600)  # as the other files of the folder, next to which it then runs

ADA = {"external_id": "crm-1", "name": "Ada", "email": "ada@example.com"}
FEW_SECONDS = 1

Test = TypeVar("Test", bound=Callable[..., None])
Transition = tuple[str | None, str]

_reached: dict[str, set[Transition]] = {}


def reaches(*transitions: str) -> Callable[[Test], Test]:
    """Says which transitions, "before after", the batches of a test's client go through; the client is asked."""

    def noted(test: Test) -> Test:
        _reached[test.__name__] = {(before, after) for before, after in map(str.split, transitions)}
        return test

    return noted


@pytest.fixture
def client(running: LocalSystem, module_system: System, request: pytest.FixtureRequest) -> Iterator[Client]:
    """A client of an organization of the test's own; its batches must go through what `reaches` says."""
    with httpx.Client(base_url=running.api_url, timeout=2 * PATIENCE_SECONDS) as http:
        made = new_client(module_system, http)
        yield made
    with psycopg.connect(module_system.database_url) as connection:
        seen = connection.execute(
            "SELECT before, after FROM batch_transitions t JOIN batches b ON b.id = t.batch_id"
            " WHERE organization_id = %s",
            (made.organization_id,),
        ).fetchall()
    assert _reached.get(request.node.name, set()) - set(seen) == set()


@contextmanager
def contacts_locked(system: System, mode: str = "SHARE") -> Iterator[None]:
    """Whoever writes contacts waits within."""
    with psycopg.connect(system.database_url) as connection:
        connection.execute(sql.SQL("LOCK TABLE contacts IN {} MODE").format(sql.SQL(mode)))
        yield
        connection.rollback()


def runs_of(running: LocalSystem, batch_id: str) -> list[str]:
    """All runs that Dagster has had for the batch."""
    query = '{runsOrError(filter: {tags: [{key: "batch/id", value: "%s"}]}) {... on Runs {results {runId}}}}'
    answer = httpx.post(f"{running.dagster_url}/graphql", json={"query": query % batch_id}, timeout=60).json()
    return [run["runId"] for run in answer["data"]["runsOrError"]["results"]]


@reaches("requested queued", "queued processing", "processing completed")
def test_mode_mixed_answers_once_the_items_are_validated_and_goes_on(
    running: LocalSystem, module_system: System, client: Client
) -> None:
    with contacts_locked(module_system):
        answer = client.create([ADA, {"name": "Alan", "email": "nowhere"}], save_result=True)
        batch = answer["data"]
        assert (answer["status"], batch["via"]) == (202, "api")
        assert batch["status"] in ("queued", "processing"), batch
        assert [phase["mode"] for phase in batch["phases"]] == ["sync", "sync", "async", "async"]
        assert [phase["status"] for phase in batch["phases"]][:2] == ["completed", "completed"]
        client.until(batch["id"], "processing")
    done = client.until(batch["id"], "completed")
    assert (done["stats"]["created"], done["stats"]["rejected"]) == (1, 1)
    assert runs_of(running, batch["id"]) == [done["run_id"]]
    found = client.batch(batch["id"], include_result_json="true", include_errors_csv="true", include_upload_csv="true")
    assert [entry["outcome"] for entry in httpx.get(found["_result_json_url"]).json()] == ["created", "rejected"]
    assert "nowhere" in httpx.get(found["_errors_csv_url"]).text
    assert "Ada" in httpx.get(found["_upload_csv_url"]).text

    again = client.post(f"/v1/batches/{batch['id']}/retry", {"failed_rows": True})
    assert (again["status"], again["data"]["retry_of"]) == (202, batch["id"])
    ended = client.until(again["data"]["id"], "failed", "completed")
    assert ended["reason"]["code"] == "no_valid_items"


@reaches("requested failed", "failed requested")
def test_a_refused_payload_answers_422_with_the_failed_batch(client: Client) -> None:
    answer = client.create("data:text/csv;base64,bmFtZSxjb2xvdXIKQWRhLHJlZAo=")
    assert (answer["status"], answer["code"], answer["data"]["status"]) == (422, "unknown_columns", "failed")
    assert client.post(f"/v1/batches/{answer['data']['id']}/retry")["status"] == 202  # failed -> requested -> failed
    eventually(lambda: client.batch(answer["data"]["id"])["attempts"] == 2)
    assert client.until(answer["data"]["id"], "failed")["reason"]["code"] == "unknown_columns"


def test_too_many_rejected_items_answer_422_with_the_failed_batch(client: Client) -> None:
    answer = client.create([ADA, {"name": "Alan", "email": "nowhere"}], reject_limit=0)
    assert (answer["status"], answer["code"]) == (422, "reject_limit_exceeded")
    assert (answer["data"]["status"], answer["data"]["has_errors_file"]) == ("failed", True)
    assert [phase["status"] for phase in answer["data"]["phases"]] == ["completed", "completed", "pending", "pending"]


def test_an_uploaded_file_is_processed_by_exactly_one_run(
    running: LocalSystem, module_system: System, client: Client
) -> None:
    created = client.create(name="people", save_upload=False)["data"]
    assert httpx.put(created["_upload_url"], content=b"name\nAda\nBo\n").status_code == 200
    batch = client.until(created["id"], "completed")
    assert (batch["stats"]["created"], batch["attempts"], batch["has_upload_file"]) == (2, 1, False)
    assert httpx.put(created["_upload_url"], content=b"name\nEva\n").status_code == 200
    eventually(lambda: not module_system.store.exists(f"requested/{created['id']}/upload"))
    assert runs_of(running, created["id"]) == [batch["run_id"]]
    assert client.batch(created["id"]) == batch


@reaches("requested expired")
def test_a_batch_whose_file_never_comes_expires(module_system: System, client: Client) -> None:
    created = client.create()["data"]
    with psycopg.connect(module_system.database_url) as connection:
        connection.execute("UPDATE batches SET upload_expires_at = now() WHERE id = %s", (created["id"],))
    assert client.until(created["id"], "expired")["reason"]["code"] == "upload_expired"


def test_the_daemon_looks_for_files_more_often_than_dagsters_own_every_five_seconds(
    running: LocalSystem, module_instance: DagsterInstance
) -> None:
    del running

    def shortest_pause() -> float:
        states = module_instance.all_instigator_state(instigator_type=InstigatorType.SENSOR)
        (sensor,) = (state for state in states if state.instigator_name == tags.UPLOAD_SENSOR)
        ticks = module_instance.get_ticks(sensor.instigator_origin_id, sensor.selector_id, limit=20)
        return min((later.timestamp - tick.timestamp for later, tick in pairwise(ticks)), default=5.0)

    eventually(lambda: shortest_pause() < 4.0)


@reaches("queued failed", "failed queued")
def test_cancelling_stops_a_batch_wherever_it_is_and_a_retry_does_the_rest(
    module_system: System, client: Client
) -> None:
    waiting = client.create()["data"]
    assert client.post(f"/v1/batches/{waiting['id']}/cancel")["data"]["reason"]["code"] == "cancelled"
    assert client.post(f"/v1/batches/{waiting['id']}/retry")["code"] == "nothing_to_rerun"
    assert httpx.put(waiting["_upload_url"], content=b"name\nAda\n").status_code == 200
    eventually(lambda: "too late" in client.batch(waiting["id"])["reason"]["message"])
    with contacts_locked(module_system):
        first = client.create([ADA])["data"]
        second = client.create([{"external_id": "crm-2", "name": "Bo"}])["data"]
        assert second["status"] == "queued"
        client.until(first["id"], "processing")
        cancelled = client.post(f"/v1/batches/{second['id']}/cancel")
        assert (cancelled["status"], cancelled["data"]["status"]) == (200, "failed")
    assert client.until(first["id"], "completed")["stats"]["created"] == 1
    assert client.post(f"/v1/batches/{first['id']}/cancel")["code"] == "not_cancellable"
    retried = client.post(f"/v1/batches/{second['id']}/retry")  # failed -> queued: it had been validated
    assert retried["status"] == 202
    assert client.until(second["id"], "completed")["stats"]["created"] == 1
    assert client.batch(second["id"])["attempts"] == 2
    assert client.post(f"/v1/batches/{second['id']}/retry")["code"] == "not_rerunnable"


@reaches("requested timed_out", "timed_out requested", "processing timed_out", "timed_out queued")
def test_a_batch_that_takes_too_long_times_out_and_a_retry_does_the_rest(module_system: System, client: Client) -> None:
    with contacts_locked(module_system, "ACCESS EXCLUSIVE"):  # nobody can even look for them: validation waits
        early = client.create([ADA], timeout_seconds=FEW_SECONDS)["data"]
        assert client.until(early["id"], "timed_out")["reason"]["code"] == "timed_out"
    client.post(f"/v1/batches/{early['id']}/retry")
    seconds = FEW_SECONDS
    with contacts_locked(module_system):
        validated = False
        while not validated:  # a busy machine may take longer than that to validate
            seconds *= 2
            late = client.create([{"name": "Eva"}], timeout_seconds=seconds)["data"]
            ended = client.until(late["id"], "timed_out")
            validated = ended["phases"][1]["status"] == "completed"
    client.post(f"/v1/batches/{late['id']}/retry")
    assert client.until(late["id"], "completed", "failed")["attempts"] == 2


@reaches("processing failed")
def test_cancelling_a_batch_that_is_processed_ends_it_after_its_chunk(module_system: System, client: Client) -> None:
    waits = (
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%pg_advisory_xact_lock(%'"
    )
    with ThreadPoolExecutor(1) as pool, psycopg.connect(module_system.database_url, autocommit=True) as connection:
        with contacts_locked(module_system):
            batch = client.create([{"name": f"n{number}"} for number in range(250)])["data"]
            client.until(batch["id"], "processing")
            cancelling = pool.submit(client.post, f"/v1/batches/{batch['id']}/cancel")
            eventually(lambda: connection.execute(waits).fetchone() == (1,) or cancelling.done())
        cancelled = cancelling.result()
    assert (cancelled["status"], cancelled["data"]["reason"]["code"]) == (200, "cancelled")
    assert client.post(f"/v1/batches/{batch['id']}/retry")["status"] == 202
    assert client.until(batch["id"], "completed")["stats"]["created"] == 250


REEXECUTE = """
mutation Reexecute($run: String!) {
  launchRunReexecution(reexecutionParams: {parentRunId: $run, strategy: ALL_STEPS}) { __typename }
}
"""


@reaches(
    "requested planned",
    "planned queued",
    "processing planned",
    "planned requested",
    "planned failed",
    "planned expired",
)
def test_a_plan_is_applied_changed_made_again_discarded_and_forgotten(
    running: LocalSystem, module_system: System, module_instance: DagsterInstance, client: Client
) -> None:
    eva = {"external_id": "crm-2", "name": "Eva"}
    planned = client.create([ADA, eva], plan_only=True)["data"]
    assert (planned["status"], planned["plan"]["counts"]["create"]) == ("planned", 2)
    other = client.create([ADA])["data"]
    client.until(other["id"], "completed")

    changed = client.post(f"/v1/batches/{planned['id']}/apply")
    assert (changed["status"], changed["code"]) == (409, "plan_changed")
    run_id = client.batch(planned["id"])["run_id"]
    answer = httpx.post(f"{running.dagster_url}/graphql", json={"query": REEXECUTE, "variables": {"run": run_id}})
    assert answer.json()["data"]["launchRunReexecution"]["__typename"] == "LaunchRunSuccess"
    eventually(lambda: client.batch(planned["id"])["attempts"] == 3)
    again = client.until(planned["id"], "planned")
    assert (again["plan"]["counts"]["create"], "difference" in again["plan"]) == (1, False)

    applied = client.post(f"/v1/batches/{planned['id']}/apply", {"digest": again["plan"]["digest"]})
    assert applied["status"] == 202, applied
    done = client.until(planned["id"], "completed")
    assert (done["stats"]["created"], done["stats"]["unchanged"]) == (1, 1)

    discarded = client.create([ADA], plan_only=True)["data"]
    assert client.post(f"/v1/batches/{discarded['id']}/cancel")["data"]["status"] == "failed"
    forgotten = client.create([ADA], plan_only=True)["data"]
    with psycopg.connect(module_system.database_url) as connection:
        connection.execute("UPDATE batches SET plan_expires_at = now() WHERE id = %s", (forgotten["id"],))
    eventually_reconciled(module_instance, lambda: client.batch(forgotten["id"])["status"] == "expired")
    assert client.batch(forgotten["id"])["reason"]["code"] == "plan_expired"


def test_an_undo_runs_as_undo_job_planned_and_applied(running: LocalSystem, client: Client) -> None:
    made = client.create([ADA])["data"]
    client.until(made["id"], "completed")
    planned = client.post(f"/v1/batches/{made['id']}/undo", {"plan_only": True})["data"]
    assert client.until(planned["id"], "planned")["plan"]["counts"]["delete"] == 1
    assert client.post(f"/v1/batches/{planned['id']}/apply")["status"] == 202
    assert client.until(planned["id"], "completed")["stats"]["deleted"] == 1

    redo = client.post(f"/v1/batches/{planned['id']}/undo")["data"]

    done = client.until(redo["id"], "completed")
    assert (done["stats"]["restored"], done["attempts"]) == (1, 1)
    query = "query Job($run: ID!) { runOrError(runId: $run) { ... on Run { jobName } } }"
    answer = httpx.post(f"{running.dagster_url}/graphql", json={"query": query, "variables": {"run": done["run_id"]}})
    assert answer.json()["data"]["runOrError"]["jobName"] == "undo_job"


def test_a_client_that_knows_only_the_published_calls_works(client: Client, tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no Node: install nodejs (apt-get install nodejs)")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.removeprefix("v").split(".")[0]) < 18:
        pytest.skip(f"Node {version.strip()} has no fetch: install 18 or newer")
    for number in range(3):
        client.create(name=f"number {number}")
    made = client.create([ADA], mode="sync")["data"]
    script = tmp_path / "client.mjs"
    script.write_text(
        """
        const [HOST, key, id] = process.argv.slice(2);
        const headers = {"PX-API-KEY": key};
        const get = async (path) => (await fetch(HOST + path, {headers})).json();
        const one = await (await fetch(HOST + "/v1/batches/" + id, {headers: {"PX-API-KEY": key}})).json();
        const page = await get("/v1/batches?page=2&limit=25");
        const short = await get("/v1/batches?page=2&limit=2");
        const filtered = await get("/v1/batches?resource=contact&mode=mixed");
        console.log(JSON.stringify({one, page, short, filtered}));
        """
    )
    # Another host name than the one that it listens at.
    host = str(client.http.base_url).replace("127.0.0.1", "localhost").rstrip("/")
    done = subprocess.run([node, str(script), host, client.key, made["id"]], capture_output=True, text=True, check=True)
    got = json.loads(done.stdout)
    assert got["one"]["data"] == made
    assert (got["page"]["data"], got["page"]["pagination"]["total_count"]) == ([], 4)
    assert got["short"]["pagination"] == {"page": 2, "limit": 2, "has_more": False, "total_count": 4}
    assert len(got["short"]["data"]) == 2
    assert {batch["mode"] for batch in got["filtered"]["data"]} == {"mixed"}
    assert len(got["filtered"]["data"]) == 3


def test_submit_queues_a_file_in_the_running_system_and_shows_it_through(client: Client, tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_text("name,email\nAda,ada@example.com\nAlan,nowhere\n")
    (tmp_path / "wrong.csv").write_text("colour\nred\n")
    command = [sys.executable, "-m", "batch_pipeline", "submit"]
    flags = ["--resource", "contact", "--action", "merge", "--organization", client.organization_id, "--json"]

    def submit(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*command, *arguments, *flags], cwd=tmp_path, capture_output=True, text=True, check=False, env=os.environ
        )

    done = submit("people.csv", "--wait", "--save-result")
    assert done.returncode == 0, done.stderr
    batch = json.loads(done.stdout)
    assert batch == client.batch(batch["id"])
    assert (batch["status"], batch["stats"]["created"], batch["has_result_file"]) == ("completed", 1, True)
    assert f"Batch {batch['id']} is queued" in done.stderr
    refused = submit("wrong.csv", "--wait")
    assert (refused.returncode, json.loads(refused.stdout)["reason"]["code"]) == (1, "unknown_columns")


def test_with_dagster_away_a_batch_is_accepted_and_starts_when_it_is_back(running: LocalSystem, client: Client) -> None:
    parts = [
        child
        for child in psutil.Process().children(recursive=True)
        if any(word in command_of(child) for word in ("dagster_webserver", "dagster._daemon"))
    ]
    assert len(parts) >= 2
    for part in parts:
        part.suspend()
    try:
        created = client.create()["data"]
        assert httpx.put(created["_upload_url"], content=b"name\nBo\n").status_code == 200
        with (
            # Only reading is cut short: to connect may take longer on a busy machine.
            httpx.Client(base_url=client.http.base_url, timeout=httpx.Timeout(PATIENCE_SECONDS, read=2)) as impatient,
            pytest.raises(httpx.ReadTimeout),  # it waits for the items to be validated
        ):
            Client(impatient, client.organization_id, client.key).create([ADA])
        eventually(lambda: len(client.get("/v1/batches")["data"]) == 2)
        waiting = client.get("/v1/batches", order="desc", limit=1)["data"][0]
        assert (waiting["status"], waiting["attempts"]) == ("requested", 0)
    finally:
        for part in parts:
            part.resume()
    assert client.until(waiting["id"], "completed")["attempts"] == 1
    assert client.until(created["id"], "completed")["attempts"] == 1


def test_every_status_and_every_transition_is_reached_by_a_test() -> None:
    reached = set().union(*_reached.values())
    possible = {(before.value, after.value) for before, afters in TRANSITIONS.items() for after in afters}
    assert {status for transition in reached for status in transition} == {status.value for status in BatchStatus}
    # Time is looked at while a phase works, so what waits in line is `processing` before it can time out.
    assert possible - reached == {("queued", "timed_out")}
