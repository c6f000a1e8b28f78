"""Events arrive at receivers as they are in the world: failing, slow, redirecting, gone; and at nobody else's."""

import asyncio
import json
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from itertools import pairwise

import pytest
import trustme
from batch_runs import accepted
from examples import examples
from receivers import ALLOWED, PRIVATE_HOST, Received, Verdict, receiving
from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError
from waiting import eventually

from batch_pipeline.batches.deliveries import Delivery, DeliveryStatus, list_deliveries, redeliver
from batch_pipeline.batches.ids import new_batch_id
from batch_pipeline.batches.ledger import Ledger
from batch_pipeline.batches.outbox import write_event
from batch_pipeline.batches.states import BatchStatus
from batch_pipeline.batches.webhooks import SecretWebhook, create_webhook, get_webhook, rotate_secret
from batch_pipeline.notifications.addresses import is_public, resolve
from batch_pipeline.notifications.dispatching import Dispatcher, Pauses, send_test
from batch_pipeline.notifications.sending import Sender

NETWORKS = (ip_network(ALLOWED),)
SHORT = Pauses(first=0.02, longest=0.2)
EVENTS = examples(250, thorough=1000)


def subscribe(ledger: Ledger, url: str) -> SecretWebhook:
    return create_webhook(ledger.engine, "default", url, allows_private=True)


def happen(ledger: Ledger, number: int = 1) -> set[str]:
    """Completes this many batches; returns their ids."""
    batch = replace(accepted(ledger.engine, "default"), status=BatchStatus.completed)
    ids = {new_batch_id() for _ in range(number)}
    with ledger.engine.begin() as connection:
        for batch_id in ids:
            write_event(connection, replace(batch, id=batch_id))
    return ids


def found(ledger: Ledger, webhook: SecretWebhook, status: DeliveryStatus | None = None) -> list[Delivery]:
    return list_deliveries(ledger.engine, webhook.webhook.id, status=status, limit=5000).deliveries


def deliver(ledger: Ledger, sender: Sender | None = None, *, now: datetime | None = None) -> None:
    """Attempts what is due, once."""
    asyncio.run(Dispatcher(ledger.engine, sender or Sender(NETWORKS), pauses=SHORT).deliver_due(now))


@contextmanager
def dispatching(*dispatchers: Dispatcher) -> Iterator[None]:
    """The dispatchers run, each in a thread of its own."""
    loops: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def run(dispatcher: Dispatcher) -> None:
        stop = asyncio.Event()
        loops.append((asyncio.get_running_loop(), stop))
        await dispatcher.run(stop)

    threads = [threading.Thread(target=asyncio.run, args=(run(dispatcher),)) for dispatcher in dispatchers]
    for thread in threads:
        thread.start()
    eventually(lambda: len(loops) == len(threads))
    try:
        yield
    finally:
        for loop, stop in loops:
            loop.call_soon_threadsafe(stop.set)
        for thread in threads:
            thread.join()


def test_hundreds_of_events_arrive_at_a_receiver_that_fails_is_slow_and_redirects(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each at least once with a valid signature, from two processes' dispatchers; nobody else is called."""
    calls: Counter[str] = Counter()

    def answer(call: Received) -> Verdict:
        """Every other call of an event fails, each time in another way."""
        calls[call.id] += 1
        fault = (hash(call.id) + calls[call.id]) % 14
        if fault == 1 and hash(call.id) % 5 == 0:
            time.sleep(3.0)  # longer than the sender waits
            return 200
        if fault == 3:
            return None
        if fault in (5, 7):
            return 307, {"Location": private.url}
        return 500 if fault % 2 else 204

    with receiving(host=PRIVATE_HOST) as private, receiving(answer) as receiver:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://{PRIVATE_HOST}:{private.port}")
        webhook = subscribe(ledger, receiver.url)
        batches = happen(ledger, EVENTS)
        sender = Sender(NETWORKS, timeout_seconds=2.0)
        with dispatching(*(Dispatcher(ledger.engine, sender, pauses=SHORT, webhook_calls=16) for _ in range(2))):
            eventually(lambda: len(found(ledger, webhook, DeliveryStatus.delivered)) == EVENTS)
    verifier = Verifier(webhook.secret)
    arrived = [verifier.verify(call.body, call.headers) for call in receiver.received]
    accepted_ids = {json.loads(call.body)["data"]["id"] for call in receiver.accepted}
    assert accepted_ids == batches == {body["data"]["id"] for body in arrived}
    assert len(receiver.received) >= 1.3 * EVENTS
    assert len({call.id for call in receiver.received}) == EVENTS
    assert private.received == []
    headers = receiver.received[0].headers
    assert (headers["content-type"], headers["host"]) == ("application/json", f"127.0.0.1:{receiver.port}")
    assert receiver.received[0].path == "/hook?key=k"
    attempts = {delivery.event_id: delivery.attempts for delivery in found(ledger, webhook)}
    assert all(
        attempts[event_id] >= count for event_id, count in Counter(call.id for call in receiver.received).items()
    )


def test_a_receiver_that_hangs_holds_up_no_other(ledger: Ledger) -> None:
    release = threading.Event()

    def hang(_: Received) -> Verdict:
        release.wait(60)
        return 200

    with receiving(hang) as slow, receiving() as quick:
        slow_webhook, quick_webhook = subscribe(ledger, slow.url), subscribe(ledger, quick.url)
        happen(ledger, 30)
        with dispatching(Dispatcher(ledger.engine, Sender(NETWORKS, timeout_seconds=60), calls=12, webhook_calls=8)):
            eventually(lambda: len(quick.accepted) == 30)
            eventually(lambda: len(slow.received) == 8)
            assert slow.accepted == []
            (late,) = happen(ledger)
            eventually(lambda: late in {json.loads(call.body)["data"]["id"] for call in quick.accepted})
            release.set()
            eventually(lambda: len(found(ledger, slow_webhook, DeliveryStatus.delivered)) == 31)
    assert len(found(ledger, quick_webhook, DeliveryStatus.delivered)) == 31


@pytest.mark.parametrize(
    ("answer", "status", "error"),
    [
        (lambda call: (302, {"Location": "https://example.com/"}), 302, "redirects are not followed"),
        (lambda call: 404, 404, "answered 404"),
        (lambda call: None, None, "broke"),
    ],
    ids=["redirect", "404", "no answer"],
)
def test_a_failed_attempt_says_why_and_is_made_again(
    ledger: Ledger, answer: Callable[[Received], Verdict], status: int | None, error: str
) -> None:
    with receiving(answer) as receiver:
        webhook = subscribe(ledger, receiver.url)
        happen(ledger)
        deliver(ledger)
    (delivery,) = found(ledger, webhook)
    assert (delivery.status, delivery.attempts, delivery.answer) == (DeliveryStatus.pending, 1, status)
    assert delivery.error is not None
    assert error in delivery.error
    assert delivery.due_at is not None


def test_a_receiver_that_is_not_there_is_a_failed_attempt(ledger: Ledger) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    webhook = subscribe(ledger, f"http://127.0.0.1:{port}/")
    nobody = subscribe(ledger, "https://nobody.invalid/")
    happen(ledger)

    def resolver(host: str) -> Sequence[str]:
        if host == "nobody.invalid":
            raise OSError("unknown")
        return [host]

    deliver(ledger, Sender(NETWORKS, resolver=resolver))
    assert [delivery.error for delivery in found(ledger, webhook)] == ["No connection."]
    assert [delivery.error for delivery in found(ledger, nobody)] == ["The host's name has no address."]


def test_an_event_is_a_dead_letter_after_three_days_and_can_be_sent_again(ledger: Ledger) -> None:
    answers = [500]
    with receiving(lambda call: answers[0]) as receiver:
        webhook = subscribe(ledger, receiver.url)
        happen(ledger)
        began = datetime.now(UTC)
        sender = Sender(NETWORKS)
        dispatcher = Dispatcher(ledger.engine, sender)
        moments: list[datetime] = []
        while due := found(ledger, webhook)[0].due_at:
            moments.append(due)
            asyncio.run(dispatcher.deliver_due(due))
        (dead,) = found(ledger, webhook, DeliveryStatus.failed)
        assert 15 <= dead.attempts == len(moments) == len(receiver.received) <= 30
        assert timedelta(days=2.6) < moments[-1] - began <= timedelta(days=3)
        pauses = [(later - sooner).total_seconds() for sooner, later in pairwise(moments)]
        assert 3 < pauses[0] < 7
        assert pauses[5] > 10 * pauses[1]
        answers[0] = 200
        assert redeliver(ledger.engine, webhook.webhook.id) == 1
        deliver(ledger)
    (delivered,) = found(ledger, webhook)
    assert (delivered.status, delivered.attempts, delivered.error) == (DeliveryStatus.delivered, 1, None)
    assert len({call.id for call in receiver.received}) == 1
    assert redeliver(ledger.engine, webhook.webhook.id) == 0
    assert redeliver(ledger.engine, webhook.webhook.id, [delivered.id]) == 1
    assert redeliver(ledger.engine, "whk_other", [delivered.id]) == 0


def test_a_receiver_that_is_gone_gets_no_more_until_its_deliveries_are_repeated(ledger: Ledger) -> None:
    answers = [410]
    with receiving(lambda call: answers[0]) as receiver:
        webhook = subscribe(ledger, receiver.url)
        happen(ledger)
        deliver(ledger)
        happen(ledger)
        assert get_webhook(ledger.engine, webhook.webhook.id).disabled_at is not None
        assert [(each.status, each.answer) for each in found(ledger, webhook)] == [(DeliveryStatus.failed, 410)]
        answers[0] = 200
        assert redeliver(ledger.engine, webhook.webhook.id) == 1
        happen(ledger)
        deliver(ledger)
    assert get_webhook(ledger.engine, webhook.webhook.id).disabled_at is None
    assert [each.status for each in found(ledger, webhook)] == [DeliveryStatus.delivered] * 2


def test_after_a_rotation_both_secrets_are_valid_for_a_day(ledger: Ledger) -> None:
    def is_valid(secret: str, call: Received) -> bool:
        try:
            Verifier(secret).verify(call.body, call.headers)
        except WebhookVerificationError:
            return False
        return True

    with receiving() as receiver:
        first = subscribe(ledger, receiver.url)
        second = rotate_secret(ledger.engine, first.webhook.id)
        happen(ledger)
        deliver(ledger)
        third = rotate_secret(ledger.engine, first.webhook.id)
        happen(ledger)
        deliver(ledger)
        with ledger.engine.begin() as connection:
            connection.exec_driver_sql("UPDATE webhook_secrets SET valid_until = valid_until - interval '24 h'")
        happen(ledger)
        deliver(ledger)
    secrets = [made.secret for made in (first, second, third)]
    assert [[is_valid(secret, call) for secret in secrets] for call in receiver.received] == [
        [True, True, False],
        [False, True, True],
        [False, False, True],
    ]


# ---- whom it calls ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def serving_as(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


def test_https_reaches_the_checked_address_under_the_hosts_name(ledger: Ledger, authority: trustme.CA) -> None:
    with receiving(certificate=serving_as(authority, "hooks.example.com")) as receiver:
        asked: list[str] = []

        def resolver(host: str) -> Sequence[str]:
            asked.append(host)
            return ["127.0.0.1"]

        right = subscribe(ledger, f"https://hooks.example.com:{receiver.port}/")
        other = subscribe(ledger, f"https://other.example.com:{receiver.port}/")
        happen(ledger)
        sender = Sender(NETWORKS, resolver=resolver, certificates=trusting(authority))
        deliver(ledger, sender)
        untrusting = Sender(NETWORKS, resolver=resolver)
        refused = send_test(ledger.engine, untrusting, right.webhook)
    assert [each.status for each in found(ledger, right, DeliveryStatus.delivered)] == [DeliveryStatus.delivered]
    assert [call.headers["host"] for call in receiver.received] == [f"hooks.example.com:{receiver.port}"]
    assert sorted(asked) == ["hooks.example.com", "hooks.example.com", "other.example.com"]  # once a call
    assert "certificate is refused" in str(found(ledger, other)[0].error)
    assert (refused.status, refused.attempts) == (DeliveryStatus.failed, 1)
    assert "certificate is refused" in str(refused.error)


def test_a_name_that_comes_to_lead_to_a_private_address_is_not_called(ledger: Ledger) -> None:
    """DNS rebinding, also where only one of several addresses is private."""
    leads_to = [["127.0.0.1"], [PRIVATE_HOST], ["127.0.0.1", PRIVATE_HOST], [f"::ffff:{PRIVATE_HOST}"]]
    with receiving() as receiver, receiving(host=PRIVATE_HOST) as private:
        sender = Sender(NETWORKS, resolver=lambda host: leads_to.pop(0))
        for port in (receiver.port, private.port, receiver.port, private.port):
            sent = send_test(ledger.engine, sender, subscribe(ledger, f"http://rebinding.example:{port}/").webhook)
            expected = None if port == receiver.port and len(leads_to) == 3 else "may not call"
            assert (sent.error is None) if expected is None else expected in str(sent.error)
    assert (len(receiver.received), private.received, leads_to) == (1, [], [])


@pytest.mark.parametrize("host", ["localhost", "127.1", "2130706433", "0x7f000001", "0"])
def test_spellings_of_the_loopback_address_are_not_called(ledger: Ledger, host: str) -> None:
    with receiving() as receiver:
        webhook = create_webhook(
            ledger.engine, "default", f"https://{host}:{receiver.port}/", allows_private=False
        ).webhook
        sent = send_test(ledger.engine, Sender(), webhook)
    assert sent.status is DeliveryStatus.failed
    assert "may not call" in str(sent.error) or "no address" in str(sent.error)
    assert receiver.received == []


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700:4700::1111", True),
        ("64:ff9b::808:808", True),  # NAT64 of 8.8.8.8
        ("0.0.0.0", False),  # noqa: S104 - nothing is bound
        ("10.1.2.3", False),
        ("100.64.0.1", False),
        ("127.0.0.1", False),
        ("169.254.169.254", False),
        ("172.31.0.1", False),
        ("192.168.0.1", False),
        ("198.18.0.1", False),
        ("224.0.0.1", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("::10.0.0.1", False),
        ("::ffff:8.8.8.8", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::a00:1", False),  # NAT64 of 10.0.0.1
        ("64:ff9b::a9fe:a9fe", False),  # NAT64 of 169.254.169.254
        ("64:ff9b:1::1", False),
        ("2001::1", False),
        ("2001:db8::1", False),
        ("2002:a00:1::1", False),  # 6to4 of 10.0.0.1
        ("fc00::1", False),
        ("fe80::1", False),
        ("fe80::1%eth0", False),
        ("fec0::1", False),
        ("ff02::1", False),
    ],
)
def test_only_addresses_of_the_public_internet_are_public(address: str, public: bool) -> None:
    assert is_public(ip_address(address)) == public


def test_names_that_are_none_have_no_address() -> None:
    for name in ("a..b", "a" * 64 + ".example"):
        with pytest.raises(OSError, match="not a host's name"):
            resolve(name)
