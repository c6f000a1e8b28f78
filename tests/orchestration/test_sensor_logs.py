"""What sensors log."""

import json
import os
import sys
from pathlib import Path

from dagster import DagsterInstance
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin
from launches import all_batches
from waiting import eventually

from batch_pipeline.dagster_home import LOCATION_NAME, MODULE_NAME
from batch_pipeline.local.processes import start_process, stop_process
from batch_pipeline.system import System

UPLOADS = "upload_sensor"


def test_all_that_sensors_log_is_json_in_the_code_servers_log(
    system: System, instance: DagsterInstance, tmp_path: Path
) -> None:
    system.store.write("uploads/default/person/merge/people.csv", b"name\nAda\n")  # refused: there is no such resource
    socket, log = tmp_path / "code-server", tmp_path / "code-server.log"
    server = start_process(
        [
            *(sys.executable, "-m", "batch_pipeline.orchestration.code_server", "--socket", str(socket)),
            *("--module-name", MODULE_NAME, "--location-name", LOCATION_NAME, "--log-level", "warning"),
        ],
        log=log,
        environment={**os.environ, "BATCH_LOG_FORMAT": "json"},
    )
    try:
        eventually(lambda: socket.exists() or server.poll() is not None)
        origin = GrpcServerCodeLocationOrigin(host="localhost", socket=str(socket), location_name=LOCATION_NAME)
        location = origin.create_location(instance)
        try:
            (repository,) = location.get_repositories().values()
            location.get_sensor_execution_data(
                instance, repository.handle, UPLOADS, None, None, None, ["a", "log", "key"], None
            )
        finally:
            location.cleanup()
    finally:
        stop_process(server, patience_seconds=60)

    (batch,) = all_batches(system)
    records = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    (warned,) = [record for record in records if batch.id in record["message"]]
    assert (warned["level"], warned["logger"]) == ("warning", "dagster")
    assert warned["message"].endswith(f"{UPLOADS} - Batch {batch.id} was refused: unknown_folder")
