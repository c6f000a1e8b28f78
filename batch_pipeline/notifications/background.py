"""The threads of an API process that deliver events to webhooks and alert people."""

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from anyio.from_thread import start_blocking_portal

from batch_pipeline.notifications.alerts import Alarm
from batch_pipeline.notifications.dispatching import Dispatcher
from batch_pipeline.notifications.sending import Sender
from batch_pipeline.settings import Settings
from batch_pipeline.system import System

if TYPE_CHECKING:
    from batch_pipeline.notifications.people import People


def open_people(settings: Settings) -> "People | None":
    """The people of BATCH_ALERT_URL; None if it is not set. Raises SettingError if it is wrong."""
    if settings.alert_url is None:
        return None
    from batch_pipeline.notifications.people import People

    return People(settings.alert_url)


@contextmanager
def notifying(system: System, people: "People | None") -> Iterator[Sender]:
    """Delivers events and alerts people within the ``with``. Gives the sender, for tests of webhooks."""
    with ExitStack() as stack:
        sender = stack.enter_context(open_sender(system.settings))
        stack.enter_context(_delivering(system, sender))
        if people is not None:
            stack.enter_context(_alerting(system, people))
        yield sender


@contextmanager
def open_sender(settings: Settings) -> Iterator[Sender]:
    """A sender by the settings."""
    sender = Sender(settings.allowed_webhook_networks)
    try:
        yield sender
    finally:
        sender.close()


@contextmanager
def _delivering(system: System, sender: Sender) -> Iterator[None]:
    dispatcher = Dispatcher(system.engine, sender)
    with start_blocking_portal() as portal:
        stop = portal.call(asyncio.Event)
        portal.start_task_soon(dispatcher.run, stop)
        try:
            yield
        finally:
            portal.call(stop.set)


@contextmanager
def _alerting(system: System, people: "People") -> Iterator[None]:
    from batch_pipeline.orchestration.heartbeats import daemon_heartbeat_ages
    from batch_pipeline.orchestration.instance import open_instance

    def ages() -> Mapping[str, float]:
        with open_instance(in_process=True) as instance:
            return daemon_heartbeat_ages(instance)

    stop = threading.Event()
    thread = threading.Thread(target=Alarm(system.engine, people, ages).run, args=(stop,), name="alerts")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
