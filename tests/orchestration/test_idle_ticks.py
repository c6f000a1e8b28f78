"""A code server lives for weeks and ticks every few seconds: what a tick opens must not add up."""

import gc
import threading
from collections.abc import Iterator

import psutil
import pytest
from aiobotocore.client import AioBaseClient
from batch_runs import awaiting_upload
from dagster import DagsterInstance, build_sensor_context
from sensor_daemon import SENSORS

from batch_pipeline.definitions import defs
from batch_pipeline.system import System

DIRECTLY_CALLED = [name for name in SENSORS if name not in {"failure_sensor", "cancel_sensor"}]


@pytest.fixture
def uncollected() -> Iterator[None]:
    """No garbage is collected meanwhile, so that every object that was ever made can be counted."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def _tick(instance: DagsterInstance) -> None:
    for name in DIRECTLY_CALLED:
        with build_sensor_context(instance=instance) as context:
            result = defs.get_sensor_def(name)(context)
            if isinstance(result, Iterator):
                list(result)


def _clients() -> int:
    return sum(issubclass(type(each), AioBaseClient) for each in gc.get_objects())


@pytest.mark.usefixtures("uncollected")
def test_ticks_share_one_storage_client_and_do_not_add_connections(system: System, instance: DagsterInstance) -> None:
    awaiting_upload(system, "default")  # so that the sensor of upload URLs has storage to look at
    before = _clients()
    _tick(instance)
    assert _clients() <= before + 1
    process = psutil.Process()
    connections, threads = len(process.net_connections("all")), threading.active_count()

    for _ in range(5):
        _tick(instance)

    assert _clients() <= before + 1
    assert len(process.net_connections("all")) <= connections
    assert threading.active_count() <= threads
