"""Many small files: how long they take compared with as many empty runs of four ops by the same launcher.

Both ways are the same: a sensor requests runs, Dagster's queue launches them, and Celery workers (or the code server,
with --workers 0) execute them. The suite runs this as a program of its own. Usage:
python -m benchmarks.suite.small_files [--files N] [--rows N] [--workers N]
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from unittest import mock

from dagster import DagsterRunStatus, RunsFilter

from batch_pipeline.batches.model import Starter
from batch_pipeline.local import services
from batch_pipeline.local.s3 import free_port
from batch_pipeline.local.system import local_system
from batch_pipeline.orchestration import tags
from batch_pipeline.orchestration.instance import open_instance
from batch_pipeline.system import open_system
from benchmarks.suite.services import EMPTY, OURS, SCRIPTS

sys.path.insert(0, str(SCRIPTS.parent / "tests"))
from batch_runs import arrived, new_organization

ORGANIZATIONS = 5


def main() -> None:
    """Prints the seconds of both as JSON, in the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=100, help="of each file")
    parser.add_argument("--workers", type=int, default=2, help="Celery workers; 0: the default launcher")
    arguments = parser.parse_args()
    os.environ |= {"EMPTY_RUNS": str(arguments.files), "PYTHONPATH": str(SCRIPTS)}
    with (
        tempfile.TemporaryDirectory(dir="/var/tmp", prefix="small-files-") as folder,
        mock.patch.object(services, "MODULE_NAME", "empty_job"),  # the code location with the empty job as well
    ):
        Path(folder).chmod(0o755)
        with local_system(
            Path(folder) / "data",
            port=free_port(),
            api_port=free_port(),
            s3_port=free_port(),
            workers=arguments.workers,
            report=print,
        ) as local:
            empty = measured("empty_job", arguments.files, lambda: None)
            files = measured(tags.JOB_NAME, arguments.files, lambda: send(arguments.files, arguments.rows))
            local.hurry()
    samples = ((EMPTY, empty), (OURS, files))
    print(
        json.dumps(
            {
                name: {"seconds": all_, "figures": {"runs": arguments.files, "mean of a run s": each}}
                for name, (all_, each) in samples
            }
        )
    )


def send(files: int, rows: int) -> None:
    """Makes the batches, each with contacts of its own."""
    with open_system() as system:
        organizations = [new_organization(system) for _ in range(ORGANIZATIONS)]
        for number in range(files):
            lines = (f"{number}-{row},Person {row},p{number}.{row}@example.com" for row in range(rows))
            payload = "\n".join(["external_id,name,email", *lines]).encode()
            arrived(system, organizations[number % ORGANIZATIONS], payload, starter=Starter.launcher)


def measured(job: str, number: int, begin: Callable[[], None]) -> tuple[float, float]:
    """Seconds from the request of the job's first run to the end of the last of so many, and the mean of a run."""
    started = Path(os.environ["DAGSTER_HOME"]) / f"{job}.start"
    with open_instance(in_process=True) as instance:
        begin()
        started.touch()
        while instance.get_runs_count(RunsFilter(job_name=job, statuses=[DagsterRunStatus.SUCCESS])) < number:
            failed = instance.get_runs_count(RunsFilter(job_name=job, statuses=[DagsterRunStatus.FAILURE]))
            assert failed < number, f"{failed} runs failed"
            time.sleep(0.5)
        records = instance.get_run_records(RunsFilter(job_name=job))
    others = [record.dagster_run.run_id for record in records if not record.dagster_run.is_success]
    seconds = max(record.end_time or 0.0 for record in records) - min(
        record.create_timestamp.timestamp() for record in records
    )
    each = mean((record.end_time or 0.0) - (record.start_time or 0.0) for record in records)
    print(f"{job}: {number} in {seconds:.1f} s, {1000 * each:.0f} ms each, {len(others)} runs ended otherwise {others}")
    return seconds, each


if __name__ == "__main__":
    main()
