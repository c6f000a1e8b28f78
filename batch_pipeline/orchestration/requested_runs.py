"""What a run of a batch is made of: its job, run config, tags and run key.

Nothing here imports Dagster, because the processes of the API launch runs without it.
"""

from typing import Any

from batch_pipeline.batches.model import Batch
from batch_pipeline.batches.options import UndoOptions
from batch_pipeline.orchestration import tags

# Queued runs per slot of an organization, so that a free slot need not wait for the next tick.
QUEUED_PER_SLOT = 2

# Options that may hold customers' values. They stay in the ledger: a run reads the ledger, not its config.
_PRIVATE = {"name", "properties", "column_mapping"}


def run_config_of(batch: Batch) -> dict[str, Any]:
    """The run config that shows a batch in the Launchpad, without customers' values."""
    if batch.undo_of is not None:
        given = {name: batch.options.get(name) for name in UndoOptions.model_fields}
        undo = {"batch": batch.undo_of, **{name: value for name, value in given.items() if value is not None}}
        return {"ops": {tags.UNDO: {"config": undo}}}
    address = {
        "organization": batch.address.organization_id,
        "resource": batch.address.resource,
        "action": batch.address.action.value,
        "file": batch.upload_key,
    }
    options = {name: value for name, value in batch.options.items() if value is not None and name not in _PRIVATE}
    return {"ops": {tags.PARSE: {"config": {**address, **options}}}}


def run_request_key(batch: Batch) -> str:
    """Run key suffix `{arrival}/{attempts}`: unique per requested run of the batch.

    A re-run has a new arrival, even if the previous run never began. A run that yielded its slot counts as an attempt,
    and its batch keeps its arrival.
    """
    return f"{batch.arrival}/{batch.attempts}"


def run_key_of(batch: Batch) -> str:
    """The run key of the run that the batch awaits. Dagster launches a run key only once."""
    return f"{batch.id}/{run_request_key(batch)}"


def job_name_of(batch: Batch) -> str:
    """The job that runs the batch from its first phase."""
    return tags.JOB_NAME if batch.undo_of is None else tags.UNDO_JOB_NAME


def run_tags_of(batch: Batch) -> dict[str, str]:
    """The tags of a batch's runs."""
    return {
        tags.BATCH_ID: batch.id,
        tags.ORGANIZATION: batch.address.organization_id,
        tags.RESOURCE: batch.address.resource,
        tags.TURN: f"{batch.address.organization_id}.{batch.address.resource}",
        tags.REQUEST: run_request_key(batch),
        tags.ACTION: batch.address.action.value,
        tags.NAME: batch.name,
    }
