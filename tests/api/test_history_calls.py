"""The calls that read the change log."""

import psycopg
import pytest
from calls import ADA
from serving import Client, new_client

from batch_pipeline.loading import log_support
from batch_pipeline.system import System


@pytest.fixture
def batches(client: Client) -> list[str]:
    """Ids of a batch that created Ada and of one that changed her notes."""
    found = []
    for item in (ADA, {"external_id": "crm-1", "notes": "new"}):
        answer = client.create([item], mode="sync")
        assert answer["data"]["status"] == "completed", answer
        found.append(answer["data"]["id"])
    return found


def ada_of(system: System, client: Client) -> str:
    with psycopg.connect(system.database_url) as connection:
        row = connection.execute(
            "SELECT id FROM contacts WHERE organization_id = %s", (client.organization_id,)
        ).fetchone()
    assert row is not None
    return str(row[0])


def test_the_history_names_batch_row_and_key(module_system: System, client: Client, batches: list[str]) -> None:
    record = ada_of(module_system, client)
    answer = client.get(f"/v1/records/contact/{record}/history")
    changed, created = answer["data"]
    key_id = client.key.rsplit("_", 1)[0]
    assert {name: value for name, value in changed.items() if name != "at"} == {
        "batch": batches[1],
        "row": 1,
        "by": key_id,
        "change": "updated",
        "field": "notes",
        "before": None,
        "after": "new",
    }
    assert (created["batch"], created["change"], created["after"]["email"]) == (batches[0], "created", ADA["email"])
    assert answer["pagination"] == {"page": 1, "limit": 25, "has_more": False, "total_count": 2}
    second = client.get(f"/v1/records/contact/{record}/history", page=2, limit=1)
    assert second["data"] == [created]


def test_the_changes_of_a_batch(module_system: System, client: Client, batches: list[str]) -> None:
    record = ada_of(module_system, client)
    created, changed = (client.get(f"/v1/batches/{batch}/changes") for batch in batches)
    assert [(line["id"], line["row"], line["change"], line["changes"]) for line in created["data"]] == [
        (record, 1, "created", [])
    ]
    assert changed["data"][0]["changes"] == [{"field": "notes", "before": None, "after": "new"}]
    assert changed["pagination"] == {"page": 1, "limit": 25, "has_more": False, "total_count": 1}


def test_nothing_of_another_organization_is_found(module_system: System, client: Client, batches: list[str]) -> None:
    record = ada_of(module_system, client)
    other = new_client(module_system, client.http)
    assert (other.get(f"/v1/batches/{batches[0]}/changes")["status"]) == 404
    answers = [
        other.get(f"/v1/records/contact/{record}/history"),
        client.get("/v1/records/contact/nobody/history"),
        client.get("/v1/records/contact/%00/history"),
    ]
    assert {(answer["status"], answer["code"]) for answer in answers} == {(404, "record_not_found")}
    assert client.get(f"/v1/records/person/{record}/history")["code"] == "resource_not_found"


def test_an_older_postgresql_is_a_conflict_and_readyz_says_so(
    client: Client, batches: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert client.get("/readyz")["message"] == "Database and storage can be reached."
    monkeypatch.setattr(log_support, "MINIMUM_VERSION", 190_000)
    for path in (f"/v1/batches/{batches[0]}/changes", "/v1/records/contact/any/history"):
        answer = client.get(path)
        assert (answer["status"], answer["code"]) == (409, "needs_postgresql_18")
    ready = client.get("/readyz")
    assert ready["status"] == 200
    assert "need PostgreSQL 19" in ready["message"]
