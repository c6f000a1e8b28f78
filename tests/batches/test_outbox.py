"""Events for webhooks: written with the change of a status or not at all, only for those who subscribed before."""

import json
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from batch_runs import accepted

from batch_pipeline.batches.accept import NewBatch, accept
from batch_pipeline.batches.deliveries import Claimed, claim_due, list_deliveries, prune_events, record_delivered
from batch_pipeline.batches.ids import new_batch_id
from batch_pipeline.batches.ledger import Ledger
from batch_pipeline.batches.model import Action, Batch, Starter
from batch_pipeline.batches.options import BatchOptions
from batch_pipeline.batches.organizations import create_organization
from batch_pipeline.batches.outbox import EventType
from batch_pipeline.batches.reruns import Reruns
from batch_pipeline.batches.states import BatchStatus, Reason
from batch_pipeline.batches.transition import change_status
from batch_pipeline.batches.webhooks import create_webhook, delete_webhook, list_webhooks
from batch_pipeline.database import create_engine
from batch_pipeline.errors import NotFoundError, RefusedError, StateError

WHY = Reason("test", "The test says so.")
URL = "https://example.com/hook"


@pytest.fixture(scope="module")
def ledger(module_database_url: str) -> Iterator[Ledger]:
    engine = create_engine(module_database_url)
    yield Ledger(engine)
    engine.dispose()


@pytest.fixture
def organization(ledger: Ledger) -> str:
    return create_organization(ledger.engine, f"org-{secrets.token_hex(4)}").id


def subscribe(ledger: Ledger, organization: str, *events: str) -> str:
    return create_webhook(ledger.engine, organization, URL, events, allows_private=False).webhook.id


def claimed_of(ledger: Ledger, *webhook_ids: str) -> list[Claimed]:
    """Claims what is due; returns what is due to these webhooks, oldest event first."""
    claimed = claim_due(ledger.engine, {}, limit=1000, webhook_limit=1000)
    return sorted((each for each in claimed if each.webhook_id in webhook_ids), key=lambda each: each.event_id)


def sent_to(ledger: Ledger, webhook_id: str) -> list[dict[str, Any]]:
    """The bodies that the webhook is sent, oldest first."""
    return [json.loads(each.body) for each in claimed_of(ledger, webhook_id)]


def begun(ledger: Ledger, organization: str) -> Batch:
    batch = accepted(ledger.engine, organization, key="k", starter=Starter.launcher)
    return ledger.begin_attempt(batch.id, f"run {batch.id}")


def _completed(ledger: Ledger, organization: str) -> Batch:
    batch = begun(ledger, organization)
    for status in (BatchStatus.queued, BatchStatus.processing, BatchStatus.completed):
        batch = ledger.transition(batch.id, str(batch.run_id), status)
    return batch


def _planned(ledger: Ledger, organization: str) -> Batch:
    batch = begun(ledger, organization)
    return ledger.transition(batch.id, str(batch.run_id), BatchStatus.planned, plan={"digest": "d"})


def _failed_by_its_run(ledger: Ledger, organization: str) -> Batch:
    batch = begun(ledger, organization)
    return ledger.end_attempt(batch.id, str(batch.run_id), BatchStatus.failed, WHY)


def _failed_by_reconciling(ledger: Ledger, organization: str) -> Batch:
    batch = begun(ledger, organization)
    return ledger.end_if_unchanged(batch, BatchStatus.failed, WHY)


def _cancelled(ledger: Ledger, organization: str) -> Batch:
    return ledger.end(begun(ledger, organization).id, BatchStatus.failed, WHY)


def _timed_out(ledger: Ledger, organization: str) -> Batch:
    batch = begun(ledger, organization)
    return ledger.end_attempt(batch.id, str(batch.run_id), BatchStatus.timed_out, WHY)


def _upload_expired(ledger: Ledger, organization: str) -> Batch:
    return ledger.expire(accepted(ledger.engine, organization).id, WHY)


def _plan_expired(ledger: Ledger, organization: str) -> Batch:
    batch = begun(ledger, organization)
    ended = datetime.now(UTC) - timedelta(seconds=1)
    ledger.transition(batch.id, str(batch.run_id), BatchStatus.planned, plan={"digest": "d"}, plan_expires_at=ended)
    return ledger.expire_plan(batch.id, WHY)


def _refused(ledger: Ledger, organization: str) -> Batch:
    new = NewBatch(new_batch_id(), organization, "contact", Action.merge, "people", BatchOptions())
    return accept(ledger.engine, new, refused=WHY).batch


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        (_completed, ["batch.completed"]),
        (_planned, ["batch.planned"]),
        (_failed_by_its_run, ["batch.failed"]),
        (_failed_by_reconciling, ["batch.failed"]),
        (_cancelled, ["batch.failed"]),
        (_timed_out, ["batch.timed_out"]),
        (_upload_expired, ["batch.expired"]),
        (_plan_expired, ["batch.planned", "batch.expired"]),
        (_refused, ["batch.failed"]),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else None,
)
def test_each_way_to_a_status_has_one_event_with_the_batch_as_it_then_is(
    ledger: Ledger, organization: str, change: Any, kinds: list[str]
) -> None:
    webhook_id = subscribe(ledger, organization)
    batch = change(ledger, organization)
    sent = sent_to(ledger, webhook_id)
    assert [body["type"] for body in sent] == kinds
    assert list(sent[-1]) == ["type", "timestamp", "data"]
    assert sent[-1]["data"] == batch.to_json()
    assert datetime.fromisoformat(sent[-1]["timestamp"]) - batch.updated_at < timedelta(milliseconds=1)


def test_a_batch_that_fails_again_after_a_retry_has_another_event(ledger: Ledger, organization: str) -> None:
    webhook_id = subscribe(ledger, organization)
    batch = _failed_by_its_run(ledger, organization)
    ledger.request_rerun(batch.id, Starter.launcher)
    again = ledger.begin_attempt(batch.id, "second run")
    ledger.end_attempt(batch.id, "second run", BatchStatus.timed_out, WHY)
    ledger.end_attempt(batch.id, "second run", BatchStatus.timed_out, WHY)  # has ended already
    assert [(body["type"], body["data"]["attempts"]) for body in sent_to(ledger, webhook_id)] == [
        ("batch.failed", 1),
        ("batch.timed_out", again.attempts),
    ]


def test_a_batch_that_will_run_again_by_itself_has_no_event_until_it_stays_failed(
    ledger: Ledger, organization: str
) -> None:
    rerunning = Ledger(ledger.engine, Reruns(limit=1, pause_seconds=1000))
    lost = Reason("worker_lost", "The worker was lost.")
    webhook = subscribe(ledger, organization)
    batch = begun(ledger, organization)

    assert rerunning.end(batch.id, BatchStatus.failed, lost).next_attempt_at is not None
    assert sent_to(ledger, webhook) == []
    rerunning.begin_attempt(batch.id, "run it again")
    assert rerunning.end(batch.id, BatchStatus.failed, lost).next_attempt_at is not None  # Dagster's re-run counts anew
    assert rerunning.cancel_rerun(batch.id, WHY).next_attempt_at is None
    (event,) = sent_to(ledger, webhook)
    assert (event["type"], event["data"]["reason"]["code"]) == ("batch.failed", "test")


def test_a_change_that_is_not_committed_has_no_event(ledger: Ledger, organization: str) -> None:
    webhook_id = subscribe(ledger, organization)
    batch = begun(ledger, organization)
    with ledger.engine.connect() as connection:
        change_status(connection, batch, BatchStatus.failed, reason=WHY)
        connection.rollback()
    assert ledger.get(batch.id).status is BatchStatus.requested
    assert sent_to(ledger, webhook_id) == []


def test_only_webhooks_that_subscribed_before_get_an_event(ledger: Ledger, organization: str) -> None:
    def events() -> int:
        with ledger.engine.connect() as connection:
            return int(
                connection.exec_driver_sql(
                    "SELECT count(*) FROM webhook_events WHERE organization_id = %s", (organization,)
                ).scalar_one()
            )

    _completed(ledger, organization)
    assert events() == 0
    failures = subscribe(ledger, organization, "batch.failed", "batch.timed_out")
    every = subscribe(ledger, organization)
    gone = subscribe(ledger, organization)
    delete_webhook(ledger.engine, gone)
    other = subscribe(ledger, create_organization(ledger.engine, f"org-{secrets.token_hex(4)}").id)
    completed = _completed(ledger, organization)
    failed = _cancelled(ledger, organization)
    accepted(ledger.engine, organization, resource=None, action=None)  # of an unknown inbox folder
    assert events() == 2
    claimed = claimed_of(ledger, failures, every, gone, other)
    assert {(each.webhook_id, json.loads(each.body)["data"]["id"]) for each in claimed} == {
        (failures, failed.id),
        (every, completed.id),
        (every, failed.id),
    }
    assert len({each.event_id for each in claimed}) == 2


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://example.com/", "invalid_url"),
        ("ftp://example.com/", "invalid_url"),
        ("example.com", "invalid_url"),
        ("https://user:password@example.com/", "invalid_url"),
        ("https://example.com/#part", "invalid_url"),
        ("https://example.com:65536/", "invalid_url"),
        ("https://exämple.com/", "invalid_url"),
        ("https://example.com/a b", "invalid_url"),
        ("https://example.com/\n", "invalid_url"),
        ("https://169.254.169.254/latest", "invalid_url"),
        ("https://10.0.0.7/", "invalid_url"),
        (f"https://example.com/{'a' * 2000}", "invalid_url"),
    ],
)
def test_a_wrong_url_is_refused_without_repeating_it(ledger: Ledger, organization: str, url: str, code: str) -> None:
    with pytest.raises(RefusedError) as caught:
        create_webhook(ledger.engine, organization, url, allows_private=False)
    assert caught.value.code == code
    assert url not in caught.value.message
    assert list_webhooks(ledger.engine, organization) == []


def test_wrong_events_organizations_and_too_many_webhooks_are_refused(ledger: Ledger, organization: str) -> None:
    with pytest.raises(RefusedError, match=r"batch\.completed"):
        subscribe(ledger, organization, "batch.done")
    with pytest.raises(NotFoundError):
        subscribe(ledger, "nobody")
    for _ in range(20):
        subscribe(ledger, organization)
    with pytest.raises(StateError, match="20"):
        subscribe(ledger, organization)


def test_a_secret_appears_in_no_text_of_its_webhook(ledger: Ledger, organization: str) -> None:
    made = create_webhook(ledger.engine, organization, URL, allows_private=False)
    _completed(ledger, organization)
    (claimed,) = claimed_of(ledger, made.webhook.id)
    assert claimed.secrets == (made.secret,)
    shown = f"{made!r} {claimed!r} {made.webhook.to_json()} {list_webhooks(ledger.engine)!r}"
    assert made.secret not in shown
    assert made.secret.removeprefix("whsec_") not in shown


def test_old_events_are_pruned_unless_a_delivery_is_pending(ledger: Ledger, organization: str) -> None:
    webhook_id = subscribe(ledger, organization)
    _completed(ledger, organization)
    _cancelled(ledger, organization)
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    mine = claimed_of(ledger, webhook_id)
    assert len(mine) == 2
    record_delivered(ledger.engine, mine[0], 200)
    assert prune_events(ledger.engine, datetime.now(UTC) - timedelta(days=1)) == 0
    due = prune_events(ledger.engine, tomorrow, dry_run=True)
    assert due >= 1
    assert prune_events(ledger.engine, tomorrow) == due
    assert [each.id for each in list_deliveries(ledger.engine, webhook_id).deliveries] == [mine[1].id]


def test_each_final_status_has_an_event_type() -> None:
    assert {kind.name for kind in EventType} == {"planned", "completed", "failed", "timed_out", "expired"}
