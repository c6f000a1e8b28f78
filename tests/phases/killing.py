"""A child process that runs a batch and is killed with SIGKILL at a named call of a named function.

Nothing in the product knows of it: the child wraps the function before it begins.
"""

import functools
import importlib
import multiprocessing
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from batch_pipeline.settings import get_settings
from batch_pipeline.system import open_system


@dataclass(frozen=True)
class KillPoint:
    """The process dies before or after the n-th call of `module:name` (the name as its callers look it up)."""

    function: str
    call: int = 1
    after: bool = False

    def __str__(self) -> str:
        return (
            f"{'after' if self.after else 'before'} call {self.call} of {self.function.removeprefix('batch_pipeline.')}"
        )


def run_until_killed(batch_id: str, point: KillPoint) -> bool:
    """Runs the batch in another process, whose environment is this one's; returns whether the point was reached."""
    # A fork server imports once and opens no connection, so each child starts in milliseconds.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["batch_pipeline.orchestration.execute", "batch_pipeline.orchestration.instance"])
    names = ("BATCH_", "AWS_", "DAGSTER_")
    environment = {name: value for name, value in os.environ.items() if name.startswith(names)}
    child = context.Process(target=_child, args=(batch_id, point, environment))
    child.start()
    child.join()
    assert child.exitcode in (0, -signal.SIGKILL)
    return child.exitcode != 0


def _child(batch_id: str, point: KillPoint, environment: Mapping[str, str]) -> None:
    from batch_pipeline.orchestration.execute import execute_batch
    from batch_pipeline.orchestration.instance import open_instance

    for name in [name for name in os.environ if name.startswith(("BATCH_", "AWS_", "DAGSTER_"))]:
        del os.environ[name]
    os.environ.update(environment)
    get_settings.cache_clear()
    _arm(point)
    with open_system() as system, open_instance() as instance:
        execute_batch(system, instance, system.ledger.get(batch_id))


def _arm(point: KillPoint) -> None:
    module, _, path = point.function.partition(":")
    owner: Any = importlib.import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    wrapped = getattr(owner, name)
    calls = 0

    @functools.wraps(wrapped)
    def deadly(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        dies = calls == point.call
        if dies and not point.after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = wrapped(*args, **kwargs)
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, deadly)
