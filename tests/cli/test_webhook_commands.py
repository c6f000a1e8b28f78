"""`webhooks`: the way of a new user from an address to events, and what goes wrong; a wrong address for alerts."""

import json

import pytest
from batch_runs import accepted
from command_line import CommandLine, only_line
from receivers import ALLOWED, receiving
from standardwebhooks import Webhook as Verifier

from batch_pipeline.batches.ledger import Ledger
from batch_pipeline.batches.states import BatchStatus, Reason


def test_a_webhook_from_its_creation_to_its_deletion(cli: CommandLine, ledger: Ledger, organization: str) -> None:
    private = CommandLine({**cli.environment, "BATCH_WEBHOOK_NETWORKS": ALLOWED}, cli.folder)
    answers = [204]
    with receiving(lambda call: answers[0]) as receiver:
        shown = private(
            *("webhooks", "create", receiver.url, "--organization", organization),
            *("--events", "batch.failed, batch.expired"),
        )
        assert shown.returncode == 0, shown.stderr
        secret = only_line(shown.stdout)
        (webhook,) = json.loads(private("webhooks", "list", "--organization", organization, "--json").stdout)
        assert webhook["events"] == ["batch.failed", "batch.expired"]
        assert webhook["id"] in shown.stderr
        listed = private("webhooks", "list").stdout
        assert webhook["id"] in listed
        assert secret not in listed

        tried = private("webhooks", "test", webhook["id"])
        assert (tried.returncode, tried.stdout) == (0, "The receiver answered 204: it has the test event.\n")
        (call,) = receiver.received
        assert Verifier(secret).verify(call.body, call.headers)["type"] == "webhook.test"

        answers[0] = 500
        failed = private("webhooks", "test", webhook["id"])
        assert (failed.returncode, "The receiver answered 500." in failed.stdout) == (1, True)

    blocked = cli("webhooks", "test", webhook["id"], "--json")  # without the setting
    assert blocked.returncode == 1
    assert "may not call" in json.loads(blocked.stdout)["error"]

    ledger.end(accepted(ledger.engine, organization).id, BatchStatus.expired, Reason("test", "Test."))
    found = json.loads(cli("webhooks", "deliveries", webhook["id"], "--json").stdout)
    assert [(each["type"], each["status"]) for each in found] == [
        ("batch.expired", "pending"),
        ("webhook.test", "failed"),
        ("webhook.test", "failed"),
        ("webhook.test", "delivered"),
    ]
    page = cli("webhooks", "deliveries", webhook["id"], "--limit", "1", "--status", "failed")
    assert "1 of 2" in page.stdout
    assert cli("webhooks", "redeliver", webhook["id"]).stdout == "2 deliveries are repeated.\n"
    again = cli("webhooks", "redeliver", webhook["id"], found[1]["id"], found[3]["id"], "--json")
    assert json.loads(again.stdout) == {"deliveries": 1}
    assert "1 of the deliveries" in again.stderr

    rotated = json.loads(cli("webhooks", "rotate", webhook["id"], "--json").stdout)
    assert rotated["secret"] != secret
    assert cli("webhooks", "delete", webhook["id"]).returncode == 0
    assert json.loads(cli("webhooks", "list", "--organization", organization, "--json").stdout) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("create", "http://example.com/"),
        ("create", "https://user:secret@example.com/"),
        ("create", "https://example.com/", "--events", "batch.done"),
        ("create", "https://example.com/", "--organization", "nobody"),
        ("list", "--organization", "nobody"),
        ("rotate", "whk_x"),
        ("delete", "\x00"),
        ("test", "whk_x"),
        ("deliveries", "whk_x"),
        ("deliveries", "whk_x", "--status", "lost"),
        ("redeliver", "whk_x"),
    ],
)
def test_wrong_use_is_reported_in_one_line(cli: CommandLine, arguments: tuple[str, ...]) -> None:
    refused = cli("webhooks", *arguments, "--json")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "secret" not in only_line(refused.stderr)


def test_a_wrong_address_for_alerts_is_reported_in_one_line_when_the_api_starts(cli: CommandLine) -> None:
    refused = cli.process("api", "--port", "65432", BATCH_ALERT_URL="json://example.com nonsense://token@example.com")
    assert (refused.returncode, refused.stdout) == (2, "")
    line = only_line(refused.stderr)
    assert "BATCH_ALERT_URL: address 2" in line
    assert "token" not in line


def test_wrong_networks_are_reported_in_one_line(cli: CommandLine) -> None:
    wrong = CommandLine({**cli.environment, "BATCH_WEBHOOK_NETWORKS": "10.0.0.1/8"}, cli.folder)
    refused = wrong("webhooks", "create", "https://example.com/")
    assert refused.returncode == 2
    assert "BATCH_WEBHOOK_NETWORKS" in only_line(refused.stderr)
