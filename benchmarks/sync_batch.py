"""How long a batch of 100 items takes that runs in its caller's process, beside an empty Dagster job of four ops.

All are Dagster runs in this process on the same Dagster storage (PostgreSQL), in turn. The empty job does nothing but
hand a number on; it runs on the instance as Dagster opens it (output not captured, which would take four processes an
op), and on the one that our runs in a caller's process use, whose connections are kept. Ours is the whole batch: its
payload stored, parsed, checked, planned, written, and completed in the ledger; each creates its items.
Usage: python benchmarks/sync_batch.py [--items N] [--rounds N]
"""

import argparse
import itertools
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from contacts_file import write_contacts
from dagster import DagsterInstance, in_process_executor, job, op
from dagster._core.instance.ref import InstanceRef  # the one way to open an instance with a setting overridden

from batch_pipeline import migrations
from batch_pipeline.batches.accept import ArrivedPayload, NewBatch, accept
from batch_pipeline.batches.ids import new_batch_id
from batch_pipeline.batches.model import Action, Mode, Starter, Via
from batch_pipeline.batches.options import BatchOptions
from batch_pipeline.batches.organizations import DEFAULT_ORGANIZATION
from batch_pipeline.local.servers import embedded_servers
from batch_pipeline.orchestration.execute import execute_batch
from batch_pipeline.orchestration.instance import open_instance, upgrade_dagster
from batch_pipeline.settings import get_settings
from batch_pipeline.storage import keys
from batch_pipeline.system import System, open_system

# psycopg prepares a statement on a kept connection when it executes it for the sixth time. A batch uses several.
WARM_UP_ROUNDS = 20
NO_CAPTURE: Any = {
    "compute_logs": {"module": "dagster._core.storage.noop_compute_log_manager", "class": "NoOpComputeLogManager"}
}
LOG_LEVEL = {"loggers": {"console": {"config": {"log_level": "ERROR"}}}}


@op
def first() -> int:
    """Begins."""
    return 0


@op
def second(number: int) -> int:
    """Hands on."""
    return number


@op
def third(number: int) -> int:
    """Hands on."""
    return number


@op
def fourth(number: int) -> int:
    """Ends."""
    return number


@job(executor_def=in_process_executor)
def empty_job() -> None:
    """Four ops that do nothing, one after another."""
    fourth(third(second(first())))


def main() -> None:
    """Runs both in turn, and prints the medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="batch-bench-", dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        upload = Path(folder) / "contacts.csv"
        write_contacts(upload, arguments.items)
        with embedded_servers(Path(folder) / "servers") as servers:
            os.environ.update(servers.environment)
            get_settings.cache_clear()
            migrations.upgrade(get_settings().require_database_url())
            upgrade_dagster()
            as_dagster_opens_it = InstanceRef.from_dir(os.environ["DAGSTER_HOME"], overrides=NO_CAPTURE)
            with (
                open_system() as system,
                open_instance(in_process=True) as kept,
                DagsterInstance.from_ref(as_dagster_opens_it) as plain,
            ):
                measure(system, plain, kept, upload.read_bytes(), arguments.rounds)


def measure(system: System, plain: DagsterInstance, kept: DagsterInstance, payload: bytes, rounds: int) -> None:
    """Measures all three, in turn."""
    times: dict[str, list[float]] = {"empty": [], "empty, connections kept": [], "batch": []}
    for number in range(WARM_UP_ROUNDS + rounds):
        measured = (
            time_empty(plain),
            time_empty(kept),
            time_batch(system, kept, payload.replace(b"crm-", b"crm-%d-" % number)),
        )
        if number >= WARM_UP_ROUNDS:
            for name, seconds in zip(times, measured, strict=True):
                times[name].append(seconds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"{rounds} rounds: " + ", ".join(f"{name} {median:.3f} s" for name, median in medians.items()))
    for name in itertools.islice(times, 2):
        ratio = statistics.median(ours / theirs for ours, theirs in zip(times["batch"], times[name], strict=True))
        print(f"batch / {name}: {medians['batch'] / medians[name]:.2f} (median of the rounds' ratios {ratio:.2f})")


def time_empty(instance: DagsterInstance) -> float:
    """Seconds of the empty job."""
    began = time.perf_counter()
    assert empty_job.execute_in_process(instance=instance, run_config=LOG_LEVEL).success
    return time.perf_counter() - began


def time_batch(system: System, instance: DagsterInstance, payload: bytes) -> float:
    """Seconds of a batch, from its creation to its end."""
    began = time.perf_counter()
    batch_id = new_batch_id()
    key = keys.upload(batch_id, "contacts.csv", saved=True)
    system.store.write(key, payload)
    new = NewBatch(
        id=batch_id,
        organization_id=DEFAULT_ORGANIZATION,
        resource="contact",
        action=Action.merge,
        name="contacts.csv",
        options=BatchOptions(),
        mode=Mode.sync,
        via=Via.api,
        source_key="contacts.csv",
    )
    batch = accept(system.engine, new, payload=ArrivedPayload(key, saved=True, starter=Starter.caller)).batch
    batch = execute_batch(system, instance, batch, upload=payload)
    seconds = time.perf_counter() - began
    assert batch.status == "completed", batch.reason
    return seconds


if __name__ == "__main__":
    main()
