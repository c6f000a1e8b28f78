"""Measures a batch of ours: `batch-pipeline run` on running servers."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.suite.model import Sample
from benchmarks.suite.processes import batch_pipeline, measure_command
from benchmarks.suite.world import ORGANIZATION


def run_batch(
    environment: dict[str, str], file: Path, *, action: str = "merge", resource: str = "contact"
) -> tuple[Sample, dict[str, Any]]:
    """Runs the file as a command. Returns the sample, with the time of the run and its phases, and the batch.

    Raises RuntimeError if the batch doesn't complete.
    """
    url = environment["BATCH_DATABASE_URL"]
    target = ["--resource", resource, "--action", action, "--organization", ORGANIZATION]
    command = batch_pipeline("run", str(file), *target, "--json")
    sample, printed = measure_command(command, database_url=url, environment=environment)
    batch = json.loads(printed)
    if batch["status"] != "completed":
        raise RuntimeError(f"the batch of {file.name} ended as {batch['status']}: {batch['reason']}")
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT extract(epoch FROM updated_at - arrived_at), phases FROM batches WHERE id = %s", (batch["id"],)
        ).fetchone()
    assert row is not None
    phases = {phase["name"]: phase["ended_at"] - phase["started_at"] for phase in row[1] if phase["ended_at"]}
    return replace(sample, seconds=float(row[0]), phases=phases), batch
