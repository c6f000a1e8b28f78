"""The typed run config of a batch, which is the Launchpad's form, and the tags and run request of its runs.

Dagster checks the config's types; `BatchOptions` checks the values when the config is converted into options.
"""

from enum import Enum
from typing import Any

from dagster import Config, RunRequest
from pydantic import Field

from batch_pipeline.batches.model import Batch, BlankCells, DuplicateHandling, IfChanged, UnknownColumns, UploadAction
from batch_pipeline.batches.options import BatchOptions, UndoOptions, parse_options
from batch_pipeline.batches.organizations import DEFAULT_ORGANIZATION
from batch_pipeline.orchestration import tags
from batch_pipeline.records.registry import RESOURCES
from batch_pipeline.storage import keys

# The Launchpad takes the NAME of an enum's member, so names equal values. mypy wants the members as literals.
ResourceName = Enum("ResourceName", {name: name for name in RESOURCES})  # type: ignore[misc] # its names are computed


# What the Launchpads are filled in with. `up` puts the sample into the bucket.
SAMPLE_BATCH = "batch_PUT_THE_ID_HERE"
SAMPLE_CONFIG: dict[str, Any] = {
    "ops": {
        tags.PARSE: {
            "config": {
                "organization": DEFAULT_ORGANIZATION,
                "resource": "contact",
                "action": "merge",
                "file": keys.SAMPLE,
            }
        }
    }
}


def _description(name: str) -> str:
    return BatchOptions.model_fields[name].description or ""


class BatchConfig(Config):
    """A batch to run."""

    organization: str = Field(DEFAULT_ORGANIZATION, description="The tenant whose records these are")
    resource: ResourceName = Field(description="What the items are")
    action: UploadAction = Field(description="What to do with them")
    file: str = Field(description="A key in the configured bucket, such as uploads/default/contact/merge/people.csv")
    name: str | None = Field(None, description=_description("name"))
    duplicate_handling: DuplicateHandling = Field(
        DuplicateHandling.ignore_all, description=_description("duplicate_handling")
    )
    properties: dict[str, str] = Field(default_factory=dict, description=_description("properties"))
    # Dagster has no type for a map or a word.
    column_mapping: Any = Field(default_factory=dict, description=_description("column_mapping"))
    blank_cells: BlankCells | None = Field(None, description=_description("blank_cells"))
    default_region: str | None = Field(None, description=_description("default_region"))
    save_upload: bool = Field(True, description=_description("save_upload"))
    save_result: bool = Field(False, description=_description("save_result"))
    delete_limit: str | None = Field(None, description=_description("delete_limit"))
    reject_limit: str = Field("none", description=_description("reject_limit"))
    allow_empty: bool = Field(False, description=_description("allow_empty"))
    plan_only: bool = Field(False, description=_description("plan_only"))
    timeout_seconds: int | None = Field(None, description=_description("timeout_seconds"))
    unknown_columns: UnknownColumns = Field(UnknownColumns.refuse, description=_description("unknown_columns"))

    def options(self) -> BatchOptions:
        """The options, their values checked. Raises RefusedError (`invalid_options`)."""
        names = BatchOptions.model_fields
        return parse_options({name: _json_value(getattr(self, name)) for name in names})


class ApplyConfig(Config):
    """A planned batch to apply."""

    batch: str = Field(description="The id of the planned batch: batch_…")
    if_changed: IfChanged = Field(
        IfChanged.fail,
        description="If the plan has changed since it was shown: fail and show the new plan, or write the new plan",
    )


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


def run_request_of(batch: Batch) -> RunRequest:
    """The request for the run that a batch awaits. Repeats are harmless: Dagster launches a run key only once."""
    return RunRequest(
        run_key=f"{batch.id}/{run_request_key(batch)}",
        job_name=job_name_of(batch),
        run_config=run_config_of(batch),
        tags=run_tags_of(batch),
    )


def _json_value(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value
