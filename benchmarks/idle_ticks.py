"""Memory of the code server while its sensors tick and find nothing to do: it must stay flat.

A real code server on the embedded servers evaluates each sensor so many times; Dagster's daemon, which asks for ticks,
is not part of it. Sockets are those of the server's process, to storage and to the database. Usage:
python benchmarks/idle_ticks.py [--ticks N] [--sensors NAME …]
"""

import argparse
import tempfile
import time
from pathlib import Path

import psutil
from dagster._core.test_utils import create_test_daemon_workspace_context
from dagster._core.workspace.load_target import ModuleTarget

from batch_pipeline import migrations
from batch_pipeline.dagster_home import LOCATION_NAME, MODULE_NAME
from batch_pipeline.definitions import defs
from batch_pipeline.local.connecting import connected
from batch_pipeline.orchestration.instance import open_migrated_instance, upgrade_dagster
from batch_pipeline.settings import get_settings

SENSORS = sorted(sensor.name for sensor in defs.get_repository_def().sensor_defs)
PARTS = 5


def main() -> None:
    """Prints the server's memory before, during and after the ticks of each sensor."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ticks", type=int, default=1000, help="of each sensor")
    parser.add_argument("--sensors", nargs="+", choices=SENSORS, default=SENSORS)
    arguments = parser.parse_args()
    target = ModuleTarget(MODULE_NAME, attribute=None, working_directory=None, location_name=LOCATION_NAME)
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="idle-ticks-") as folder:
        Path(folder).chmod(0o755)
        with connected(Path(folder) / "data") as servers:
            assert servers is not None
            migrations.upgrade(get_settings().require_database_url())
            upgrade_dagster()
            with (
                open_migrated_instance() as instance,
                create_test_daemon_workspace_context(target, instance) as context,
            ):
                location = context.create_request_context().get_code_location(LOCATION_NAME)
                (repository,) = location.get_repositories().values()
                (server,) = [
                    process for process in psutil.Process().children(recursive=True) if "grpc" in process.cmdline()
                ]
                for name in arguments.sensors:
                    cursor: str | None = None
                    memory = [server.memory_info().rss >> 20]
                    began = time.perf_counter()
                    for _ in range(PARTS):
                        for _ in range(arguments.ticks // PARTS):
                            data = location.get_sensor_execution_data(
                                instance, repository.handle, name, time.time(), None, cursor, None, None
                            )
                            cursor = data.cursor or cursor
                        memory.append(server.memory_info().rss >> 20)
                    seconds = (time.perf_counter() - began) / arguments.ticks
                    shown = " ".join(map(str, memory))
                    sockets = len(server.net_connections("all"))
                    print(
                        f"{name}: {arguments.ticks:,} ticks, {seconds * 1000:.0f} ms each, MB: {shown}; "
                        f"{sockets} sockets, {server.num_threads()} threads, {server.num_fds()} descriptors",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
