"""Batches of the HTTP API for an upload, and the URLs of their files."""

from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit

import httpx
import psycopg
from calls import data_url
from dagster import DagsterInstance, SkipReason, build_sensor_context
from serving import Client, new_client, served

from batch_pipeline.batches.model import Starter
from batch_pipeline.definitions import defs
from batch_pipeline.intake.requested_uploads import expire_requested, take_in_requested
from batch_pipeline.system import System


def test_a_batch_for_an_upload_takes_its_file_once(module_system: System, client: Client) -> None:
    answer = client.create(name="people")
    batch = answer["data"]
    assert (answer["status"], batch["status"], batch["via"], batch["checksum"]) == (201, "requested", "file", None)
    lasts = batch["_upload_url_expires_at"] - datetime.now(UTC).timestamp()
    assert 3_500 < lasts <= 3_600
    assert "X-Amz-Algorithm=AWS4-HMAC-SHA256" in batch["_upload_url"]
    assert take_in_requested(module_system, limit=10) == ([], [])

    assert httpx.put(batch["_upload_url"], content=b"name\nAda\n").status_code == 200
    (taken,), removed = take_in_requested(module_system, limit=10)
    assert (taken.id, taken.awaits_run, removed) == (batch["id"], Starter.launcher, [])
    assert module_system.store.read(str(taken.upload_key)) == b"name\nAda\n"
    assert module_system.store.list("requested/") == []

    assert httpx.put(batch["_upload_url"], content=b"name\nEva\n").status_code == 200
    none, (second,) = take_in_requested(module_system, limit=10)
    assert (none, second.batch_id) == ([], batch["id"])
    assert "already has its file" in second.why
    assert module_system.store.read(str(taken.upload_key)) == b"name\nAda\n"
    assert module_system.store.list("requested/") == []


def test_a_batch_expires_only_if_no_file_lies_there_at_last(module_system: System, client: Client) -> None:
    late, in_time = client.create()["data"], client.create()["data"]
    assert httpx.put(in_time["_upload_url"], content=b"name\nAda\n").status_code == 200
    with psycopg.connect(module_system.database_url) as connection:
        connection.execute(
            "UPDATE batches SET upload_expires_at = now() - interval '1 second' WHERE organization_id = %s",
            (client.organization_id,),
        )
    assert [batch.id for batch in expire_requested(module_system, limit=10)] == [late["id"]]
    assert [batch.id for batch in take_in_requested(module_system, limit=10)[0]] == [in_time["id"]]
    expired = client.batch(late["id"])
    assert (expired["status"], expired["reason"]["code"]) == ("expired", "upload_expired")

    assert httpx.put(late["_upload_url"], content=b"name\nEva\n").status_code == 200
    _, (removed,) = take_in_requested(module_system, limit=10)
    assert removed.batch_id == late["id"]
    explained = client.batch(late["id"])
    assert explained["status"] == "expired"
    assert "was too late, and is removed" in explained["reason"]["message"]
    assert client.post(f"/v1/batches/{late['id']}/retry")["code"] == "not_rerunnable"
    assert client.post(f"/v1/batches/{late['id']}/cancel")["code"] == "not_cancellable"


def test_the_sensor_looks_at_storage_only_while_a_file_could_come(system: System, instance: DagsterInstance) -> None:
    def tick() -> str:
        with build_sensor_context(instance=instance) as context:
            skipped = defs.get_sensor_def("requested_sensor")(context)
        assert isinstance(skipped, SkipReason)
        return str(skipped.skip_message)

    assert "no upload URL" in tick()
    with served() as url, httpx.Client(base_url=url, timeout=60) as http:
        batch = new_client(system, http).create()["data"]
    assert "No file has arrived" in tick()
    assert httpx.put(batch["_upload_url"], content=b"name\nAda\n").status_code == 200
    assert "1 files taken in" in tick()
    with psycopg.connect(system.database_url) as connection:
        connection.execute("UPDATE batches SET upload_expires_at = now() - interval '1 hour'")
    assert "no upload URL" in tick()
    with psycopg.connect(system.database_url) as connection:
        connection.execute("UPDATE batches SET arrival = NULL")  # as if the daemon had been away when it ran out
    assert "1 batches expired" in tick()
    assert system.ledger.get(batch["id"]).status == "expired"


def test_an_upload_url_is_good_for_its_own_object_and_method_alone(client: Client) -> None:
    mine, other = client.create()["data"], client.create()["data"]
    elsewhere = mine["_upload_url"].replace(mine["id"], other["id"])
    assert httpx.put(elsewhere, content=b"name\nAda\n").status_code == 403
    assert httpx.get(mine["_upload_url"]).status_code == 403


def test_urls_are_signed_for_the_public_endpoint(module_system: System) -> None:
    public = "https://files.example.com"
    with served(storage_public_endpoint=public) as url, httpx.Client(base_url=url, timeout=60) as http:
        client = new_client(module_system, http)
        upload = urlsplit(client.create()["data"]["_upload_url"])
        batch = client.create(data_url(b"name\nAda\n"), mode="sync", name="people.csv")["data"]
        found = client.batch(batch["id"], include_upload_csv="true")["_upload_csv_url"]
    assert (upload.scheme, upload.netloc, upload.path.split("/")[1]) == ("https", "files.example.com", "batch")
    download = urlsplit(found)
    assert download.netloc == "files.example.com"
    assert parse_qs(download.query)["X-Amz-Expires"] == ["3600"]
    assert parse_qs(download.query)["response-content-disposition"] == ['attachment; filename="people.csv"']
